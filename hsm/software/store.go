package software

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"hallmark/hsm/token"
	"hallmark/internal/durable"
)

// Store opens key files.
type Store struct {
	cfg token.Config

	mu   sync.Mutex
	keys map[string]*Key // by path: deriving the key takes 0.2 s on purpose
}

// New makes a Store; cfg is complete.
func New(cfg token.Config) *Store { return &Store{cfg: cfg, keys: map[string]*Key{}} }

// Signer opens the file.
func (s *Store) Signer(ctx context.Context, u token.URI) (token.Signer, error) {
	k, err := s.open(ctx, u)
	if err != nil {
		return nil, err // not a nil *Key in an interface
	}
	return k, nil
}

func (s *Store) open(ctx context.Context, u token.URI) (*Key, error) {
	s.cfg.Log.Warn("key comes from a file, which is for development only", "key", u.Key())
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.keys[u.Path]; k != nil {
		return k, nil
	}
	f, err := os.Open(u.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, token.ErrKeyNotFound.Wrap(err, "%s", u.Key())
	}
	if err != nil {
		return nil, token.ErrFile.Wrap(err, "It cannot be opened.")
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, token.ErrFile.Wrap(err, "It cannot be examined.")
	}
	if err := token.CheckPrivate(st); err != nil || !st.Mode().IsRegular() {
		return nil, token.ErrFile.Wrap(err, "Others than its owner can use it.")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, token.ErrFile.Wrap(err, "It cannot be read.")
	}
	if _, err := envelope(data); err != nil {
		return nil, err // nobody is asked for the passphrase of a file that has none
	}
	pass, err := s.passphrase(ctx, u, "to open the key file")
	if err != nil {
		return nil, err
	}
	defer pass.Wipe()
	signer, err := Decrypt(data, pass)
	if err != nil {
		return nil, err
	}
	k := &Key{name: u.Key(), signer: signer}
	s.keys[u.Path] = k
	return k, nil
}

func (s *Store) passphrase(ctx context.Context, u token.URI, reason string) (token.Secret, error) {
	return s.cfg.PINFor(ctx, u, token.ID{Label: u.Path, Model: "file"}, reason)
}

// Generate makes a key and writes it. The file must not exist.
func (s *Store) Generate(ctx context.Context, u token.URI, spec token.Spec) (token.Signer, error) {
	s.cfg.Log.Warn("key is made in a file, which is for development only", "key", u.Key())
	if _, err := os.Lstat(u.Path); err == nil {
		return nil, token.ErrKeyExists.New("%s", u.Key())
	}
	pass, err := s.passphrase(ctx, u, "to protect the new key file")
	if err != nil {
		return nil, err
	}
	defer pass.Wipe()
	key, err := GenerateKey(spec.Algorithm)
	if err != nil {
		return nil, err
	}
	data, err := Encrypt(key, pass)
	if err != nil {
		return nil, err
	}
	if err := create(u.Path, data); err != nil {
		return nil, err
	}
	k := &Key{name: u.Key(), signer: key}
	s.mu.Lock()
	s.keys[u.Path] = k
	s.mu.Unlock()
	return k, nil
}

// create writes name durably, never over another file: the link fails where a
// rename would replace.
func create(name string, data []byte) error {
	dir, err := os.MkdirTemp(filepath.Dir(name), ".key-*")
	if err != nil {
		return token.ErrFile.Wrap(err, "Its directory cannot be written.")
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "key")
	if err := durable.WriteFile(tmp, data, 0o600); err != nil {
		return token.ErrFile.Wrap(err, "It cannot be written.")
	}
	if err := os.Link(tmp, name); errors.Is(err, fs.ErrExist) {
		return token.ErrKeyExists.Wrap(err, "%s", name)
	} else if err != nil {
		return token.ErrFile.Wrap(err, "It cannot be written.")
	}
	if err := durable.SyncDir(filepath.Dir(name)); err != nil {
		return token.ErrFile.Wrap(err, "It cannot be synced.")
	}
	return nil
}

// GenerateKey makes a key in memory.
func GenerateKey(alg token.Algorithm) (crypto.Signer, error) {
	var key crypto.Signer
	var err error
	switch {
	case alg.Curve() != nil:
		key, err = ecdsa.GenerateKey(alg.Curve(), rand.Reader)
	case alg.RSABits() > 0:
		key, err = rsa.GenerateKey(rand.Reader, alg.RSABits())
	case alg == token.Ed25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, token.ErrUnsupported.New("%q is no algorithm we generate.", string(alg))
	}
	if err != nil {
		return nil, token.ErrOperation.Wrap(err, "")
	}
	return key, nil
}

// Attributes are those of a file: nothing protects the key.
func (s *Store) Attributes(ctx context.Context, u token.URI) (token.Attributes, error) {
	k, err := s.open(ctx, u)
	if err != nil {
		return token.Attributes{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return token.Attributes{}, token.ErrUnsupported.Wrap(err, "The public key has no standard form.")
	}
	return token.Attributes{
		URI: k.name, Scheme: token.SchemeFile, Token: token.ID{Label: filepath.Base(u.Path), Model: "file"},
		Algorithm: token.AlgorithmOf(k.Public()), SPKI: spki,
		OnToken: token.No, Private: token.No, Sensitive: token.No, AlwaysSensitive: token.No,
		Extractable: token.Yes, NeverExtractable: token.No, Local: token.No, Sign: token.Yes,
		// Who has the file can do everything with it.
		SignRecover: token.Yes, Decrypt: token.Yes, Unwrap: token.Yes, Derive: token.Yes, Modifiable: token.Yes,
	}, nil
}

// Certificate has none to give.
func (s *Store) Certificate(context.Context, token.URI) (*x509.Certificate, error) {
	return nil, token.ErrNoCertificate.New("A key file holds no certificate.")
}

// Health has nothing to tell: a file that was read needs nobody.
func (s *Store) Health(context.Context) []token.Health { return nil }

// Close forgets the keys.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.keys)
	return nil
}

// Key is a key from a file.
type Key struct {
	name   string
	signer crypto.Signer
}

// Public is the public key.
func (k *Key) Public() crypto.PublicKey { return k.signer.Public() }

// URI is the canonical name of the key.
func (k *Key) URI() string { return k.name }

// Sign signs in this process.
func (k *Key) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := token.CheckDigest(token.AlgorithmOf(k.Public()), digest, opts); err != nil {
		return nil, err
	}
	if r == nil {
		r = rand.Reader
	}
	return k.signer.Sign(r, digest, opts)
}

// SignContext is Sign, which does not wait for anything.
func (k *Key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return k.Sign(rand.Reader, digest, opts)
}
