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
