package storetest

import (
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/crl"
	"hallmark/provisioner"
	"hallmark/store"
)

// issue makes a unit's certificate.
func issue(t testing.TB, db *store.DB, c ca.Claim) (*ca.Issued, error) {
	r, got, err := db.Ledger().Reserve(t.Context(), c)
	if err != nil || got != nil {
		return got, err
	}
	out, err := db.Ledger().Record(t.Context(), r, []byte("der of "+c.Holder))
	return &out, err
}

// Guesses runs what a lone writer takes for granted while it is not so: a second
// service did what the first does not know of. Nothing may differ from asking.
// url gives a new database.
func Guesses(t *testing.T, url func(t testing.TB) string, open func(url string) Open) {
	type world struct {
		*testing.T
		url      string
		station  ca.Serial // of a requester's certificate that the first service trusts
		one, two *store.DB
	}
	for name, test := range map[string]func(w world){
		"the other service issued": func(w world) {
			for i := range 3 {
				_, err := issue(w, w.two, claim(w, "o", 1000, fmt.Sprintf("T%d", i), fmt.Sprintf("t%d", i)))
				must(w, err)
			}
			out, err := issue(w, w.one, claim(w, "o", 1000, "U1", "k1"))
			must(w, err)
			if out.Replayed {
				w.Error("replayed")
			}
		},
		"the unit exists": func(w world) {
			first, err := issue(w, w.two, claim(w, "o", 1000, "U1", "k1"))
			must(w, err)
			again, err := issue(w, w.one, claim(w, "o", 1000, "U1", "k1"))
			must(w, err)
			if !again.Replayed || again.Serial != first.Serial || string(again.DER) != string(first.DER) {
				w.Errorf("got %+v, the other service gave %+v", again, first)
			}
		},
		"the key has another holder A15": func(w world) {
			_, err := issue(w, w.two, claim(w, "o", 1000, "U1", "k1"))
			must(w, err)
			_, err = issue(w, w.one, claim(w, "o", 1000, "U2", "k1"))
			wantCode(w.T, err, ca.ErrKeyInUse)
		},
		"the unit is blocked": func(w world) {
			_, err := w.two.Block(w.Context(), tenant, "u1", time.Now(), "ann", "stolen")
			must(w, err)
			_, err = issue(w, w.one, claim(w, "o", 1000, "U1", "k1"))
			wantCode(w.T, err, ca.ErrHolderBlocked)
		},
		"the requester is revoked S19": func(w world) {
			story, err := w.two.Story(w.Context(), tenant, "devices", w.station)
			must(w, err)
			must(w, w.two.Revoke(w.Context(), story, crl.KeyCompromise, time.Now(), "ann", ""))
			c := claim(w, "o", 1000, "U1", "k1")
			c.Requester = ca.Requester{Actor: "station:S", Authority: "devices", Serial: story.Serial}
			_, err = issue(w, w.one, c)
			wantCode(w.T, err, ca.ErrRequesterRevoked)
		},
		"the order is closed": func(w world) {
			must(w, w.two.SetOrder(w.Context(), access.Scope{Tenant: tenant}, "o", []provisioner.OrderState{provisioner.OrderOpen}, provisioner.OrderClosed, nil, time.Now()))
			_, err := issue(w, w.one, claim(w, "o", 1000, "U1", "k1"))
			wantCode(w.T, err, ca.ErrAccountClosed)
		},
		"the order is used up A42": func(w world) {
			n := used(w.T, w.two, "o")
			_, err := issue(w, w.two, claim(w, "o", n+1, "T1", "t1"))
			must(w, err)
			_, err = issue(w, w.one, claim(w, "o", n+1, "U1", "k1"))
			wantCode(w.T, err, ca.ErrQuota)
			if got := used(w.T, w.one, "o"); got != n+1 {
				w.Errorf("used %d of %d", got, n+1)
			}
		},
		"the reservation is void S8": func(w world) {
			r, _, err := w.one.Ledger().Reserve(w.Context(), claim(w, "o", 1000, "U1", "k1"))
			must(w, err)
			must(w, w.two.Ledger().Void(w.Context(), r.Serial, "lost"))
			_, err = w.one.Ledger().Record(w.Context(), r, []byte("der"))
			wantCode(w.T, err, ca.ErrHolderRevoked)
		},
		"the head is gone S32": func(w world) {
			raw, err := sql.Open("pgx", w.url)
			must(w, err)
			defer raw.Close()
			r, _, err := w.one.Ledger().Reserve(w.Context(), claim(w, "o", 1000, "U1", "k1"))
			must(w, err)
			_, err = raw.Exec(`DELETE FROM log_head`)
			must(w, err)
			if _, err = w.one.Ledger().Record(w.Context(), r, []byte("der")); !errors.Is(err, store.ErrRowTampered) {
				w.Errorf("got %v", err)
			}
			_, err = raw.Exec(`INSERT INTO log_head (id, size) SELECT 1, COUNT(*) FROM log_leaves`)
			must(w, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := world{T: t, url: url(t)}
			w.one, w.two = open(w.url)(t), open(w.url)(t)
			order(t, w.one, "o", 1000)
			s, err := issue(t, w.one, claim(t, "o", 1000, "S", "station"))
			must(t, err)
			w.station = s.Serial
			for i := 0; w.one.Stats.Guessed.Load() < 4; i++ {
				c := claim(t, "o", 1000, fmt.Sprintf("W%d", i), fmt.Sprintf("w%d", i))
				if i%2 == 0 {
					c.Requester = ca.Requester{Actor: "station:S", Authority: "devices", Serial: s.Serial}
				}
				if _, err := issue(t, w.one, c); err != nil || i > 500 {
					t.Fatalf("unit %d: %v", i, err)
				}
			}
			if n := w.one.Stats.Wrong.Load(); n != 0 {
				t.Fatalf("%d wrong guesses of a lone writer", n)
			}
			test(w)
			if n := w.one.Stats.Wrong.Load(); n == 0 {
				t.Error("nothing was guessed")
			}
			size, err := w.one.Log().Head(t.Context())
			must(t, err)
			entries, err := w.two.Log().Entries(t.Context(), 0, size) // fails on a hole
			if must(t, err); int64(len(entries)) != size {
				t.Errorf("%d entries of %d", len(entries), size)
			}
			if _, err := issue(t, w.one, claim(t, "", 0, "A1", "a1")); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}
