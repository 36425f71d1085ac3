package registry_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"hallmark/ca/catest"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
)

// device is a thing's rows, as the index has them.
func device(fields map[string]any) map[string][]registry.Row {
	out := map[string][]registry.Row{}
	for _, r := range registry.Flatten("", fields) {
		out[r.Field] = append(out[r.Field], r)
	}
	return out
}

func TestFilter_FindsWhatTheLanguageSays(t *testing.T) {
	rows := device(map[string]any{
		"thingName": "Press:7", "thingGroupNames": []string{"Hall", "all"}, "version": int64(3),
		"attributes":   map[string]string{"model": "X (one)", "size": "5.0", "note": `a"b`, "long": strings.Repeat("é", 900), "empty": ""},
		"connectivity": map[string]any{"connected": true, "timestamp": int64(1700000000000)},
		"shadow":       map[string]any{"reported": map[string]any{"heat": 55.5, "tags": []any{"a", 7.0, nil}, "none": nil}},
	})
	for query, want := range map[string]bool{
		"*": true, "thingName:press:7": true, "thingName:PRESS*": true, "thingName:p*s:7": true, "thingName:press?7": true, "thingName:press?": false,
		"thingName:pr?s*7": true, "thingName:x*": false, "thingGroupNames:hall": true, "thingGroupNames:hall thingGroupNames:ALL": true, "thingGroupNames:ha": false,
		`attributes.model:"x (one)"`: true, `attributes.model:"x*"`: false, `attributes.model:x\ \(one\)`: true, `attributes.note:"a\"b"`: true, `attributes.empty:""`: true, `attributes.model:""`: false,
		"attributes.size:5": true, "attributes.size:5.00": true, "attributes.size:[1 TO 5]": true, "attributes.size:{1 TO 5}": false, "attributes.size:{1 TO 5]": true, "attributes.size:[* TO 4]": false,
		"attributes.size>4.9": true, "attributes.size:>5": false, "attributes.size >= 5": true, "attributes.size<=5": true, "attributes.size<5": false,
		"attributes.model:[a TO y]": true, "attributes.model:[a TO x]": false, "attributes.model>w": true, "attributes.model:*": true, "attributes.other:*": false, "attributes.model:[* TO *]": true,
		"connectivity.connected:true": true, "connectivity.connected:TRUE": true, "connectivity.connected:false": false, "connectivity.timestamp>1699999999999": true,
		"shadow.reported.heat:55.5": true, "shadow.reported.tags:a shadow.reported.tags:7": true, "shadow.reported.tags:[6 TO 8]": true, "shadow.reported.none:*": false,
		"NOT thingName:a": true, "-thingName:press*": false, "-thingName:a -thingName:b": true, "NOT NOT version:3": true,
		"thingName:a OR version:3": true, "thingName:a OR version:3 AND version:4": false, "(thingName:a OR version:3) AND version:3": true, "(thingName:a OR version:3) version:4": false,
		"attributes.Model:*": false, "-(thingName:a OR thingName:b)": true, "attributes.long:" + strings.Repeat("É", 450): true, "version:[2 TO 3]": true, "version:three": false,
		"attributes.model:[1 TO 5]": false, "attributes.model:[1 TO z]": true,
	} {
		f, err := registry.ParseFilter(query)
		if err != nil {
			if !strings.Contains(query, "É") || len(query) <= registry.MaxFilterBytes {
				t.Errorf("%s: %v", query, err)
			}
			continue
		}
		if got := f.Matches(rows); got != want {
			t.Errorf("%s: %t", query, got)
		}
	}
}

func TestParseFilter_NamesThePositionOfAMistake(t *testing.T) {
	many := strings.Repeat("version:1 ", registry.MaxFilterTerms+1)
	for query, at := range map[string]int{
		"": 1, "  ": 3, "abc": 1, "version:1 abc": 11, "nothing:1": 1, "Version:1": 1, "shadow.:x": 1, "thingName:": 11, "thingName:*a": 11, "thingName: AND": 0,
		"version:1 AND": 14, "AND version:1": 1, "version:1 OR OR version:2": 14, "(version:1": 1, "version:1)": 10, "()": 2, "version:[1 TO": 14, "version:[1 5]": 12, "version:[1 TO 5": 9,
		"version:[1* TO 5]": 10, `thingName:"a`: 11, "version>": 9, "version>*": 9, "- version:1": 1, "version:1 \x00": 11, "version:1 \xff": 11, "thingName:a[": 0,
		many: 71, strings.Repeat("(", 40) + "version:1" + strings.Repeat(")", 40): 34, strings.Repeat("a", registry.MaxFilterBytes+1): registry.MaxFilterBytes + 1,
	} {
		_, err := registry.ParseFilter(query)
		if at == 0 {
			if err != nil {
				t.Errorf("%q: %v", query, err)
			}
			continue
		}
		var f *fault.Fault
		if !errors.As(err, &f) || !errors.Is(err, registry.ErrFilter) {
			t.Errorf("%q: %v", query, err)
		} else if !strings.HasPrefix(f.Detail, fmt.Sprintf("At %d: ", at)) {
			t.Errorf("%q: want position %d, got %s", query, at, f.Detail)
		}
	}
}

func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{"*", "thingName:a* AND -attributes.b:\"c d\"", "shadow.reported.x:[1 TO 5} OR (version>=3 NOT thingGroupNames:?a)", `attributes.a\:b:\*`, "connectivity.timestamp<1e3"} {
		f.Add(s, "Press 7")
	}
	f.Fuzz(func(t *testing.T, s, value string) {
		q, err := registry.ParseFilter(s)
		if err != nil {
			if !errors.Is(err, registry.ErrFilter) {
				t.Fatal(err)
			}
			return
		}
		if q.Terms > registry.MaxFilterTerms || len(s) > registry.MaxFilterBytes {
			t.Fatal("beyond the limits")
		}
		rows := device(map[string]any{"thingName": value, "attributes": map[string]string{"a": value, "b": "5"}, "version": 3.0})
		yes := q.Matches(rows)
		no, err := registry.ParseFilter("NOT (" + s + ")")
		if err == nil && no.Matches(rows) == yes {
			t.Errorf("%q and its opposite agree", s)
		}
		if twice, err := registry.ParseFilter("(" + s + ")"); err == nil && twice.Matches(rows) != yes {
			t.Errorf("%q in brackets differs", s)
		}
	})
}

// The database finds what the evaluator in memory finds, whatever is asked.
func TestSearch_AgreesWithTheNaiveTwin(t *testing.T) {
	both(t, func(t *testing.T, x *catest.Fixture, r *registry.Registry) {
		ctx, rnd := t.Context(), rand.New(rand.NewPCG(1, 2))
		words := []string{"a", "ab", "abc", "b%", "b_", `b\`, "5", "5.0", "-3", "40", "É", ""}
		things := map[string]map[string][]registry.Row{}
		for i := range 150 {
			name := fleet.ThingName(fmt.Sprintf("T%03d", i))
			_, err := r.CreateThing(ctx, registry.Thing{Tenant: main.Tenant, Name: name, Attributes: map[string]string{"x": words[rnd.IntN(len(words))], "y": fmt.Sprint(rnd.IntN(5))}})
			ok(t, err)
			ok(t, r.Index(ctx, main.Tenant, name, registry.PrefixShadow, map[string]any{"reported": map[string]any{"z": []any{words[rnd.IntN(len(words))], float64(rnd.IntN(50))}}}))
			rows, err := r.Indexed(ctx, main, name, "")
			ok(t, err)
			m := map[string][]registry.Row{}
			for _, row := range rows {
				m[row.Field] = append(m[row.Field], row)
			}
			things[name.Fold()] = m
		}
		term := func() string {
			field := []string{"attributes.x", "attributes.y", "shadow.reported.z", "thingName"}[rnd.IntN(4)]
			w := func() string { return `"` + strings.ReplaceAll(words[rnd.IntN(len(words))], `\`, `\\`) + `"` }
			switch rnd.IntN(7) {
			case 0:
				return field + ":" + w()
			case 1:
				return fmt.Sprintf("%s:[%s TO %s]", field, w(), w())
			case 2:
				return fmt.Sprintf("%s>=%d", field, rnd.IntN(50))
			case 3:
				return fmt.Sprintf("%s:{%d TO %d]", field, rnd.IntN(5), rnd.IntN(50))
			case 4:
				return field + []string{":*", ":a*", ":a?*", `:b\%*`, `:b_`, ":?", ":t0?5", ":t1*", `:b\\*`}[rnd.IntN(9)]
			case 5:
				return fmt.Sprintf("thingName:t%02d*", rnd.IntN(15))
			}
			return field + ":" + fmt.Sprint(rnd.IntN(50))
		}
		var expr func(depth int) string
		expr = func(depth int) string {
			switch n := rnd.IntN(6); {
			case depth == 0 || n < 2:
				return term()
			case n == 2:
				return "NOT " + expr(0)
			case n == 3:
				return "(" + expr(depth-1) + " OR " + expr(depth-1) + ")"
			}
			return "(" + expr(depth-1) + " AND " + expr(depth-1) + ")"
		}
		for range 100 {
			query := expr(2)
			f, err := registry.ParseFilter(query)
			if err != nil {
				t.Fatalf("%s: %v", query, err)
			}
			want := 0
			for _, m := range things {
				if f.Matches(m) {
					want++
				}
			}
			got, last, limit := 0, "", 1+rnd.IntN(60)
			for cursor := ""; ; {
				page, err := r.Search(ctx, main, query, cursor, limit)
				if err != nil {
					t.Fatalf("%s: %v", query, err)
				}
				for _, th := range page.Things {
					if n := th.Name.Fold(); n <= last || !f.Matches(things[n]) {
						t.Fatalf("%s finds %s after %s", query, n, last)
					} else {
						last = n
					}
					got++
				}
				if cursor = page.Next; cursor == "" {
					break
				}
			}
			n, err := r.Count(ctx, main, query)
			if err != nil || got != want || int(n) != want {
				t.Fatalf("%s: found %d, counted %d, should %d: %v", query, got, n, want, err)
			}
		}
	})
}
