package hsm

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hallmark/hsm/piv"
	"hallmark/hsm/pkcs11"
	"hallmark/hsm/software"
	"hallmark/hsm/token"
)

// The words of package token, as the rest of the program uses them.
type (
	Signer      = token.Signer
	Spec        = token.Spec
	Algorithm   = token.Algorithm
	Profile     = token.Profile
	Attributes  = token.Attributes
	Tri         = token.Tri
	TokenID     = token.ID
	TokenHealth = token.Health
	Secret      = token.Secret
	PINSource   = token.PINSource
	PINFunc     = token.PINFunc
	URI         = token.URI
)

// Algorithms, profiles, states and the three answers.
const (
	P256    = token.P256
	P384    = token.P384
	RSA2048 = token.RSA2048
	RSA3072 = token.RSA3072
	RSA4096 = token.RSA4096
	Ed25519 = token.Ed25519

	Unique     = token.Unique
	Replicated = token.Replicated

	Unknown = token.Unknown
	No      = token.No
	Yes     = token.Yes

	StateUp      = token.StateUp
	StateDown    = token.StateDown
	StateRefused = token.StateRefused
)

// ParseURI reads a key URI without opening anything.
func ParseURI(s string) (URI, error) { return token.ParseURI(s) }

// NewSecret copies a PIN or passphrase.
func NewSecret(b []byte) Secret { return token.NewSecret(b) }

// Config says how a Keyring works. The zero value is good for development.
type Config struct {
	// Log gets one line per opening, loss and return of a token; nil = silence.
	Log *slog.Logger
	// Sessions is the number of sessions per PKCS #11 token that sign; one more
	// is kept for the line (S41) and one for the login. 0 = min(cores, 4).
	Sessions int
	// Module is the module-path for pkcs11: URIs that have none; may be empty.
	Module string
	// Production refuses file: keys and pin-value.
	Production bool
	// PIN is asked when a URI names no source, for example a prompt; may be nil.
	PIN PINSource
	// Metrics gets the figures; nil = they are kept but not shown.
	Metrics prometheus.Registerer
	// Direct loads PKCS #11 modules into this process instead of one of their
	// own: some microseconds faster, and a crash of a module ends the service.
	Direct bool
	// Environment names variables of ours that the process of a module gets
	// besides the usual ones.
	Environment []string
	// SignTimeout is after which a signature that does not return makes the
	// token count as dead. 0 = 5 s.
	SignTimeout time.Duration
	// Groups are the keys that more than one token holds. Who opens one of their
	// URIs gets a signer that fails over to the other tokens.
	Groups []GroupConfig
}

// backend is one kind of key store. All methods are safe for concurrent use and
// get URIs of the backend's own scheme only.
type backend interface {
	Signer(ctx context.Context, u token.URI) (token.Signer, error)
	Generate(ctx context.Context, u token.URI, spec token.Spec) (token.Signer, error)
	Attributes(ctx context.Context, u token.URI) (token.Attributes, error)
	Certificate(ctx context.Context, u token.URI) (*x509.Certificate, error)
	Health(ctx context.Context) []token.Health
	Close() error
}

// Keyring opens keys by URI. It is safe for concurrent use. Opening the same
// URI again gives the same signer.
type Keyring struct {
	cfg      Config
	backends map[string]backend

	metrics  *token.Metrics
	groups   []*keyGroup
	badGroup error // what is wrong with Config.Groups

	mu     sync.Mutex
	closed bool
}

// keyGroup is a configured group, opened at its first use.
type keyGroup struct {
	cfg  GroupConfig
	uris []token.URI

	mu   sync.Mutex // held while it is opened
	open *Group
}

// Open makes a keyring. Nothing is loaded or logged in to before the first key
// is asked for.
func Open(cfg Config) *Keyring {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Sessions <= 0 {
		cfg.Sessions = min(runtime.GOMAXPROCS(0), 4)
	}
	if cfg.SignTimeout <= 0 {
		cfg.SignTimeout = 5 * time.Second
	}
	shared := token.Config{
		Log:         cfg.Log,
		Sessions:    cfg.Sessions,
		SignTimeout: cfg.SignTimeout,
		PIN:         cfg.PIN,
		Metrics:     token.NewMetrics(cfg.Metrics),
		Direct:      cfg.Direct,
		Environment: cfg.Environment,
	}
	k := &Keyring{cfg: cfg, metrics: shared.Metrics, backends: map[string]backend{
		token.SchemePKCS11: pkcs11.New(shared),
		token.SchemePIV:    piv.New(shared),
		token.SchemeFile:   software.New(shared),
	}}
	for _, g := range cfg.Groups {
		uris, err := g.Check()
		if err != nil && k.badGroup == nil {
			k.badGroup = err
		}
		k.groups = append(k.groups, &keyGroup{cfg: g, uris: uris})
	}
	return k
}

// Signer opens the key that uri names. No key, or more than one, is a fault. A
// key of a group is opened in every token that works.
func (k *Keyring) Signer(ctx context.Context, uri string) (Signer, error) {
	u, b, err := k.resolve(uri)
	if err != nil {
		return nil, err
	}
	if g := k.groupOf(u); g != nil {
		return k.openGroup(ctx, g)
	}
	return b.Signer(ctx, u)
}

// CAKey is Signer for a key that signs certificates and lists: it refuses one
// that is not protected as such a key must be (A22, S6) in every token before
// it works there. Development lets every key pass.
func (k *Keyring) CAKey(ctx context.Context, uri string, development bool) (Signer, error) {
	u, b, err := k.resolve(uri)
	if err != nil {
		return nil, err
	}
	if g := k.groupOf(u); g != nil {
		open, err := k.openGroup(ctx, g)
		if err != nil || development {
			return open, err
		}
		return open, open.allow(ctx)
	}
	a, err := b.Attributes(ctx, u)
	if err != nil {
		return nil, err
	}
	if err := CheckCAKey(a, development); err != nil {
		return nil, err
	}
	return b.Signer(ctx, u)
}

// Generate makes a key that signs and does nothing else. The name must be free.
// A pkcs11: URI needs an object name; it gets a random id if it has none.
func (k *Keyring) Generate(ctx context.Context, uri string, spec Spec) (Signer, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	u, b, err := k.resolve(uri)
	if err != nil {
		return nil, err
	}
	return b.Generate(ctx, u, spec)
}

// Attributes is what the token says about a key. See [CheckCAKey].
func (k *Keyring) Attributes(ctx context.Context, uri string) (Attributes, error) {
	u, b, err := k.resolve(uri)
	if err != nil {
		return Attributes{}, err
	}
	return b.Attributes(ctx, u)
}

// Certificate is the certificate that a token keeps beside the key:
// [ErrNoCertificate] if there is none, which is always so for files.
func (k *Keyring) Certificate(ctx context.Context, uri string) (*x509.Certificate, error) {
	u, b, err := k.resolve(uri)
	if err != nil {
		return nil, err
	}
	return b.Certificate(ctx, u)
}

// Health examines every token that was opened, with a test signature where it
// has a key.
func (k *Keyring) Health(ctx context.Context) []TokenHealth {
	var all []TokenHealth
	for _, scheme := range []string{token.SchemePKCS11, token.SchemePIV, token.SchemeFile} {
		all = append(all, k.backends[scheme].Health(ctx)...)
	}
	return all
}

// Close ends every session. Signers of this keyring fail from now on.
func (k *Keyring) Close() error {
	k.mu.Lock()
	closed := k.closed
	k.closed = true
	k.mu.Unlock()
	if closed {
		return nil
	}
	var errs []error
	for _, g := range k.groups {
		g.mu.Lock()
		if g.open != nil {
			g.open.close()
		}
		g.mu.Unlock()
	}
	for _, b := range k.backends {
		errs = append(errs, b.Close())
	}
	return errors.Join(errs...)
}

// resolve parses uri, applies production policy and finds the backend.
func (k *Keyring) resolve(uri string) (token.URI, backend, error) {
	u, err := token.ParseURI(uri)
	if err != nil {
		return u, nil, err
	}
	k.mu.Lock()
	closed := k.closed
	k.mu.Unlock()
	if closed {
		return u, nil, ErrClosed.New("")
	}
	if k.cfg.Production {
		switch {
		case u.Scheme == token.SchemeFile:
			return u, nil, ErrKeyUnsafe.New("Production mode takes no key from a file; use a token.")
		case !u.PINValue.Empty():
			return u, nil, ErrURIInvalid.New("Production mode takes no pin-value; use pin-source.")
		}
	}
	if u.Scheme == token.SchemePKCS11 {
		if u.ModulePath == "" {
			u.ModulePath = k.cfg.Module
		}
		if u.ModulePath == "" {
			return u, nil, ErrURIInvalid.New("It has no module-path and none is configured.")
		}
		if u.Object == "" && len(u.ID) == 0 {
			return u, nil, ErrURIInvalid.New("It must name the key by object or id.")
		}
	}
	return u, k.backends[u.Scheme], nil
}
