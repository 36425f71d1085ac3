package storetest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/store"
)

// Open opens one more handle on the database of the test: on PostgreSQL two of
// them are two services.
type Open func(t *testing.T) *store.DB

// Test runs the suite. open must give a new database for each t and the same
// one for repeated calls with one t; two says whether a second handle is allowed.
func Test(t *testing.T, open func(t *testing.T) Open, two bool) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, open Open)
	}{
		{"Reserve then record gives one certificate, and the same again", replay},
		{"Resume hands out the same TBS", resume},
		{"Quota is exact under 1,000 parallel requests A42", quota},
		{"Fifty requests for one unit and key make one reservation", oneUnit},
		{"First recorded signature wins S8", firstWins},
		{"A new key before installation replaces, after it is rework S9", rekey},
		{"A unit that booted is installed, and a new key is rework S9 S11", booted},
		{"A new key and an installation of one unit do not both win S10", installRace},
		{"Two who replace a key by the same one get one reservation S9", rekeyRace},
		{"One key never has two holders A15", oneKey},
		{"Names that differ in case are one identity A51", caseFold},
		{"A revoked requester gets nothing, also inside the batch S19", requester},
		{"A void reservation is never recorded S8", void},
		{"Who is on hold gets no other certificate until released S30", hold},
		{"A closed order lets its units finish for a while, and nobody else S9", grace},
		{"Only what nobody finished is abandoned S8", abandoned},
		{"A void unit goes back to its order when it is listed, and once S8", returned},
		{"A failing neighbour leaves the others committed", neighbour},
		{"The log has no holes", dense},
		{"An order row that nobody signed is not an order's limit S32", closedOrder},
		{"A station code is redeemed once A40", redeem},
		{"A station comes back with a new key only when the old one cannot S14 S16", retake},
		{"A look-up sees its own tenant only", tenants},
		{"A panic in a transaction ends that request only A57", panics},
		{"A plan revokes what it covers, by two people, and goes on after a stop A33 A34 S36", blast},
		{"A plan that was a false alarm takes its own holds back S36", falseAlarm},
		{"A plan that was released is over S36", releasedPlan},
		{"What waits for a second person is asked for once and decided once S36", wishes},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
	if two {
		t.Run("Two services keep the quota exact A42", func(t *testing.T) {
			o := open(t)
			quotaOn(t, o(t), o(t))
		})
		t.Run("Two services make one reservation for one unit", func(t *testing.T) {
			o := open(t)
			oneUnitOn(t, o(t), o(t))
		})
		t.Run("Of two services one gives a new key or the other installs a unit S10", func(t *testing.T) {
			o := open(t)
			installRaceOn(t, o(t), o(t))
		})
		t.Run("Two services that replace a key by the same one make one reservation S9", func(t *testing.T) {
			o := open(t)
			rekeyRaceOn(t, o(t), o(t))
		})
	}
}

const tenant = access.DefaultTenant

// order makes an open order without going through approval: the suite is about
// rows, the envelope is provisioner's.
func order(t *testing.T, db *store.DB, id string, quantity int64) {
	t.Helper()
	ctx := t.Context()
	b := provisioner.Body{ID: id, Tenant: tenant, Product: "p", Quantity: quantity, Serials: provisioner.SerialRule{Pattern: ".*"}, KeyOrigin: profile.OriginClaimed, CreatedBy: "ann"}
	canonical, err := b.Canonical()
	must(t, err)
	must(t, db.CreateOrder(ctx, provisioner.Order{Body: b, State: provisioner.OrderDraft, Canonical: canonical, CreatedAt: time.Now(), ChangedAt: time.Now()}))
	must(t, db.SetOrder(ctx, access.Scope{Tenant: tenant}, id, []provisioner.OrderState{provisioner.OrderDraft}, provisioner.OrderOpen, []byte("{}"), time.Now()))
}

func used(t *testing.T, db *store.DB, id string) int64 {
	t.Helper()
	o, err := db.Order(t.Context(), access.Scope{Tenant: tenant}, id)
	must(t, err)
	return o.Used
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, want *fault.Definition) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %s", err, want.Code)
	}
}

// claim makes a claim for a unit with a key of its own.
func claim(t testing.TB, account string, quota int64, unit, key string) ca.Claim {
	serial, err := ca.NewSerial(time.Now(), rand.Reader)
	must(t, err)
	c := ca.Claim{
		Identity: ca.Identity{Tenant: tenant, Holder: unit, Profile: "idevid"}, Account: account, Quota: quota,
		SPKI: sha256.Sum256([]byte(key)), Rekey: ca.RekeyBeforeInstalled, MaxRekeys: 3,
		Authority: "devices", Version: 1, Serial: serial, TBS: []byte("tbs of " + unit + serial.String()), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		Requester: ca.Requester{Actor: "station:s"}, Now: time.Now(),
	}
	return c
}

func replay(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 5)
	l := db.Ledger()
	c := claim(t, "o", 5, "U1", "k1")
	r, issued, err := l.Reserve(t.Context(), c)
	must(t, err)
	if issued != nil || r.Resumed || string(r.TBS) != string(c.TBS) || r.Serial != c.Serial {
		t.Fatalf("first reservation: %+v", r)
	}
	out, err := l.Record(t.Context(), r, []byte("der"))
	must(t, err)
	if out.Replayed || string(out.DER) != "der" {
		t.Fatalf("record: %+v", out)
	}
	again := claim(t, "o", 5, "U1", "k1")
	_, issued, err = l.Reserve(t.Context(), again)
	must(t, err)
	if issued == nil || !issued.Replayed || string(issued.DER) != "der" || issued.Serial != c.Serial || issued.Leaf != out.Leaf {
		t.Fatalf("replay: %+v", issued)
	}
	if n := used(t, db, "o"); n != 1 {
		t.Errorf("used %d of the quota", n)
	}
	rec, err := db.RecordBySerial(t.Context(), tenant, "devices", c.Serial)
	must(t, err)
	if rec.Shown != "U1" || string(rec.DER) != "der" || string(rec.TBS) != string(c.TBS) || rec.Requester != "station:s" {
		t.Errorf("record: %+v", rec)
	}
}

func resume(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 5)
	first, _, err := db.Ledger().Reserve(t.Context(), claim(t, "o", 5, "U1", "k1"))
	must(t, err)
	second, issued, err := db.Ledger().Reserve(t.Context(), claim(t, "o", 5, "U1", "k1"))
	must(t, err)
	if issued != nil || !second.Resumed || second.ID != first.ID || string(second.TBS) != string(first.TBS) || second.Serial != first.Serial {
		t.Fatalf("resumed %+v, first was %+v", second, first)
	}
	if n := used(t, db, "o"); n != 1 {
		t.Errorf("used %d", n)
	}
}

func quota(t *testing.T, open Open) { quotaOn(t, open(t)) }

func quotaOn(t *testing.T, dbs ...*store.DB) {
	order(t, dbs[0], "o", 100)
	var ok, exhausted atomic.Int64
	parallel(1000, func(i int) {
		db := dbs[i%len(dbs)]
		r, _, err := db.Ledger().Reserve(context.Background(), claim(t, "o", 100, fmt.Sprintf("U%d", i), fmt.Sprintf("k%d", i)))
		switch {
		case err == nil:
			if _, err := db.Ledger().Record(context.Background(), r, []byte("der")); err != nil {
				t.Error(err)
			}
			ok.Add(1)
		case errors.Is(err, ca.ErrQuota):
			exhausted.Add(1)
		default:
			t.Error(err)
		}
	})
	if ok.Load() != 100 || exhausted.Load() != 900 {
		t.Errorf("%d reserved, %d refused", ok.Load(), exhausted.Load())
	}
	if n := used(t, dbs[0], "o"); n != 100 {
		t.Errorf("used %d", n)
	}
}

func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func oneUnit(t *testing.T, open Open) { oneUnitOn(t, open(t)) }

func oneUnitOn(t *testing.T, dbs ...*store.DB) {
	order(t, dbs[0], "o", 100)
	ids := make([]int64, 50)
	ders := make([]string, 50)
	parallel(50, func(i int) {
		l := dbs[i%len(dbs)].Ledger()
		r, issued, err := l.Reserve(context.Background(), claim(t, "o", 100, "U1", "k1"))
		if err != nil {
			t.Error(err)
			return
		}
		if issued == nil {
			out, err := l.Record(context.Background(), r, fmt.Appendf(nil, "der %d", i))
			if err != nil {
				t.Error(err)
				return
			}
			issued = &out
		}
		ids[i], ders[i] = issued.ID, string(issued.DER)
	})
	for i := range ids {
		if ids[i] != ids[0] || ders[i] != ders[0] {
			t.Fatalf("answer %d is %d %q, answer 0 %d %q", i, ids[i], ders[i], ids[0], ders[0])
		}
	}
	if n := used(t, dbs[0], "o"); n != 1 {
		t.Errorf("used %d", n)
	}
}

func firstWins(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 5)
	r, _, err := db.Ledger().Reserve(t.Context(), claim(t, "o", 5, "U1", "k1"))
	must(t, err)
	a, err := db.Ledger().Record(t.Context(), r, []byte("first"))
	must(t, err)
	b, err := db.Ledger().Record(t.Context(), r, []byte("late"))
	must(t, err)
	if string(b.DER) != "first" || !b.Replayed || b.Leaf != a.Leaf {
		t.Errorf("late signature answered %+v", b)
	}
}

func rekey(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 1)
	l := db.Ledger()
	issue := func(key string) (ca.Reservation, error) {
		c := claim(t, "o", 1, "U1", key)
		r, issued, err := l.Reserve(t.Context(), c)
		if err == nil && issued == nil {
			_, err = l.Record(t.Context(), r, []byte("der "+key))
		}
		return r, err
	}
	first, err := issue("k1")
	must(t, err)
	second, err := issue("k2")
	must(t, err)
	if n := used(t, db, "o"); n != 1 {
		t.Errorf("a new key before installation used %d", n)
	}
	rec, err := db.RecordBySerial(t.Context(), tenant, "", first.Serial)
	must(t, err)
	if !rec.Revoked() || rec.State != "" || rec.Shown != "U1" {
		t.Errorf("the replaced certificate: revoked %t, state %q, holder %q", rec.Revoked(), rec.State, rec.Shown)
	}
	_, err = issue("k1") // the replaced key does not come back
	wantCode(t, err, ca.ErrHolderRevoked)
	must(t, db.Commit(t.Context(), ca.Identity{Tenant: tenant, Holder: "U1", Profile: "idevid"}, second.ID, "", []byte("sig"), time.Now()))
	_, err = issue("k3")
	wantCode(t, err, ca.ErrRework)
	if _, err := issue("k2"); err != nil {
		t.Errorf("an installed unit gets its certificate again: %v", err)
	}
}

func booted(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 2)
	l, id := db.Ledger(), ca.Identity{Tenant: tenant, Holder: "U1", Profile: "idevid"}
	issue := func(key string) (ca.Reservation, error) {
		r, issued, err := l.Reserve(t.Context(), claim(t, "o", 2, "U1", key))
		if err == nil && issued == nil {
			_, err = l.Record(t.Context(), r, []byte("der "+key))
		}
		return r, err
	}
	first, err := issue("k1")
	must(t, err)
	second, err := issue("k2")
	must(t, err)
	wantCode(t, db.Booted(t.Context(), id, first.ID, time.Now()), ca.ErrHolderRevoked)
	wantCode(t, db.Booted(t.Context(), ca.Identity{Tenant: "other", Holder: "U1", Profile: "idevid"}, second.ID, time.Now()), ca.ErrHolderRevoked)
	at := time.Now().Truncate(time.Millisecond)
	for i := range 2 {
		must(t, db.Booted(t.Context(), id, second.ID, at.Add(time.Duration(i)*time.Minute)))
	}
	_, err = issue("k3")
	wantCode(t, err, ca.ErrRework)
	_, err = issue("k2")
	must(t, err)
	unit := func() provisioner.Unit {
		t.Helper()
		units, err := db.Units(t.Context(), access.Scope{Tenant: tenant}, "o", "", 10)
		must(t, err)
		return units[0]
	}
	if u := unit(); u.State != "installed" || u.Proven || !u.InstalledAt.Equal(at) || u.Serial != second.Serial || u.Rekeys != 1 {
		t.Errorf("after the boot %+v", u)
	}
	must(t, db.Commit(t.Context(), id, second.ID, "", []byte("sig"), time.Now()))
	if u := unit(); !u.Proven || !u.InstalledAt.Equal(at) {
		t.Errorf("after a commit %+v", u)
	}
	must(t, db.EachIdentity(t.Context(), func(i ca.FsckIdentity) error {
		if !i.Genuine {
			t.Errorf("the row of %s is not as it was written", i.Holder)
		}
		return nil
	}))
}

func installRace(t *testing.T, open Open) { installRaceOn(t, open(t)) }

// installRaceOn has a commit or a boot and a new key meet, again and again: whoever is
// told yes keeps it.
func installRaceOn(t *testing.T, dbs ...*store.DB) {
	const rounds = 60
	one, two := dbs[0], dbs[len(dbs)-1]
	order(t, one, "o", rounds)
	won := [2]int{}
	for n := range rounds {
		unit := fmt.Sprintf("U%d", n)
		id := ca.Identity{Tenant: tenant, Holder: unit, Profile: "idevid"}
		r, _, err := one.Ledger().Reserve(t.Context(), claim(t, "o", rounds, unit, "k"+unit))
		must(t, err)
		_, err = one.Ledger().Record(t.Context(), r, []byte("der "+unit))
		must(t, err)
		other := claim(t, "o", rounds, unit, "other"+unit)
		start := make(chan struct{})
		var installed, replaced error
		var wg sync.WaitGroup
		wg.Go(func() {
			<-start
			if n%2 == 0 {
				installed = one.Booted(context.Background(), id, r.ID, time.Now())
			} else {
				installed = one.Commit(context.Background(), id, r.ID, "", []byte("sig"), time.Now())
			}
		})
		wg.Go(func() {
			<-start
			_, _, replaced = two.Ledger().Reserve(context.Background(), other)
		})
		close(start)
		wg.Wait()
		rec, err := one.RecordBySerial(t.Context(), tenant, "", r.Serial)
		must(t, err)
		switch {
		case installed == nil && errors.Is(replaced, ca.ErrRework):
			won[0]++
			if rec.Revoked() || rec.State != "installed" {
				t.Errorf("%s was installed, and is revoked %t, %q", unit, rec.Revoked(), rec.State)
			}
		case replaced == nil && (errors.Is(installed, ca.ErrHolderRevoked) || errors.Is(installed, provisioner.ErrUnitUnknown)):
			won[1]++
			if !rec.Revoked() || rec.State != "" {
				t.Errorf("%s was replaced, and is revoked %t, %q", unit, rec.Revoked(), rec.State)
			}
		default:
			t.Errorf("%s: installed %v, replaced %v", unit, installed, replaced)
		}
	}
	t.Logf("%d installed, %d replaced", won[0], won[1])
}

func rekeyRace(t *testing.T, open Open) { rekeyRaceOn(t, open(t)) }

// rekeyRaceOn has two ask for the same new key of a unit, again and again: what one
// reserves while the other looks is theirs both, and no key that was there before.
func rekeyRaceOn(t *testing.T, dbs ...*store.DB) {
	const rounds = 60
	order(t, dbs[0], "o", rounds)
	for n := range rounds {
		unit := fmt.Sprintf("U%d", n)
		r, _, err := dbs[0].Ledger().Reserve(t.Context(), claim(t, "o", rounds, unit, "k"+unit))
		must(t, err)
		_, err = dbs[0].Ledger().Record(t.Context(), r, []byte("der "+unit))
		must(t, err)
		claims := []ca.Claim{claim(t, "o", rounds, unit, "next"+unit), claim(t, "o", rounds, unit, "next"+unit)}
		got := make([]ca.Reservation, len(claims))
		errs := make([]error, len(claims))
		parallel(len(claims), func(i int) {
			got[i], _, errs[i] = dbs[i%len(dbs)].Ledger().Reserve(context.Background(), claims[i])
		})
		if errs[0] != nil || errs[1] != nil || got[0].ID != got[1].ID {
			t.Errorf("%s: reservations %d and %d, %v, %v", unit, got[0].ID, got[1].ID, errs[0], errs[1])
		}
	}
}

func oneKey(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 5)
	_, _, err := db.Ledger().Reserve(t.Context(), claim(t, "o", 5, "U1", "k1"))
	must(t, err)
	_, _, err = db.Ledger().Reserve(t.Context(), claim(t, "o", 5, "U2", "k1"))
	wantCode(t, err, ca.ErrKeyInUse)
	if n := used(t, db, "o"); n != 1 {
		t.Errorf("the refused request used the quota: %d", n)
	}
}

func caseFold(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 5)
	_, _, err := db.Ledger().Reserve(t.Context(), claim(t, "o", 5, "SN1", "k1"))
	must(t, err)
	_, _, err = db.Ledger().Reserve(t.Context(), claim(t, "o", 5, "sn1", "k2"))
	wantCode(t, err, ca.ErrElsewhere)
}

func requester(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 5)
	st := claim(t, "o", 5, "S", "station key")
	r, _, err := db.Ledger().Reserve(t.Context(), st)
	must(t, err)
	must(t, db.Ledger().Void(t.Context(), r.Serial, "lost"))
	c := claim(t, "o", 5, "U1", "k1")
	c.Requester = ca.Requester{Actor: "station:S", Authority: "devices", Serial: r.Serial}
	_, _, err = db.Ledger().Reserve(t.Context(), c)
	wantCode(t, err, ca.ErrRequesterRevoked)
	// In one transaction: first trusted, then revoked, then refused.
	other, _, err := db.Ledger().Reserve(t.Context(), claim(t, "o", 5, "S2", "k2"))
	must(t, err)
	err = db.Atomic(t.Context(), func(ctx context.Context) error {
		c := claim(t, "o", 5, "U3", "k3")
		c.Requester = ca.Requester{Actor: "station:S2", Authority: "devices", Serial: other.Serial}
		if _, _, err := db.Ledger().Reserve(ctx, c); err != nil {
			return err
		}
		if err := db.Ledger().Void(ctx, other.Serial, "lost"); err != nil {
			return err
		}
		c2 := claim(t, "o", 5, "U4", "k4")
		c2.Requester = c.Requester
		_, _, err := db.Ledger().Reserve(ctx, c2)
		return err
	})
	wantCode(t, err, ca.ErrRequesterRevoked)
}

func void(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 5)
	r, _, err := db.Ledger().Reserve(t.Context(), claim(t, "o", 5, "U1", "k1"))
	must(t, err)
	must(t, db.Ledger().Void(t.Context(), r.Serial, "abandoned"))
	_, err = db.Ledger().Record(t.Context(), r, []byte("der"))
	wantCode(t, err, ca.ErrHolderRevoked)
	_, _, err = db.Ledger().Reserve(t.Context(), claim(t, "o", 5, "U1", "k1"))
	wantCode(t, err, ca.ErrHolderRevoked)
}

func hold(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 5)
	l := db.Ledger()
	r, _, err := l.Reserve(t.Context(), claim(t, "o", 5, "U1", "k1"))
	must(t, err)
	_, err = l.Record(t.Context(), r, []byte("der"))
	must(t, err)
	story, err := db.Story(t.Context(), tenant, "devices", r.Serial)
	must(t, err)
	must(t, db.Revoke(t.Context(), story, crl.CertificateHold, time.Now(), "ann", "looked at"))
	for _, mode := range []ca.Rekey{ca.RekeyBeforeInstalled, ca.RekeySupersede} {
		c := claim(t, "o", 5, "U1", "k2")
		c.Rekey = mode
		_, _, err = l.Reserve(t.Context(), c)
		wantCode(t, err, ca.ErrHolderRevoked)
	}
	_, _, err = l.Reserve(t.Context(), claim(t, "o", 5, "U1", "k1"))
	wantCode(t, err, ca.ErrHolderRevoked)
	must(t, db.Release(t.Context(), story, time.Now(), "ann", "good"))
	_, issued, err := l.Reserve(t.Context(), claim(t, "o", 5, "U1", "k1"))
	must(t, err)
	if issued == nil || string(issued.DER) != "der" {
		t.Errorf("a released unit does not get its certificate: %+v", issued)
	}
	_, _, err = l.Reserve(t.Context(), claim(t, "o", 5, "U1", "k2"))
	must(t, err)
}

func grace(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 5)
	l := db.Ledger()
	done, _, err := l.Reserve(t.Context(), claim(t, "o", 5, "U1", "k1"))
	must(t, err)
	_, err = l.Record(t.Context(), done, []byte("der"))
	must(t, err)
	begun, _, err := l.Reserve(t.Context(), claim(t, "o", 5, "U2", "k2"))
	must(t, err)
	closed := time.Now()
	must(t, db.SetOrder(t.Context(), access.Scope{Tenant: tenant}, "o", []provisioner.OrderState{provisioner.OrderOpen}, provisioner.OrderClosed, nil, closed))
	for _, c := range []struct {
		unit, key string
		after     time.Duration
		want      *fault.Definition
	}{
		{"U1", "k1", 71 * time.Hour, nil},
		{"U2", "k2", 71 * time.Hour, nil},
		{"U2", "k9", time.Minute, ca.ErrAccountClosed}, // a new key is no finishing
		{"U3", "k3", time.Minute, ca.ErrAccountClosed},
		{"U1", "k1", 73 * time.Hour, ca.ErrAccountClosed},
		{"U2", "k2", 73 * time.Hour, ca.ErrAccountClosed},
	} {
		q := claim(t, "o", 5, c.unit, c.key)
		q.Now = closed.Add(c.after)
		r, issued, err := l.Reserve(t.Context(), q)
		if c.want != nil {
			wantCode(t, err, c.want)
			continue
		}
		must(t, err)
		if c.unit == "U1" && (issued == nil || issued.Serial != done.Serial) || c.unit == "U2" && (!r.Resumed || r.ID != begun.ID) {
			t.Errorf("%s %s after the end: %+v %+v", c.unit, c.after, r, issued)
		}
	}
	if n := used(t, db, "o"); n != 2 {
		t.Errorf("used %d", n)
	}
}

func abandoned(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 5)
	l := db.Ledger()
	var rs []ca.Reservation
	for i := range 4 {
		c := claim(t, "o", 5, fmt.Sprintf("U%d", i), fmt.Sprintf("k%d", i))
		c.Now = time.Now().Add(-25 * time.Hour)
		if i == 3 {
			c.Now = time.Now()
		}
		r, _, err := l.Reserve(t.Context(), c)
		must(t, err)
		rs = append(rs, r)
	}
	_, err := l.Record(t.Context(), rs[0], []byte("der"))
	must(t, err)
	must(t, l.Void(t.Context(), rs[1].Serial, "before"))
	got, last, err := db.Abandoned(t.Context(), 0, time.Now().Add(-24*time.Hour), 100)
	must(t, err)
	if len(got) != 1 || got[0] != rs[2].Serial || last != rs[2].ID {
		t.Errorf("abandoned %v up to %d, want %v up to %d", got, last, rs[2].Serial, rs[2].ID)
	}
}

func returned(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 2)
	l := db.Ledger()
	reserve := func(unit, key string) (ca.Reservation, error) {
		r, _, err := l.Reserve(t.Context(), claim(t, "o", 2, unit, key))
		return r, err
	}
	// U1 is abandoned; U2 had a certificate before its second key was abandoned.
	first, err := reserve("U1", "k1")
	must(t, err)
	had, err := reserve("U2", "k2")
	must(t, err)
	_, err = l.Record(t.Context(), had, []byte("der"))
	must(t, err)
	second, err := reserve("U2", "k2b")
	must(t, err)
	must(t, l.Void(t.Context(), first.Serial, "abandoned"))
	must(t, l.Void(t.Context(), second.Serial, "abandoned"))
	after := int64(-1)
	round := func(when string, want int) {
		t.Helper()
		last, n, err := db.ReturnQuota(t.Context(), after, 100)
		must(t, err)
		if after = last; n != want {
			t.Errorf("%s: %d units were returned, want %d", when, n, want)
		}
	}
	round("on no list yet", 0)
	if _, err := reserve("U3", "k3"); !errors.Is(err, ca.ErrQuota) {
		t.Errorf("before the list: %v", err)
	}
	size, err := db.Log().Head(t.Context())
	must(t, err)
	must(t, db.PutList(t.Context(), crl.StoredList{ListHead: crl.ListHead{Authority: "devices", Number: 1, ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour), Leaf: size}, DER: []byte("list")}, 0))
	round("listed", 1)
	round("again", 0)
	after = -1
	round("again, from the beginning", 0)
	if n := used(t, db, "o"); n != 1 {
		t.Errorf("used %d", n)
	}
	_, err = reserve("U1", "k1")
	wantCode(t, err, ca.ErrHolderRevoked) // its key is gone for ever
	_, err = reserve("U3", "k3")
	must(t, err)
	_, err = reserve("U1", "k1b")
	wantCode(t, err, ca.ErrQuota) // and its unit to somebody else
	for unit, want := range map[string]bool{"U1": false, "U2": true, "U3": true, "U4": false} {
		if taken, err := db.Taken(t.Context(), ca.Identity{Tenant: tenant, Holder: unit, Profile: "idevid"}); err != nil || taken != want {
			t.Errorf("%s is taken: %t, %v", unit, taken, err)
		}
	}
	if n := used(t, db, "o"); n != 2 {
		t.Errorf("used %d at the end", n)
	}
}

func neighbour(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 1000)
	before := db.Stats.Commits.Load()
	// The gate holds the writer until all 32 wait, so that they share a batch.
	gate := make(chan struct{})
	var held sync.WaitGroup
	held.Add(1)
	go db.Atomic(context.Background(), func(context.Context) error { held.Done(); <-gate; return nil })
	held.Wait()
	var ok atomic.Int64
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			unit, key := fmt.Sprintf("U%d", i), fmt.Sprintf("k%d", i)
			if i == 7 {
				key = "k6" // somebody else's key: refused after it wrote
			}
			if i == 6 || i == 7 {
				return
			}
			if _, _, err := db.Ledger().Reserve(context.Background(), claim(t, "o", 1000, unit, key)); err == nil {
				ok.Add(1)
			} else {
				t.Error(err)
			}
		})
	}
	var refused atomic.Int64
	for _, unit := range []string{"A", "B"} { // two holders, one key: one of them fails
		wg.Go(func() {
			_, _, err := db.Ledger().Reserve(context.Background(), claim(t, "o", 1000, unit, "shared"))
			if err == nil {
				ok.Add(1)
			} else if errors.Is(err, ca.ErrKeyInUse) {
				refused.Add(1)
			} else {
				t.Error(err)
			}
		})
	}
	close(gate)
	wg.Wait()
	if ok.Load() != 31 || refused.Load() != 1 {
		t.Errorf("%d committed, %d refused", ok.Load(), refused.Load())
	}
	if n := used(t, db, "o"); n != 31 {
		t.Errorf("used %d", n)
	}
	t.Logf("%d commits for 32 requests", db.Stats.Commits.Load()-before)
}

func dense(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 1000)
	parallel(200, func(i int) {
		r, _, err := db.Ledger().Reserve(context.Background(), claim(t, "o", 1000, fmt.Sprintf("U%d", i), fmt.Sprintf("k%d", i)))
		if err == nil {
			_, err = db.Ledger().Record(context.Background(), r, fmt.Appendf(nil, "der %d", i))
		}
		if err != nil {
			t.Error(err)
		}
	})
	size, err := db.Log().Head(t.Context())
	must(t, err)
	if size != 200 {
		t.Errorf("the log has %d leaves", size)
	}
	entries, err := db.Log().Entries(t.Context(), 0, size) // fails on a hole
	must(t, err)
	if len(entries) != 200 {
		t.Errorf("%d entries", len(entries))
	}
}

func closedOrder(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 5)
	_, _, err := db.Ledger().Reserve(t.Context(), claim(t, "no such", 5, "U1", "k1"))
	wantCode(t, err, ca.ErrAccountClosed)
	must(t, db.SetOrder(t.Context(), access.Scope{Tenant: tenant}, "o", []provisioner.OrderState{provisioner.OrderOpen}, provisioner.OrderClosed, nil, time.Now()))
	_, _, err = db.Ledger().Reserve(t.Context(), claim(t, "o", 5, "U1", "k1"))
	wantCode(t, err, ca.ErrAccountClosed)
}

func redeem(t *testing.T, open Open) {
	db := open(t)
	hash := sha256.Sum256([]byte("code"))
	must(t, db.CreateStationCode(t.Context(), provisioner.StationCode{Hash: hash, Tenant: tenant, Station: "st-1", Site: "x", CreatedBy: "ann", ExpiresAt: time.Now().Add(time.Hour)}))
	var ok, refused atomic.Int64
	parallel(100, func(i int) {
		_, err := db.Redeem(context.Background(), hash, "st-1", sha256.Sum256(fmt.Appendf(nil, "key %d", i)), time.Now())
		switch {
		case err == nil:
			ok.Add(1)
		case errors.Is(err, provisioner.ErrStationCode):
			refused.Add(1)
		default:
			t.Error(err)
		}
	})
	if ok.Load() != 1 || refused.Load() != 99 {
		t.Errorf("%d redeemed, %d refused", ok.Load(), refused.Load())
	}
}

// retake is what the second computer of a station goes through.
func retake(t *testing.T, open Open) {
	db, ctx, scope := open(t), t.Context(), access.Scope{Tenant: tenant}
	now := time.Now()
	day := 24 * time.Hour
	code := func(text string) error {
		return db.CreateStationCode(ctx, provisioner.StationCode{Hash: sha256.Sum256([]byte(text)), Tenant: tenant, Station: "st-1", Site: "x", CreatedBy: "ann", ExpiresAt: time.Now().Add(time.Hour)})
	}
	enrol := func(text, key string) error {
		_, err := db.Redeem(ctx, sha256.Sum256([]byte(text)), "st-1", sha256.Sum256([]byte(key)), now)
		return err
	}
	certify := func(key string, until time.Time) ca.Serial {
		t.Helper()
		c := claim(t, "", 0, provisioner.StationHolder("st-1"), key)
		c.Profile, c.NotAfter, c.Rekey, c.Requester = string(profile.Station), until, ca.RekeyRefuse, ca.Requester{Actor: "station:st-1", Station: "st-1"}
		r, _, err := db.Ledger().Reserve(ctx, c)
		must(t, err)
		_, err = db.Ledger().Record(ctx, r, []byte("certificate of "+key))
		must(t, err)
		return r.Serial
	}
	revoke := func(serial ca.Serial, r crl.Reason) {
		t.Helper()
		s, err := db.Story(ctx, tenant, "devices", serial)
		must(t, err)
		must(t, db.Revoke(ctx, s, r, time.Now(), "bob", ""))
	}
	must(t, code("first"))
	must(t, code("spare"))
	must(t, enrol("first", "k1"))
	wantCode(t, enrol("spare", "k2"), provisioner.ErrStationCode)
	wantCode(t, code("early"), provisioner.ErrStationExists) // it may be about to get its certificate
	one := certify("k1", now.Add(90*day))

	// Its name is not free while its certificate could be good.
	revoke(one, crl.CertificateHold)
	must(t, db.RevokeStation(ctx, scope, "st-1"))
	wantCode(t, code("held"), provisioner.ErrStationExists)
	revoke(one, crl.PrivilegeWithdrawn)

	// A code from before the revocation does not undo it, one from after it does, once.
	must(t, code("lost"))
	must(t, db.RevokeStation(ctx, scope, "st-1"))
	wantCode(t, enrol("lost", "k2"), provisioner.ErrStationCode)
	must(t, code("second"))
	wantCode(t, enrol("second", "k1"), provisioner.ErrStationKey)
	must(t, enrol("second", "k2"))
	must(t, enrol("second", "k2"))
	wantCode(t, enrol("second", "k3"), provisioner.ErrStationCode)
	wantCode(t, enrol("first", "k1"), provisioner.ErrStationCode) // the former may not come again
	st, err := db.Station(ctx, scope, "st-1")
	must(t, err)
	if st.State != "active" || st.SPKI != sha256.Sum256([]byte("k2")) {
		t.Errorf("%+v", st)
	}
	c := claim(t, "", 0, provisioner.StationHolder("st-1"), "k9")
	c.Profile, c.Requester = string(profile.Station), ca.Requester{Actor: "station:st-1", Station: "st-1", Authority: "devices", Serial: one}
	_, _, err = db.Ledger().Reserve(ctx, c)
	wantCode(t, err, ca.ErrRequesterRevoked) // its certificate stays revoked
	certify("k2", now.Add(90*day))

	// S16 holds: a name that was blocked stays so.
	must(t, db.RevokeStation(ctx, scope, "st-1"))
	_, err = db.Block(ctx, tenant, provisioner.StationHolder("st-1"), time.Now(), "bob", "")
	must(t, err)
	wantCode(t, code("fifth"), provisioner.ErrStationExists)
	must(t, db.BrokenRows(ctx, func(object string, err error) { t.Errorf("%s: %v", object, err) }))
}

func tenants(t *testing.T, open Open) {
	db := open(t)
	order(t, db, "o", 5)
	c := claim(t, "o", 5, "U1", "k1")
	_, _, err := db.Ledger().Reserve(t.Context(), c)
	must(t, err)
	other := access.Scope{Tenant: "other"}
	if _, err := db.Order(t.Context(), other, "o"); !errors.Is(err, provisioner.ErrOrderUnknown) {
		t.Errorf("order: %v", err)
	}
	if got, err := db.Orders(t.Context(), other, "", 0); err != nil || len(got) != 0 {
		t.Errorf("orders: %v %v", got, err)
	}
	if got, err := db.Units(t.Context(), other, "o", "", 0); err != nil || len(got) != 0 {
		t.Errorf("units: %v %v", got, err)
	}
	if _, err := db.RecordBySerial(t.Context(), "other", "", c.Serial); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("record: %v", err)
	}
	if got, err := db.Records(t.Context(), ca.RecordQuery{Tenant: "other"}); err != nil || len(got) != 0 {
		t.Errorf("records: %v %v", got, err)
	}
}

func panics(t *testing.T, open Open) {
	db := open(t)
	if err := db.Atomic(t.Context(), func(context.Context) error { panic("boom") }); err == nil || fault.KindOf(err) == fault.NotFound {
		t.Errorf("got %v", err)
	}
	order(t, db, "o", 1) // the writer lives
}
