package main

import (
	"context"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/bootstrap"
	"hallmark/ca/profile"
	"hallmark/fleet/registry"
	"hallmark/provisioner"
	"hallmark/provisioner/declare"
)

// registeredCASpec is about a CA that was brought along, whose document is named
// by its id, or about an authority of ours, by its name.
type registeredCASpec struct {
	Certificate string `json:"certificate,omitempty"` // PEM; "" for ours
	// Verification proves the possession of the key. It is only needed once, so it is
	// neither kept nor exported.
	Verification     string `json:"verification,omitempty"`
	Mode             string `json:"mode"`
	Status           string `json:"status"`
	AutoRegistration bool   `json:"autoRegistration,omitempty"`
	Template         string `json:"template,omitempty"`
}

// Public leaves out the proof.
func (c registeredCASpec) Public() declare.Spec {
	c.Verification = ""
	return c
}

// Needs has it wait with its template.
func (c registeredCASpec) Needs(string) []declare.Ref {
	return []declare.Ref{{Kind: "Template", Name: c.Template}}
}

// admits tells whether somebody else's CA lets devices in.
func (c registeredCASpec) admits() (active, registers bool) {
	active = c.Certificate != "" && c.Status == string(registry.CAActive)
	return active, active && c.AutoRegistration
}

type registeredCAKind struct{ registrationAPI }

func (registeredCAKind) Name() string        { return "RegisteredCA" }
func (registeredCAKind) Sees() access.Action { return access.ReadRegisteredCAs }

func (registeredCAKind) Decode(raw []byte) (declare.Spec, error) {
	s, err := declare.Decode[registeredCASpec](raw)
	if err != nil {
		return nil, err
	}
	c := s.(registeredCASpec)
	if c.Mode == "" {
		c.Mode = string(registry.ModeDefault)
	}
	if c.Status == "" {
		c.Status = string(registry.CAActive)
	}
	if c.Status != string(registry.CAActive) && c.Status != string(registry.CAInactive) {
		return nil, declare.ErrField.New("spec.status: it is ACTIVE or INACTIVE.").With("path", "status")
	}
	if c.Certificate != "" {
		cert, err := bootstrap.ParseLeaf([]byte(c.Certificate))
		if err != nil {
			return nil, registry.ErrCAInvalid.Wrap(err, "The certificate does not parse.").With("path", "certificate")
		}
		c.Certificate = pemText("CERTIFICATE", cert.Raw)
	}
	return c, nil
}

// find is the registered CA of a document's name.
func (k registeredCAKind) find(ctx context.Context, s access.Scope, name string) (c registry.RegisteredCA, ok bool, err error) {
	if _, err := registry.ParseCertificateID(name); err == nil {
		c, ok, err = absent(k.reg.CA(ctx, s, name))
		return c, ok && c.Authority == "", err
	}
	a, err := k.ours(s, name)
	if err != nil {
		return c, false, err
	}
	return absent(k.reg.CA(ctx, s, registry.CertificateID(a.Cert.Raw)))
}

func (k registeredCAKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	c, ok, err := k.find(ctx, s, name)
	if !ok {
		return nil, err
	}
	v := registeredCASpec{Mode: string(c.Mode), Status: string(c.Status), AutoRegistration: c.AutoRegistration}
	if c.Authority == "" {
		v.Certificate = pemText("CERTIFICATE", c.DER)
	}
	_, v.Template, err = k.registered(ctx, s, c.Registration())
	return v, err
}

func (k registeredCAKind) List(ctx context.Context, s access.Scope, after string, limit int) ([]string, string, error) {
	rows, next, err := collect(after, limit, func(after string, n int) ([]registry.RegisteredCA, error) { return k.reg.CAs(ctx, s, after, n) },
		func(c *registry.RegisteredCA) string { return c.ID }, nil)
	return mapped(rows, (*registry.RegisteredCA).Registration), next, err
}

func (k registeredCAKind) Judge(_ context.Context, _ access.Scope, name string, was, want declare.Spec) (declare.Verdict, error) {
	w := want.(registeredCASpec)
	var id string
	if w.Certificate != "" {
		cert, err := bootstrap.ParseLeaf([]byte(w.Certificate))
		if err != nil {
			return declare.Verdict{}, err
		}
		id = registry.CertificateID(cert.Raw)
	}
	if _, err := registry.ParseCertificateID(name); err == nil && id != name || err != nil && id != "" {
		return declare.Verdict{}, declare.ErrField.New("metadata.name: a CA that was brought along has the name %s and its certificate, one of ours the authority's name alone.", id)
	}
	// An authority of ours is known already: its certificates are counted, limited and
	// revoked here. What others sign is not.
	if was == nil {
		v := declare.Verdict{Rights: []access.Action{access.RegisterCA}}
		if w.Certificate != "" {
			v.Dangerous = "the registration of another's CA"
		}
		return v, nil
	}
	if was.(registeredCASpec).Mode != w.Mode {
		return declare.Verdict{}, declare.ErrImmutable.New("A registered CA keeps its mode.").With("path", "mode")
	}
	v := declare.Verdict{Rights: []access.Action{access.UpdateRegisteredCA}}
	hadActive, hadAuto := was.(registeredCASpec).admits()
	active, auto := w.admits()
	switch {
	case active && !hadActive:
		v.Dangerous = "the activation of another's CA"
	case auto && !hadAuto:
		v.Dangerous = "automatic registration by another's CA"
	}
	return v, nil
}

func (k registeredCAKind) Put(ctx context.Context, by access.Actor, name string, was, want declare.Spec) (out declare.Outcome, err error) {
	w := want.(registeredCASpec)
	if was == nil {
		r := adminapi.RegisteredCARequest{Certificate: w.Certificate, Verification: w.Verification, Mode: w.Mode, Active: w.Status == string(registry.CAActive), AutoRegistration: w.AutoRegistration, Template: w.Template}
		if w.Certificate == "" {
			r.Authority = name
		}
		_, err = k.registerCA(ctx, by, r)
		return out, err
	}
	had, ok, err := k.find(ctx, by.Scope(), name)
	if err != nil || !ok {
		return out, err
	}
	status := registry.CAStatus(w.Status)
	c, err := k.reg.UpdateCA(ctx, by.Scope(), had.ID, registry.CAChange{Status: &status, AutoRegistration: &w.AutoRegistration})
	if err == nil && was.(registeredCASpec).Template != w.Template {
		err = k.attach(ctx, by, &c, w.Template)
	}
	return out, err
}

// orderSpec is what approvers sign, but for who drafted it and where.
type orderSpec struct {
	Product         string                 `json:"product"`
	Quantity        int64                  `json:"quantity"`
	Serials         provisioner.SerialRule `json:"serials"`
	Stations        []string               `json:"stations,omitempty"`
	NotBefore       string                 `json:"notBefore,omitempty"` // RFC 3339
	NotAfter        string                 `json:"notAfter,omitempty"`
	KeyOrigin       string                 `json:"keyOrigin"`
	CNIsUnit        bool                   `json:"cnIsUnit,omitempty"`
	CertificateDays int                    `json:"certificateDays,omitempty"`
	AllowUnproven   bool                   `json:"allowUnproven,omitempty"`
	Organization    string                 `json:"organization,omitempty"`
	Region          string                 `json:"region,omitempty"`
}

type orderKind struct{ *backend }

func (orderKind) Name() string        { return "Order" }
func (orderKind) Sees() access.Action { return access.ReadOrders }

// maxOrderStations is what an order's own route takes.
const maxOrderStations = 256

func (orderKind) Decode(raw []byte) (declare.Spec, error) {
	s, err := declare.Decode[orderSpec](raw)
	if err != nil {
		return nil, err
	}
	o := s.(orderSpec)
	if len(o.Stations) > maxOrderStations {
		return nil, declare.ErrField.New("spec.stations: there are more than %d.", maxOrderStations).With("path", "stations")
	}
	for path, t := range map[string]*string{"notBefore": &o.NotBefore, "notAfter": &o.NotAfter} {
		parse := parseWhen
		if t == &o.NotAfter {
			parse = parseEnd
		}
		when, err := parse(*t)
		if err != nil {
			return nil, declare.ErrField.New("spec.%s: %.40q is not a time such as 2027-01-31 or 2027-01-31T08:00:00Z.", path, *t).With("path", path)
		}
		*t = orderTime(unixSeconds(when))
	}
	return o, nil
}

func orderTime(s int64) string {
	if s == 0 {
		return ""
	}
	return seconds(s).Format(time.RFC3339)
}

func (k orderKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	o, ok, err := absent(k.prov.Order(ctx, s, name))
	if !ok {
		return nil, err
	}
	return orderSpec{Product: o.Product, Quantity: o.Quantity, Serials: o.Serials, Stations: o.Stations, NotBefore: orderTime(o.NotBefore), NotAfter: orderTime(o.NotAfter),
		KeyOrigin: string(o.KeyOrigin), CNIsUnit: o.CNIsUnit, CertificateDays: o.CertificateDays, AllowUnproven: o.AllowUnproven, Organization: o.Organization, Region: o.Region}, nil
}

// List leaves out closed orders: elsewhere they would be drafts again.
func (k orderKind) List(ctx context.Context, s access.Scope, after string, limit int) ([]string, string, error) {
	rows, next, err := collect(after, limit, k.orders(ctx, s), orderPosition, func(o *provisioner.Order) bool { return o.State != provisioner.OrderClosed })
	return mapped(rows, orderPosition), next, err
}

// Judge: an order is drafted and no more; approving it takes somebody else's
// signature over its exact text (S32, S36).
func (k orderKind) Judge(ctx context.Context, s access.Scope, name string, was, want declare.Spec) (declare.Verdict, error) {
	v := declare.Verdict{Rights: []access.Action{access.CreateOrder}}
	state := provisioner.OrderDraft
	if was == nil {
		to, _ := parseWhen(want.(orderSpec).NotAfter) // Decode wrote it
		if err := k.prov.Ahead(&provisioner.Body{ID: name, NotAfter: unixSeconds(to)}); err != nil {
			return v, err
		}
	} else {
		o, err := k.prov.Order(ctx, s, name)
		if err != nil {
			return v, err
		}
		if state = o.State; !declare.Equal(was, want) {
			return v, declare.ErrImmutable.New("Order %s is %s, and what people sign does not change.", name, state)
		}
	}
	switch word := shellWord(name); state {
	case provisioner.OrderDraft:
		v.Notes = append(v.Notes, "it is a draft until somebody other than its creator approves it with a pinned key")
		v.Next = append(v.Next, "hallmark order approve "+word+" --key URI", "hallmark order open "+word)
	case provisioner.OrderApproved:
		v.Next = append(v.Next, "hallmark order open "+word)
	}
	return v, nil
}

// shellWord quotes a name for a command line that somebody copies.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-:/", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (k orderKind) Put(ctx context.Context, by access.Actor, name string, _, want declare.Spec) (out declare.Outcome, err error) {
	o := want.(orderSpec)
	from, _ := parseWhen(o.NotBefore) // Decode wrote them
	to, _ := parseWhen(o.NotAfter)
	_, err = k.draft(ctx, by, provisioner.Body{ID: name, Product: o.Product, Quantity: o.Quantity, Serials: o.Serials, Stations: o.Stations, NotBefore: unixSeconds(from), NotAfter: unixSeconds(to),
		KeyOrigin: profile.Origin(o.KeyOrigin), CNIsUnit: o.CNIsUnit, CertificateDays: o.CertificateDays, AllowUnproven: o.AllowUnproven, Organization: o.Organization, Region: o.Region})
	return out, err
}
