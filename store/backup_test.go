package store_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/crl"
	"hallmark/internal/fsck"
	"hallmark/provisioner"
	"hallmark/store"
	"hallmark/store/storetest"
)

// places are the two engines; each call gives an empty database.
func places(t *testing.T) map[string]func() string {
	return map[string]func() string{
		"sqlite":   func() string { return filepath.Join(t.TempDir(), "h.db") },
		"postgres": func() string { return storetest.Postgres(t) },
	}
}

// dumped is a snapshot in memory.
func dumped(t *testing.T, db *store.DB) (chunks [][]byte, f store.SnapshotFacts, rows map[string]int64) {
	t.Helper()
	ctx := t.Context()
	s, err := db.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if f, err = s.Facts(ctx); err != nil {
		t.Fatal(err)
	}
	names, all, err := s.Tables(ctx)
	if err != nil {
		t.Fatal(err)
	}
	rows = map[string]int64{}
	var sum int64
	for _, n := range names {
		if err := s.Read(ctx, n, func(c store.Chunk) error {
			got, err := store.CheckChunk(c.Data)
			if err != nil || got.Table != n || got.Rows != c.Rows {
				t.Errorf("chunk of %s: %+v, %v", n, got, err)
			}
			rows[n] += c.Rows
			sum += c.Rows
			chunks = append(chunks, bytes.Clone(c.Data))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if sum != all {
		t.Errorf("%d rows were announced, %d came", all, sum)
	}
	return chunks, f, rows
}

func load(t *testing.T, url string, version int, chunks [][]byte) *store.Loader {
	t.Helper()
	l, err := store.NewLoader(t.Context(), store.Config{URL: url, Seal: box(t)}, version)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chunks {
		if err := l.Load(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

func findings(t *testing.T, db *store.DB) (out []fsck.Finding) {
	t.Helper()
	a, err := ca.Fsck(t.Context(), db, time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := crl.Fsck(t.Context(), db, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.BrokenRows(t.Context(), func(object string, err error) {
		b = append(b, fsck.Finding{Check: "row", Object: object, Detail: err.Error()})
	}); err != nil {
		t.Fatal(err)
	}
	return append(a, b...)
}

// A77: a snapshot of either engine is the same database on either engine, row by
// row and seal by seal, and the service goes on writing while it is made.
func TestSnapshot_MovesBetweenEngines_A77(t *testing.T) {
	for from, source := range places(t) {
		for to, target := range places(t) {
			t.Run(from+" to "+to, func(t *testing.T) {
				ctx := t.Context()
				db := opener(source())(t)
				storetest.Order(t, db, "PO-1", 100)
				for _, u := range []string{"SN-1", "SN-2", "SN-3"} {
					storetest.Make(t, db, storetest.Birth(t, "PO-1", "s", u))
				}
				revoked := storetest.Make(t, db, storetest.Birth(t, "PO-1", "s", "SN-4"))
				svc := crl.New(crl.Config{Store: db})
				if _, err := svc.Revoke(ctx, storetest.Officer("olga"), crl.Withdrawal{Authority: "devices", Serial: revoked, Reason: crl.KeyCompromise}); err != nil {
					t.Fatal(err)
				}
				code := provisioner.StationCode{Hash: [32]byte{7}, Tenant: access.DefaultTenant, Station: "line-9", Site: "x", CreatedBy: "ann", ExpiresAt: time.Now().Add(time.Hour)}
				if err := db.CreateStationCode(ctx, code); err != nil {
					t.Fatal(err)
				}
				chunks, facts, rows := dumped(t, db)
				before := findings(t, db)
				if rows["certificates"] != 4 || rows["revocations"] != 1 || facts.Log != 5+1 || facts.LastReservation == 0 || len(facts.LastSerial) != 20 {
					t.Fatalf("%+v %v", facts, rows)
				}

				url := target()
				l := load(t, url, facts.Version, chunks)
				for n, want := range rows {
					if l.Rows[n] != want {
						t.Errorf("table %s: %d rows of %d", n, l.Rows[n], want)
					}
				}
				if _, err := store.NewLoader(ctx, store.Config{URL: url, Seal: box(t)}, facts.Version); !errors.Is(err, store.ErrNotEmpty) {
					t.Errorf("a database that is there: %v", err)
				}
				again := opener(url)(t)
				chunks2, facts2, _ := dumped(t, again)
				facts2.Engine = facts.Engine
				if facts2.Log != facts.Log || facts2.LastReservation != facts.LastReservation || !bytes.Equal(facts2.LastSerial, facts.LastSerial) || facts2.Version != facts.Version {
					t.Errorf("%+v became %+v", facts, facts2)
				}
				if from == to && len(chunks) != len(chunks2) {
					t.Errorf("%d chunks became %d", len(chunks), len(chunks2))
				}
				if after := findings(t, again); len(after) != len(before) {
					t.Errorf("before %v, after %v", before, after)
				}
				// A14: a compromised key is refused after the restore too, whoever asks.
				c := storetest.Birth(t, "PO-1", "s", "SN-4")
				c.Holder = "OTHER"
				if _, _, err := again.Ledger().Reserve(ctx, c); !errors.Is(err, ca.ErrKeyCompromised) {
					t.Errorf("the compromised key: %v", err)
				}
				// New rows find their place above the old ones.
				storetest.Make(t, again, storetest.Birth(t, "PO-1", "s", "SN-5"))
			})
		}
	}
}

// A snapshot that was begun does not see what is written after, and does not
// stop it.
func TestSnapshot_IsOneMoment_A77(t *testing.T) {
	for name, source := range places(t) {
		t.Run(name, func(t *testing.T) {
			db := opener(source())(t)
			storetest.Order(t, db, "PO-1", 100)
			storetest.Make(t, db, storetest.Birth(t, "PO-1", "s", "SN-1"))
			s, err := db.Snapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			storetest.Make(t, db, storetest.Birth(t, "PO-1", "s", "SN-2"))
			var seen int64
			if err := s.Read(t.Context(), "certificates", func(c store.Chunk) error { seen += c.Rows; return nil }); err != nil {
				t.Fatal(err)
			}
			n, err := db.CountCertificates(t.Context())
			if err != nil || n != 2 || seen != 1 {
				t.Errorf("the snapshot has %d, the database %d: %v", seen, n, err)
			}
		})
	}
}

func TestLoader_RefusesWhatIsNoSnapshot(t *testing.T) {
	l, err := store.NewLoader(t.Context(), store.Config{URL: filepath.Join(t.TempDir(), "h.db"), Seal: box(t)}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, bad := range [][]byte{nil, {1}, {2, 0}, {1, 1, 'x', 1, 1, 'y', 1, 0}, {1, 6, 'o', 'r', 'd', 'e', 'r', 's', 1, 1, '"', 1, 0}, append([]byte{1, 6}, "orders\x01\x02id\xff\xff\xff\xff\x0f"...)} {
		if err := l.Load(t.Context(), bad); !errors.Is(err, store.ErrLoad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := store.NewLoader(t.Context(), store.Config{URL: filepath.Join(t.TempDir(), "h.db"), Seal: box(t)}, 10_000); !errors.Is(err, store.ErrNewer) {
		t.Errorf("a newer schema: %v", err)
	}
}

func FuzzCheckChunk(f *testing.F) {
	f.Add([]byte("\x01\x06orders\x01\x02id\x01\x02\x01a"))
	f.Add([]byte("\x01\x06orders\x02\x02id\x04used\x02\x02\x01a\x01\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if c, err := store.CheckChunk(in); err == nil && (c.Rows <= 0 || c.Table == "" && len(in) < 4) {
			t.Errorf("%+v", c)
		}
	})
}
