package station

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"hallmark/api/factoryapi"
	"hallmark/ca/csr"
	"hallmark/hsm"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
	"hallmark/station/uplink"
)

// Files of a station's directory. station.json is written last and names the
// slot that counts, so that a crash leaves the old certificate or the new one.
const (
	identityFile = "station.json"
	rootsFile    = "roots.pem"
	// SpoolDir is the journal's directory in a station's directory.
	SpoolDir = "spool"
)

// The two slots of a station's key and certificate: while one works the other
// takes the next, and both are good until the older one expires.
var slots = [2]string{"a", "b"}

// plainKey is the URI in station.json of a key that is a file of the slot.
const plainKey = "slot"

// Identity is an enrolled station's directory.
type Identity struct {
	Version int    `json:"version"`
	Station string `json:"station"`
	Site    string `json:"site,omitempty"`
	Tenant  string `json:"tenant,omitempty"`
	Server  string `json:"server,omitempty"` // of the factory listener
	// Slot that works; empty until the station is enrolled.
	Slot string `json:"slot,omitempty"`
	// Next is the slot whose key waits for its certificate.
	Next string `json:"next,omitempty"`
	// Keys names the key of each slot: its URI, or "slot" for a plain file here.
	Keys map[string]string `json:"keys"`
	// Exportable says that the working key is a file, which can be copied
	// without a trace (S14).
	Exportable bool `json:"exportable"`

	dir  string
	ring *hsm.Keyring

	roots []*x509.Certificate
	chain []*x509.Certificate // of the working slot
}

// EnrolConfig is what enrolling a station needs.
type EnrolConfig struct {
	Dir     string // the station's own; made with mode 0700 if it is missing
	Server  string // of the enrolment listener, https://host:9445
	Code    string // the enrolment string
	Station string
	// Factory is the address of the factory listener; empty takes what the
	// service says, and if that is nothing port 9444 of Server's host.
	Factory string
	// Key is the URI of the station's key; it is made if it does not exist.
	// Empty makes a plain file in Dir, which can be copied.
	Key      string
	Keyring  *hsm.Keyring // needed for a Key
	Patience time.Duration
	Log      *slog.Logger
	Now      func() time.Time
}

// Enrol redeems an enrolment string. The key is made and kept first: whoever
// repeats it after a crash shows the service the key it knows.
func Enrol(ctx context.Context, cfg EnrolConfig) (*Identity, error) {
	if !validUnit(cfg.Station) {
		return nil, ErrConfig.New("The station's name is 1 to 64 characters of A-Z a-z 0-9 . _ : -")
	}
	if _, _, err := uplink.ParseCode(cfg.Code); err != nil {
		return nil, err // before a key is made
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, ErrIdentity.Wrap(err, "The directory cannot be made.")
	}
	i, err := readIdentity(cfg.Dir)
	switch {
	case errors.Is(err, ErrNotEnrolled):
		i = &Identity{Version: 1, Keys: map[string]string{}, dir: cfg.Dir}
	case err != nil:
		return nil, err
	case i.Slot != "":
		return nil, ErrEnrolled.New("It is %s.", i.Station)
	}
	i.Station, i.ring = cfg.Station, cfg.Keyring

	// 1. The key, and a note of where it is.
	slot := slots[0]
	if i.Next != slot || cfg.Key != "" && i.Keys[slot] != cfg.Key {
		if i.Keys[slot], err = i.makeKey(ctx, slot, cfg.Key); err != nil {
			return nil, err
		}
		i.Next = slot
		if err := i.save(); err != nil {
			return nil, err
		}
	}
	key, err := i.key(ctx, slot)
	if err != nil {
		return nil, err
	}
	// 2. The certificate.
	request, err := csr.Create(key, i.Station, "")
	if err != nil {
		return nil, err
	}
	s, err := uplink.Enrol(ctx, uplink.Enrolment{Server: cfg.Server, Text: cfg.Code, Station: i.Station, CSR: request, Patience: cfg.Patience, Log: cfg.Log, Now: cfg.Now})
	if err != nil {
		return nil, err
	}
	// 3. Checked, then kept. The roots come over a connection that the
	// enrolment string vouched for; from here on they alone are trusted.
	if i.roots, err = parseAll(s.Roots); err != nil {
		return nil, err
	}
	i.Site, i.Tenant = s.Site, s.Tenant
	switch {
	case cfg.Factory != "":
		i.Server = cfg.Factory
	case s.FactoryUrl != nil && *s.FactoryUrl != "":
		i.Server = *s.FactoryUrl
	default:
		u, _ := url.Parse(cfg.Server) // uplink.Enrol has used it
		i.Server = "https://" + net.JoinHostPort(u.Hostname(), "9444")
	}
	if err := durable.WriteFile(filepath.Join(cfg.Dir, rootsFile), armour(i.roots), 0o644); err != nil {
		return nil, ErrIdentity.Wrap(err, "")
	}
	if err := i.adopt(slot, key, s, clock(cfg.Now)); err != nil {
		return nil, err
	}
	return i, nil
}

// Load opens an enrolled station. ring may be nil for a station whose key is a
// plain file.
func Load(dir string, ring *hsm.Keyring) (*Identity, error) {
	i, err := readIdentity(dir)
	if err != nil {
		return nil, err
	}
	if i.Slot == "" {
		return nil, ErrNotEnrolled.New("Its enrolment was begun and not finished; repeat it with the same string.")
	}
	i.ring = ring
	if i.roots, err = readCertificates(filepath.Join(dir, rootsFile)); err != nil {
		return nil, err
	}
	if i.chain, err = readCertificates(i.certificateFile(i.Slot)); err != nil {
		return nil, err
	}
	return i, nil
}

func readIdentity(dir string) (*Identity, error) {
	b, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotEnrolled.New("")
	} else if err != nil {
		return nil, ErrIdentity.Wrap(err, "")
	}
	i := &Identity{dir: dir}
	if err := json.Unmarshal(b, i); err != nil {
		return nil, ErrIdentity.Wrap(err, "%s cannot be read.", identityFile)
	}
	ok := func(slot string) bool { return slot == "" || slot == slots[0] || slot == slots[1] }
	if i.Version != 1 || !ok(i.Slot) || !ok(i.Next) || i.Keys == nil {
		return nil, ErrIdentity.New("%s is of another version or was changed by hand.", identityFile)
	}
	return i, nil
}

func (i *Identity) save() error {
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return ErrIdentity.Wrap(err, "")
	}
	if err := durable.WriteFile(filepath.Join(i.dir, identityFile), append(b, '\n'), 0o600); err != nil {
		return ErrIdentity.Wrap(err, "")
	}
	return nil
}

func (i *Identity) keyFile(slot string) string { return filepath.Join(i.dir, "station-"+slot+".key") }

func (i *Identity) certificateFile(slot string) string {
	return filepath.Join(i.dir, "station-"+slot+".pem")
}

// makeKey makes the key of a slot and returns what station.json says of it.
func (i *Identity) makeKey(ctx context.Context, slot, uri string) (string, error) {
	if uri != "" {
		if i.ring == nil {
			return "", ErrConfig.New("A key URI needs a keyring.")
		}
		// A card whose firmware gives keys of this kind away gets none (A21, S7).
		if _, err := i.ring.CheckCard(ctx, uri, hsm.P256); err != nil {
			return "", err
		}
		_, err := i.ring.Signer(ctx, uri)
		if errors.Is(err, hsm.ErrKeyNotFound) {
			_, err = i.ring.Generate(ctx, uri, hsm.Spec{Algorithm: hsm.P256})
		}
		return uri, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", ErrIdentity.Wrap(err, "")
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", ErrIdentity.Wrap(err, "")
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := durable.WriteFile(i.keyFile(slot), b, 0o600); err != nil {
		return "", ErrIdentity.Wrap(err, "The key cannot be written.")
	}
	return plainKey, nil
}

// key opens the key of a slot.
func (i *Identity) key(ctx context.Context, slot string) (crypto.Signer, error) {
	uri := i.Keys[slot]
	if uri != plainKey {
		if i.ring == nil || uri == "" {
			return nil, ErrConfig.New("The station's key %q needs a keyring.", uri)
		}
		return i.ring.Signer(ctx, uri)
	}
	name := i.keyFile(slot)
	info, err := os.Stat(name)
	if err != nil {
		return nil, ErrIdentity.Wrap(err, "Its key is gone.")
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, ErrIdentity.New("The key file can be read by others; its mode must be 0600.")
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, ErrIdentity.Wrap(err, "")
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, ErrIdentity.New("The key file has no PEM.")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, ErrIdentity.Wrap(err, "The key file cannot be read.")
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return nil, ErrIdentity.New("The key cannot sign.")
	}
	return key, nil
}

// adopt checks a certificate for the slot's key, keeps it and makes the slot
// the one that works.
func (i *Identity) adopt(slot string, key crypto.Signer, s factoryapi.StationCertificate, now time.Time) error {
	if s.Station != i.Station {
		return uplink.ErrCertified.New("It is for station %q.", s.Station)
	}
	chain, err := parseAll(append([][]byte{s.Certificate}, s.Chain...))
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return ErrIdentity.Wrap(err, "")
	}
	if !bytes.Equal(chain[0].RawSubjectPublicKeyInfo, spki) {
		return uplink.ErrCertified.New("It is for another key.")
	}
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range i.roots {
		roots.AddCert(r)
	}
	for _, c := range chain[1:] {
		others.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return uplink.ErrCertified.Wrap(err, "Its chain does not end in a root of this station, or the station's clock is wrong.")
	}
	if err := durable.WriteFile(i.certificateFile(slot), armour(chain), 0o644); err != nil {
		return ErrIdentity.Wrap(err, "")
	}
	i.chain, i.Slot, i.Next = chain, slot, ""
	i.Exportable = i.Keys[slot] == plainKey || strings.HasPrefix(strings.ToLower(i.Keys[slot]), "file:")
	return i.save()
}

// Certificate is the station's own certificate.
func (i *Identity) Certificate() *x509.Certificate { return i.chain[0] }

// Roots are the trust anchors that the station was given when it enrolled.
func (i *Identity) Roots() []*x509.Certificate { return i.roots }

// Key names the working key: a URI, or the path of a plain file.
func (i *Identity) Key() string {
	if uri := i.Keys[i.Slot]; uri != plainKey {
		return uri
	}
	return i.keyFile(i.Slot)
}

// TLS is the certificate with its key for connections.
func (i *Identity) TLS(ctx context.Context) (tls.Certificate, error) {
	key, err := i.key(ctx, i.Slot)
	if err != nil {
		return tls.Certificate{}, err
	}
	c := tls.Certificate{PrivateKey: key, Leaf: i.chain[0]}
	for _, x := range i.chain {
		if x.CheckSignatureFrom(x) != nil { // the server has the root
			c.Certificate = append(c.Certificate, x.Raw)
		}
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil || !bytes.Equal(spki, i.chain[0].RawSubjectPublicKeyInfo) {
		return tls.Certificate{}, ErrIdentity.Wrap(err, "Key and certificate do not belong together.")
	}
	return c, nil
}

// Client connects the station to the service.
func (i *Identity) Client(ctx context.Context, cfg uplink.Config) (*uplink.Client, error) {
	now := clock(cfg.Now)
	if now.After(i.chain[0].NotAfter) {
		return nil, ErrExpired.New("It was good until %s, and the clock says %s.", i.chain[0].NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	cert, err := i.TLS(ctx)
	if err != nil {
		return nil, err
	}
	cfg.Server, cfg.Roots, cfg.Certificate = i.Server, i.roots, cert
	return uplink.NewClient(cfg)
}

// RenewalDue is when two thirds of the certificate's life are over.
func (i *Identity) RenewalDue() time.Time {
	c := i.chain[0]
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2)
}

// Renew gets a certificate for a new key and makes c use it. The key before and
// its certificate stay in the other slot. uri names the new key; empty makes a
// name from that of the present one. It is not safe for concurrent use.
func (i *Identity) Renew(ctx context.Context, c *uplink.Client, uri string, now func() time.Time) error {
	// 1. The new key, and a note of where it is: a repeated renewal uses it.
	slot := slots[0]
	if i.Slot == slot {
		slot = slots[1]
	}
	if i.Next != slot || uri != "" && i.Keys[slot] != uri {
		if uri == "" && i.Keys[i.Slot] != plainKey {
			var err error
			if uri, err = nextURI(i.Keys[i.Slot], clock(now)); err != nil {
				return err
			}
		}
		name, err := i.makeKey(ctx, slot, uri)
		if err != nil {
			return err
		}
		i.Keys[slot], i.Next = name, slot
		if err := i.save(); err != nil {
			return err
		}
	}
	key, err := i.key(ctx, slot)
	if err != nil {
		return err
	}
	// 2. Its certificate, over a connection that the old one proves.
	request, err := csr.Create(key, i.Station, "")
	if err != nil {
		return err
	}
	s, err := c.Renew(ctx, request)
	if err != nil {
		return err
	}
	// 3. Checked with the roots that are pinned here, then used.
	if err := i.adopt(slot, key, s, clock(now)); err != nil {
		return err
	}
	cert, err := i.TLS(ctx)
	if err != nil {
		return err
	}
	c.SetCertificate(cert)
	return nil
}

// nextURI names the key after this one: the object's or file's name with the
// day and four random digits.
func nextURI(uri string, now time.Time) (string, error) {
	var b [2]byte
	rand.Read(b[:])
	suffix := "-" + now.UTC().Format("20060102") + "-" + hex.EncodeToString(b[:])
	scheme, rest, _ := strings.Cut(uri, ":")
	path, query, hasQuery := strings.Cut(rest, "?")
	switch strings.ToLower(scheme) {
	case "pkcs11":
		var kept []string
		named := false
		for _, attribute := range strings.Split(path, ";") {
			name, value, _ := strings.Cut(attribute, "=")
			switch name {
			case "id": // belongs to the old key
				continue
			case "object":
				attribute, named = "object="+dropSuffix(value)+suffix, true
			}
			kept = append(kept, attribute)
		}
		if !named {
			return "", ErrKeyNext.New("The present one has no object name.")
		}
		path = strings.Join(kept, ";")
	case "file":
		ext := filepath.Ext(path)
		path = dropSuffix(strings.TrimSuffix(path, ext)) + suffix + ext
	default:
		return "", ErrKeyNext.New("The present one is in a %s slot.", scheme)
	}
	if hasQuery {
		path += "?" + query
	}
	return scheme + ":" + path, nil
}

// dropSuffix takes off what nextURI put on, so that names do not grow.
func dropSuffix(name string) string {
	if n := len(name) - len("-20060102-abcd"); n > 0 && name[n] == '-' && name[n+9] == '-' {
		if _, err := time.Parse("20060102", name[n+1:n+9]); err == nil {
			return name[:n]
		}
	}
	return name
}

// clock is now, or the system's.
func clock(now func() time.Time) time.Time {
	if now == nil {
		return time.Now()
	}
	return now()
}

func parseAll(ders [][]byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, uplink.ErrAnswer.Wrap(err, "A certificate in it cannot be read.")
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, uplink.ErrAnswer.New("It has no certificate.")
	}
	return all, nil
}

func armour(certs []*x509.Certificate) []byte {
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

func readCertificates(name string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, ErrIdentity.Wrap(err, "")
	}
	var ders [][]byte
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		ders = append(ders, block.Bytes)
	}
	all, err := parseAll(ders)
	if err != nil {
		return nil, ErrIdentity.Wrap(err, "%s: %s", filepath.Base(name), fault.From(err).Detail)
	}
	return all, nil
}
