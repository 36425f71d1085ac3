package main

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/ceremony"
)

func (b *backend) crossView(x *ca.CrossInfo) adminapi.Cross {
	return adminapi.Cross{Name: x.Name, Root: x.Root, Of: x.Of, NotBefore: x.Cert.NotBefore, NotAfter: x.Cert.NotAfter, Fingerprint: fingerprint(x.Cert.Raw),
		Url: b.cfg.BaseURL + "/ca/" + x.Name + ".cer", Certificate: pemText("CERTIFICATE", x.Cert.Raw), AddedAt: x.AddedAt, AddedBy: x.AddedBy}
}

// AddCross implements [web.Authorities]. It gives nobody new trust: both roots are
// trusted here, and one of them signed it.
func (b *backend) AddCross(ctx context.Context, by access.Actor, r adminapi.CrossRequest) (adminapi.Cross, error) {
	der, err := ceremony.ReadObject([]byte(r.Certificate), "CERTIFICATE")
	if err != nil {
		return adminapi.Cross{}, err
	}
	b.change.Lock()
	defer b.change.Unlock()
	root, of, err := ca.CheckCross(by.Tenant, der, b.ca.Authorities(), b.now())
	if err != nil {
		return adminapi.Cross{}, err
	}
	if err := b.ca.CrossNameFree(r.Name); err != nil {
		return adminapi.Cross{}, err
	}
	x := ca.Cross{Tenant: by.Tenant, Name: r.Name, Root: root.Name, Of: of.Name, Certificate: der, AddedAt: b.now().UTC(), AddedBy: by.String()}
	if err := b.db.AddCross(ctx, x); err != nil {
		return adminapi.Cross{}, err
	}
	b.log.InfoContext(ctx, "cross certificate stored", "name", x.Name, "root", x.Root, "of", x.Of, "fingerprint", fingerprint(der), "by", by.String())
	if err := b.reload(ctx); err != nil {
		return adminapi.Cross{}, err
	}
	have, err := b.ca.Cross(r.Name)
	return b.crossView(&have), err
}

// Crosses implements [web.Authorities].
func (b *backend) Crosses(_ context.Context, s access.Scope) (out []adminapi.Cross, err error) {
	for _, x := range b.ca.Crosses() {
		if x.Tenant == s.Tenant {
			out = append(out, b.crossView(&x))
		}
	}
	return out, nil
}
