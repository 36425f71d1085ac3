package ceremony

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"hallmark/ca"
	"hallmark/ca/lint"
	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/internal/fault"
)

// Keys opens and makes keys by URI; [hsm.Keyring] does. Contract: Signer gives
// the key that the URI names and no other, Generate refuses a name that is
// taken, Attributes repeats what the token reports and "unknown" for the rest.
type Keys interface {
	Signer(ctx context.Context, uri string) (hsm.Signer, error)
	Generate(ctx context.Context, uri string, spec hsm.Spec) (hsm.Signer, error)
	Attributes(ctx context.Context, uri string) (hsm.Attributes, error)
}

// Config makes a Ceremony.
type Config struct {
	Keys Keys
	// Development lets keys pass that a CA must not use, and URLs that will not
	// last. Every rule that was not enforced is in the transcript.
	Development bool
	// AcceptFirmware is the explicit override for EC keys on PIV cards whose
	// firmware leaks them (S7, A21); it is in the transcript too.
	AcceptFirmware bool
	// ClockRead is what a person read from another clock, in their words.
	ClockRead string
	// Witnesses are the people in the room.
	Witnesses []string
	// Previous is the transcript file of the step before, which this one names
	// by its hash; nil for the first step.
	Previous []byte
	Log      *slog.Logger
	Now      func() time.Time
	Random   io.Reader // of serial numbers; nil means crypto/rand

	rehearsal bool // on a throw-away token; the transcript says so
}

// Ceremony carries out steps. It is safe for concurrent use.
type Ceremony struct {
	cfg      Config
	linter   *lint.Linter
	program  Program
	previous *Transcript // nil for the first step
	now      func() time.Time
	log      *slog.Logger
}

// New makes a Ceremony and verifies the transcript before it, if one is given.
func New(cfg Config) (*Ceremony, error) {
	c := &Ceremony{cfg: cfg, now: cfg.Now, log: cfg.Log}
	if c.now == nil {
		c.now = time.Now
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Keys == nil {
		return nil, ErrRequest.New("There is nothing to open keys with.")
	}
	if len(cfg.Witnesses) > 32 || len(cfg.ClockRead) > 256 || len(strings.Join(cfg.Witnesses, "")) > 4096 {
		return nil, ErrRequest.New("The names of witnesses or the clock reading are too long.")
	}
	var err error
	if c.linter, err = lint.New(); err != nil {
		return nil, err
	}
	if c.program, err = program(); err != nil {
		return nil, ErrRequest.Wrap(err, "The program cannot read its own file, so the transcript could not name it.")
	}
	if cfg.Previous != nil {
		if c.previous, _, err = Open(cfg.Previous); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Result is what a step made. Fields that the step does not make are nil.
type Result struct {
	Name           string
	Kind           Kind
	CertificateDER []byte
	CertificatePEM []byte
	ListDER        []byte
	ListPEM        []byte
	CSRDER         []byte
	CSRPEM         []byte
	// Words are the checksum words of the certificate, list or CSR.
	Words string
	// TranscriptJSON is the transcript file. Its words go to the witnesses.
	TranscriptJSON  []byte
	TranscriptWords string
	Transcript      *Transcript
}

// Plan is the right to use the key once, for octets that were rendered from the
// script and linted. It comes only from the Plan methods.
type Plan struct {
	tbs    []byte
	sigAlg []byte
	key    hsm.Signer
	root   *x509.Certificate // whose key signs; nil while a root is made
	t      Transcript
	text   string

	mu   sync.Mutex
	used bool
}

// Describe is what people read before they agree: what the octets to be signed
// say, parsed from the octets themselves, and with which key.
func (p *Plan) Describe() string { return p.text }

// TBS is a copy of the octets to be signed. Who must know after a crash what a
// key might have signed writes them to disk before Execute.
func (p *Plan) TBS() []byte { return bytes.Clone(p.tbs) }

// FileName is what the files of this step are called, without an extension: the
// authority, or the root and the number of its list.
func (p *Plan) FileName() string {
	if p.t.Kind == KindList {
		return p.t.Script.Root + "-" + p.t.Script.ListNumber
	}
	return p.t.Script.Authority
}

// Kind is what the plan would do.
func (p *Plan) Kind() Kind { return p.t.Kind }

// Execute signs a plan and writes its transcript. confirmed says how somebody
// agreed to what Describe showed, for example "typed yes". A plan is used up by
// it, also if it fails.
//
//  1. sign: exactly the linted octets; verified with the public key.
//  2. read back: what came out must parse and be signed by the root.
//  3. record: the transcript, signed by the same key.
//  4. verify: the transcript as anybody else would.
func (c *Ceremony) Execute(ctx context.Context, p *Plan, confirmed string) (*Result, error) {
	p.mu.Lock()
	used := p.used
	p.used = true
	p.mu.Unlock()
	if used {
		return nil, ErrUsed.New("")
	}
	if confirmed == "" {
		return nil, ErrNotConfirmed.New("")
	}
	// 1. sign
	sig, err := sign(ctx, p.key, p.tbs)
	if err != nil {
		return nil, err
	}
	made := profile.Assemble(p.tbs, p.sigAlg, sig)
	// 2. read back
	root, role, err := p.readBack(made)
	if err != nil {
		return nil, err
	}
	// 3. record
	t := p.t
	t.Confirmed, t.Shown = confirmed, p.text
	t.Objects = append(t.Objects, object(role, true, made))
	res, err := c.finish(ctx, p.key, &t, root)
	if err != nil {
		return nil, err
	}
	if role == RoleList {
		res.ListDER, res.ListPEM = made, toPEM("X509 CRL", made)
	} else {
		res.CertificateDER, res.CertificatePEM = made, toPEM("CERTIFICATE", made)
	}
	res.Words = WordsOf(made)
	return res, nil
}

// readBack parses what was signed and verifies it as a stranger would.
func (p *Plan) readBack(made []byte) (root *x509.Certificate, role Role, err error) {
	if p.t.Kind == KindList {
		l, err := x509.ParseRevocationList(made)
		if err == nil {
			err = l.CheckSignatureFrom(p.root)
		}
		if err != nil {
			return nil, "", ErrSignature.Wrap(err, "The list does not verify.")
		}
		return p.root, RoleList, nil
	}
	cert, err := x509.ParseCertificate(made)
	if err != nil {
		return nil, "", ErrSignature.Wrap(err, "The certificate does not parse.")
	}
	root, role = p.root, RoleCertificate
	if root == nil {
		root, role = cert, RoleRoot
	}
	if err := cert.CheckSignatureFrom(root); err != nil {
		return nil, "", ErrSignature.Wrap(err, "The certificate does not verify.")
	}
	return root, role, nil
}

// begin opens or makes the key of a step, holds it to the rules, and starts the
// transcript.
func (c *Ceremony) begin(ctx context.Context, kind Kind, name, uri string, generate bool, alg hsm.Algorithm) (hsm.Signer, Transcript, error) {
	if err := ca.ValidName(name); err != nil {
		return nil, Transcript{}, err
	}
	now := c.now()
	t := Transcript{
		Schema: Schema, Kind: kind, Started: stamp(now), ClockRead: c.cfg.ClockRead, Witnesses: orEmpty(c.cfg.Witnesses),
		Mode: "production", Exceptions: []string{}, Host: hostFacts(), Program: c.program, Objects: []Object{},
		Script: Script{Authority: name, Revoked: []Revoked{}},
	}
	if c.cfg.Development {
		t.Mode = "development"
	}
	if c.previous != nil {
		t.Previous = hexSum(c.cfg.Previous)
		if before, err := time.Parse(time.RFC3339, c.previous.Finished); err != nil || now.Before(before) {
			return nil, t, ErrClock.New("The step before ended at %s, this clock says %s.", c.previous.Finished, t.Started)
		}
	}
	var key hsm.Signer
	var err error
	if generate {
		key, err = c.cfg.Keys.Generate(ctx, uri, hsm.Spec{Algorithm: alg, Profile: hsm.Unique})
	} else {
		key, err = c.cfg.Keys.Signer(ctx, uri)
	}
	if err != nil {
		return nil, t, err
	}
	a, err := c.cfg.Keys.Attributes(ctx, uri)
	if err != nil {
		return nil, t, err
	}
	if !generate && alg != "" && a.Algorithm != alg {
		return nil, t, ErrRequest.New("The key in the token is %s, not %s.", a.Algorithm, alg)
	}
	if t.Exceptions, err = c.checkKey(a); err != nil {
		return nil, t, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil || !bytes.Equal(spki, a.SPKI) {
		return nil, t, ErrKey.Wrap(err, "The token reports the attributes of another key than the one it signs with.")
	}
	t.Key = keyFacts(a, key.URI(), spki, generate)
	if c.cfg.rehearsal {
		t.Mode = "development"
		t.Exceptions = append(t.Exceptions, "development: this was a rehearsal on a throw-away token")
	}
	return key, t, nil
}

// checkKey holds a key to the rules for CA keys and lists those it was excused from.
func (c *Ceremony) checkKey(a hsm.Attributes) (exceptions []string, err error) {
	exceptions = []string{}
	if err := hsm.CheckFirmware(a, false); err != nil && (c.cfg.AcceptFirmware || c.cfg.Development) {
		exceptions = append(exceptions, "firmware accepted by explicit override: "+detail(err))
		// The other rules are checked as on a card with firmware that is good.
		a.Token.Firmware = "5.7.0"
	}
	if err := hsm.CheckCAKey(a, false); err != nil {
		if !c.cfg.Development {
			return nil, err
		}
		exceptions = append(exceptions, "development: key rules not enforced: "+detail(err))
	}
	return exceptions, nil
}

func detail(err error) string {
	if d := fault.From(err).Detail; d != "" {
		return d
	}
	return err.Error()
}

// finish signs the transcript and verifies it as anybody else would.
func (c *Ceremony) finish(ctx context.Context, key hsm.Signer, t *Transcript, root *x509.Certificate) (*Result, error) {
	t.Finished = stamp(c.now())
	file, err := seal(ctx, key, t)
	if err != nil {
		return nil, err
	}
	var roots []*x509.Certificate
	if root != nil {
		roots = append(roots, root)
	}
	if _, err := VerifyTranscript(file, roots...); err != nil {
		return nil, err
	}
	c.log.InfoContext(ctx, "ceremony step done", "kind", string(t.Kind), "authority", t.Script.Authority, "mode", t.Mode, "transcript", hexSum(file))
	return &Result{Name: t.Script.Authority, Kind: t.Kind, TranscriptJSON: file, TranscriptWords: WordsOf(file), Transcript: t}, nil
}

// baseURL checks the base of URLs, which is frozen into certificates (S3).
func (c *Ceremony) baseURL(t *Transcript, base string) error {
	err := ca.ValidBaseURL(base, true)
	if err == nil || !c.cfg.Development {
		return err
	}
	if err := ca.ValidBaseURL(base, false); err != nil {
		return err
	}
	t.Exceptions = append(t.Exceptions, "development: base URL "+base+" would be refused in production")
	return nil
}

// fromPrevious fills what the step before has fixed, and refuses another value.
func (c *Ceremony) fromPrevious(rootName, base *string) error {
	if c.previous == nil {
		return nil
	}
	if k := c.previous.Kind; k == KindCSR || k == KindInstall {
		return ErrRequest.New("The previous transcript is of a step %q beside an issuing key, not of one with the root's key.", k)
	}
	for _, f := range []struct {
		what string
		have string
		want *string
	}{{"root name", c.previous.Script.Root, rootName}, {"base URL", c.previous.Script.BaseURL, base}} {
		if f.have == "" {
			continue
		}
		if *f.want == "" {
			*f.want = f.have
		} else if *f.want != f.have {
			return ErrRequest.New("The %s is %q, but the previous transcript fixed %q.", f.what, *f.want, f.have)
		}
	}
	return nil
}

// lintFault turns findings into a fault.
func lintFault(found []lint.Finding) error {
	names := make([]string, len(found))
	for i, f := range found {
		names[i] = f.String()
	}
	return ErrLint.New("%s.", strings.Join(names, "; ")).With("rules", names)
}

// ReadObject takes DER or one PEM block of the kind.
func ReadObject(data []byte, kind string) ([]byte, error) {
	if len(data) > MaxFile {
		return nil, ErrInput.New("It has %d octets; at most %d are read.", len(data), MaxFile)
	}
	text := bytes.TrimSpace(data)
	if !bytes.HasPrefix(text, []byte("-----")) {
		return data, nil
	}
	b, rest := pem.Decode(text)
	if b == nil || b.Type != kind || len(b.Headers) != 0 || len(rest) != 0 || !bytes.HasPrefix(text, []byte("-----BEGIN "+kind+"-----")) {
		return nil, ErrInput.New("It is not one PEM block of the type %s alone.", kind)
	}
	return b.Bytes, nil
}

func toPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// is tells whether err is a fault of the definition.
func is(err error, d *fault.Definition) bool { return errors.Is(err, d) }
