package access_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/access"
)

// entries makes a trail as the store does.
func entries(t testing.TB, n int, salt string) (rows []access.TrailRow) {
	t.Helper()
	var head access.TrailHead
	for i := range n {
		e := access.TrailEntry{At: time.Date(2026, 11, 22, 8, 0, i, 0, time.UTC), Tenant: "main", Actor: "principal:ann", Role: access.Platform, Action: access.CreatePrincipal,
			On: "POST /api/v1/principals", About: map[string]string{"name": fmt.Sprintf("wei-%d", i)}, Request: fmt.Sprintf("%016x", i) + salt, From: "192.0.2.1", Outcome: access.TrailDone}
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		head = head.Next(raw)
		rows = append(rows, access.TrailRow{Seq: head.Seq, Hash: head.Hash, Entry: raw})
	}
	return rows
}

func headOf(rows []access.TrailRow) access.TrailHead {
	r := rows[len(rows)-1]
	return access.TrailHead{Seq: r.Seq, Hash: r.Hash}
}

// first names the first bad entry, 0 if there is none.
func first(t testing.TB, rows []access.TrailRow, signed ...access.TrailHead) int64 {
	t.Helper()
	chain := access.NewChain(signed...)
	for _, r := range rows {
		if err := chain.Add(r); err != nil {
			return chain.Head().Seq + 1
		}
	}
	if err := chain.End(); err != nil {
		return chain.Head().Seq + 1
	}
	return 0
}

// A75: what was deleted, swapped or set back is named by its first bad entry, against
// a checkpoint that was kept elsewhere.
func TestA75_ChainNamesTheFirstBadEntry(t *testing.T) {
	rows := entries(t, 40, "")
	head := headOf(rows)
	hidden := slices.Clone(rows)
	for i := range hidden {
		if i%3 == 0 {
			hidden[i] = hidden[i].Hide()
		}
	}
	swapped := slices.Clone(rows)
	swapped[11], swapped[12] = swapped[12], swapped[11]
	renumbered := slices.Clone(swapped)
	renumbered[11].Seq, renumbered[12].Seq = 12, 13
	old := append(slices.Clone(rows[:20]), entries(t, 40, "again")[20:]...)
	for name, c := range map[string]struct {
		rows []access.TrailRow
		want int64
	}{
		"as written":                     {rows, 0},
		"others' content hidden":         {hidden, 0},
		"the last one deleted":           {rows[:39], 40},
		"the last 15 deleted":            {rows[:25], 26},
		"everything deleted":             {nil, 1},
		"the first one deleted":          {rows[1:], 1},
		"one in the middle deleted":      {slices.Delete(slices.Clone(rows), 19, 20), 20},
		"two swapped":                    {swapped, 12},
		"two swapped with their numbers": {renumbered, 12},
		"an old one gone on with":        {old, 21},
		"written anew":                   {entries(t, 40, "anew"), 40}, // which is all that one checkpoint can say
	} {
		if got := first(t, c.rows, head); got != c.want {
			t.Errorf("%s: entry %d, want %d", name, got, c.want)
		}
	}
	// What no checkpoint vouches for yet can be cut off unseen: that is the lag.
	if got := first(t, rows[:39], headOf(rows[:39])); got != 0 {
		t.Errorf("newer than the checkpoint: entry %d", got)
	}
	if got := first(t, rows, headOf(rows[:10]), headOf(rows[:30])); got != 0 {
		t.Errorf("against older checkpoints: entry %d", got)
	}
}

// A75: one bit of an export, anywhere, is found in the entry where it is; 10,000
// places by hand, some hundreds here.
func TestA75_OneBitOfAnExport(t *testing.T) {
	rows := entries(t, 60, "")
	rows[7], rows[30] = rows[7].Hide(), rows[30].Hide()
	var file bytes.Buffer
	var ends []int
	for _, r := range rows {
		line, err := r.Export()
		if err != nil {
			t.Fatal(err)
		}
		file.Write(append(line, '\n'))
		ends = append(ends, file.Len())
	}
	check := func(b []byte) int64 {
		chain := access.NewChain(headOf(rows))
		for len(b) > 0 {
			line, rest, ok := bytes.Cut(b, []byte("\n"))
			r, err := access.ParseTrailRow(line)
			if !ok || err != nil || chain.Add(r) != nil {
				return chain.Head().Seq + 1
			}
			b = rest
		}
		if chain.End() != nil {
			return chain.Head().Seq + 1
		}
		return 0
	}
	if at := check(file.Bytes()); at != 0 {
		t.Fatalf("as exported: entry %d", at)
	}
	places := 500
	if os.Getenv("HALLMARK_PROOF") != "" {
		places = 10_000
	}
	for range places {
		at, bit := rand.IntN(file.Len()), rand.IntN(8)
		b := bytes.Clone(file.Bytes())
		b[at] ^= 1 << bit
		want, _ := slices.BinarySearch(ends, at+1)
		if got := check(b); got != int64(want)+1 {
			t.Fatalf("octet %d, bit %d: entry %d is named, it is in entry %d", at, bit, got, want+1)
		}
	}
	for range 50 {
		n := rand.IntN(file.Len())
		want, _ := slices.BinarySearch(ends, n+1)
		if got := check(file.Bytes()[:n]); got != int64(want)+1 {
			t.Fatalf("cut off at octet %d: entry %d is named, want %d", n, got, want+1)
		}
	}
}

func TestTrailHead_IsOneLineOfACheckpoint(t *testing.T) {
	head := headOf(entries(t, 3, ""))
	got, err := access.ParseTrailHead("other 1\n" + head.Line())
	if err != nil || got != head {
		t.Errorf("%+v %v", got, err)
	}
	if got, err := access.ParseTrailHead("other 1\n"); err != nil || got.Seq != 0 {
		t.Errorf("without: %+v %v", got, err)
	}
	if (access.TrailHead{}).Line() != "" {
		t.Error("an empty trail has a line")
	}
	for _, bad := range []string{"trail \n", "trail 3\n", "trail x " + strings.TrimPrefix(head.Line(), "trail 3 "), "trail 03 " + strings.TrimPrefix(head.Line(), "trail 3 "), head.Line() + head.Line(), "trail -1" + head.Line()[7:]} {
		if _, err := access.ParseTrailHead(bad); !errors.Is(err, access.ErrTrailHead) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// G3: refused sign-ins are in the trail, and strangers cannot fill it.
func TestSignIn_RefusalsAreBounded(t *testing.T) {
	now := time.Now()
	s := &trailOnly{}
	a := access.NewAuthenticator(access.Config{Store: s, Trail: s, Now: func() time.Time { return now }})
	for i := range 3000 {
		from := fmt.Sprintf("192.0.2.%d", i%250)
		a.Authenticate(ctx, "nonsense", addr(from))
	}
	if len(s.entries) != 60 {
		t.Errorf("%d entries", len(s.entries))
	}
	now = now.Add(time.Minute)
	a.Authenticate(ctx, "nonsense", addr("192.0.2.9"))
	last := s.entries[len(s.entries)-1]
	if len(s.entries) != 61 || last.Count < 2000 || last.Action != access.SignIn || last.Outcome != access.TrailRefused || last.Code != "token-refused" || last.From != "192.0.2.9" {
		t.Errorf("the next one: %+v", last)
	}
}

// trailOnly is a store that knows nobody.
type trailOnly struct {
	access.Store
	entries []access.TrailEntry
}

func (s *trailOnly) AppendTrail(_ context.Context, e access.TrailEntry) error {
	s.entries = append(s.entries, e)
	return nil
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func FuzzParseTrailRow(f *testing.F) {
	for _, r := range entries(f, 2, "") {
		line, _ := r.Export()
		f.Add(line)
		line, _ = r.Hide().Export()
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := access.ParseTrailRow(line)
		if err != nil {
			return
		}
		if again, err := r.Export(); err != nil || !bytes.Equal(again, line) {
			t.Errorf("%q is read and written as %q", line, again)
		}
	})
}

// heard is a trail in memory.
type heard struct{ entries []access.TrailEntry }

func (h *heard) AppendTrail(_ context.Context, e access.TrailEntry) error {
	h.entries = append(h.entries, e)
	return nil
}

// A75: an action that panics leaves an entry, and the panic goes on.
func TestRecorded_APanicLeavesAnEntry_A75(t *testing.T) {
	for _, action := range []access.Action{access.CreatePrincipal, access.CreateRoot} {
		var trail heard
		func() {
			defer func() {
				if v := recover(); v != "bug" {
					t.Errorf("%s: recovered %v", action, v)
				}
			}()
			access.Recorded(t.Context(), &trail, access.TrailEntry{Actor: "principal:ann", Action: action}, func(error) string { return "internal" }, func(context.Context) error { panic("bug") })
		}()
		if len(trail.entries) == 0 {
			t.Fatalf("%s: no entry", action)
		}
		if e := trail.entries[len(trail.entries)-1]; e.Outcome != access.TrailFailed || e.Code != "internal" || e.Actor != "principal:ann" {
			t.Errorf("%s: %+v", action, e)
		}
	}
}
