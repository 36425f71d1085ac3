package acme

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"hallmark/bootstrap"
	"hallmark/bootstrap/acme/state"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/internal/fault"
	"hallmark/provisioner"
)

// Limits of orders.
const (
	maxIdentifiers = 10
	orderLife      = time.Hour
	orderKept      = 7 * 24 * time.Hour // without a certificate; with one until it ends
)

// The types of identifiers (RFC 8555, Section 9.7.7; draft-ietf-acme-device-attest).
const (
	typeDNS    = "dns"
	typeDevice = "permanent-identifier"
)

// The challenges.
const (
	challengeHTTP   = "http-01"
	challengeDNS    = "dns-01"
	challengeDevice = "device-attest-01"
)

type identifier struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// newOrder is RFC 8555, Section 7.4.
func (s *Server) newOrder(c *call) error {
	ctx := c.r.Context()
	var r struct {
		Identifiers []identifier `json:"identifiers"`
		NotBefore   string       `json:"notBefore"`
		NotAfter    string       `json:"notAfter"`
	}
	if err := c.body(&r); err != nil {
		return err
	}
	if r.NotBefore != "" || r.NotAfter != "" {
		return ErrValidity.New("")
	}
	key, err := s.bound(ctx, c.account)
	if err != nil {
		return err
	}
	if n := len(r.Identifiers); n == 0 || n > maxIdentifiers {
		return ErrIdentifiers.New("There are %d.", n)
	}
	now := s.instant()
	o := state.Order{Tenant: s.cfg.Tenant, ID: newID(), Account: c.account.ID, Status: pending, CreatedAt: now, ExpiresAt: now.Add(orderLife).Truncate(time.Second), KeptUntil: now.Add(orderKept)}
	for i, id := range r.Identifiers {
		if slices.Contains(r.Identifiers[:i], id) {
			return ErrIdentifiers.New("One is there twice.")
		}
		if err := s.allowed(id, key, len(r.Identifiers)); err != nil {
			return err
		}
		az := state.Authorization{Type: id.Type, Value: id.Value, Status: pending}
		kinds := []string{challengeDevice}
		if id.Type == typeDNS {
			kinds = []string{challengeHTTP, challengeDNS}
		}
		for _, kind := range kinds {
			var token [32]byte
			rand.Read(token[:])
			az.Challenges = append(az.Challenges, state.Challenge{Type: kind, Token: encode(token[:]), Status: pending})
		}
		o.Authorizations = append(o.Authorizations, az)
	}
	if err := s.cfg.Enroller.Take(); err != nil {
		return err
	}
	if err := s.cfg.Store.CreateOrder(ctx, o); err != nil {
		return err
	}
	c.w.Header().Set("Location", c.base+"order/"+o.ID)
	return c.showOrder(http.StatusCreated, &o)
}

// allowed refuses identifiers that are malformed, of a type that is off, or not
// this account's to ask for.
func (s *Server) allowed(id identifier, key *state.Key, many int) error {
	switch id.Type {
	case typeDevice:
		if len(s.cfg.Attestation) == 0 {
			return ErrUnsupported.New("No attestations are taken.")
		}
		if many > 1 {
			return ErrIdentifiers.New("A device is ordered alone.")
		}
		if provisioner.ValidUnit(id.Value) != nil {
			return ErrIdentifiers.New("%.80q is not 1 to 64 characters of A-Z a-z 0-9 . _ : -", id.Value)
		}
		if key != nil && key.Profile == profile.Site {
			return ErrRejected.New("The account is for servers at a site.")
		}
	case typeDNS:
		if s.cfg.Sites == nil {
			return ErrUnsupported.New("Names are not proven here.")
		}
		if !hostname(id.Value) {
			return ErrIdentifiers.New("%.80q is no host name in lower case.", id.Value)
		}
		if !s.cfg.Sites.Allows(id.Value) || key != nil && key.Profile != profile.Site {
			return ErrRejected.New("%.80q.", id.Value)
		}
	default:
		return ErrUnsupported.New("%.40q.", id.Type)
	}
	if key != nil {
		if _, ok := key.Find(id.Value); !ok {
			return ErrRejected.New("%.80q is none of the account's.", id.Value)
		}
	}
	return nil
}

// find reads the order of the call's id, which may be that of an authorization or
// a challenge of it: at has their numbers. Another account's order is none.
func (s *Server) find(c *call, want int) (o state.Order, at []int, err error) {
	parts := strings.Split(c.id, ".")
	if len(parts) != want+1 {
		return o, nil, state.ErrNoOrder.New("")
	}
	for _, p := range parts[1:] {
		if len(p) != 1 || p[0] < '0' || p[0] > '9' {
			return o, nil, state.ErrNoOrder.New("")
		}
		at = append(at, int(p[0]-'0'))
	}
	if o, err = s.cfg.Store.Order(c.r.Context(), s.cfg.Tenant, parts[0]); err != nil {
		return o, nil, err
	}
	if o.Account != c.account.ID ||
		want > 0 && at[0] >= len(o.Authorizations) ||
		want > 1 && at[1] >= len(o.Authorizations[at[0]].Challenges) {
		return o, nil, state.ErrNoOrder.New("")
	}
	return o, at, s.settle(c.r.Context(), &o)
}

// settle brings an order to the state that its authorizations and the time give it.
func (s *Server) settle(ctx context.Context, o *state.Order) error {
	if o.Status != pending && o.Status != ready {
		return nil
	}
	if !s.now().Before(o.ExpiresAt) {
		o.Status = invalid
		o.Problem, _ = json.Marshal(problem{Type: urn + "malformed", Detail: "The order has expired.", Status: http.StatusForbidden, Code: ErrNotReady.Code})
		return nil // it expires for everybody by itself
	}
	return (&desk{order: o}).settle(ctx)
}

func (d *desk) settle(ctx context.Context) error {
	for i := range d.order.Authorizations {
		if err := d.libAuthorization(i).UpdateStatus(ctx, d); err != nil {
			return err
		}
	}
	return d.libOrder().UpdateStatus(ctx, d)
}

func (s *Server) showOrder(c *call) error {
	if err := c.get(); err != nil {
		return err
	}
	o, _, err := s.find(c, 0)
	if err != nil {
		return err
	}
	return c.showOrder(http.StatusOK, &o)
}

func (c *call) showOrder(status int, o *state.Order) error {
	url := c.base + "order/" + o.ID
	out := map[string]any{"status": o.Status, "expires": stamp(o.ExpiresAt), "finalize": url + "/finalize"}
	var ids []identifier
	var authorizations []string
	for i, az := range o.Authorizations {
		ids = append(ids, identifier{az.Type, az.Value})
		authorizations = append(authorizations, c.base+"authz/"+authorizationID(o.ID, i))
	}
	out["identifiers"], out["authorizations"] = ids, authorizations
	if o.Problem != nil {
		out["error"] = o.Problem
	}
	if o.Leaf != nil {
		out["certificate"] = c.base + "certificate/" + o.ID
	}
	return c.reply(status, out)
}

// finalize is RFC 8555, Section 7.4: the CSR has to be for what was proven.
func (s *Server) finalize(c *call) error {
	ctx := c.r.Context()
	var r struct {
		CSR string `json:"csr"`
	}
	if err := c.body(&r); err != nil {
		return err
	}
	o, _, err := s.find(c, 0)
	if err != nil {
		return err
	}
	if o.Status != ready && o.Status != valid {
		return ErrNotReady.New("It is %s.", o.Status)
	}
	raw, err := decode(strings.TrimRight(r.CSR, "=")) // some clients pad
	if err != nil {
		return ErrCSR.Wrap(err, "It is not base64url.")
	}
	req, err := csr.Parse(raw)
	if err != nil {
		return ErrCSR.Wrap(err, "%s", fault.From(err).What)
	}
	if printOf(req.PublicKey) == c.print {
		return ErrCSR.New("It has the account's key.") // RFC 8555, Section 11.1
	}
	if o.Status == valid {
		if !sameKey(o.Leaf, req.SPKI) {
			return ErrNotReady.New("It has its certificate already.")
		}
		return c.showOrder(http.StatusOK, &o) // the answer was lost
	}
	key, err := s.bound(ctx, c.account)
	if err != nil {
		return err
	}
	if err := s.make(ctx, &o, key, req); err != nil {
		return err
	}
	if err := s.cfg.Store.UpdateOrder(ctx, &o); errors.Is(err, state.ErrChanged) {
		// The same request came twice: the certificate is the same.
		if o, err = s.cfg.Store.Order(ctx, s.cfg.Tenant, o.ID); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	c.w.Header().Set("Location", c.base+"order/"+o.ID)
	return c.showOrder(http.StatusOK, &o)
}

// make has the certificate of a ready order made, and puts it there.
func (s *Server) make(ctx context.Context, o *state.Order, key *state.Key, req *csr.Request) error {
	by := "acme-account/" + o.Account
	var made bootstrap.Enrolled
	d := &desk{order: o}
	d.sign = func(ctx context.Context) (out bootstrap.Enrolled, err error) {
		defer func() { made = out }()
		first := o.Authorizations[0]
		if first.Type == typeDNS {
			site := bootstrap.SiteServer{Tenant: o.Tenant, By: by}
			for _, az := range o.Authorizations {
				site.Names = append(site.Names, az.Value)
			}
			return s.cfg.Enroller.EnrolSite(ctx, site, req)
		}
		v := bootstrap.Voucher{Tenant: o.Tenant, Unit: first.Value, Profile: profile.LDevID, By: by, Attested: true}
		if key != nil {
			n, ok := key.Find(first.Value)
			if !ok {
				return out, ErrRejected.New("%.80q is none of the account's.", first.Value)
			}
			v.Profile, v.Order = key.Profile, key.Order
			if n.Unit != "" {
				v.Unit = n.Unit
			}
		}
		return s.cfg.Enroller.EnrolVouched(ctx, v, req)
	}
	if err := d.finalize(ctx, req); err != nil {
		f := fault.From(err)
		if f.Kind == fault.Invalid || f.Kind == fault.Conflict && !errors.Is(err, ca.ErrSlots) {
			return asCSR(err, f)
		}
		return err
	}
	leaf, err := parseCertificate(made.Certificate)
	if err != nil {
		return err
	}
	serial, ok := ca.SerialFromInt(leaf.SerialNumber)
	if !ok {
		return errors.New("acme: a certificate of ours has a serial number that is not")
	}
	o.Serial, o.Leaf, o.Chain, o.KeptUntil = serial, made.Certificate, made.Chain, later(leaf.NotAfter, o.KeptUntil)
	return nil
}

// later is the later one, and no later than a date that the store can have: a
// birth certificate may have no end.
func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// asCSR says of a refused key or name that it is the CSR's (RFC 8555, Section 7.4).
// What this package refused by itself says already what it is.
func asCSR(err error, f *fault.Fault) error {
	for _, a := range as {
		if a.definition == f.Definition {
			return err
		}
	}
	detail := f.What
	if f.Detail != "" {
		detail += " " + f.Detail
	}
	return ErrCSR.Wrap(err, "%s", detail)
}

func sameKey(certificate, spki []byte) bool {
	c, err := parseCertificate(certificate)
	return err == nil && string(c.RawSubjectPublicKeyInfo) == string(spki)
}

// certificate is RFC 8555, Section 7.4.2.
func (s *Server) certificate(c *call) error {
	if err := c.get(); err != nil {
		return err
	}
	o, _, err := s.find(c, 0)
	if err != nil {
		return err
	}
	if o.Leaf == nil {
		return state.ErrNoOrder.New("")
	}
	var out []byte
	for _, raw := range append([][]byte{o.Leaf}, o.Chain...) {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})...)
	}
	c.w.Header().Set("Content-Type", "application/pem-certificate-chain")
	c.w.Write(out) // a client that is gone asks again
	return nil
}
