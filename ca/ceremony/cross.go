package ceremony

import (
	"bytes"
	"context"
	"crypto/x509"
	"time"

	"hallmark/ca"
	"hallmark/ca/profile"
)

// CrossRequest asks one root to certify another, so that who trusts only the
// first finds a chain to what is below the second.
type CrossRequest struct {
	RootCert    []byte              // DER or PEM: the root that signs
	KeyURI      string              // of the root that signs
	RootName    string              // as in the certificates below it; "" = from the previous transcript
	BaseURL     string              // likewise
	Other       []byte              // DER or PEM: the root that is certified
	Name        string              // of the cross certificate in files
	Constraints profile.Constraints // narrow it
	// NotAfter ends it; zero means as long as both roots live.
	NotAfter time.Time
}

// PlanCross renders a cross certificate: subject and key of the other root,
// whose self-signature is proof that its key asked for that name.
func (c *Ceremony) PlanCross(ctx context.Context, r CrossRequest) (*Plan, error) {
	root, err := parseRoot(r.RootCert)
	if err != nil {
		return nil, err
	}
	other, err := parseRoot(r.Other)
	if err != nil {
		return nil, err
	}
	if err := c.fromPrevious(&r.RootName, &r.BaseURL); err != nil {
		return nil, err
	}
	if err := ca.ValidName(r.RootName); err != nil {
		return nil, err
	}
	if bytes.Equal(root.RawSubject, other.RawSubject) || sameKey(root.PublicKey, other.PublicKey) {
		return nil, ErrRequest.New("The two roots have one name or one key; there is nothing to cross.")
	}
	subject, ok := subjectOf(other)
	if !ok {
		return nil, ErrRequest.New("The name of the other root cannot be written again octet by octet.")
	}
	key, t, err := c.beginRoot(ctx, KindCross, r.Name, r.KeyURI, root)
	if err != nil {
		return nil, err
	}
	if err := c.baseURL(&t, r.BaseURL); err != nil {
		return nil, err
	}
	p, _ := profile.Get(profile.CrossRoot)
	if p, err = t.Script.constrain(p, r.Constraints); err != nil {
		return nil, err
	}
	end := endOf(p, r.NotAfter, root, c.now())
	if r.NotAfter.IsZero() && end.After(other.NotAfter) {
		end = other.NotAfter
	}
	if end.After(other.NotAfter) {
		return nil, ErrLifetime.New("The other root ends at %s.", stamp(other.NotAfter))
	}
	t.Script.Root, t.Script.BaseURL = r.RootName, r.BaseURL
	t.Objects = append(t.Objects, object(RoleRoot, false, root.Raw), object(RoleOtherRoot, false, other.Raw))
	return c.planCertificate(&certificate{
		p: p, issuer: issuerOf(root, r.RootName, r.BaseURL), root: root, key: key, t: t,
		subject: subject, notAfter: end, spki: other.RawSubjectPublicKeyInfo,
		notes: []string{"Other root     " + WordsOf(other.Raw), "  it is        " + graphic(other.Subject.String())},
	})
}

// subjectOf reads a root's name back into the fields it was made from; false if
// they would not give the same octets, without which no chain forms.
func subjectOf(c *x509.Certificate) (profile.Subject, bool) {
	one := func(s []string) string {
		if len(s) == 1 {
			return s[0]
		}
		return ""
	}
	n := c.Subject
	s := profile.Subject{
		Country: one(n.Country), Organization: one(n.Organization), OrganizationalUnit: one(n.OrganizationalUnit),
		CommonName: n.CommonName, SerialNumber: n.SerialNumber,
	}
	return s, bytes.Equal(s.AppendName(nil), c.RawSubject)
}

func (v *verifier) contentCross(root *x509.Certificate) error {
	s := v.t.Script
	other, err := x509.ParseCertificate(v.t.Object(RoleOtherRoot))
	if err == nil {
		err = checkRoot(other)
	}
	if err != nil {
		return broken("objects.other-root", err, "It is not a root.")
	}
	cert, err := x509.ParseCertificate(v.t.Object(RoleCertificate))
	if err != nil {
		return broken("objects.certificate", err, "It does not parse.")
	}
	p, _ := profile.Get(profile.CrossRoot)
	if s.Profile != string(p.Name) {
		return broken("script.profile", nil, "It is %.40q.", s.Profile)
	}
	if p, err = p.Constrained(s.constraints()); err != nil {
		return broken("script.constraints", err, "%s.", err)
	}
	if err := checkIssuing(cert, p, root, s.Root, s.BaseURL); err != nil {
		return broken("objects.certificate", err, "%s.", err)
	}
	switch {
	case !bytes.Equal(cert.RawSubject, other.RawSubject) || !bytes.Equal(cert.RawSubjectPublicKeyInfo, other.RawSubjectPublicKeyInfo):
		return broken("objects.certificate", nil, "It has not the name and key of the other root.")
	case cert.NotAfter.After(other.NotAfter):
		return broken("objects.certificate", nil, "It outlives the other root.")
	case cert.CRLDistributionPoints[0] != s.ListURL:
		return broken("script.list_url", nil, "The certificate says %s.", cert.CRLDistributionPoints[0])
	}
	v.say("certificate", "is signed by the root and certifies the root %s, nothing more", graphic(other.Subject.String()))
	if err := v.matches(cert, RoleCertificate); err != nil {
		return err
	}
	return v.signedBy(root.PublicKey, "root")
}
