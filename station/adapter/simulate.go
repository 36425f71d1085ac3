package adapter

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"hallmark/ca/csr"
	"hallmark/internal/durable"
	"hallmark/station/uplink"
)

// The files of a simulated device.
const (
	KeyFile         = "idevid.key" // PKCS #8 in PEM, mode 0600
	CertificateFile = "idevid.pem" // certificate, then its chain without the root
)

// simulate keeps each device as a directory. Its keys are plain files: it is
// for trying out and for tests, never for products.
type simulate struct {
	dir       string
	algorithm string
	slow      time.Duration
	only      string          // misbehave for this unit alone; "" = for all
	fail      map[string]bool // see failures

	mu    sync.Mutex
	tried map[string]bool // devices whose first key generation failed already
}

// What a simulated device can do wrong.
var failures = map[string]string{
	"absent":    "does not connect",
	"key-fault": "fails to make a key once, then does",
	"key-dead":  "never makes a key",
	"install":   "refuses the certificate",
	"read-back": "reads back another certificate",
	"signature": "signs another message",
	"other-key": "signs with another key than that of its CSR",
}

var algorithms = map[string]func() (crypto.Signer, error){
	"p256":    func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
	"p384":    func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) },
	"rsa2048": func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
	"ed25519": func() (crypto.Signer, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	},
}

// newSimulate reads DIR[?algorithm=p256&fail=a,b&slow=200ms&only=UNIT].
func newSimulate(spec string, _ Config) (Adapter, error) {
	dir, query, _ := strings.Cut(spec, "?")
	if dir == "" {
		return nil, ErrSpec.New("simulate: names no directory.")
	}
	options, err := url.ParseQuery(query)
	if err != nil {
		return nil, ErrSpec.Wrap(err, "Its options cannot be read.")
	}
	s := &simulate{dir: dir, algorithm: "p256", fail: map[string]bool{}, tried: map[string]bool{}}
	for name, values := range options {
		if len(values) != 1 {
			return nil, ErrSpec.New("The option %q is there twice.", name)
		}
		switch v := values[0]; name {
		case "algorithm":
			if algorithms[v] == nil {
				return nil, ErrSpec.New("The algorithm is one of p256, p384, rsa2048, ed25519.")
			}
			s.algorithm = v
		case "fail":
			for _, f := range strings.Split(v, ",") {
				if failures[f] == "" {
					return nil, ErrSpec.New("The failure %q is none of absent, key-fault, key-dead, install, read-back, signature, other-key.", f)
				}
				s.fail[f] = true
			}
		case "slow":
			if s.slow, err = time.ParseDuration(v); err != nil || s.slow < 0 {
				return nil, ErrSpec.New("slow is a duration such as 200ms.")
			}
		case "only":
			s.only = v
		default:
			return nil, ErrSpec.New("The option %q is none of algorithm, fail, slow, only.", name)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, ErrSpec.Wrap(err, "Its directory cannot be made.")
	}
	return s, nil
}

// directoryName allows what a unit may be called, but neither "." nor ".." nor
// hidden files.
var directoryName = regexp.MustCompile(`^[A-Za-z0-9_:-][A-Za-z0-9._:-]{0,63}$`)

// device finds the directory. One that was made under its label gets the
// unit's name as soon as that is known; a crash in between leaves it under one
// of the two, never both.
func (s *simulate) device(ctx context.Context, d Device) (string, error) {
	if s.slow > 0 {
		t := time.NewTimer(s.slow)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return "", ErrSlow.Wrap(ctx.Err(), "")
		case <-t.C:
		}
	}
	name := d.Unit
	if name == "" {
		name = d.Label
	}
	if !directoryName.MatchString(name) || !directoryName.MatchString(d.Label) {
		return "", ErrDevice.New("%q cannot be the name of a directory.", name)
	}
	dir, label := filepath.Join(s.dir, name), filepath.Join(s.dir, d.Label)
	if dir != label {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			if err := os.Rename(label, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return "", ErrDevice.Wrap(err, "Its directory cannot be renamed.")
			}
			if err := durable.SyncDir(s.dir); err != nil {
				return "", ErrDevice.Wrap(err, "")
			}
		}
	}
	return dir, nil
}

func (s *simulate) fails(d Device, what string) bool {
	return s.fail[what] && (s.only == "" || s.only == d.Unit)
}

func (s *simulate) Connect(ctx context.Context, d Device) error {
	dir, err := s.device(ctx, d)
	if err != nil {
		return err
	}
	if s.fails(d, "absent") {
		return ErrAbsent.New("")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return ErrDevice.Wrap(err, "")
	}
	if err := durable.SyncDir(s.dir); err != nil {
		return ErrDevice.Wrap(err, "")
	}
	return nil
}

func (s *simulate) KeyAndCSR(ctx context.Context, d Device, fresh bool) ([]byte, error) {
	dir, err := s.device(ctx, d)
	if err != nil {
		return nil, err
	}
	if s.fails(d, "key-dead") || s.fails(d, "key-fault") && s.first(d.Label) {
		return nil, ErrKeyFault.New("")
	}
	key, err := s.key(dir)
	if fresh || errors.Is(err, fs.ErrNotExist) {
		key, err = s.newKey(dir)
	}
	if err != nil {
		return nil, ErrDevice.Wrap(err, "Its key cannot be used.")
	}
	return csr.Create(key, d.Unit, "")
}

// first tells whether the device is asked for its key for the first time.
func (s *simulate) first(label string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tried[label] {
		return false
	}
	s.tried[label] = true
	return true
}

func (s *simulate) newKey(dir string) (crypto.Signer, error) {
	key, err := algorithms[s.algorithm]()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	// A certificate of the key before would be read back as this device's.
	if err := os.Remove(filepath.Join(dir, CertificateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return key, durable.WriteFile(filepath.Join(dir, KeyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func (s *simulate) key(dir string) (crypto.Signer, error) {
	b, err := os.ReadFile(filepath.Join(dir, KeyFile))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("no PEM in " + KeyFile)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return nil, errors.New("no signing key in " + KeyFile)
	}
	return key, nil
}

func (s *simulate) Install(ctx context.Context, d Device, certificate []byte, chain [][]byte) error {
	dir, err := s.device(ctx, d)
	if err != nil {
		return err
	}
	if s.fails(d, "install") {
		return ErrDevice.New("It refuses the certificate.")
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return ErrDevice.Wrap(err, "A certificate of the chain cannot be read.")
		}
		if c.CheckSignatureFrom(c) == nil {
			continue // who verifies has the root, or must not believe this one
		}
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := durable.WriteFile(filepath.Join(dir, CertificateFile), b, 0o644); err != nil {
		return ErrDevice.Wrap(err, "")
	}
	return nil
}

func (s *simulate) ReadBack(ctx context.Context, d Device) ([]byte, error) {
	dir, err := s.device(ctx, d)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, CertificateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, ErrDevice.Wrap(err, "")
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, ErrDevice.New("Its certificate file has no PEM.")
	}
	if s.fails(d, "read-back") {
		block.Bytes[len(block.Bytes)-1] ^= 1
	}
	return block.Bytes, nil
}

func (s *simulate) Challenge(ctx context.Context, d Device, message []byte) ([]byte, error) {
	dir, err := s.device(ctx, d)
	if err != nil {
		return nil, err
	}
	key, err := s.key(dir)
	if s.fails(d, "other-key") {
		key, err = algorithms[s.algorithm]()
	}
	if err != nil {
		return nil, ErrDevice.Wrap(err, "Its key cannot be used.")
	}
	if s.fails(d, "signature") {
		message = append([]byte("not "), message...)
	}
	sig, err := uplink.SignCommit(key, message)
	if err != nil {
		return nil, ErrDevice.Wrap(err, "")
	}
	return sig, nil
}

func (s *simulate) Close() error { return nil }
