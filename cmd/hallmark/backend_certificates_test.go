package main

import (
	"context"
	"slices"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/web"
)

func TestBackend_ADeviceAndItsRevocation(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	n.open(t, "Lot", 3)
	n.unit(t, "Lot", "Lot-001")
	born := n.unit(t, "Lot", "Lot-002")
	n.unit(t, "Lot", "Lot-003")
	second, _ := n.f.Issue(t, profile.LDevID, "Lot-002", "A", profile.Names{})
	second2, _ := ca.SerialFromInt(second.SerialNumber)
	ok[struct{}](t)(struct{}{}, n.registerThing(ctx, "Lot-002", second2))

	o := ok[adminapi.Order](t)(n.api.Orders.Order(ctx, n.scope, "Lot"))
	if o.Used != 3 || o.Installed != 3 {
		t.Errorf("used %d, installed %d", o.Used, o.Installed)
	}
	d := ok[adminapi.Device](t)(n.api.Certificates.Device(ctx, n.scope, "LOT-002")) // in another case
	if d.Holder != "Lot-002" || d.Blocked || len(d.Certificates) != 2 || d.Certificates[0].Profile != string(profile.LDevID) || d.Thing.Name != "pump-2" || len(d.Thing.Principals) != 1 {
		t.Fatalf("%+v", d)
	}
	i := slices.IndexFunc(d.Identities, func(i adminapi.DeviceIdentity) bool { return i.Profile == string(profile.IDevID) })
	if id := d.Identities[i]; id.State != "installed" || !id.Proven || id.InstalledAt.IsZero() || id.Station != "st-1" || id.Account != "Lot" || id.Serial != born.Serial.String() {
		t.Errorf("%+v", id)
	}
	_, err := n.api.Certificates.Device(ctx, n.stranger, "Lot-002")
	wants(t, err, crl.ErrHolderUnknown)

	hold := ok[adminapi.Revocation](t)(n.api.Trust.RevokeCertificate(ctx, n.officer, second2.String(), adminapi.RevokeRequest{Reason: "certificateHold", Note: "odd traffic"}))
	if hold.Already || hold.Blocked || hold.Holder != "Lot-002" || hold.Reason != "certificateHold" {
		t.Errorf("%+v", hold)
	}
	for _, status := range []string{"hold", "revoked"} {
		if items, _, err := n.api.Certificates.Certificates(ctx, n.scope, web.CertificateQuery{Status: status}, web.Page{Limit: 50}); err != nil || len(items) != 1 || items[0].Serial != second2.String() {
			t.Errorf("status %s: %+v, %v", status, items, err)
		}
	}
	if again := ok[adminapi.Revocation](t)(n.api.Trust.RevokeCertificate(ctx, n.officer, second2.String(), adminapi.RevokeRequest{Reason: "certificateHold"})); !again.Already {
		t.Error("a second hold counts as new")
	}
	yes := true
	_, err = n.api.Trust.RevokeCertificate(ctx, n.officer, second2.String(), adminapi.RevokeRequest{Reason: "keyCompromise", AllowReenrol: &yes}) // S16
	wants(t, err, crl.ErrReason)
	_, err = n.api.Trust.RevokeCertificate(ctx, access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "eve"}, second2.String(), adminapi.RevokeRequest{Reason: "unspecified"})
	if fault.KindOf(err) != fault.NotFound {
		t.Errorf("another tenant revokes: %v", err)
	}

	gone := ok[adminapi.DeviceRevocation](t)(n.api.Trust.RevokeDevice(ctx, n.officer, "lot-002", adminapi.DeviceRevokeRequest{Reason: "privilegeWithdrawn", Note: "sold"}))
	if gone.Device != "Lot-002" || len(gone.Revoked) != 2 || slices.ContainsFunc(gone.Revoked, func(r adminapi.Revocation) bool { return r.Already || !r.Blocked }) {
		t.Errorf("%+v", gone)
	}
	d = ok[adminapi.Device](t)(n.api.Certificates.Device(ctx, n.scope, "Lot-002"))
	if !d.Blocked || d.BlockedBy != "principal:olga" || d.Note != "sold" || d.BlockedAt.IsZero() || d.Thing.Principals[0].Status != string(fleet.Revoked) {
		t.Errorf("%+v", d)
	}
	for _, c := range []struct {
		q    web.CertificateQuery
		want int
	}{
		{web.CertificateQuery{Status: "revoked"}, 2},
		{web.CertificateQuery{Status: "hold"}, 0},
		{web.CertificateQuery{Status: "good", Profile: string(profile.IDevID)}, 2},
		{web.CertificateQuery{Order: "Lot"}, 3},
		{web.CertificateQuery{Authority: catest.Infra}, 1},
		{web.CertificateQuery{Holder: "LOT-00"}, 4},
		{web.CertificateQuery{Serial: strings.ToUpper(born.Serial.String())}, 1},
		{web.CertificateQuery{Serial: born.Serial.String(), Holder: "LOT"}, 1},
		{web.CertificateQuery{Serial: born.Serial.String(), Status: "good"}, 0},
		{web.CertificateQuery{Serial: strings.Repeat("40", 20)}, 0},
	} {
		items, next, err := n.api.Certificates.Certificates(ctx, n.scope, c.q, web.Page{Limit: 50})
		if err != nil || next != "" || len(items) != c.want {
			t.Errorf("%+v finds %d, %q, %v; want %d", c.q, len(items), next, err, c.want)
		}
		if items, _, _ = n.api.Certificates.Certificates(ctx, n.stranger, c.q, web.Page{Limit: 50}); len(items) > 0 {
			t.Errorf("%+v shows another tenant's certificates", c.q)
		}
	}
}

func (n *bench) registerThing(ctx context.Context, holder string, serial ca.Serial) error {
	_, _, err := n.reg.Register(ctx, registry.Registration{Thing: registry.Thing{
		Tenant: n.scope.Tenant, Name: fleet.ThingName("pump-2"), Holder: holder, Attributes: map[string]string{"site": "north"}, RegisteredBy: catest.Device,
	}}, registry.Attachment{Authority: catest.Device, Serial: serial, Status: fleet.Active})
	return err
}

func TestBefore_TheUnitIsNext(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	units := []string{"a", "A-", "a.", "a-b", "a0", "ab", "az", "aZ9", "b", "b:", "bz", "-", "."}
	for i, u := range units {
		units[i] = "u" + u
	}
	units = append(units, "u")
	ok[adminapi.Order](t)(n.api.Orders.CreateOrder(ctx, n.manager, adminapi.OrderRequest{Id: "x", Product: "p", Quantity: int64(len(units)), Serials: adminapi.SerialRule{List: units}, KeyOrigin: "claimed", AllowUnproven: true}))
	o := ok[adminapi.Order](t)(n.api.Orders.Order(ctx, n.scope, "x"))
	ok[adminapi.Order](t)(n.api.Orders.ApproveOrder(ctx, n.officer, "x", n.approve(t, o.Body, n.approverKey)))
	ok[adminapi.Order](t)(n.api.Orders.OpenOrder(ctx, n.manager, "x"))
	for _, u := range units {
		n.unit(t, "x", u)
	}
	for _, u := range units {
		got := ok[[]provisioner.Unit](t)(n.prov.Units(ctx, n.scope, "x", before(u), 1))
		if len(got) != 1 || got[0].Unit != u {
			t.Errorf("after %q comes %v, not %q", before(u), got, u)
		}
	}
}
