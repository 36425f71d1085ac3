package ceremony

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"time"

	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/hsm/softhsm"
)

// Rehearsal replaces the tokens, custodians and existing roots of a script by
// stand-ins on a SoftHSM that is thrown away. Everything else is the real thing,
// and every transcript says that it was a rehearsal.
type Rehearsal struct {
	Keys       *hsm.Keyring
	Custodians []CustodianKey

	dir      string
	standIns standIns
}

const rehearsalPIN = "rehearsal"

// NewRehearsal makes the stand-ins for a script. read reads the files beside it.
func NewRehearsal(ctx context.Context, a *Agenda, read func(string) ([]byte, error), now func() time.Time) (_ *Rehearsal, err error) {
	if now == nil {
		now = time.Now
	}
	dir, err := os.MkdirTemp("", "hallmark-rehearsal-")
	if err != nil {
		return nil, ErrRequest.Wrap(err, "There is no place for a throw-away token.")
	}
	r := &Rehearsal{dir: dir, standIns: standIns{Custodians: []Custodian{}, Roots: []standInRoot{}}}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	module, _, err := softhsm.Init(dir, "rehearsal", rehearsalPIN)
	if err != nil {
		return nil, ErrRequest.Wrap(err, "The throw-away token cannot be made.")
	}
	r.Keys = hsm.Open(hsm.Config{Module: module, PIN: hsm.PINFunc(func(context.Context, hsm.TokenID, string) (hsm.Secret, error) {
		return hsm.NewSecret([]byte(rehearsalPIN)), nil
	})})
	for i, p := range a.Custodians.People[:a.Custodians.Threshold] {
		uri := r.uri("_custodian_" + string(rune('a'+i)))
		k, err := r.Keys.Generate(ctx, uri, hsm.Spec{Algorithm: hsm.P256})
		if err != nil {
			return nil, err
		}
		spki, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			return nil, ErrRequest.Wrap(err, "The stand-in has no public key.")
		}
		r.Custodians = append(r.Custodians, CustodianKey{Name: p.Name, URI: uri})
		r.standIns.Custodians = append(r.standIns.Custodians, Custodian{Name: p.Name, Key: base64.StdEncoding.EncodeToString(spki)})
	}
	names := make([]string, 0, len(a.Roots))
	for n := range a.Roots {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		der, err := r.standInRoot(ctx, a, n, read, now)
		if err != nil {
			return nil, err
		}
		r.standIns.Roots = append(r.standIns.Roots, standInRoot{n, der})
	}
	return r, r.otherKeys(ctx, a)
}

// standInRoot makes a root of the same name with a key of the same kind.
func (r *Rehearsal) standInRoot(ctx context.Context, a *Agenda, name string, read func(string) ([]byte, error), now func() time.Time) ([]byte, error) {
	x := a.Roots[name]
	data, err := read(x.Certificate)
	if err != nil {
		return nil, err
	}
	real, err := parseRoot(data)
	if err != nil {
		return nil, err
	}
	if hexSum(real.Raw) != x.SHA256 {
		return nil, ErrInput.New("%s is another certificate than the script names for %s.", x.Certificate, name)
	}
	subject, ok := subjectOf(real)
	if !ok {
		return nil, ErrRequest.New("The name of %s cannot be written again.", name)
	}
	key := x.Key
	if key == "" {
		key = "_root_" + name
	}
	base := x.BaseURL
	if base == "" {
		base = "http://rehearsal.example"
	}
	c, err := New(Config{Keys: r.Keys, Development: true, rehearsal: true, Now: now})
	if err != nil {
		return nil, err
	}
	end := real.NotAfter
	if !end.Equal(profile.NoExpiry) && end.Before(now().Add(24*time.Hour)) {
		end = now().Add(24 * time.Hour)
	}
	res, err := c.CreateRoot(ctx, RootRequest{
		Name: name, BaseURL: base, KeyURI: r.uri(key), Generate: true, Algorithm: algorithmOf(real), Subject: subject, NotAfter: end,
	})
	if err != nil {
		return nil, err
	}
	return res.CertificateDER, nil
}

func algorithmOf(c *x509.Certificate) hsm.Algorithm {
	if a, ok := algorithms[c.PublicKeyAlgorithm]; ok {
		return a
	}
	return hsm.P384
}

// A rehearsal is about the steps; the curve of a stand-in does not matter.
var algorithms = map[x509.PublicKeyAlgorithm]hsm.Algorithm{x509.ECDSA: hsm.P384, x509.RSA: hsm.RSA3072, x509.Ed25519: hsm.Ed25519}

// otherKeys makes the keys that exist and are no root's, to be destroyed.
func (r *Rehearsal) otherKeys(ctx context.Context, a *Agenda) error {
	for name, k := range a.Keys {
		if k.Generate != "" {
			continue
		}
		isRoot := false
		for _, x := range a.Roots {
			isRoot = isRoot || x.Key == name
		}
		if isRoot {
			continue
		}
		if _, err := r.Keys.Generate(ctx, r.uri(name), hsm.Spec{Algorithm: hsm.P256}); err != nil {
			return err
		}
	}
	return nil
}

// uri is where the stand-in of a key is.
func (r *Rehearsal) uri(name string) string { return "pkcs11:token=rehearsal;object=" + name }

// Close throws the token away.
func (r *Rehearsal) Close() error {
	if r.Keys != nil {
		if err := r.Keys.Close(); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Clean(r.dir))
}
