package ceremony

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/keycheck"
	"hallmark/ca/profile"
	"hallmark/hsm"
)

// SignRequest asks for the certificate of an issuing authority.
type SignRequest struct {
	RootCert []byte // DER or PEM
	KeyURI   string // of the root
	// CSR is DER, PEM, or the transcript that MakeCSR wrote. From a transcript
	// name, duty and subject are taken where the request leaves them empty.
	CSR     []byte
	Name    string
	Duty    profile.Duty
	Subject profile.Subject
	// Constraints narrow it; nil takes what a CSR's transcript asks for.
	Constraints *profile.Constraints
	// NotAfter ends the certificate; zero means as long as the profile allows,
	// clipped to the root (A9).
	NotAfter time.Time
	// RootName and BaseURL make the URLs of the root's list and certificate;
	// the previous transcript gives them where they are empty.
	RootName string
	BaseURL  string
}

// PlanIntermediate renders the certificate of an issuing authority.
func (c *Ceremony) PlanIntermediate(ctx context.Context, r SignRequest) (*Plan, error) {
	root, err := parseRoot(r.RootCert)
	if err != nil {
		return nil, err
	}
	if err := c.fromPrevious(&r.RootName, &r.BaseURL); err != nil {
		return nil, err
	}
	in, err := readCSR(r.CSR)
	if err != nil {
		return nil, err
	}
	if err := in.fill(&r); err != nil {
		return nil, err
	}
	p := profileOf(r.Duty)
	if r.Duty == profile.DutyRoot || !p.CA {
		return nil, ErrRequest.New("The duty is %s or %s, not %q.", profile.DutyDevice, profile.DutyInfrastructure, r.Duty)
	}
	if r.Subject.CommonName == "" {
		return nil, ErrRequest.New("An issuing authority needs a common name; it is stated here and never taken from the CSR.")
	}
	if err := ca.ValidName(r.RootName); err != nil {
		return nil, err
	}
	if r.Name == r.RootName {
		return nil, ErrRequest.New("The authority cannot have the name of its root, %q.", r.Name)
	}
	if err := keycheck.Check(in.req.PublicKey); err != nil {
		return nil, err
	}
	key, t, err := c.beginRoot(ctx, KindSign, r.Name, r.KeyURI, root)
	if err != nil {
		return nil, err
	}
	if sameKey(in.req.PublicKey, root.PublicKey) {
		return nil, ErrRequest.New("The CSR holds the key of the root.")
	}
	if err := c.baseURL(&t, r.BaseURL); err != nil {
		return nil, err
	}
	more, err := c.judgeRequest(in)
	if err != nil {
		return nil, err
	}
	t.Exceptions = append(t.Exceptions, more...)
	t.Script.Root, t.Script.BaseURL = r.RootName, r.BaseURL
	if p, err = t.Script.constrain(p, *r.Constraints); err != nil {
		return nil, err
	}
	t.Objects = append(t.Objects, object(RoleRoot, false, root.Raw), object(RoleCSR, false, in.req.Raw))
	notes := []string{"CSR            " + WordsOf(in.req.Raw), "  its subject  " + graphic(nameOf(in.req.RawSubject)) + " (not used)"}
	if n := len(in.req.Extensions); n > 0 {
		notes = append(notes, fmt.Sprintf("  it asks for  %d extensions (not used)", n))
	}
	if in.transcript != nil {
		t.Objects = append(t.Objects, object(RoleRequest, false, in.raw))
		notes = append(notes, "  brought in   "+WordsOf(in.raw), "  its key is   "+keyText(&in.transcript.Key))
	} else {
		notes = append(notes, "  its key is   of unknown origin: the CSR came without a transcript")
	}
	return c.planCertificate(&certificate{
		p: p, issuer: issuerOf(root, r.RootName, r.BaseURL), root: root, key: key, t: t,
		subject: r.Subject, notAfter: endOf(p, r.NotAfter, root, c.now()), spki: in.req.SPKI, notes: notes,
	})
}

// SignIntermediate plans and signs without asking anybody.
func (c *Ceremony) SignIntermediate(ctx context.Context, r SignRequest) (*Result, error) {
	p, err := c.PlanIntermediate(ctx, r)
	if err != nil {
		return nil, err
	}
	return c.Execute(ctx, p, unasked)
}

// endOf is the end of the certificate: as asked, or the profile's, clipped to
// the root's. What was asked is not clipped here; the lint refuses it (A9).
func endOf(p profile.Profile, asked time.Time, root *x509.Certificate, now time.Time) time.Time {
	if !asked.IsZero() {
		return asked
	}
	end := now.Add(p.Lifetime)
	if p.NoExpiry && root.NotAfter.Equal(profile.NoExpiry) {
		end = profile.NoExpiry
	}
	if end.After(root.NotAfter) {
		end = root.NotAfter
	}
	return end
}

// issuerOf is a root as issuer. A root has a list and no OCSP responder: its
// key is not there to certify one every two weeks.
func issuerOf(root *x509.Certificate, name, base string) profile.Issuer {
	iss := ca.IssuerOf(&ca.Authority{Name: name, BaseURL: base}, root)
	iss.OCSPURL = ""
	return iss
}

// beginRoot is begin for a step of an existing root.
func (c *Ceremony) beginRoot(ctx context.Context, kind Kind, name, uri string, root *x509.Certificate) (hsm.Signer, Transcript, error) {
	key, t, err := c.begin(ctx, kind, name, uri, false, "")
	if err != nil {
		return nil, t, err
	}
	if !sameKey(key.Public(), root.PublicKey) {
		return nil, t, ErrKey.New("The root is %s.", graphic(root.Subject.String()))
	}
	if now := c.now(); now.Before(root.NotBefore) || now.After(root.NotAfter) {
		return nil, t, ErrClock.New("The root is valid from %s to %s, this clock says %s.", stamp(root.NotBefore), stamp(root.NotAfter), stamp(now))
	}
	return key, t, nil
}

// parseRoot reads the certificate of a root and proves that it is one of ours.
func parseRoot(data []byte) (*x509.Certificate, error) {
	der, err := ReadObject(data, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, ErrInput.Wrap(err, "The certificate of the root does not parse.")
	}
	if err := checkRoot(root); err != nil {
		return nil, ErrInput.Wrap(err, "The certificate of the root: %s.", err)
	}
	return root, nil
}

// incoming is a CSR and how it came.
type incoming struct {
	req        *csr.Request
	raw        []byte      // the transcript's file, if it came in one
	transcript *Transcript // nil for a bare CSR
}

func readCSR(data []byte) (*incoming, error) {
	in := &incoming{}
	if text := bytes.TrimSpace(data); bytes.HasPrefix(text, []byte("{")) {
		t, _, err := Open(data)
		if err != nil {
			return nil, err
		}
		if t.Kind != KindCSR {
			return nil, ErrInput.New("The transcript is of a step %q, not of one that made a CSR.", t.Kind)
		}
		in.raw, in.transcript = data, t
		data = t.Object(RoleCSR)
	}
	var err error
	if in.req, err = csr.Parse(data); err != nil {
		if is(err, csr.ErrAuthority) {
			return nil, ErrInput.Wrap(err, "The CSR asks for the powers of an authority; those come from the script. Make a CSR without extensions.")
		}
		return nil, err
	}
	return in, nil
}

// fill takes what the request leaves empty from the CSR's transcript, and
// refuses a contradiction: then one of the two is for another authority.
func (in *incoming) fill(r *SignRequest) error {
	if r.Constraints == nil {
		r.Constraints = &profile.Constraints{}
		if in.transcript != nil {
			*r.Constraints = in.transcript.Script.constraints()
		}
	}
	if in.transcript == nil {
		return nil
	}
	s := in.transcript.Script
	if asked := s.constraints(); !asked.Empty() && !asked.Equal(*r.Constraints) {
		return ErrRequest.New("The CSR was made for an authority with other constraints: path length, permitted, excluded or purposes differ.")
	}
	if r.Name == "" {
		r.Name = s.Authority
	} else if r.Name != s.Authority {
		return ErrRequest.New("The CSR was made for %q, not for %q.", s.Authority, r.Name)
	}
	asked := map[string]profile.Duty{string(profile.DeviceCA): profile.DutyDevice, string(profile.InfraCA): profile.DutyInfrastructure}[s.Profile]
	if r.Duty == "" {
		r.Duty = asked
	} else if r.Duty != asked {
		return ErrRequest.New("The CSR was made for the duty %q, not %q.", asked, r.Duty)
	}
	if r.Subject == (profile.Subject{}) {
		r.Subject = profile.Subject(s.Subject)
	}
	return nil
}

// judgeRequest holds the issuing key to the rules, by what its own transcript
// says. A bare CSR proves nothing about its key; the transcript says that.
func (c *Ceremony) judgeRequest(in *incoming) ([]string, error) {
	if in.transcript == nil {
		return []string{"the CSR came without a transcript: nothing is known about the token of its key"}, nil
	}
	// A key that keeps the rules is as good from a machine in development mode.
	if len(in.transcript.Exceptions) == 0 {
		return nil, nil
	}
	why := strings.Join(in.transcript.Exceptions, "; ")
	if !c.cfg.Development && slices.ContainsFunc(in.transcript.Exceptions, func(e string) bool { return strings.HasPrefix(e, "development:") }) {
		return nil, hsm.ErrKeyUnsafe.New("The issuing key was made in development mode: %s.", strings.TrimSuffix(why, "."))
	}
	return []string{"issuing key, made in " + in.transcript.Mode + " mode: " + why}, nil
}
