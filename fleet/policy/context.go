package policy

import (
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"hallmark/internal/strictjson"
)

// Context is what is known of a connection when it begins. An empty value is
// one that is not known.
//
// The device itself chooses ClientID and DomainName. A client id that
// [CheckValue] refuses should not get to connect: as a variable it is unknown,
// and a Deny that names it would not act.
type Context struct {
	ClientID          string     // iot:ClientId; empty over HTTPS
	SourceIP          netip.Addr // aws:SourceIp
	DomainName        string     // iot:DomainName: the server name the device asked for
	Thing             Thing      // iot:Connection.Thing
	Certificate       Certificate
	PersistentConnect bool // iot:ConnectAttributes holds PersistentConnect: the session outlives the connection
	LastWill          bool // iot:ConnectAttributes holds LastWill
}

// Thing is the connection's thing: the one that the certificate belongs to
// exclusively, else the one named like the client id, if the certificate is
// attached to it. Finding it is the caller's.
type Thing struct {
	Name       string
	Type       string
	Attributes map[string]string
	Attached   bool // IsAttached, which is false rather than missing
}

// Certificate has the certificate's variables. [ContextFromCertificate] fills
// it.
type Certificate struct {
	ID           string              // lower-case hex of the SHA-256 of the DER
	SerialNumber string              // lower-case hex, two digits an octet
	Values       map[string][]string // by the variable's name after iot:Certificate., such as Subject.CommonName
}

// CheckValue refuses a value that may not stand in a policy: one with a
// wildcard of policies or topics in it, too long, or not UTF-8 (S21). It is the
// rule by which a variable counts as unresolved, and templates use it too.
func CheckValue(s string) error {
	switch {
	case !utf8.ValidString(s):
		return ErrValue.New("It is not UTF-8.")
	case strings.ContainsAny(s, "*$+?#"):
		return ErrValue.New("%s.", strictjson.Quote(s))
	case len(s) > maxValue && utf8.RuneCountInString(s) > maxValue:
		return ErrValue.New("It has more than %d characters.", maxValue)
	}
	return nil
}

// resolve is a variable's value as text for a document, or "".
func (c *Context) resolve(v variable) string {
	s := c.value(v)
	if s == "" || CheckValue(s) != nil {
		return ""
	}
	return s
}

// value is what the connection has for a variable that is no list.
func (c *Context) value(v variable) string {
	switch v.from {
	case fromClientID:
		return c.ClientID
	case fromSourceIP:
		if c.SourceIP.IsValid() {
			return c.SourceIP.Unmap().WithZone("").String()
		}
	case fromDomainName:
		return c.DomainName
	case fromThingName:
		return c.Thing.Name
	case fromThingType:
		return c.Thing.Type
	case fromThingAttribute:
		return c.Thing.Attributes[v.key]
	case fromThingAttached:
		if c.Thing.Attached {
			return "true"
		}
		return "false"
	case fromCertificateID:
		return c.Certificate.ID
	case fromSerialNumber:
		return c.Certificate.SerialNumber
	case fromCertificate:
		if values := c.Certificate.Values[v.key]; v.index < min(len(values), maxList) {
			return values[v.index]
		}
	}
	return ""
}

// values appends what the connection has for a condition's key. Nothing means
// that the key is missing, which an empty text and an empty list are too.
func (c *Context) values(v variable, out []string) []string {
	switch {
	case !v.list:
		if s := c.value(v); s != "" {
			out = append(out, s)
		}
	case v.from == fromConnect:
		if c.PersistentConnect {
			out = append(out, "PersistentConnect")
		}
		if c.LastWill {
			out = append(out, "LastWill")
		}
	case v.from == fromAvailableKeys:
		out = c.Certificate.keys(out)
	default:
		for i, s := range c.Certificate.Values[v.key] {
			if s != "" && i < maxList {
				out = append(out, s)
			}
		}
	}
	return out
}

// keys lists the certificate's variables that have a value.
func (c *Certificate) keys(out []string) []string {
	first := len(out)
	if c.SerialNumber != "" {
		out = append(out, certificate+"SerialNumber")
	}
	for name, values := range c.Values {
		if len(values) > 0 && values[0] != "" {
			out = append(out, certificate+name)
		}
	}
	slices.Sort(out[first:])
	return out
}
