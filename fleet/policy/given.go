package policy

import (
	"net/netip"
	"strings"

	"hallmark/internal/strictjson"
)

// Set gives a variable a value by its name in documents, for questions that no
// connection is behind. A variable of a certificate takes several values, one
// call each; its .List and .n forms are the same variable. Of
// iot:ConnectAttributes each call adds one.
func (c *Context) Set(name, value string) error {
	v, err := parseVariable(name, "")
	if err != nil {
		return err
	}
	bad := func(want string) error {
		return ErrValue.New("%s is %s, not %s.", v.name, want, strictjson.Quote(value))
	}
	switch v.from {
	case fromClientID:
		c.ClientID = value
	case fromSourceIP:
		if c.SourceIP, err = netip.ParseAddr(value); err != nil {
			return bad("an address")
		}
	case fromDomainName:
		c.DomainName = value
	case fromConnect:
		switch value {
		case "PersistentConnect":
			c.PersistentConnect = true
		case "LastWill":
			c.LastWill = true
		default:
			return bad("PersistentConnect or LastWill")
		}
	case fromThingName:
		c.Thing.Name = value
	case fromThingType:
		c.Thing.Type = value
	case fromThingAttribute:
		if c.Thing.Attributes == nil {
			c.Thing.Attributes = map[string]string{}
		}
		c.Thing.Attributes[v.key] = value
	case fromThingAttached:
		if !strings.EqualFold(value, "true") && !strings.EqualFold(value, "false") {
			return bad("true or false")
		}
		c.Thing.Attached = strings.EqualFold(value, "true")
	case fromCertificateID:
		c.Certificate.ID = value
	case fromSerialNumber:
		c.Certificate.SerialNumber = value
	case fromCertificate:
		if c.Certificate.Values == nil {
			c.Certificate.Values = map[string][]string{}
		}
		c.Certificate.add(v.key, value)
	default:
		return ErrVariable.New("%s follows from the others and cannot be given.", v.name)
	}
	return nil
}
