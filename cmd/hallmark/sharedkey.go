package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/lane"
	"hallmark/store"
)

// sharedKey is one generation of a key that all nodes use.
type sharedKey struct {
	generation int64
	key        crypto.Signer
	cert       *serviceCert // nil before there is one
}

// shared gives the certificates of a key that all nodes use, the newest first: what
// was encrypted for one is read until it ends. The keys are in the database, sealed
// (S39). Of two nodes that renew at the same time one stores its key, and whoever
// comes first has it certified; issuance gives both the same certificate.
func (c *certifier) shared(ctx context.Context, name string, r ca.Request) ([]*serviceCert, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range 3 { // a generation that is there but of no use, one that is made, and a node that was faster
		rows, err := c.db.ServiceKeys(ctx, r.Tenant, name)
		if err != nil {
			return nil, err
		}
		keys, err := c.open(rows)
		if err != nil {
			return nil, err
		}
		var good []*serviceCert
		var certify error
		for i, k := range keys {
			if k.cert == nil {
				if err := c.certify(ctx, name, r, k, i == 0); err != nil {
					certify = err
				}
			}
			if k.cert != nil && c.now().Before(k.cert.leaf.NotAfter) && c.current(ctx, k.cert.leaf, r.Tenant) {
				good = append(good, k.cert)
			}
		}
		newest := len(keys) > 0 && len(good) > 0 && good[0] == keys[0].cert
		if newest && c.fresh(good[0], &r) {
			c.keep(name, good[0])
			return good, nil
		}
		if certify == nil || errors.Is(certify, ca.ErrHolderRevoked) {
			certify = c.next(ctx, name, r, rows)
		}
		if certify != nil {
			if len(good) == 0 {
				return nil, certify
			}
			return good, nil // still good; the next call tries again
		}
	}
	return nil, errNoInfra.New("The key %s is not certified.", name)
}

// open unseals the generations that this node has not seen.
func (c *certifier) open(rows []store.ServiceKey) (out []*sharedKey, err error) {
	known := map[string]*sharedKey{}
	for i := range rows {
		row := &rows[i]
		at := string(row.Sealed)
		k := c.opened[at]
		if k == nil {
			k = &sharedKey{generation: row.Generation}
			der, err := c.vault.box.Unseal(row.Sealed, "service-key", row.Tenant, row.Name, strconv.FormatInt(row.Generation, 10))
			if err != nil {
				return nil, err
			}
			parsed, err := x509.ParsePKCS8PrivateKey(der)
			clear(der)
			if err != nil {
				return nil, err
			}
			ok := false
			if k.key, ok = parsed.(crypto.Signer); !ok {
				return nil, fmt.Errorf("key %s cannot sign", row.Name)
			}
		}
		known[at] = k
		out = append(out, k)
	}
	c.opened = known // what is no row any more is forgotten
	return out, nil
}

// certify finds the certificate of a generation, or has it made.
func (c *certifier) certify(ctx context.Context, name string, r ca.Request, k *sharedKey, issue bool) (err error) {
	if r.SPKI, err = x509.MarshalPKIXPublicKey(k.key.Public()); err != nil {
		return err
	}
	print := sha256.Sum256(r.SPKI)
	held, err := c.db.Records(ctx, ca.RecordQuery{Tenant: r.Tenant, Holder: r.Holder, Profile: r.Profile, Limit: 1000})
	if err != nil {
		return err
	}
	for i := range held {
		if h := &held[i]; h.SPKI == print && h.DER != nil {
			k.cert, err = c.chain(k.key, h.DER, h.Authority)
			return err
		}
	}
	if !issue {
		return nil
	}
	r.Key, r.Slot = k.key.Public(), ca.TwoSlots[k.generation%2]
	issued, err := c.ca.Issue(lane.With(ctx, lane.Renewal), asService(name, r))
	if err == nil {
		k.cert, err = c.chain(k.key, issued.DER, issued.Authority)
	}
	return err
}

// next makes a generation. The last but one is kept: its certificate may be good.
func (c *certifier) next(ctx context.Context, name string, r ca.Request, rows []store.ServiceKey) error {
	k := store.ServiceKey{Tenant: r.Tenant, Name: name, Generation: 1, CreatedAt: c.now()}
	if len(rows) > 0 {
		k.Generation = rows[0].Generation + 1
	}
	key, err := serviceKey(profile.Name(r.Profile))
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	k.Sealed = c.vault.box.Seal(der, "service-key", k.Tenant, k.Name, strconv.FormatInt(k.Generation, 10))
	clear(der)
	return c.db.AddServiceKey(ctx, k, k.Generation-1)
}

// chain puts a certificate and that of its authority together.
func (c *certifier) chain(key crypto.Signer, der []byte, authority string) (*serviceCert, error) {
	a, err := c.ca.Authority(authority)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(bytes.Clone(der))
	return &serviceCert{key: key, leaf: leaf, chain: [][]byte{der, a.Cert.Raw}}, err
}
