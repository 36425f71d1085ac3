package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/ca/profile"
)

// Cross is a certificate in which one root certifies another: whoever trusts only
// the first finds a chain to what is below the second.
type Cross struct {
	Tenant      string    `json:"tenant"`
	Name        string    `json:"name"` // it is served at /ca/NAME.cer
	Root        string    `json:"root"` // that signed it
	Of          string    `json:"of"`   // the root that it certifies
	Certificate []byte    `json:"certificate"`
	AddedAt     time.Time `json:"added_at"`
	AddedBy     string    `json:"added_by"`
	Version     int64     `json:"version"`
}

// Crosses persists cross certificates. The contract is that of [Servings].
type Crosses interface {
	Crosses(ctx context.Context) ([]Cross, error)
	// AddCross stores a new one; ErrAuthorityExists if there is one of that name.
	AddCross(ctx context.Context, c Cross) error
	// RemoveCross takes one away; ErrAuthorityUnknown if there is none of that name.
	RemoveCross(ctx context.Context, s access.Scope, name string) error
}

// CrossInfo is a loaded cross certificate.
type CrossInfo struct {
	Cross
	Cert *x509.Certificate
}

// CheckCross proves that a certificate is a cross certificate between two active
// roots of a tenant, and finds them: one signed it, and it has the name and the key
// of the other. It must reach down to the leaves and may not say more than that.
func CheckCross(tenant string, der []byte, all []Info, now time.Time) (root, of Info, err error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return root, of, ErrCross.Wrap(err, "It does not parse.")
	}
	for _, a := range all {
		if a.Tenant != tenant || a.Duty != profile.DutyRoot || a.State != StateActive {
			continue
		}
		if bytes.Equal(a.Cert.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(a.Cert) == nil {
			root = a
		}
		if bytes.Equal(a.Cert.RawSubject, c.RawSubject) && sameKey(a.Cert.PublicKey, c.PublicKey) {
			of = a
		}
	}
	switch {
	case root.Cert == nil:
		err = ErrCross.New("No active root here signed it; store that root first (hallmark ca root).")
	case of.Cert == nil:
		err = ErrCross.New("No active root here has its name and its key; store that root first (hallmark ca root).")
	case root.Name == of.Name:
		err = ErrCross.New("It is a certificate of %s by itself.", root.Name)
	case !c.BasicConstraintsValid || !c.IsCA || c.MaxPathLen == 0 || c.KeyUsage&x509.KeyUsageCertSign == 0:
		err = ErrCross.New("Nothing can be below it: CA %t, path length %d, key usage %b.", c.IsCA, c.MaxPathLen, c.KeyUsage)
	case len(c.SubjectKeyId) > 0 && len(of.Cert.SubjectKeyId) > 0 && !bytes.Equal(c.SubjectKeyId, of.Cert.SubjectKeyId):
		err = ErrCross.New("Its key identifier is not that of %s, by which verifiers look for it.", of.Name)
	case len(c.AuthorityKeyId) > 0 && len(root.Cert.SubjectKeyId) > 0 && !bytes.Equal(c.AuthorityKeyId, root.Cert.SubjectKeyId):
		err = ErrCross.New("Its authority key identifier is not that of %s.", root.Name)
	case len(c.UnhandledCriticalExtensions) > 0:
		err = ErrCross.New("It has a critical extension that verifiers may not know: %v.", c.UnhandledCriticalExtensions)
	case len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0:
		err = ErrCross.New("It narrows the extended key usage, which a root has not.")
	case !now.Before(c.NotAfter):
		err = ErrCross.New("It ended at %s.", c.NotAfter.Format(time.DateOnly))
	case c.NotAfter.After(root.Cert.NotAfter), c.NotAfter.After(of.Cert.NotAfter):
		err = ErrCross.New("It outlives %s or %s.", root.Name, of.Name)
	}
	return root, of, err
}

func sameKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// loadCrosses parses what is stored; it was checked when it was added, and its row
// is believed only as it was written (S32).
func loadCrosses(rows []Cross) (out []CrossInfo, err error) {
	for _, r := range rows {
		c, err := x509.ParseCertificate(r.Certificate)
		if err != nil {
			return nil, ErrCross.Wrap(err, "%s does not parse.", r.Name)
		}
		out = append(out, CrossInfo{r, c})
	}
	return out, nil
}

// Crosses lists the cross certificates, ordered by name.
func (c *CA) Crosses() []CrossInfo {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Clone(c.crosses)
}

// Cross finds a cross certificate by its name.
func (c *CA) Cross(name string) (CrossInfo, error) {
	for _, x := range c.Crosses() {
		if x.Name == name {
			return x, nil
		}
	}
	return CrossInfo{}, ErrAuthorityUnknown.New("%s.", name)
}

// CrossesOf are the cross certificates that are good now of a root, or of the root
// that signed an authority: with one of them after the authority in a chain, who
// trusts only the other root accepts it too.
func (c *CA) CrossesOf(a *x509.Certificate) (out []*x509.Certificate) {
	now := c.now()
	for _, x := range c.Crosses() {
		if now.Before(x.Cert.NotBefore) || !now.Before(x.Cert.NotAfter) {
			continue
		}
		self := bytes.Equal(a.RawSubject, x.Cert.RawSubject) && sameKey(a.PublicKey, x.Cert.PublicKey)
		below := bytes.Equal(a.RawIssuer, x.Cert.RawSubject) && (len(a.AuthorityKeyId) == 0 || bytes.Equal(a.AuthorityKeyId, x.Cert.SubjectKeyId))
		if self || below {
			out = append(out, x.Cert)
		}
	}
	return out
}

// CrossNameFree refuses the name of an authority or of another cross certificate:
// all of them are served side by side.
func (c *CA) CrossNameFree(name string) error {
	if err := ValidName(name); err != nil {
		return err
	}
	_, aerr := c.Authority(name)
	_, xerr := c.Cross(name)
	if aerr == nil || xerr == nil {
		return ErrAuthorityExists.New("The name %s is taken.", name)
	}
	return nil
}

// String names it for people.
func (x *Cross) String() string { return strings.Join([]string{x.Name, x.Of, "by", x.Root}, " ") }
