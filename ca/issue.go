package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/ca/keycheck"
	"hallmark/ca/lint"
	"hallmark/ca/profile"
	"hallmark/internal/fault"
)

// Config makes a CA.
type Config struct {
	Ledger Ledger
	Keys   Keys
	Store  Authorities
	// PolicyArc is the base of the policy OIDs; "" means [profile.DefaultArc].
	PolicyArc string
	// Backdate is how far notBefore lies before now, for devices whose clock is
	// a little behind; 0 means 10 minutes.
	Backdate time.Duration
	// KeyPolicy decides which public keys get a certificate.
	KeyPolicy keycheck.Policy
	Log       *slog.Logger
	Now       func() time.Time
	// Random is the source of serial numbers; nil means crypto/rand.
	Random io.Reader
}

// CA issues certificates and signs lists under its authorities.
type CA struct {
	cfg    Config
	linter *lint.Linter
	now    func() time.Time
	log    *slog.Logger
	Late   atomic.Int64 // signatures that came after another was recorded, and were destroyed

	FailedOver atomic.Int64 // certificates that another authority made, since the key of the first did not answer

	reload   sync.Mutex // one at a time, so that the newest stays
	mu       sync.RWMutex
	auth     map[string]*authority
	serving  serving
	declared []Serving
	crosses  []CrossInfo
}

// New makes a CA and loads the authorities.
func New(ctx context.Context, cfg Config) (*CA, error) {
	l, err := lint.New()
	if err != nil {
		return nil, err
	}
	c := &CA{cfg: cfg, linter: l, now: cfg.Now, log: cfg.Log}
	if c.now == nil {
		c.now = time.Now
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.cfg.PolicyArc == "" {
		c.cfg.PolicyArc = profile.DefaultArc
	}
	if c.cfg.Backdate == 0 {
		c.cfg.Backdate = 10 * time.Minute
	}
	return c, c.load(ctx, true)
}

// Reload reads authorities and declarations again, for example after an
// installation. On an error the former ones stay.
func (c *CA) Reload(ctx context.Context) error { return c.load(ctx, false) }

func (c *CA) load(ctx context.Context, starts bool) error {
	c.reload.Lock()
	defer c.reload.Unlock()
	// What is declared is read first: the authorities it names are there then.
	declared, err := c.cfg.Store.Servings(ctx)
	if err != nil {
		return err
	}
	rows, err := c.cfg.Store.Authorities(ctx)
	if err != nil {
		return err
	}
	stored, err := c.cfg.Store.Crosses(ctx)
	if err != nil {
		return err
	}
	crosses, err := loadCrosses(stored)
	if err != nil {
		return err
	}
	auth := map[string]*authority{}
	for _, a := range rows {
		if a.State == StatePending {
			continue
		}
		c.mu.RLock()
		had := c.auth[a.Name]
		c.mu.RUnlock()
		if same, ok := had.again(a); ok {
			auth[a.Name] = same
		} else if auth[a.Name], err = load(ctx, a, c.cfg.Keys, c.cfg.PolicyArc); err != nil {
			return err
		} else if err := auth[a.Name].lost(); err != nil {
			auth[a.Name].failed(c.now())
			c.log.ErrorContext(ctx, "the key of an authority cannot be opened; others issue if they are declared", "authority", a.Name, "error", err)
		}
	}
	if starts {
		if err := deserted(auth); err != nil {
			return err
		}
	}
	join := joinServing(declared, auth)
	c.mu.Lock()
	c.auth, c.serving, c.declared, c.crosses = auth, join, declared, crosses
	c.mu.Unlock()
	return nil
}

// Request asks for one certificate. Everything in it comes from the
// authenticated record; of a CSR only the public key is here.
type Request struct {
	Identity
	Subject  profile.Subject
	Names    profile.Names
	SPKI     []byte           // DER
	Key      crypto.PublicKey // parsed from SPKI
	NotAfter time.Time        // zero: the profile's lifetime, clipped to the issuer's
	Origin   profile.Origin
	// Authority names the issuer, which must be declared for the profile; "" takes
	// the one that is declared for Product and Region.
	Authority string
	// Product and Region are what the declaration may go by; "" where nobody knows.
	Product, Region string

	Account   string
	Quota     int64
	Rekey     Rekey
	MaxRekeys int
	Requester Requester
	Operator  string
	Tool      string
}

// Issue makes one certificate, or returns the one that this identity and key
// have already. The order of its steps is what makes the promises true:
//
//  1. check: the request against the key policy and the profile; who may issue it.
//  2. build: draw the serial number, render the TBS.
//  3. lint: nothing is reserved, and so nothing is signed, that a rule refuses.
//  4. reserve: serial number and TBS are durable before the key is used, so a
//     crash from here on leaves a record of what might have been signed.
//  5. sign: only bytes that were linted and reserved; verified with the pinned key.
//  6. record: certificate and log leaf in one transaction.
//  7. answer: what the ledger says, which is the first recorded signature.
//
// If the key does not answer in step 5, the next authority that is declared makes
// the certificate: from step 2 on, with a serial number of its own, whose
// reservation voids the former one. What the first key might still sign can not
// be recorded any more.
func (c *CA) Issue(ctx context.Context, r Request) (Issued, error) {
	// 1. check
	p, list, err := c.check(&r)
	if err != nil {
		return Issued{}, err
	}
	now := c.now()
	a, err := choose(list, p, now)
	if err != nil {
		return Issued{}, err
	}
	var instead Serial
	for try := 0; ; try++ {
		// 2. build
		tmpl := a.templates[p.Name]
		fields, err := c.fields(a, tmpl, &r, now)
		if err != nil {
			return Issued{}, err
		}
		tbs, err := tmpl.Render(fields)
		if err != nil {
			return Issued{}, ErrSubject.Wrap(err, "%s.", capital(err.Error()))
		}
		// 3. lint
		draft, err := c.lint(tbs, tmpl, fields)
		if err != nil {
			return Issued{}, err
		}
		// 4. reserve
		claim := c.claim(a, &r, fields, tmpl.Profile.Version, tbs, now)
		claim.Instead = instead
		reserved, issued, err := c.cfg.Ledger.Reserve(ctx, claim)
		if errors.Is(err, ErrSerialTaken) && try < 2 {
			c.log.ErrorContext(ctx, "drawn serial number exists already", "authority", a.Name) // A5
			continue
		}
		if err != nil {
			return Issued{}, err
		}
		if issued != nil {
			return *issued, nil
		}
		permit, err := c.permit(draft, tbs, reserved, p, list)
		if errors.Is(err, errNotServing) && try < maxMoves { // it was when it was reserved, or when it was picked
			if list, err = c.choices(r.Tenant, p, &r); err == nil {
				a, err = choose(list, p, now)
			}
			if err != nil {
				return Issued{}, err
			}
			instead = reserved.Serial
			continue
		}
		if err != nil {
			return Issued{}, err
		}
		// 5. sign
		der, err := c.sign(ctx, permit)
		if unanswered(ctx, err) {
			permit.authority.failed(c.now())
			if next := another(list, permit.authority.Name, p, c.now()); next != nil && try < maxMoves {
				c.FailedOver.Add(1)
				c.log.WarnContext(ctx, "the key of an authority does not answer; the next one issues", "authority", permit.authority.Name, "next", next.Name, "error", err)
				a, instead = next, reserved.Serial
				continue
			}
		}
		if err != nil {
			return Issued{}, err
		}
		permit.authority.answered()
		// 6. record
		out, err := c.cfg.Ledger.Record(ctx, reserved, der)
		if err != nil {
			return Issued{}, err
		}
		// 7. answer
		if out.Replayed && !bytes.Equal(out.DER, der) {
			c.Late.Add(1)
			c.log.WarnContext(ctx, "late signature destroyed", "serial", reserved.Serial.String())
		}
		return out, nil
	}
}

// maxMoves bounds how often one request goes to another authority.
const maxMoves = 4

// unanswered tells whether a failure is that of a key that is away, as against a
// wrong signature or a caller that is gone.
func unanswered(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() == nil && fault.KindOf(err) == fault.Unavailable
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// check finds the profile and who may issue it, and refuses what policy refuses.
func (c *CA) check(r *Request) (p profile.Profile, list []*authority, err error) {
	p, ok := profile.Get(profile.Name(r.Profile))
	if !ok || p.CA {
		return p, nil, ErrProfileUnknown.New("Profile %q.", r.Profile)
	}
	if r.Tenant == "" || r.Holder == "" || len(r.SPKI) == 0 {
		return p, nil, ErrInvalidRequest.New("Tenant, holder and key are needed.")
	}
	if (r.Account == "") != (r.Quota == 0) {
		return p, nil, ErrInvalidRequest.New("An account needs a quota.")
	}
	device := p.Name == profile.IDevID || p.Name == profile.LDevID
	if device != r.Origin.Valid() {
		return p, nil, ErrInvalidRequest.New("The origin of a device's key must be stated, and of no other (S5).")
	}
	if err := c.cfg.KeyPolicy.Check(r.Key); err != nil {
		return p, nil, err
	}
	list, err = c.choices(r.Tenant, p, r)
	return p, list, err
}

// fields draws the serial number and plans the validity.
func (c *CA) fields(a *authority, t *profile.Template, r *Request, now time.Time) (*profile.Fields, error) {
	serial, err := NewSerial(now, c.cfg.Random)
	if err != nil {
		return nil, err
	}
	start := now.Add(-c.cfg.Backdate).UTC().Truncate(time.Second)
	if start.Before(a.cert.NotBefore) {
		start = a.cert.NotBefore
	}
	end := r.NotAfter.UTC().Truncate(time.Second)
	if r.NotAfter.IsZero() {
		if end = now.Add(t.Profile.Lifetime).UTC().Truncate(time.Second); t.Profile.NoExpiry {
			end = profile.NoExpiry
		}
	} else if !end.After(now) {
		return nil, ErrLifetime.New("It would end at %s.", end.Format(time.RFC3339))
	} else if end.Sub(now) > t.Profile.Lifetime && !(t.Profile.NoExpiry && end.Equal(profile.NoExpiry)) {
		return nil, ErrLifetime.New("Profile %s allows %d days.", t.Profile.Name, int(t.Profile.Lifetime.Hours()/24))
	}
	if end.After(a.cert.NotAfter) { // A9: clipped, never beyond the issuer
		end = a.cert.NotAfter
	}
	return &profile.Fields{Serial: serial[:], NotBefore: start, NotAfter: end, Subject: r.Subject, Names: r.Names, SPKI: r.SPKI, Shard: a.Shard(serial), Origin: r.Origin}, nil
}

func (c *CA) lint(tbs []byte, t *profile.Template, f *profile.Fields) (*x509.Certificate, error) {
	draft, found := c.linter.Certificate(tbs, lint.Expect{Template: t, Fields: f})
	if len(found) > 0 {
		return nil, lintFault(found)
	}
	return draft, nil
}

func (c *CA) claim(a *authority, r *Request, f *profile.Fields, version int, tbs []byte, now time.Time) Claim {
	return Claim{
		Identity: r.Identity, Account: r.Account, Quota: r.Quota,
		SPKI: sha256.Sum256(r.SPKI), Rekey: r.Rekey, MaxRekeys: r.MaxRekeys,
		Authority: a.Name, Version: version, Serial: Serial(f.Serial), TBS: tbs, Shard: f.Shard, NotBefore: f.NotBefore, NotAfter: f.NotAfter,
		Requester: r.Requester, Operator: r.Operator, Tool: r.Tool, Origin: string(r.Origin), Now: now,
	}
}

// permit is the right to sign. It exists only for bytes that were linted and
// reserved, which only [CA.permit] brings together.
type permit struct {
	tbs       []byte
	authority *authority
}

// errNotServing: the authority of a reservation may not issue it, or no more.
var errNotServing = errors.New("ca: the authority of the reservation does not serve it")

// permit joins a linted draft and a reservation. A resumed reservation has an
// older TBS, pinned with its profile version (A1); it was linted when it was
// reserved and must still be a certificate for this key.
func (c *CA) permit(draft *x509.Certificate, tbs []byte, r Reservation, p profile.Profile, list []*authority) (permit, error) {
	c.mu.RLock()
	a := c.auth[r.Authority]
	c.mu.RUnlock()
	if a == nil {
		return permit{}, ErrAuthorityUnknown.New("The reservation was made under %s.", r.Authority)
	}
	if a.open(p, c.now()) != nil || !slices.ContainsFunc(list, func(l *authority) bool { return l.Name == a.Name }) {
		return permit{}, errNotServing
	}
	if !r.Resumed {
		if !bytes.Equal(tbs, r.TBS) {
			return permit{}, ErrLint.New("The reserved octets are not the linted ones.")
		}
		return permit{r.TBS, a}, nil
	}
	old, err := x509.ParseCertificate(profile.Assemble(r.TBS, a.sigAlg, []byte{0}))
	if err != nil {
		return permit{}, ErrLint.Wrap(err, "The reserved octets do not parse.")
	}
	if !bytes.Equal(old.RawSubjectPublicKeyInfo, draft.RawSubjectPublicKeyInfo) || !bytes.Equal(old.SerialNumber.FillBytes(make([]byte, SerialLen)), r.Serial[:]) || !bytes.Equal(old.RawIssuer, a.cert.RawSubject) || old.IsCA {
		return permit{}, ErrLint.New("The reserved octets are for another key, serial number or issuer.")
	}
	if found := c.linter.Full(profile.Assemble(r.TBS, a.sigAlg, []byte{0})); len(found) > 0 {
		return permit{}, ErrLint.New("%s.", found[0])
	}
	return permit{r.TBS, a}, nil
}

// sign uses the CA key. It takes nothing but a permit.
func (c *CA) sign(ctx context.Context, p permit) ([]byte, error) {
	sig, err := p.authority.signature(ctx, p.tbs)
	if err != nil {
		return nil, err
	}
	return profile.Assemble(p.tbs, p.authority.sigAlg, sig), nil
}

// signature signs and verifies octets. Every signature is verified with the
// public key of the CA certificate, so that a token that signs with another key
// or flips a bit never gets a certificate out of the house (A25).
func (l *authority) signature(ctx context.Context, tbs []byte) ([]byte, error) {
	digest := tbs
	if l.hash != 0 {
		h := l.hash.New()
		h.Write(tbs)
		digest = h.Sum(nil)
	}
	sig, err := l.key.SignContext(ctx, digest, l.hash)
	if err != nil {
		if fault.KindOf(err) != fault.Internal {
			return nil, err
		}
		return nil, ErrSigner.Wrap(err, "Authority %s.", l.Name).After(2 * time.Second)
	}
	ok := false
	switch k := l.cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, digest, sig)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, l.hash, digest, sig) == nil
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, digest, sig)
	}
	if !ok {
		return nil, ErrSignature.New("Authority %s.", l.Name)
	}
	return sig, nil
}

// Info is what others may know of a loaded authority.
type Info struct {
	Authority
	Cert *x509.Certificate
	Lost error // why its key could not be opened since the start; nil if it was, or there is none
}

func (l *authority) info() Info { return Info{l.Authority, l.cert, l.lost()} }

// Authorities lists the loaded authorities, roots included, ordered by name.
func (c *CA) Authorities() []Info {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]Info, 0, len(c.auth))
	for _, a := range c.auth {
		out = append(out, a.info())
	}
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Authority finds a loaded authority.
func (c *CA) Authority(name string) (Info, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if a := c.auth[name]; a != nil {
		return a.info(), nil
	}
	return Info{}, ErrAuthorityUnknown.New("%s.", name)
}

// Roots lists the certificates of the roots.
func (c *CA) Roots() []*x509.Certificate {
	var out []*x509.Certificate
	for _, a := range c.Authorities() {
		if a.Duty == profile.DutyRoot {
			out = append(out, a.Cert)
		}
	}
	return out
}

// PolicyArc is the base of the policy OIDs.
func (c *CA) PolicyArc() string { return c.cfg.PolicyArc }

// Lint runs every rule on a certificate that was issued.
func (c *CA) Lint(certificate []byte) []lint.Finding { return c.linter.Full(certificate) }
