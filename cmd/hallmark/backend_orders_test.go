package main

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/csr"
	"hallmark/crl"
	"hallmark/provisioner"
	"hallmark/provisioner/declare"
	"hallmark/station/uplink"
	"hallmark/web"
)

// approve signs an order as the command does.
func (n *bench) approve(t *testing.T, body []byte, key *ecdsa.PrivateKey) adminapi.Envelope {
	t.Helper()
	digest := sha256.Sum256(provisioner.PAE(provisioner.PayloadType, body))
	sig := ok[[]byte](t)(ecdsa.SignASN1(rand.Reader, key, digest[:]))
	id := ok[string](t)(provisioner.KeyID(n.approverKey.Public()))
	return adminapi.Envelope{PayloadType: provisioner.PayloadType, Payload: body, Signatures: []adminapi.EnvelopeSignature{{Keyid: id, Sig: sig}}}
}

func (n *bench) open(t *testing.T, id string, units int64) adminapi.Order {
	t.Helper()
	ctx := t.Context()
	o := ok[adminapi.Order](t)(n.api.Orders.CreateOrder(ctx, n.manager, adminapi.OrderRequest{
		Id: id, Product: "sensor", Quantity: units, Serials: adminapi.SerialRule{Prefix: id + "-", First: 1, Last: units, Width: 3}, KeyOrigin: "claimed", AllowUnproven: true,
		NotAfter: time.Now().AddDate(0, 1, 0),
	}))
	ok[adminapi.Order](t)(n.api.Orders.ApproveOrder(ctx, n.officer, id, n.approve(t, o.Body, n.approverKey)))
	return ok[adminapi.Order](t)(n.api.Orders.OpenOrder(ctx, n.manager, id))
}

func TestBackend_AnOrderFromDraftToClosed(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	o := ok[adminapi.Order](t)(n.api.Orders.CreateOrder(ctx, n.manager, adminapi.OrderRequest{
		Id: "o1", Product: "sensor", Quantity: 2, Serials: adminapi.SerialRule{List: []string{"A-1", "A-2"}}, KeyOrigin: "claimed", Stations: []string{"st-1"},
		NotBefore: time.Unix(1_700_000_000, 0),
	}))
	if o.State != "draft" || len(o.Approvals) != 0 || !json.Valid(o.Body) || o.CreatedBy != "max" || !o.NotBefore.Equal(time.Unix(1_700_000_000, 0)) || !o.NotAfter.IsZero() || o.Serials != "list of 2" {
		t.Fatalf("draft: %+v", o)
	}
	// A signature by a key that is not pinned, under the id of one that is.
	_, err := n.api.Orders.ApproveOrder(ctx, n.officer, "o1", n.approve(t, o.Body, catest.NewKey(t)))
	wants(t, err, provisioner.ErrOrderSignature)
	_, err = n.api.Orders.ApproveOrder(ctx, n.manager, "o1", n.approve(t, o.Body, n.approverKey)) // S36
	wants(t, err, access.ErrSelfApproval)
	o = ok[adminapi.Order](t)(n.api.Orders.ApproveOrder(ctx, n.officer, "o1", n.approve(t, o.Body, n.approverKey)))
	if o.State != "approved" || len(o.Approvals) != 1 || o.Approvals[0].Name != "Olga" || len(o.Envelope.Signatures) != 1 || string(o.Envelope.Payload) != string(o.Body) {
		t.Fatalf("approved: %+v", o)
	}
	ok[adminapi.Order](t)(n.api.Orders.OpenOrder(ctx, n.manager, "o1"))
	o = ok[adminapi.Order](t)(n.api.Orders.CloseOrder(ctx, n.manager, "o1"))
	if o.State != "closed" {
		t.Errorf("closed: %+v", o)
	}
	_, err = n.api.Orders.OpenOrder(ctx, n.manager, "o1")
	wants(t, err, provisioner.ErrOrderState)
	_, err = n.api.Orders.Order(ctx, n.stranger, "o1")
	wants(t, err, provisioner.ErrOrderUnknown)
	_, _, err = n.api.Orders.Units(ctx, n.stranger, "o1", web.Page{Limit: 10})
	wants(t, err, provisioner.ErrOrderUnknown)
}

func TestS14_AStationCodeNamesTheRootAndRevocationEndsTheStation(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	made := ok[adminapi.StationCode](t)(n.api.Stations.CreateStationCode(ctx, n.manager, adminapi.StationCodeRequest{Station: "st-1", Site: "plant"}))
	code, hash, err := uplink.ParseCode(made.Code)
	if err != nil || hash != sha256.Sum256(n.f.Root.RawSubjectPublicKeyInfo) {
		t.Fatalf("the code names another root: %v", err)
	}
	key := catest.NewKey(t)
	cert := ok[provisioner.StationCertificate](t)(n.prov.EnrolStation(ctx, "st-1", code[:], ok[[]byte](t)(csr.Create(key, "st-1", ""))))
	leaf := ok[*x509.Certificate](t)(x509.ParseCertificate(cert.DER))
	serial, _ := ca.SerialFromInt(leaf.SerialNumber)

	_, err = n.api.Trust.RevokeDevice(ctx, n.officer, provisioner.StationHolder("st-1"), adminapi.DeviceRevokeRequest{Reason: "unspecified"})
	wants(t, err, crl.ErrHolderUnknown) // a station is no device
	for range 2 {
		st := ok[adminapi.Station](t)(n.api.Stations.RevokeStation(ctx, n.officer, "st-1", adminapi.StationRevokeRequest{Note: "stolen"}))
		if st.State != "revoked" || st.Site != "plant" {
			t.Errorf("%+v", st)
		}
	}
	got := ok[adminapi.Certificate](t)(n.api.Certificates.Certificate(ctx, n.scope, serial.String()))
	if got.Status != "revoked" || got.Revocation.Reason != "privilegeWithdrawn" || got.Revocation.Note != "stolen" || got.Revocation.RevokedBy != "principal:olga" {
		t.Errorf("%+v", got)
	}
	_, err = n.api.Stations.RevokeStation(ctx, access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "eve"}, "st-1", adminapi.StationRevokeRequest{Note: "x"})
	wants(t, err, provisioner.ErrStationUnknown)
}

// enrol makes a station with a code.
func (n *bench) enrol(t *testing.T, id string, code adminapi.StationCode) (access.Actor, error) {
	t.Helper()
	text, _, err := uplink.ParseCode(code.Code)
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.prov.EnrolStation(t.Context(), id, text[:], ok[[]byte](t)(csr.Create(catest.NewKey(t), id, "")))
	if err != nil {
		return access.Actor{}, err
	}
	serial, _ := ca.SerialFromInt(ok[*x509.Certificate](t)(x509.ParseCertificate(c.DER)).SerialNumber)
	return n.prov.StationOf(t.Context(), catest.Infra, serial, c.DER, n.scope.Tenant)
}

func TestStation_ADeadOneIsReplacedUnderItsName_S9_S14(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	n.open(t, "o1", 2)
	made := func() adminapi.StationCode {
		t.Helper()
		return ok[adminapi.StationCode](t)(n.api.Stations.CreateStationCode(ctx, n.manager, adminapi.StationCodeRequest{Station: "st-1", Site: "plant"}))
	}
	old := ok[access.Actor](t)(n.enrol(t, "st-1", made()))
	key := catest.NewKey(t)
	request := provisioner.IssueRequest{Order: "o1", Unit: "o1-001", CSR: ok[[]byte](t)(csr.Create(key, "o1-001", ""))}
	begun := ok[provisioner.IssueAnswer](t)(n.prov.Issue(ctx, old, request)) // and the computer dies
	_, err := n.api.Stations.CreateStationCode(ctx, n.manager, adminapi.StationCodeRequest{Station: "st-1", Site: "plant"})
	wants(t, err, provisioner.ErrStationExists)
	ok[adminapi.Station](t)(n.api.Stations.RevokeStation(ctx, n.officer, "st-1", adminapi.StationRevokeRequest{Note: "its disk is dead"}))

	code := made()
	noted, record := access.WithRecord(ctx, access.TrailEntry{Tenant: n.scope.Tenant, Action: access.RedeemStationCode, Outcome: access.TrailDone})
	text, _, err := uplink.ParseCode(code.Code)
	if err != nil {
		t.Fatal(err)
	}
	c := ok[provisioner.StationCertificate](t)(n.prov.EnrolStation(noted, "st-1", text[:], ok[[]byte](t)(csr.Create(catest.NewKey(t), "st-1", ""))))
	serial, _ := ca.SerialFromInt(ok[*x509.Certificate](t)(x509.ParseCertificate(c.DER)).SerialNumber)
	now := ok[access.Actor](t)(n.prov.StationOf(ctx, catest.Infra, serial, c.DER, n.scope.Tenant))
	if e := record.Entry(); !record.Written() || len(e.About["replaces"]) != 64 || e.About["key"] == e.About["replaces"] || e.About["was"] != "revoked" {
		t.Errorf("the trail has %+v", e)
	}
	got := ok[adminapi.Certificate](t)(n.api.Certificates.Certificate(ctx, n.scope, ca.Serial(old.Serial).String()))
	if got.Status != "revoked" || got.Revocation.Note != "its disk is dead" {
		t.Errorf("the old certificate: %+v", got)
	}
	_, err = n.prov.Issue(ctx, old, request)
	wants(t, err, ca.ErrRequesterRevoked)

	// It finishes what the old one began, and goes on with the order.
	same := ok[provisioner.IssueAnswer](t)(n.prov.Issue(ctx, now, request))
	if same.Serial != begun.Serial {
		t.Errorf("another certificate for the unit under way")
	}
	digest := sha256.Sum256(uplink.CommitMessage(same.Nonce, same.Unit, same.DER))
	sig := ok[[]byte](t)(ecdsa.SignASN1(rand.Reader, key, digest[:]))
	ok[provisioner.Unit](t)(n.prov.Commit(ctx, now, provisioner.CommitRequest{Order: "o1", Unit: same.Unit, Serial: same.Serial, Signature: sig}))
	n.station = now
	n.unit(t, "o1", "o1-002")

	// The new one renews as any other, and can be revoked again.
	renewed := ok[provisioner.StationCertificate](t)(n.prov.RenewStation(ctx, now, ok[[]byte](t)(csr.Create(catest.NewKey(t), "st-1", ""))))
	ok[adminapi.Station](t)(n.api.Stations.RevokeStation(ctx, n.officer, "st-1", adminapi.StationRevokeRequest{Note: "stolen"}))
	serial, _ = ca.SerialFromInt(ok[*x509.Certificate](t)(x509.ParseCertificate(renewed.DER)).SerialNumber)
	_, err = n.prov.StationOf(ctx, catest.Infra, serial, renewed.DER, n.scope.Tenant)
	wants(t, err, ca.ErrRequesterRevoked)
}

func TestOrder_ThatIsOverIsNotDrafted(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	r := adminapi.OrderRequest{Id: "o1", Product: "sensor", Quantity: 1, Serials: adminapi.SerialRule{List: []string{"A-1"}}, KeyOrigin: "claimed", NotAfter: time.Now().Add(-time.Hour)}
	_, err := n.api.Orders.CreateOrder(ctx, n.manager, r)
	wants(t, err, provisioner.ErrOrderOver)
	r.NotAfter = time.Now().Add(time.Hour)
	ok[adminapi.Order](t)(n.api.Orders.CreateOrder(ctx, n.manager, r))
}

func TestOrder_UntilADateMeansTheEndOfThatDay(t *testing.T) {
	for text, want := range map[string]string{"2026-11-23": "2026-11-24T00:00:00Z", "2026-11-23T08:00:00+02:00": "2026-11-23T06:00:00Z"} {
		if got := ok[time.Time](t)(parseEnd(text)); got.UTC().Format(time.RFC3339) != want {
			t.Errorf("until %s: %s", text, got)
		}
	}
	if _, err := parseEnd("tomorrow"); err == nil {
		t.Error("tomorrow is no date")
	}
	s := ok[declare.Spec](t)(orderKind{}.Decode([]byte(`{"product":"lamp","quantity":1,"serials":{"prefix":"L","first":1,"last":1,"width":1},"keyOrigin":"claimed","notBefore":"2026-11-23","notAfter":"2026-11-23"}`)))
	if o := s.(orderSpec); o.NotBefore != "2026-11-23T00:00:00Z" || o.NotAfter != "2026-11-24T00:00:00Z" {
		t.Errorf("%+v", o)
	}
}

// unit makes and commits a unit of an order at a station.
func (n *bench) unit(t *testing.T, order, unit string) provisioner.IssueAnswer {
	t.Helper()
	ctx := t.Context()
	if n.station.Name == "" {
		made := ok[adminapi.StationCode](t)(n.api.Stations.CreateStationCode(ctx, n.manager, adminapi.StationCodeRequest{Station: "st-1", Site: "plant"}))
		code, _, err := uplink.ParseCode(made.Code)
		if err != nil {
			t.Fatal(err)
		}
		c := ok[provisioner.StationCertificate](t)(n.prov.EnrolStation(ctx, "st-1", code[:], ok[[]byte](t)(csr.Create(catest.NewKey(t), "st-1", ""))))
		serial, _ := ca.SerialFromInt(ok[*x509.Certificate](t)(x509.ParseCertificate(c.DER)).SerialNumber)
		n.station = ok[access.Actor](t)(n.prov.StationOf(ctx, catest.Infra, serial, c.DER, n.scope.Tenant))
	}
	key := catest.NewKey(t)
	a := ok[provisioner.IssueAnswer](t)(n.prov.Issue(ctx, n.station, provisioner.IssueRequest{Order: order, Unit: unit, CSR: ok[[]byte](t)(csr.Create(key, unit, ""))}))
	digest := sha256.Sum256(uplink.CommitMessage(a.Nonce, a.Unit, a.DER))
	sig := ok[[]byte](t)(ecdsa.SignASN1(rand.Reader, key, digest[:]))
	ok[provisioner.Unit](t)(n.prov.Commit(ctx, n.station, provisioner.CommitRequest{Order: order, Unit: a.Unit, Serial: a.Serial, Signature: sig}))
	return a
}
