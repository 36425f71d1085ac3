package ceremony

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"io"
	"slices"

	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/keycheck"
	"hallmark/ca/profile"
	"hallmark/hsm"
)

// CSRRequest asks for the key and CSR of an issuing authority. This step runs
// beside the online token, not on the air-gapped machine.
type CSRRequest struct {
	Name      string
	Duty      profile.Duty
	KeyURI    string
	Generate  bool
	Algorithm hsm.Algorithm // to generate, "" = P-256; else what the key must be, "" = any
	// Subject is what the ceremony is asked to use. The CSR carries its common
	// name only; the rest travels in the transcript.
	Subject profile.Subject
	// Constraints are what the ceremony is asked to narrow the certificate by.
	Constraints profile.Constraints
}

// MakeCSR makes or opens an issuing key and its CSR. The transcript is the file
// to bring to the root: it carries the CSR and what the token says of the key,
// and is signed by that key.
func (c *Ceremony) MakeCSR(ctx context.Context, r CSRRequest) (*Result, error) {
	p := profileOf(r.Duty)
	if r.Duty == profile.DutyRoot || !p.CA {
		return nil, ErrRequest.New("The duty is %s or %s, not %q.", profile.DutyDevice, profile.DutyInfrastructure, r.Duty)
	}
	if r.Subject.CommonName == "" {
		return nil, ErrRequest.New("An issuing authority needs a common name.")
	}
	if _, err := p.Constrained(r.Constraints); err != nil {
		return nil, ErrRequest.Wrap(err, "Constraints: %s.", err)
	}
	if err := serves(r.Duty, r.Constraints.Purposes); err != nil {
		return nil, err
	}
	if r.Generate && r.Algorithm == "" {
		r.Algorithm = hsm.P256
	}
	key, t, err := c.begin(ctx, KindCSR, r.Name, r.KeyURI, r.Generate, r.Algorithm)
	if err != nil {
		return nil, err
	}
	if err := keycheck.Check(key.Public()); err != nil {
		return nil, err
	}
	made, err := csr.Create(bound{key, ctx}, r.Subject.CommonName, "")
	if err != nil {
		return nil, err
	}
	if _, err := csr.Parse(made); err != nil {
		return nil, ErrSignature.Wrap(err, "The CSR does not verify.")
	}
	s := &t.Script
	s.Profile, s.ProfileVersion, s.Subject = string(p.Name), p.Version, Subject(r.Subject)
	if !r.Constraints.Empty() {
		s.Constraints = &r.Constraints
	}
	t.Confirmed = unasked
	t.Objects = append(t.Objects, object(RoleCSR, true, made))
	res, err := c.finish(ctx, key, &t, nil)
	if err != nil {
		return nil, err
	}
	res.CSRDER, res.CSRPEM, res.Words = made, toPEM("CERTIFICATE REQUEST", made), WordsOf(made)
	return res, nil
}

// bound is a signer whose Sign obeys a context.
type bound struct {
	hsm.Signer
	ctx context.Context
}

// Sign is SignContext under the step's context.
func (b bound) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return b.SignContext(b.ctx, digest, opts)
}

// InstallRequest asks whether a certificate that came from the root fits.
type InstallRequest struct {
	// Authority is the pending authority with name, duty, key URI and CSR. If its
	// CSR came in a transcript, that says how the certificate has to be narrowed.
	Authority ca.Authority
	// Certificate is DER, PEM, or the transcript that SignIntermediate wrote,
	// which is better: it shows how the certificate came about.
	Certificate []byte
	RootCert    []byte // DER or PEM: the root that this side trusts already
	RootName    string // as the lists of the root are published here
	BaseURL     string // likewise
}

// CheckInstall proves that a certificate is the one that this authority asked
// for: its key (by a signature of the token), its root, its profile, its URLs,
// and no extension that the profile does not have. It installs nothing. The
// transcript is signed by the issuing key.
func (c *Ceremony) CheckInstall(ctx context.Context, r InstallRequest) (*Result, error) {
	root, err := parseRoot(r.RootCert)
	if err != nil {
		return nil, err
	}
	brought := []Object{}
	certificate := r.Certificate
	if text := bytes.TrimSpace(certificate); bytes.HasPrefix(text, []byte("{")) {
		t, _, err := Open(certificate, root)
		if err != nil {
			return nil, err
		}
		if t.Kind != KindSign {
			return nil, ErrInput.New("The transcript is of a step %q, not of one that signed a certificate.", t.Kind)
		}
		brought = append(brought, object(RoleRequest, false, certificate))
		certificate = t.Object(RoleCertificate)
	}
	certificate, err = ReadObject(certificate, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	in, err := readCSR(r.Authority.CSR)
	if err != nil {
		return nil, ca.ErrAuthorityMismatch.Wrap(err, "The stored CSR of %s does not verify.", r.Authority.Name)
	}
	cert, err := ca.CheckInstall(&r.Authority, in.req.SPKI, certificate, root)
	if err != nil {
		return nil, err
	}
	p, narrowed, err := narrowedBy(cert, profileOf(r.Authority.Duty))
	if err != nil {
		return nil, err
	}
	if err := in.got(narrowed, r.Authority.Duty); err != nil {
		return nil, err
	}
	if err := serves(r.Authority.Duty, narrowed.Purposes); err != nil {
		return nil, err
	}
	if err := checkIssuing(cert, p, root, r.RootName, r.BaseURL); err != nil {
		return nil, ca.ErrAuthorityMismatch.Wrap(err, "The certificate: %s.", err)
	}
	key, t, err := c.begin(ctx, KindInstall, r.Authority.Name, r.Authority.KeyURI, false, "")
	if err != nil {
		return nil, err
	}
	if !sameKey(key.Public(), cert.PublicKey) {
		return nil, ErrKey.New("The certificate is of %s.", graphic(cert.Subject.String()))
	}
	s := &t.Script
	if !narrowed.Empty() {
		s.Constraints = &narrowed
	}
	s.Profile, s.ProfileVersion, s.Root, s.BaseURL = string(p.Name), p.Version, r.RootName, r.BaseURL
	s.NotBefore, s.NotAfter = stamp(cert.NotBefore), stamp(cert.NotAfter)
	s.ListURL = profile.ListURL(issuerOf(root, r.RootName, r.BaseURL).CRLBase, 0)
	if n, ok := ca.SerialFromInt(cert.SerialNumber); ok {
		s.SerialNumber = n.String()
	}
	t.Confirmed = unasked
	t.Objects = append(append(t.Objects, object(RoleRoot, false, root.Raw), object(RoleCertificate, false, cert.Raw), object(RoleCSR, false, in.req.Raw)), brought...)
	res, err := c.finish(ctx, key, &t, root)
	if err != nil {
		return nil, err
	}
	res.CertificateDER, res.CertificatePEM, res.Words = cert.Raw, toPEM("CERTIFICATE", cert.Raw), WordsOf(cert.Raw)
	return res, nil
}

// got compares what the CSR's transcript asks for with what a certificate has. Where
// nothing was asked for, the root may narrow as it likes.
func (in *incoming) got(has profile.Constraints, d profile.Duty) error {
	if in.transcript == nil {
		return nil
	}
	asked := in.transcript.Script.constraints()
	if asked.Empty() || asked.Same(has, profileOf(d)) {
		return nil
	}
	text := has.String()
	if text == "" {
		text = "none"
	}
	return ca.ErrConstraintsDiffer.New("Asked for: %s. The certificate has: %s.", graphic(asked.String()), graphic(text))
}

// CSRIn reads the CSR of an authority as it is stored: in the transcript of its
// making, which is nil for a CSR alone.
func CSRIn(stored []byte) (req *csr.Request, transcript []byte, err error) {
	in, err := readCSR(stored)
	if err != nil {
		return nil, nil, err
	}
	return in.req, in.raw, nil
}

// narrowedBy is the profile with the constraints of a certificate, which must be
// of a kind that the verifiers of this service understand (S29).
func narrowedBy(c *x509.Certificate, p profile.Profile) (profile.Profile, profile.Constraints, error) {
	narrowed, err := profile.ConstraintsOf(c, p)
	if err == nil {
		p, err = p.Constrained(narrowed)
	}
	if err != nil {
		return p, narrowed, ca.ErrAuthorityMismatch.Wrap(err, "The certificate: %s.", err)
	}
	if len(c.UnhandledCriticalExtensions) > 0 {
		return p, narrowed, ca.ErrAuthorityMismatch.New("The doors of this service, and every program in Go, refuse what is below it: it has a critical constraint that they do not check, such as one on directory names (S29).")
	}
	return p, narrowed, nil
}

// serves refuses purposes without which an authority cannot do its duty: none at
// all narrow nothing.
func serves(d profile.Duty, purposes []string) error {
	if len(purposes) == 0 {
		return nil
	}
	for _, need := range map[profile.Duty][]string{profile.DutyDevice: {"client-auth", "ocsp-signing"}, profile.DutyInfrastructure: {"client-auth", "server-auth", "ocsp-signing"}}[d] {
		if !slices.Contains(purposes, need) {
			return ErrRequest.New("An authority with the duty %s issues certificates for %s, so its own must not leave that out.", d, need)
		}
	}
	return nil
}

// Certificate is the certificate that a sign or root transcript holds, for
// tools that install it.
func (t *Transcript) Certificate() (*x509.Certificate, error) {
	role := RoleCertificate
	if t.Kind == KindRoot {
		role = RoleRoot
	}
	return x509.ParseCertificate(t.Object(role))
}
