package ceremony

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"time"

	"hallmark/ca"
	"hallmark/ca/keycheck"
	"hallmark/ca/lint"
	"hallmark/ca/profile"
	"hallmark/hsm"
)

// backdate is how far notBefore lies before now, for verifiers whose clock is a
// little behind.
const backdate = 10 * time.Minute

// RootRequest asks for a root.
type RootRequest struct {
	Name    string // for files and URLs; frozen
	BaseURL string // start of the URLs in the certificates below it; frozen (S3)
	KeyURI  string
	// Generate makes the key in the token; otherwise it must be there.
	Generate  bool
	Algorithm hsm.Algorithm // to generate, "" = P-384; else what the key must be, "" = any
	Subject   profile.Subject
	// NotAfter ends the root; zero means 9999-12-31, so that birth certificates
	// without an end have a chain of the same life (S2).
	NotAfter time.Time
}

// PlanRoot makes or opens the key and renders the certificate of a root. A key
// that was generated stays in the token if the plan is given up; the next try
// then opens it.
func (c *Ceremony) PlanRoot(ctx context.Context, r RootRequest) (*Plan, error) {
	if r.Generate && r.Algorithm == "" {
		r.Algorithm = hsm.P384
	}
	if r.Subject.CommonName == "" {
		return nil, ErrRequest.New("A root needs a common name.")
	}
	// Everything that can be refused without the key is refused before it is made.
	if err := ca.ValidBaseURL(r.BaseURL, !c.cfg.Development); err != nil {
		return nil, err
	}
	key, t, err := c.begin(ctx, KindRoot, r.Name, r.KeyURI, r.Generate, r.Algorithm)
	if err != nil {
		return nil, err
	}
	if err := c.baseURL(&t, r.BaseURL); err != nil {
		return nil, err
	}
	if err := keycheck.Check(key.Public()); err != nil {
		return nil, err
	}
	t.Script.Root, t.Script.BaseURL = r.Name, r.BaseURL
	p := profileOf(profile.DutyRoot)
	if r.NotAfter.IsZero() {
		r.NotAfter = profile.NoExpiry
	}
	return c.planCertificate(&certificate{
		// Verifiers that hold the trust anchor itself to the root's list find it
		// out of that list's scope unless it names the same place.
		p: p, issuer: profile.Issuer{Key: key.Public(), CRLBase: (&ca.Authority{Name: r.Name, BaseURL: r.BaseURL}).ListBase()}, key: key, t: t,
		subject: r.Subject, notAfter: r.NotAfter, spki: t.Key.SPKI,
	})
}

// CreateRoot plans and signs a root without asking anybody.
func (c *Ceremony) CreateRoot(ctx context.Context, r RootRequest) (*Result, error) {
	p, err := c.PlanRoot(ctx, r)
	if err != nil {
		return nil, err
	}
	return c.Execute(ctx, p, unasked)
}

// unasked is what a transcript says of a step that a program made by itself.
const unasked = "not asked: made by a program"

// profileOf is the profile of authorities with a duty.
func profileOf(d profile.Duty) profile.Profile {
	p, _ := profile.Get(map[profile.Duty]profile.Name{profile.DutyRoot: profile.Root, profile.DutyDevice: profile.DeviceCA, profile.DutyInfrastructure: profile.InfraCA}[d])
	return p
}

// certificate is what planCertificate needs.
type certificate struct {
	p        profile.Profile
	issuer   profile.Issuer
	root     *x509.Certificate // nil while a root is made
	key      hsm.Signer
	t        Transcript
	subject  profile.Subject
	notAfter time.Time
	spki     []byte
	notes    []string // for the description
}

// planCertificate renders, lints and describes a certificate.
func (c *Ceremony) planCertificate(in *certificate) (*Plan, error) {
	now := c.now()
	serial, err := ca.NewSerial(now, c.cfg.Random)
	if err != nil {
		return nil, err
	}
	start := now.Add(-backdate).UTC().Truncate(time.Second)
	if in.root != nil && start.Before(in.root.NotBefore) {
		start = in.root.NotBefore
	}
	end := in.notAfter.UTC().Truncate(time.Second)
	if !end.After(now) || end.Sub(now) > in.p.Lifetime+24*time.Hour && !end.Equal(profile.NoExpiry) || end.Equal(profile.NoExpiry) && !in.p.NoExpiry {
		return nil, ErrLifetime.New("The profile %s takes an end of at most %d days from now%s, not %s.", in.p.Name, int(in.p.Lifetime.Hours()/24), orNever(in.p), stamp(end))
	}
	tmpl, err := profile.Compile(in.p, in.issuer, profile.DefaultArc)
	if err != nil {
		return nil, ErrRequest.Wrap(err, "The profile cannot be rendered for this key.")
	}
	f := &profile.Fields{Serial: serial[:], NotBefore: start, NotAfter: end, Subject: in.subject, SPKI: in.spki}
	tbs, err := tmpl.Render(f)
	if err != nil {
		return nil, ErrRequest.Wrap(err, "%s.", err)
	}
	draft, found := c.linter.Certificate(tbs, lint.Expect{Template: tmpl, Fields: f})
	if len(found) > 0 {
		return nil, lintFault(found)
	}
	if in.root != nil && bytes.Equal(draft.RawSubject, draft.RawIssuer) {
		return nil, ErrRequest.New("The subject is that of the root; an issuing authority needs a name of its own.")
	}
	t := in.t
	s := &t.Script
	s.Profile, s.ProfileVersion, s.Subject = string(in.p.Name), in.p.Version, Subject(in.subject)
	s.NotBefore, s.NotAfter, s.SerialNumber = stamp(start), stamp(end), serial.String()
	if in.root != nil {
		s.ListURL = profile.ListURL(in.issuer.CRLBase, 0)
	}
	p := &Plan{tbs: tbs, sigAlg: tmpl.SigAlg, key: in.key, root: in.root, t: t}
	p.text = describeCertificate(p, draft, in.notes)
	return p, nil
}

func orNever(p profile.Profile) string {
	if p.NoExpiry {
		return " or 9999-12-31T23:59:59Z"
	}
	return ""
}

// sameKey tells whether two public keys are one.
func sameKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
