package store_test

import (
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/provisioner"
	"hallmark/store"
)

func TestStation_WhoseCertificatesAreOverEnrolsAgain_S14(t *testing.T) {
	engines(t, func(t *testing.T, url, _ string) {
		h, ctx := newHands(), t.Context()
		db, err := store.Open(ctx, store.Config{URL: url, Seal: box(t), Now: h.now})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		code := func(n byte) error {
			return db.CreateStationCode(ctx, provisioner.StationCode{Hash: [32]byte{n}, Tenant: "main", Station: "st-1", Site: "x", CreatedBy: "ann", ExpiresAt: h.now().Add(time.Hour)})
		}
		enrol := func(n byte) error {
			_, err := db.Redeem(ctx, [32]byte{n}, "st-1", [32]byte{n}, h.now())
			return err
		}
		wantFault(t, "the first code", code(1), nil)
		wantFault(t, "the first computer", enrol(1), nil)
		h.move(2 * time.Hour)
		wantFault(t, "the code of a computer that broke before it was certified", code(2), nil)
		wantFault(t, "the second computer", enrol(2), nil)
		serial, err := ca.NewSerial(h.now(), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = db.Ledger().Reserve(ctx, ca.Claim{
			Identity: ca.Identity{Tenant: "main", Holder: provisioner.StationHolder("st-1"), Profile: string(profile.Station), Slot: "A"}, SPKI: [32]byte{2},
			Authority: "infra-1", Version: 1, Serial: serial, TBS: []byte("tbs"), NotBefore: h.now(), NotAfter: h.now().Add(20 * 24 * time.Hour), Now: h.now(),
			Requester: ca.Requester{Actor: "station:st-1", Station: "st-1"},
		})
		wantFault(t, "its certificate", err, nil)
		h.move(19 * 24 * time.Hour)
		wantFault(t, "a code while it is good", code(3), provisioner.ErrStationExists)
		h.move(2 * 24 * time.Hour)
		wantFault(t, "a code when it is over", code(3), nil)
		wantFault(t, "the third computer", enrol(3), nil)
		st, err := db.Station(ctx, access.Scope{Tenant: "main"}, "st-1")
		if err != nil || st.State != "active" || st.SPKI != [32]byte{3} || !st.EnrolledAt.Equal(h.now()) {
			t.Errorf("%+v %v", st, err)
		}
		if err := db.BrokenRows(ctx, func(object string, err error) { t.Errorf("%s: %v", object, err) }); err != nil {
			t.Error(err)
		}
	})
}
