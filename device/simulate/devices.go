package simulate

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// Device is one device of the fleet.
type Device struct {
	Thing       string // and client identifier: the certificate's common name
	Certificate tls.Certificate
	Dir         string // of the device, if it came from one
}

// maxBundle bounds what is read into memory: some 500,000 devices.
const maxBundle = 1 << 30

// LoadBundle reads devices from PEM: for each its certificate, then the chain if
// there is one, and its key before or after them. Extra certificates go at the
// end of every chain. At most n are read; 0 means all.
func LoadBundle(r io.Reader, n int, extra [][]byte) ([]Device, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxBundle+1))
	if err != nil {
		return nil, ErrBundle.Wrap(err, "")
	}
	if len(raw) > maxBundle {
		return nil, ErrBundle.New("It is larger than 1 GiB.")
	}
	var out []Device
	var chain [][]byte
	var key crypto.Signer
	finish := func() error {
		d, err := newDevice(append(slices.Clone(chain), extra...), key)
		if err != nil {
			return ErrBundle.Wrap(err, "Device %d.", len(out)+1)
		}
		out, chain, key = append(out, d), nil, nil
		return nil
	}
	keyFirst := false
	for block, rest := pem.Decode(raw); block != nil && (n == 0 || len(out) < n); block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			chain = append(chain, block.Bytes)
			continue
		case "EC PARAMETERS":
			continue
		}
		next, err := parseKey(block)
		if err != nil {
			return nil, ErrBundle.Wrap(err, "Device %d.", len(out)+1)
		}
		if len(out) == 0 && key == nil && len(chain) == 0 {
			keyFirst = true
		}
		if keyFirst {
			if key != nil {
				if err := finish(); err != nil {
					return nil, err
				}
			}
			key = next
			continue
		}
		key = next
		if err := finish(); err != nil {
			return nil, err
		}
	}
	if keyFirst && key != nil && (n == 0 || len(out) < n) {
		if err := finish(); err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, ErrDevices.New("The bundle is empty.")
	}
	return out, nil
}

func parseKey(block *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, ErrBundle.New("A block is neither a certificate nor a key without encryption.")
	}
	if err != nil {
		return nil, err
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, ErrBundle.New("A key cannot sign.")
	}
	return s, nil
}

// newDevice puts a chain and a key together, if they fit.
func newDevice(chain [][]byte, key crypto.Signer) (Device, error) {
	if len(chain) == 0 || key == nil {
		return Device{}, ErrBundle.New("It has no certificate or no key.")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return Device{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil || !bytes.Equal(spki, leaf.RawSubjectPublicKeyInfo) {
		return Device{}, ErrBundle.New("The key is not the certificate's.")
	}
	if leaf.Subject.CommonName == "" {
		return Device{}, ErrBundle.New("The certificate has no common name.")
	}
	// The parsed leaf is not kept: it is several times the size of its octets, and
	// TLS needs those alone.
	return Device{Thing: leaf.Subject.CommonName, Certificate: tls.Certificate{Certificate: chain, PrivateKey: key}}, nil
}

// LoadDir reads devices from a directory that has one below it for each, with
// the operational certificate and key that a first boot leaves: ldevid.pem and
// ldevid.key. It tells how many others have none. At most n are read; 0 means all.
func LoadDir(dir string, n int) (devices []Device, without []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, ErrDevices.Wrap(err, "")
	}
	for _, e := range entries {
		if n > 0 && len(devices) == n {
			break
		}
		home := filepath.Join(dir, e.Name())
		cert, err := os.ReadFile(filepath.Join(home, "ldevid.pem"))
		if err != nil {
			if _, err := os.Stat(filepath.Join(home, "idevid.pem")); err == nil {
				without = append(without, home)
			}
			continue
		}
		key, err := os.ReadFile(filepath.Join(home, "ldevid.key"))
		if err != nil {
			return nil, nil, ErrDevices.Wrap(err, "Device %s.", e.Name())
		}
		d, err := LoadBundle(bytes.NewReader(append(append(cert, '\n'), key...)), 1, nil)
		if err != nil {
			return nil, nil, err
		}
		d[0].Dir = home
		devices = append(devices, d[0])
	}
	return devices, without, nil
}
