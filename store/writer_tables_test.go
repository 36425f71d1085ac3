package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/crl"
	"hallmark/fleet/ownership"
	"hallmark/store"
	"hallmark/store/storetest"
)

// writtenTable is a small table that a database writer gets at.
type writtenTable struct {
	name string
	keys []string // columns that name a row: with another one it is not found
	read func() error
}

// TestWriter_EveryColumnOfASmallTable_S32: plans to revoke in bulk, devices that
// came back late, one-time passwords, wishes for approval. Each column of a row is
// changed, each row is taken, put in another's place and written twice; the next
// read refuses what fsck names.
func TestWriter_EveryColumnOfASmallTable_S32(t *testing.T) {
	writers(t, func(w *writer) {
		ctx, main := w.Context(), access.Scope{Tenant: "main"}
		w.order("o", 1_000_000)
		for i, station := range []string{"a", "b"} {
			unit := fmt.Sprintf("%s-1", station)
			storetest.Make(w, w.db, storetest.Birth(w, "o", station, unit))
			w.must(w.db.CreatePassword(ctx, onetime("id-"+station, "secret "+station)))
			w.must(w.db.PutRequest(ctx, storetest.Wish(w, "main", "20270301-"+station, station+"1"), 0))
			e := bootstrap.DarkEntry{Tenant: "main", Day: 20_500, Holder: unit, Authority: "device-1", Policy: "quarantine", At: time.Now()}
			e.Serial[0], e.SPKI[0] = byte(64+i), byte(i)
			w.must(w.db.EnterDark(ctx, e, 10))
			w.must(w.db.AddServiceKey(ctx, store.ServiceKey{Tenant: "main", Name: "key-" + station, Generation: 1, Sealed: []byte(station), CreatedAt: time.Now()}, 1))
		}
		for _, unit := range []string{"a-1", "b-1"} {
			w.must(w.db.PutUnit(ctx, ownership.Unit{Home: "main", Holder: unit, Shown: unit, Tenant: "main", State: ownership.Owned}, 0))
			w.must(w.db.AddEvent(ctx, ownership.Event{Tenant: "main", Holder: unit, Home: "main", What: ownership.DidReset, At: time.Now()}))
			w.must(w.db.PutAct(ctx, ownership.Act{Tenant: "main", Name: unit, Kind: ownership.Reset, Units: []string{unit}, State: ownership.Done}, 0))
		}
		w.must(w.db.RedeemPassword(ctx, "id-a", [32]byte{7}, time.Now()))
		bulk := storetest.NewBlast(w.db, time.Now)
		var plans []crl.BlastPlan
		for _, station := range []string{"a", "b"} {
			p, err := bulk.Plan(ctx, storetest.Officer("ann"), crl.BlastRequest{Query: crl.BlastQuery{Station: station}, Reason: crl.Superseded, PerSecond: 100}, false)
			w.must(err)
			plans = append(plans, p)
		}
		dark := func() error {
			var errs []error
			for _, unit := range []string{"a-1", "b-1"} {
				_, err := w.db.DarkEntries(ctx, main, unit)
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		}
		tables := []writtenTable{
			{"blast_plans", []string{"tenant", "id"}, func() error { _, err := w.db.Blasts(ctx, main, "", 10); return err }},
			{"blast_members", nil, func() error { // a row that is not found is one that was taken
				var errs []error
				for i := range plans {
					_, err := w.db.BlastMembers(ctx, &plans[i], 0, 10)
					errs = append(errs, err)
				}
				return errors.Join(errs...)
			}},
			{"dark_entries", []string{"tenant", "holder"}, dark},
			{"enrol_passwords", []string{"id"}, func() error {
				_, err := w.db.PasswordByID(ctx, "id-a")
				_, err2 := w.db.PasswordByID(ctx, "id-b")
				return errors.Join(err, err2)
			}},
			{"service_keys", []string{"tenant", "name"}, func() error {
				_, err := w.db.ServiceKeys(ctx, "main", "key-a")
				_, err2 := w.db.ServiceKeys(ctx, "main", "key-b")
				return errors.Join(err, err2)
			}},
			{"ownership", nil, func() error { // its history misses a row that is gone
				_, err := w.db.Unit(ctx, "main", "a-1")
				_, err2 := w.db.Unit(ctx, "main", "b-1")
				return errors.Join(err, err2)
			}},
			{"ownership_events", []string{"tenant", "holder"}, func() error {
				_, err := w.db.OwnershipEvents(ctx, main, "a-1")
				_, err2 := w.db.OwnershipEvents(ctx, main, "b-1")
				return errors.Join(err, err2)
			}},
			{"ownership_acts", []string{"tenant"}, func() error { _, err := w.db.OwnershipActs(ctx, main, "", 10); return err }},
			{"approval_requests", []string{"tenant"}, func() error { _, err := w.db.Requests(ctx, main, "", 10); return err }},
		}
		if found := w.broken(); len(found) > 0 {
			w.Fatalf("before: %v", found)
		}
		for _, table := range tables {
			w.eachColumn(table)
		}
		if found := w.broken(); len(found) > 0 {
			w.Errorf("put back: %v", found)
		}
	})
}

// eachColumn does to a table what a writer can.
func (w *writer) eachColumn(table writtenTable) {
	w.Helper()
	w.must(table.read())
	rows, err := w.raw.Query(`SELECT * FROM ` + table.name)
	w.must(err)
	columns, err := rows.Columns()
	w.must(err)
	var kept [][]any
	for rows.Next() {
		row := make([]any, len(columns))
		to := make([]any, len(columns))
		for i := range row {
			to[i] = &row[i]
		}
		w.must(rows.Scan(to...))
		kept = append(kept, row)
	}
	w.must(rows.Err())
	rows.Close()
	if len(kept) != 2 {
		w.Fatalf("%s has %d rows", table.name, len(kept))
	}
	write := func(rows ...[]any) {
		w.Helper()
		_, err := w.raw.Exec(`DELETE FROM ` + table.name)
		w.must(err)
		for _, row := range rows {
			places := make([]string, len(row))
			for i := range places {
				places[i] = fmt.Sprintf("$%d", i+1)
			}
			_, err := w.raw.Exec(`INSERT INTO `+table.name+` VALUES (`+strings.Join(places, ", ")+`)`, row...)
			w.must(err)
		}
	}
	check := func(what string, refused bool) {
		w.Helper()
		if found := w.broken(); !slices.ContainsFunc(found, func(f string) bool {
			return strings.HasPrefix(f, table.name+" ") || strings.HasPrefix(f, table.name+":")
		}) {
			w.Errorf("%s, %s: fsck says %q", table.name, what, found)
		}
		if err := table.read(); refused && !errors.Is(err, store.ErrRowTampered) {
			w.Errorf("%s, %s: it is read: %v", table.name, what, err)
		}
	}
	for i, column := range columns {
		row := slices.Clone(kept[0])
		switch v := row[i].(type) {
		case string:
			row[i] = v + "x"
		case int64:
			row[i] = v + 1
		case int32:
			row[i] = v + 1
		case []byte:
			row[i] = append([]byte{v[0] ^ 1}, v[1:]...)
		case nil:
			row[i] = make([]byte, 32)
		default:
			w.Fatalf("%s.%s is a %T", table.name, column, v)
		}
		if table.name == "dark_entries" && column == "number" {
			row[i] = int64(9) // 2 is taken
		}
		write(row, kept[1])
		check(column, !slices.Contains(table.keys, column))
	}
	write(kept[1])
	check("taken", table.name == "blast_members" || table.name == "ownership")
	// Everything of one in the place of the other, but what names it.
	swapped := slices.Clone(kept[1])
	for i, column := range columns {
		if slices.Contains([]string{"tenant", "id", "name", "plan", "first", "day", "number", "holder", "hash"}, column) {
			swapped[i] = kept[0][i]
		}
	}
	write(swapped, kept[1])
	check("in another's place", true)
	write(kept...)
}
