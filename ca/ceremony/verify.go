package ceremony

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/internal/fault"
)

// Step is one thing that was verified and what was found.
type Step struct {
	What  string `json:"what"`
	Found string `json:"found"`
}

// String is the step as a line.
func (s Step) String() string { return s.What + ": " + s.Found }

// VerifyTranscript checks a transcript file by itself: its form, its signature,
// and that every certificate, list and CSR in it is what it says. With roots,
// the root of the transcript must be one of them, octet by octet; without, that
// is left to who compares the words. It returns what it checked, up to the
// first thing that is wrong, which the error names.
func VerifyTranscript(data []byte, roots ...*x509.Certificate) ([]Step, error) {
	_, steps, err := Open(data, roots...)
	return steps, err
}

// VerifyChain checks transcripts one by one and that each names the one before.
func VerifyChain(files [][]byte, roots ...*x509.Certificate) ([]Step, error) {
	var all []Step
	for i, f := range files {
		t, steps, err := Open(f, roots...)
		for _, s := range steps {
			all = append(all, Step{fmt.Sprintf("%d. %s", i+1, s.What), s.Found})
		}
		if err != nil {
			return all, within(err, "Transcript %d of %d.", i+1, len(files))
		}
		if i == 0 {
			continue
		}
		if t.Previous != hexSum(files[i-1]) {
			return all, within(broken("previous", nil, "It does not name the transcript before it."), "Transcript %d of %d.", i+1, len(files))
		}
		all = append(all, Step{fmt.Sprintf("%d. previous", i+1), "is the transcript before, " + short(t.Previous)})
	}
	return all, nil
}

// within says in the fault where it was found.
func within(err error, where string, args ...any) error {
	f := *fault.From(err)
	f.Detail = fmt.Sprintf(where, args...) + " " + f.Detail
	return &f
}

// Open is [VerifyTranscript] that also returns the transcript; it is nil after
// an error.
func Open(data []byte, roots ...*x509.Certificate) (*Transcript, []Step, error) {
	return openDepth(data, roots, 0)
}

// maxDepth is how deep transcripts lie in one another: an installation holds
// the signing, which holds the CSR's.
const maxDepth = 2

func openDepth(data []byte, roots []*x509.Certificate, depth int) (*Transcript, []Step, error) {
	if depth > maxDepth {
		return nil, nil, broken("objects", nil, "Transcripts lie in one another too deep.")
	}
	t, pub, err := unseal(data)
	if err != nil {
		return nil, nil, err
	}
	v := &verifier{t: t, pub: pub, roots: roots, depth: depth}
	v.say("signature", "%s by the key %s", t.Key.Algorithm, short(t.Key.SHA256))
	for _, check := range []func() error{v.facts, v.keyRules, v.objects, v.content} {
		if err := check(); err != nil {
			return nil, v.steps, err
		}
	}
	return t, v.steps, nil
}

// verifier goes through one transcript.
type verifier struct {
	t     *Transcript
	pub   crypto.PublicKey // that verified the envelope
	roots []*x509.Certificate
	depth int
	steps []Step
}

func (v *verifier) say(what, found string, args ...any) {
	v.steps = append(v.steps, Step{what, fmt.Sprintf(found, args...)})
}

// facts checks what the transcript says of itself.
func (v *verifier) facts() error {
	t := v.t
	start, err := clock("started", t.Started)
	if err != nil {
		return err
	}
	end, err := clock("finished", t.Finished)
	if err != nil {
		return err
	}
	if end.Before(start) {
		return broken("finished", nil, "The step ended before it started.")
	}
	for part, s := range map[string]string{"program.sha256": t.Program.SHA256, "previous": t.Previous} {
		if s == "" && part == "previous" {
			continue
		}
		if len(s) != 64 || strings.Trim(s, "0123456789abcdef") != "" {
			return broken(part, nil, "It is not a SHA-256.")
		}
	}
	if t.Mode != "production" && t.Mode != "development" {
		return broken("mode", nil, "It is %.20q.", t.Mode)
	}
	if t.Confirmed == "" {
		return broken("confirmed", nil, "Nobody agreed to the step.")
	}
	if err := ca.ValidName(t.Script.Authority); err != nil {
		return broken("script.authority", err, "It is not a name.")
	}
	v.say("step", "%s of %s from %s to %s, %s mode, confirmed: %s", t.Kind, t.Script.Authority, t.Started, t.Finished, t.Mode, graphic(t.Confirmed))
	v.say("program", "SHA-256 %s on %s", t.Program.SHA256, graphic(t.Host.Name))
	for _, e := range t.Exceptions {
		v.say("EXCEPTION", "%s", graphic(e))
	}
	return nil
}

func clock(part, s string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, s)
	if err != nil || stamp(at) != s {
		return at, broken(part, err, "It is not a time in UTC.")
	}
	return at, nil
}

// keyRules holds the reported key to the rules again, so that a transcript
// cannot call itself a production one by a word.
func (v *verifier) keyRules() error {
	k := v.t.Key
	a, err := k.attributes()
	if err != nil {
		return err
	}
	excused := func(prefix string) bool {
		return slices.ContainsFunc(v.t.Exceptions, func(e string) bool { return strings.HasPrefix(e, prefix) })
	}
	if excused("firmware accepted") {
		a.Token.Firmware = "5.7.0"
	}
	if err := hsm.CheckCAKey(a, false); err == nil {
		v.say("key rules", "kept: %s", keyText(&k))
		return nil
	} else if v.t.Mode != "development" || !excused("development: key rules") {
		return broken("key.attributes", err, "A CA key must not have them, and no exception is stated.")
	}
	v.say("key rules", "NOT kept, as stated: %s", keyText(&k))
	return nil
}

// attributes is the inverse of keyFacts.
func (k *KeyFacts) attributes() (hsm.Attributes, error) {
	a := hsm.Attributes{URI: k.URI, Scheme: k.Scheme, Token: hsm.TokenID(k.Token), Algorithm: hsm.Algorithm(k.Algorithm), SPKI: k.SPKI}
	f := &k.Attributes
	for _, p := range []struct {
		text string
		tri  *hsm.Tri
	}{
		{f.OnToken, &a.OnToken}, {f.Private, &a.Private}, {f.Sensitive, &a.Sensitive}, {f.AlwaysSensitive, &a.AlwaysSensitive},
		{f.Extractable, &a.Extractable}, {f.NeverExtractable, &a.NeverExtractable}, {f.Local, &a.Local}, {f.Sign, &a.Sign},
		{f.SignRecover, &a.SignRecover}, {f.Decrypt, &a.Decrypt}, {f.Unwrap, &a.Unwrap}, {f.Derive, &a.Derive}, {f.Modifiable, &a.Modifiable},
	} {
		switch p.text {
		case "yes":
			*p.tri = hsm.Yes
		case "no":
			*p.tri = hsm.No
		case "unknown":
			*p.tri = hsm.Unknown
		default:
			return a, broken("key.attributes", nil, "A value is neither yes, no nor unknown.")
		}
	}
	return a, nil
}

// slot is a place for an object in the transcript of a kind.
type slot struct {
	role     Role
	made     bool
	optional bool
}

var slots = map[Kind][]slot{
	KindRoot:    {{RoleRoot, true, false}},
	KindSign:    {{RoleRoot, false, false}, {RoleCSR, false, false}, {RoleRequest, false, true}, {RoleCertificate, true, false}},
	KindList:    {{RoleRoot, false, false}, {RolePreviousList, false, true}, {RoleList, true, false}},
	KindCSR:     {{RoleCSR, true, false}},
	KindInstall: {{RoleRoot, false, false}, {RoleCertificate, false, false}, {RoleCSR, false, false}, {RoleRequest, false, true}},
	KindCross:   {{RoleRoot, false, false}, {RoleOtherRoot, false, false}, {RoleCertificate, true, false}},
	KindDestroy: {{RoleRoot, false, true}},
}

// objects checks hashes and words, and that the right objects are there.
func (v *verifier) objects() error {
	rest := v.t.Objects
	want, ok := slots[v.t.Kind]
	if !ok {
		return broken("kind", nil, "There is no step %.20q.", v.t.Kind)
	}
	for _, s := range want {
		if len(rest) == 0 || rest[0].Role != s.role || rest[0].Made != s.made {
			if s.optional {
				continue
			}
			return broken("objects", nil, "The %s is not where a step %s has it.", s.role, v.t.Kind)
		}
		o := rest[0]
		if hexSum(o.DER) != o.SHA256 {
			return broken("objects."+string(o.Role)+".sha256", nil, "It is not the hash of the object.")
		}
		if WordsOf(o.DER) != o.Words {
			return broken("objects."+string(o.Role)+".words", nil, "They are not the words of the object.")
		}
		v.say(string(o.Role), "SHA-256 %s, words %s", o.SHA256, o.Words)
		rest = rest[1:]
	}
	if len(rest) != 0 {
		return broken("objects", nil, "There are %d objects too many.", len(rest))
	}
	return nil
}

// content checks the objects against each other and against the script.
func (v *verifier) content() error {
	switch v.t.Kind {
	case KindCSR:
		return v.contentCSR()
	case KindRoot:
		return v.contentRoot()
	case KindDestroy:
		return v.contentDestroy()
	}
	root, err := v.root()
	if err != nil {
		return err
	}
	switch v.t.Kind {
	case KindList:
		return v.contentList(root)
	case KindCross:
		return v.contentCross(root)
	}
	return v.contentIssuing(root)
}

// root finds the root of the transcript and compares it with the given ones.
func (v *verifier) root() (*x509.Certificate, error) {
	root, err := x509.ParseCertificate(v.t.Object(RoleRoot))
	if err != nil {
		return nil, broken("objects.root-certificate", err, "It does not parse.")
	}
	if err := checkRoot(root); err != nil {
		return nil, broken("objects.root-certificate", err, "%s.", err)
	}
	if len(v.roots) == 0 {
		v.say("root", "NOT compared: no root was given; compare its words")
		return root, nil
	}
	// Whole octets: a certificate of the same name and key is another one (A12).
	if !slices.ContainsFunc(v.roots, func(r *x509.Certificate) bool { return bytes.Equal(r.Raw, root.Raw) }) {
		return nil, ErrAnchor.New("It is %s, SHA-256 %s.", graphic(root.Subject.String()), hexSum(root.Raw)).With("part", "objects.root-certificate")
	}
	v.say("root", "is a given one, %s", graphic(root.Subject.String()))
	return root, nil
}

func (v *verifier) contentRoot() error {
	root, err := v.root()
	if err != nil {
		return err
	}
	s := v.t.Script
	if s.Profile != string(profile.Root) || s.Root != s.Authority {
		return broken("script", nil, "It is not that of a root.")
	}
	if url := profile.ListURL(issuerOf(root, s.Root, s.BaseURL).CRLBase, 0); len(root.CRLDistributionPoints) > 0 && root.CRLDistributionPoints[0] != url {
		return broken("objects.root-certificate", nil, "Its list is at %s, not at %s.", root.CRLDistributionPoints[0], url)
	}
	if err := v.signedBy(root.PublicKey, "root"); err != nil {
		return err
	}
	return v.matches(root, RoleRoot)
}

func (v *verifier) signedBy(pub crypto.PublicKey, whose string) error {
	if !sameKey(v.pub, pub) {
		return broken("key", nil, "The transcript is not signed by the key of the %s.", whose)
	}
	v.say("signer", "is the key of the %s", whose)
	return nil
}

// matches compares a certificate with the script.
func (v *verifier) matches(c *x509.Certificate, role Role) error {
	s := v.t.Script
	part := "objects." + string(role)
	subject := profile.Subject(s.Subject)
	n, ok := ca.SerialFromInt(c.SerialNumber)
	switch {
	case !ok || n.String() != s.SerialNumber:
		return broken(part, nil, "Its serial number is not that of the script.")
	case stamp(c.NotBefore) != s.NotBefore || stamp(c.NotAfter) != s.NotAfter:
		return broken(part, nil, "Its validity is not that of the script.")
	case v.t.Kind != KindInstall && !bytes.Equal(subject.AppendName(nil), c.RawSubject):
		return broken(part, nil, "Its subject is not that of the script.")
	}
	v.say("script", "the %s says what the script says: %s until %s", role, graphic(c.Subject.String()), s.NotAfter)
	return nil
}

func (v *verifier) contentIssuing(root *x509.Certificate) error {
	s := v.t.Script
	cert, err := x509.ParseCertificate(v.t.Object(RoleCertificate))
	if err != nil {
		return broken("objects.certificate", err, "It does not parse.")
	}
	p, ok := profile.Get(profile.Name(s.Profile))
	if !ok || !p.CA || p.Name == profile.Root {
		return broken("script.profile", nil, "It is %.40q.", s.Profile)
	}
	if p, err = p.Constrained(s.constraints()); err != nil {
		return broken("script.constraints", err, "%s.", err)
	}
	if err := checkIssuing(cert, p, root, s.Root, s.BaseURL); err != nil {
		return broken("objects.certificate", err, "%s.", err)
	}
	if url := cert.CRLDistributionPoints[0]; url != s.ListURL {
		return broken("script.list_url", nil, "The certificate says %s.", url)
	}
	v.say("certificate", "is signed by the root and has the profile %s, nothing more", p.Name)
	if err := v.matches(cert, RoleCertificate); err != nil {
		return err
	}
	req, err := csr.Parse(v.t.Object(RoleCSR))
	if err != nil {
		return broken("objects.csr", err, "It does not verify.")
	}
	if !bytes.Equal(req.SPKI, cert.RawSubjectPublicKeyInfo) {
		return broken("objects.csr", nil, "It is for another key than the certificate.")
	}
	v.say("csr", "is signed by the key of the certificate")
	if v.t.Kind == KindSign {
		err = v.signedBy(root.PublicKey, "root")
	} else {
		err = v.signedBy(cert.PublicKey, "issuing authority")
	}
	if err != nil {
		return err
	}
	return v.request(cert, req)
}

// request checks the transcript that came with the step.
func (v *verifier) request(cert *x509.Certificate, req *csr.Request) error {
	raw := v.t.Object(RoleRequest)
	if raw == nil {
		return nil
	}
	kind, role, want := KindCSR, RoleCSR, req.Raw
	if v.t.Kind == KindInstall {
		kind, role, want = KindSign, RoleCertificate, cert.Raw
	}
	t, _, err := openDepth(raw, v.roots, v.depth+1)
	if err != nil {
		return within(err, "In objects.request:")
	}
	if t.Kind != kind || !bytes.Equal(t.Object(role), want) || t.Script.Authority != v.t.Script.Authority || t.Script.Profile != v.t.Script.Profile {
		return broken("objects.request", nil, "It is the transcript of something else.")
	}
	v.say("request", "the transcript of the step %s is good, its key is %s", kind, keyText(&t.Key))
	return nil
}

func (v *verifier) contentCSR() error {
	req, err := csr.Parse(v.t.Object(RoleCSR))
	if err != nil {
		return broken("objects.csr", err, "It does not verify.")
	}
	if p, ok := profile.Get(profile.Name(v.t.Script.Profile)); !ok || !p.CA || p.Name == profile.Root {
		return broken("script.profile", nil, "It is %.40q.", v.t.Script.Profile)
	}
	v.say("csr", "is signed by its key, for %s", graphic(nameOf(req.RawSubject)))
	return v.signedBy(req.PublicKey, "CSR")
}

func (v *verifier) contentList(root *x509.Certificate) error {
	s := v.t.Script
	l, err := x509.ParseRevocationList(v.t.Object(RoleList))
	if err == nil {
		err = l.CheckSignatureFrom(root)
	}
	if err != nil {
		return broken("objects.crl", err, "It is not a list signed by the root.")
	}
	url := profile.ListURL(issuerOf(root, s.Root, s.BaseURL).CRLBase, 0)
	if err := checkList(l, root, url); err != nil {
		return broken("objects.crl", err, "%s.", err)
	}
	switch {
	case url != s.ListURL:
		return broken("script.list_url", nil, "It is not that of the root's name and base URL.")
	case l.Number.String() != s.ListNumber:
		return broken("script.list_number", nil, "The list has the number %s.", l.Number)
	case stamp(l.ThisUpdate) != s.NotBefore || stamp(l.NextUpdate) != s.NotAfter:
		return broken("script.not_after", nil, "The list runs from %s to %s.", stamp(l.ThisUpdate), stamp(l.NextUpdate))
	case !slices.Equal(revokedOf(l), s.Revoked):
		return broken("script.revoked", nil, "The list names other certificates.")
	}
	v.say("crl", "number %s with %d entries is signed by the root, until %s", s.ListNumber, len(s.Revoked), s.NotAfter)
	if raw := v.t.Object(RolePreviousList); raw != nil {
		old, err := parsePrevious(raw, root)
		if err != nil {
			return broken("objects.previous-crl", err, "It is not a list of this root.")
		}
		if l.Number.Cmp(old.Number) <= 0 || l.ThisUpdate.Before(old.ThisUpdate) {
			return broken("objects.crl", nil, "It does not come after the previous list.")
		}
		for _, e := range revokedOf(old) {
			if !slices.Contains(s.Revoked, e) {
				return broken("objects.crl", nil, "It drops or changes the entry %s of the previous list.", e.SerialNumber)
			}
		}
		v.say("previous-crl", "number %s; every entry is kept", old.Number)
	}
	return v.signedBy(root.PublicKey, "root")
}
