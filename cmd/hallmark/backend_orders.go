package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/provisioner"
	"hallmark/station/uplink"
	"hallmark/web"
)

// approver is a pinned key with a verifier of its own, so that the console names
// those whose signature verifies and not those whom a row claims (S32).
type approver struct {
	name, keyID string
	verify      *provisioner.Orders
}

func (b *backend) pinned() (out []approver) {
	keys, err := b.cfg.approvers()
	for _, k := range keys {
		id, idErr := provisioner.KeyID(k.Key)
		v, vErr := provisioner.NewOrders([]provisioner.Approver{k}, 1)
		if idErr == nil && vErr == nil {
			out = append(out, approver{k.Name, id, v})
		}
	}
	if err != nil {
		b.log.Error("pinned approvers cannot be read; approvals are not shown", "error", err)
	}
	return out
}

func (b *backend) orderView(o *provisioner.Order) adminapi.Order {
	v := adminapi.Order{
		Id: o.ID, Product: o.Product, Quantity: o.Quantity, Used: o.Used, State: string(o.State), Serials: o.Serials.String(), Stations: nonNil(o.Stations),
		NotBefore: seconds(o.NotBefore), NotAfter: seconds(o.NotAfter), KeyOrigin: string(o.KeyOrigin), CnIsUnit: o.CNIsUnit, AllowUnproven: o.AllowUnproven,
		CertificateDays: o.CertificateDays, Organization: o.Organization, Region: o.Region, CreatedBy: o.CreatedBy, CreatedAt: o.CreatedAt, ChangedAt: o.ChangedAt,
		Body: []byte{}, Approvals: []adminapi.Approval{},
	}
	if len(o.Envelope) == 0 {
		return v
	}
	for _, a := range b.approvers {
		if body, err := a.verify.Verify(o.Envelope); err == nil && body.ID == o.ID && body.Tenant == o.Tenant {
			v.Approvals = append(v.Approvals, adminapi.Approval{KeyId: a.keyID, Name: a.name})
		}
	}
	return v
}

// wholeOrder is the view of one order, with the octets that approvers sign.
func (b *backend) wholeOrder(ctx context.Context, o provisioner.Order, err error) (adminapi.Order, error) {
	if err != nil {
		return adminapi.Order{}, err
	}
	v := b.orderView(&o)
	v.Body = o.Canonical
	if len(o.Envelope) > 0 {
		if err := json.Unmarshal(o.Envelope, &v.Envelope); err != nil {
			b.log.ErrorContext(ctx, "stored envelope of an order cannot be read", "order", o.ID, "error", err)
		}
	}
	v.Installed, err = b.db.CountInstalled(ctx, access.Scope{Tenant: o.Tenant}, o.ID)
	return v, err
}

// CreateOrder implements [web.Orders].
func (b *backend) CreateOrder(ctx context.Context, by access.Actor, r adminapi.OrderRequest) (adminapi.Order, error) {
	o, err := b.draft(ctx, by, provisioner.Body{
		ID: r.Id, Product: r.Product, Quantity: r.Quantity, Serials: provisioner.SerialRule{Prefix: r.Serials.Prefix, First: r.Serials.First, Last: r.Serials.Last, Width: r.Serials.Width, Pattern: r.Serials.Pattern, List: r.Serials.List, HardwareType: r.Serials.HardwareType, Hardware: r.Serials.Hardware},
		Stations: r.Stations, NotBefore: unixSeconds(r.NotBefore), NotAfter: unixSeconds(r.NotAfter), KeyOrigin: profile.Origin(r.KeyOrigin), CNIsUnit: r.CnIsUnit,
		CertificateDays: r.CertificateDays, AllowUnproven: r.AllowUnproven, Organization: r.Organization, Region: r.Region,
	})
	return b.wholeOrder(ctx, o, err)
}

// draft makes an order that somebody can still work on.
func (b *backend) draft(ctx context.Context, by access.Actor, body provisioner.Body) (provisioner.Order, error) {
	if err := b.prov.Ahead(&body); err != nil {
		return provisioner.Order{}, err
	}
	return b.prov.CreateOrder(ctx, by, body)
}

// Order implements [web.Orders].
func (b *backend) Order(ctx context.Context, s access.Scope, id string) (adminapi.Order, error) {
	o, err := b.prov.Order(ctx, s, id)
	return b.wholeOrder(ctx, o, err)
}

func (b *backend) orders(ctx context.Context, s access.Scope) func(after string, n int) ([]provisioner.Order, error) {
	return func(after string, n int) ([]provisioner.Order, error) { return b.prov.ListOrders(ctx, s, after, n) }
}

func orderPosition(o *provisioner.Order) string { return o.ID }

// Orders implements [web.Orders].
func (b *backend) Orders(ctx context.Context, s access.Scope, state string, p web.Page) ([]adminapi.Order, string, error) {
	var keep func(*provisioner.Order) bool
	if state != "" {
		keep = func(o *provisioner.Order) bool { return string(o.State) == state }
	}
	rows, next, err := collect(p.After, p.Limit, b.orders(ctx, s), orderPosition, keep)
	return mapped(rows, b.orderView), next, err
}

// ApproveOrder implements [web.Orders].
func (b *backend) ApproveOrder(ctx context.Context, by access.Actor, id string, e adminapi.Envelope) (adminapi.Order, error) {
	envelope, err := json.Marshal(e) // the contract's envelope and the domain's are the same DSSE JSON
	if err != nil {
		return adminapi.Order{}, err
	}
	o, err := b.prov.ApproveOrder(ctx, by, id, envelope)
	return b.wholeOrder(ctx, o, err)
}

// OpenOrder implements [web.Orders].
func (b *backend) OpenOrder(ctx context.Context, by access.Actor, id string) (adminapi.Order, error) {
	o, err := b.prov.OpenOrder(ctx, by, id)
	return b.wholeOrder(ctx, o, err)
}

// CloseOrder implements [web.Orders].
func (b *backend) CloseOrder(ctx context.Context, by access.Actor, id string) (adminapi.Order, error) {
	o, err := b.prov.CloseOrder(ctx, by, id)
	return b.wholeOrder(ctx, o, err)
}

func unitView(u *provisioner.Unit) adminapi.Unit {
	return adminapi.Unit{Unit: u.Unit, State: u.State, Station: u.Station, Serial: serialText(u.Serial), Rekeys: u.Rekeys, InstalledAt: u.InstalledAt, Proven: u.Proven}
}

func (b *backend) units(ctx context.Context, s access.Scope, order string) func(after string, n int) ([]provisioner.Unit, error) {
	return func(after string, n int) ([]provisioner.Unit, error) { return b.prov.Units(ctx, s, order, after, n) }
}

func unitPosition(u *provisioner.Unit) string { return u.Unit }

// Units implements [web.Orders].
func (b *backend) Units(ctx context.Context, s access.Scope, order string, p web.Page) ([]adminapi.Unit, string, error) {
	if _, err := b.prov.Order(ctx, s, order); err != nil {
		return nil, "", err
	}
	rows, next, err := collect(p.After, p.Limit, b.units(ctx, s, order), unitPosition, nil)
	return mapped(rows, unitView), next, err
}

// CreateStationCode implements [web.Stations]. The string carries the hash of
// the root's key, so that the station knows the service before it tells its code
// to anybody (S14).
func (b *backend) CreateStationCode(ctx context.Context, by access.Actor, r adminapi.StationCodeRequest) (adminapi.StationCode, error) {
	root, err := b.stationRoot(ctx, by.Tenant)
	if err != nil {
		return adminapi.StationCode{}, err
	}
	text, code := uplink.NewCode(nil, sha256.Sum256(root.RawSubjectPublicKeyInfo))
	c, err := b.prov.CreateStationCode(ctx, by, r.Station, r.Site, code[:])
	if err != nil {
		return adminapi.StationCode{}, err
	}
	b.log.InfoContext(ctx, "station code made", "station", c.Station, "site", c.Site, "by", by.String())
	return adminapi.StationCode{Station: c.Station, Site: c.Site, Code: text, ExpiresAt: c.ExpiresAt}, nil
}

func stationView(s *provisioner.Station) adminapi.Station {
	return adminapi.Station{Id: s.ID, Site: s.Site, State: s.State, EnrolledAt: s.EnrolledAt, Fingerprint: hex.EncodeToString(s.SPKI[:])}
}

// Stations implements [web.Stations].
func (b *backend) Stations(ctx context.Context, s access.Scope) ([]adminapi.Station, error) {
	rows, err := b.prov.Stations(ctx, s)
	return mapped(rows, stationView), err
}

// RevokeStation implements [web.Stations]. The row goes first, since it ends
// issuance at once; whoever repeats the request after a failure between the two
// steps gets the rest done. The name is not blocked: another computer may enrol
// under it with a new code, once no certificate of the old one is good (S14).
func (b *backend) RevokeStation(ctx context.Context, by access.Actor, id string, r adminapi.StationRevokeRequest) (adminapi.Station, error) {
	if err := b.prov.RevokeStation(ctx, by.Scope(), id); err != nil {
		return adminapi.Station{}, err
	}
	done, err := b.crl.RevokeHolder(ctx, by, provisioner.StationHolder(id), crl.PrivilegeWithdrawn, r.Note)
	if err != nil {
		return adminapi.Station{}, err
	}
	b.log.WarnContext(ctx, "station revoked", "station", id, "certificates", len(done.Revoked), "by", by.String(), "note", r.Note)
	rows, err := b.prov.Stations(ctx, by.Scope())
	if err != nil {
		return adminapi.Station{}, err
	}
	for i := range rows {
		if rows[i].ID == id {
			return stationView(&rows[i]), nil
		}
	}
	return adminapi.Station{}, provisioner.ErrStationUnknown.New("%s.", id)
}
