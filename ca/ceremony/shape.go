package ceremony

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"hallmark/ca/profile"
)

// extension is what a certificate or list has, by identifier and criticality.
type extension struct {
	id       string
	critical bool
}

var (
	rootExtensions = []extension{{"2.5.29.15", true}, {"2.5.29.19", true}, {"2.5.29.14", false}, {"2.5.29.35", false}}
	// A root may say where its own list is.
	listExtension = extension{"2.5.29.31", false}
	// An issuing authority has besides these policies, the root's list and the
	// root's certificate.
	issuingExtensions = slices.Concat(rootExtensions, []extension{listExtension, {"2.5.29.32", false}, {"1.3.6.1.5.5.7.1.1", false}})
)

// checkRoot proves that a certificate is a root as the profile makes it.
func checkRoot(c *x509.Certificate) error {
	exts := rootExtensions
	if len(c.CRLDistributionPoints) == 1 {
		exts = append(slices.Clone(exts), listExtension)
	}
	if err := checkCA(c, profileOf(profile.DutyRoot), exts); err != nil {
		return err
	}
	if !bytes.Equal(c.RawIssuer, c.RawSubject) || !bytes.Equal(c.AuthorityKeyId, c.SubjectKeyId) {
		return errors.New("it names another issuer than itself")
	}
	if err := c.CheckSignatureFrom(c); err != nil {
		return errors.New("it is not signed by its own key")
	}
	return nil
}

// checkIssuing proves that a certificate is that of an issuing authority under
// the root, as its profile makes it and with nothing more.
func checkIssuing(c *x509.Certificate, p profile.Profile, root *x509.Certificate, rootName, baseURL string) error {
	if err := checkCA(c, p, issuingExtensions); err != nil {
		return err
	}
	iss := issuerOf(root, rootName, baseURL)
	switch {
	case !bytes.Equal(c.RawIssuer, root.RawSubject) || !bytes.Equal(c.AuthorityKeyId, root.SubjectKeyId):
		return errors.New("it names another issuer than the root")
	case c.CheckSignatureFrom(root) != nil:
		return errors.New("it is not signed by the root")
	case bytes.Equal(c.RawSubject, root.RawSubject) || sameKey(c.PublicKey, root.PublicKey):
		return errors.New("it has the subject or the key of the root")
	case c.NotAfter.After(root.NotAfter) || c.NotBefore.Before(root.NotBefore):
		return errors.New("it is valid outside the life of the root")
	case !slices.Equal(c.CRLDistributionPoints, []string{profile.ListURL(iss.CRLBase, 0)}):
		return fmt.Errorf("its list is at %q, not at %s", c.CRLDistributionPoints, profile.ListURL(iss.CRLBase, 0))
	case !slices.Equal(c.IssuingCertificateURL, []string{iss.CertURL}) || len(c.OCSPServer) != 0:
		return fmt.Errorf("the certificate of its issuer is at %q, not at %s, or it names an OCSP responder", c.IssuingCertificateURL, iss.CertURL)
	case len(c.Policies) != 1 || c.Policies[0].String() != "2.5.29.32.0":
		return errors.New("its policy is not anyPolicy alone")
	}
	return nil
}

func checkCA(c *x509.Certificate, p profile.Profile, exts []extension) error {
	keyID, err := profile.KeyID(c.RawSubjectPublicKeyInfo)
	switch {
	case err != nil || !bytes.Equal(keyID, c.SubjectKeyId):
		return errors.New("its key identifier is not that of its key")
	case c.Version != 3 || !c.BasicConstraintsValid || !c.IsCA || c.MaxPathLen != p.PathLen:
		return fmt.Errorf("it is not a CA of path length %d", p.PathLen)
	case uint32(c.KeyUsage) != p.Usage:
		return fmt.Errorf("its key usage is not that of the profile %s", p.Name)
	case !profile.SameConstraints(c, p):
		return errors.New("its name constraints or purposes are not those that were stated")
	}
	if p.NameConstraints() != nil {
		exts = append(slices.Clone(exts), extension{"2.5.29.30", true})
	}
	if len(p.Purposes) > 0 {
		exts = append(slices.Clone(exts), extension{"2.5.29.37", false})
	}
	have := make([]extension, len(c.Extensions))
	for i, e := range c.Extensions {
		have[i] = extension{e.Id.String(), e.Critical}
	}
	if len(have) != len(exts) || slices.ContainsFunc(exts, func(e extension) bool { return !slices.Contains(have, e) }) {
		return fmt.Errorf("it has not the extensions of the profile %s alone", p.Name)
	}
	return nil
}

// checkList proves that a list is a root's as we make them.
func checkList(l *x509.RevocationList, root *x509.Certificate, url string) error {
	if l.Number == nil || !bytes.Equal(l.AuthorityKeyId, root.SubjectKeyId) {
		return errors.New("it has no number or names another key")
	}
	if len(l.Extensions) != 3 {
		return errors.New("it has not the extensions of a root's list alone")
	}
	for _, e := range l.Extensions {
		switch e.Id.String() {
		case oidAuthorityKeyID.String(), oidCRLNumber.String():
			if e.Critical {
				return fmt.Errorf("its extension %s is critical", e.Id)
			}
		case oidIDP.String():
			if !e.Critical || !bytes.Equal(e.Value, idp(url)) {
				return fmt.Errorf("its distribution point is not %s, critical", url)
			}
		default:
			return fmt.Errorf("it has the extension %s", e.Id)
		}
	}
	return nil
}
