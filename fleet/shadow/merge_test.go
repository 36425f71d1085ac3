package shadow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func object(t testing.TB, s string) map[string]any {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(s))
	dec.UseNumber()
	var out map[string]any
	if err := dec.Decode(&out); err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return out
}

func text(t testing.TB, v any) string {
	t.Helper()
	b, err := encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMerge_FollowsTheRules(t *testing.T) {
	for name, c := range map[string]struct{ state, patch, want, meta string }{
		"adds":                        {`{}`, `{"a":1}`, `{"a":1}`, `{"a":9}`},
		"keeps what is not named":     {`{"a":1,"b":{"c":2}}`, `{"b":{"d":3}}`, `{"a":1,"b":{"c":2,"d":3}}`, `{"a":1,"b":{"c":1,"d":9}}`},
		"null removes":                {`{"a":1,"b":2}`, `{"a":null}`, `{"b":2}`, `{"b":1}`},
		"null of nothing":             {`{"b":2}`, `{"a":null}`, `{"b":2}`, `{"b":1}`},
		"an emptied object goes":      {`{"a":{"b":{"c":1}},"d":1}`, `{"a":{"b":{"c":null}}}`, `{"d":1}`, `{"d":1}`},
		"an empty object is no value": {`{"d":1}`, `{"a":{}}`, `{"d":1}`, `{"d":1}`},
		"object over value":           {`{"a":5}`, `{"a":{"b":1}}`, `{"a":{"b":1}}`, `{"a":{"b":9}}`},
		"value over object":           {`{"a":{"b":1}}`, `{"a":5}`, `{"a":5}`, `{"a":9}`},
		"arrays are replaced whole":   {`{"a":[1,2,3]}`, `{"a":[4]}`, `{"a":[4]}`, `{"a":[9]}`},
		"arrays have metadata inside": {`{}`, `{"a":[1,{"b":[true]},"x"]}`, `{"a":[1,{"b":[true]},"x"]}`, `{"a":[9,{"b":[9]},9]}`},
		"an empty array is a value":   {`{}`, `{"a":[]}`, `{"a":[]}`, `{"a":[]}`},
		"same value, new time":        {`{"a":1}`, `{"a":1}`, `{"a":1}`, `{"a":9}`},
		"digits stay":                 {`{}`, `{"a":1.00,"b":12345678901234567890,"c":1E5}`, `{"a":1.00,"b":12345678901234567890,"c":1E5}`, `{"a":9,"b":9,"c":9}`},
	} {
		t.Run(name, func(t *testing.T) {
			old := object(t, c.state)
			meta := stamp(old, 1).(map[string]any)
			was := text(t, old)
			state, meta := merge(old, meta, object(t, c.patch), 9)
			if got := text(t, state); got != c.want {
				t.Errorf("state %s, want %s", got, c.want)
			}
			if got := text(t, meta); got != c.meta {
				t.Errorf("metadata %s, want %s", got, c.meta)
			}
			if text(t, old) != was {
				t.Error("the document before was changed")
			}
		})
	}
}

func TestDiff_IsWhatTheDeviceHasToChange(t *testing.T) {
	for name, c := range map[string]struct{ desired, reported, want string }{
		"nothing":                   {`{"a":1}`, `{"a":1}`, ``},
		"missing":                   {`{"a":1,"b":2}`, `{"a":1}`, `{"b":2}`},
		"only reported":             {`{"a":1}`, `{"a":1,"b":2}`, ``},
		"deep":                      {`{"a":{"b":1,"c":2}}`, `{"a":{"b":1,"c":3,"d":4}}`, `{"a":{"c":2}}`},
		"numbers by value":          {`{"a":1,"b":1.0,"c":10e-1,"d":-0,"e":0.0,"f":100,"g":1e2}`, `{"a":1.0,"b":1,"c":1,"d":0,"e":0,"f":1E+2,"g":100.00}`, ``},
		"large numbers are exact":   {`{"a":9007199254740993}`, `{"a":9007199254740992}`, `{"a":9007199254740993}`},
		"a number is no text":       {`{"a":1}`, `{"a":"1"}`, `{"a":1}`},
		"array whole":               {`{"a":[1,2]}`, `{"a":[1,3]}`, `{"a":[1,2]}`},
		"array by value":            {`{"a":[1,{"b":2.0}]}`, `{"a":[1.0,{"b":2}]}`, ``},
		"array of other length":     {`{"a":[1]}`, `{"a":[1,1]}`, `{"a":[1]}`},
		"object where a value is":   {`{"a":{"b":1}}`, `{"a":5}`, `{"a":{"b":1}}`},
		"value where an object is":  {`{"a":5}`, `{"a":{"b":1}}`, `{"a":5}`},
		"value where an array is":   {`{"a":false}`, `{"a":[]}`, `{"a":false}`},
		"true and false":            {`{"a":true,"b":false}`, `{"a":false,"b":false}`, `{"a":true}`},
		"no reported section":       {`{"a":{"b":1}}`, `{}`, `{"a":{"b":1}}`},
		"objects in arrays compare": {`{"a":[{"b":1}]}`, `{"a":[{"c":1}]}`, `{"a":[{"b":1}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			desired := object(t, c.desired)
			meta := stamp(desired, 7).(map[string]any)
			state, stateMeta := diff(desired, meta, object(t, c.reported))
			got := ""
			if state != nil {
				got = text(t, state)
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if !mirrors(state, stateMeta) && state != nil {
				t.Errorf("metadata %s is not that of %s", text(t, stateMeta), got)
			}
		})
	}
}

func TestNumbers_AreEqualByValue(t *testing.T) {
	same := [][]string{{"1", "1.0", "10e-1", "0.1e1", "1e0", "1E+0", "1.000"}, {"0", "-0", "0.0", "0e5", "-0.00e-3"}, {"-12.5", "-125e-1", "-0.125E2"}, {"1e999", "10e998"}, {"1e-999", "0.1e-998"}, {"123456789012345678901234567890"}, {"123456789012345678901234567891"}}
	for i, a := range same {
		for _, x := range a {
			for j, b := range same {
				for _, y := range b {
					if got := sameNumber(json.Number(x), json.Number(y)); got != (i == j) {
						t.Errorf("%s and %s: %v", x, y, got)
					}
				}
			}
		}
	}
}

// random makes values as a device might send them; nulls only where they are allowed.
func random(r *rand.Rand, level int, nulls bool) any {
	switch n := r.IntN(9); {
	case n < 3 && level > 0:
		out := map[string]any{}
		for range r.IntN(4) {
			out[string(rune('a'+r.IntN(4)))] = random(r, level-1, nulls)
		}
		return out
	case n == 3 && level > 0:
		out := make([]any, r.IntN(3))
		for i := range out {
			out[i] = random(r, level-1, false)
		}
		return out
	case n == 4 && nulls:
		return nil
	case n == 5:
		return json.Number([]string{"1", "1.0", "10e-1", "2", "-0", "0"}[r.IntN(6)])
	case n == 6:
		return r.IntN(2) == 0
	}
	return []string{"x", "y", ""}[r.IntN(3)]
}

func randomSection(r *rand.Rand, nulls bool) map[string]any {
	for {
		if m, ok := random(r, 4, nulls).(map[string]any); ok {
			return m
		}
	}
}

func noNulls(v any, inArray bool) bool {
	switch v := v.(type) {
	case nil:
		return false
	case map[string]any:
		for _, e := range v {
			if m, ok := e.(map[string]any); ok && len(m) == 0 && !inArray {
				return false
			}
			if !noNulls(e, inArray) {
				return false
			}
		}
	case []any:
		for _, e := range v {
			if !noNulls(e, true) {
				return false
			}
		}
	}
	return true
}

// TestDocument_KeepsItsPromises plays random updates and checks what doc.go
// promises after each.
func TestDocument_KeepsItsPromises(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for game := range 300 {
		var d Document
		for now := int64(1); now < 12; now++ {
			req := request{clear: r.IntN(20) == 0}
			for _, s := range []*section{&req.desired, &req.reported} {
				if s.given = r.IntN(3) > 0; s.given && r.IntN(15) > 0 {
					s.patch = randomSection(r, true)
				}
			}
			d = d.apply(&req, now)
			for name, s := range map[string][2]map[string]any{"desired": {d.Desired, d.desiredMeta}, "reported": {d.Reported, d.reportedMeta}} {
				if !mirrors(s[0], s[1]) {
					t.Fatalf("game %d: metadata of %s is not in the shape of %s: %s", game, name, text(t, s[0]), text(t, s[1]))
				}
				if !noNulls(s[0], false) {
					t.Fatalf("game %d: %s holds a null or an empty object: %s", game, name, text(t, s[0]))
				}
			}
			// The device does what the delta says: nothing is left.
			delta := d.Delta()
			reported, meta := merge(d.Reported, d.reportedMeta, delta, now)
			if left, _ := diff(d.Desired, d.desiredMeta, reported); left != nil {
				t.Fatalf("game %d: %s on %s leaves %s of %s", game, text(t, delta), text(t, d.Reported), text(t, left), text(t, d.Desired))
			}
			if !mirrors(reported, meta) {
				t.Fatalf("game %d: metadata after the delta", game)
			}
			// No more than needed: what is equal already is not in the delta.
			if delta != nil && len(d.Reported) > 0 {
				if again, _ := diff(delta, stamp(delta, 1).(map[string]any), d.Reported); text(t, again) != text(t, delta) {
					t.Fatalf("game %d: the delta %s has parts that are reported already", game, text(t, delta))
				}
			}
			// It is stored and comes back.
			b, err := d.marshal()
			if err != nil {
				t.Fatal(err)
			}
			back, err := UnmarshalDocument(b)
			if err != nil {
				t.Fatal(err)
			}
			if b2, err := back.marshal(); err != nil || !bytes.Equal(b, b2) {
				t.Fatalf("game %d: stored %s, came back %s", game, b, b2)
			}
		}
	}
}

func TestUnmarshalDocument_RefusesWhatDoesNotFit(t *testing.T) {
	for _, s := range []string{``, `[]`, `{"desired":{"a":1}}`, `{"desired":{"a":1},"desiredMeta":{"a":{"b":1}}}`, `{"desired":{"a":[1]},"desiredMeta":{"a":[]}}`, `{"desiredMeta":{"a":1}}`,
		`{"desired":{"a":null},"desiredMeta":{"a":1}}`, `{"desired":{"a":1},"desiredMeta":{"a":"1"}}`, `{"desired":{"a":1},"desiredMeta":{"a":1.5}}`} {
		if _, err := UnmarshalDocument([]byte(s)); !errors.Is(err, ErrDocument) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func nested(levels int, open, close string) string {
	return strings.Repeat(open, levels) + "1" + strings.Repeat(close, levels)
}

func TestParseUpdate_RefusesWithTheWordsOfTheWire(t *testing.T) {
	deep := func(n int) string { return `{"state":{"desired":` + nested(n, `{"a":`, `}`) + `},"clientToken":"t"}` }
	for name, c := range map[string]struct {
		payload string
		code    int
		text    string
		token   string
	}{
		"empty":                   {``, 400, "Invalid JSON", ""},
		"cut short":               {`{"state":`, 400, "Invalid JSON", ""},
		"no object":               {`[1]`, 400, "Invalid JSON", ""},
		"repeated member":         {`{"state":{},"state":{}}`, 400, "Invalid JSON", ""},
		"no state":                {`{"clientToken":"t"}`, 400, "Missing required node: state", "t"},
		"state is a list":         {`{"state":[],"clientToken":"t"}`, 400, "State node must be an object", "t"},
		"desired is a number":     {`{"state":{"desired":1},"clientToken":"t"}`, 400, "Desired node must be an object", "t"},
		"reported is a text":      {`{"state":{"reported":""},"clientToken":"t"}`, 400, "Reported node must be an object", "t"},
		"version is a text":       {`{"state":{},"version":"1","clientToken":"t"}`, 400, "Invalid version", "t"},
		"version has a fraction":  {`{"state":{},"version":1.5,"clientToken":"t"}`, 400, "Invalid version", "t"},
		"version is negative":     {`{"state":{},"version":-1,"clientToken":"t"}`, 400, "Invalid version", "t"},
		"token of 65 bytes":       {`{"state":{},"clientToken":"` + strings.Repeat("é", 32) + `x"}`, 400, "Invalid clientToken", ""},
		"token is a number":       {`{"state":{},"clientToken":5}`, 400, "Invalid clientToken", ""},
		"nine levels":             {deep(9), 400, "JSON contains too many levels of nesting; maximum is 6", "t"},
		"hundreds of levels":      {deep(500), 400, "JSON contains too many levels of nesting; maximum is 6", ""},
		"no end of brackets":      {strings.Repeat("[", 100_000), 400, "JSON contains too many levels of nesting; maximum is 6", ""},
		"levels of lists":         {`{"state":{"reported":{"a":` + nested(8, "[", "]") + `}}}`, 400, "JSON contains too many levels of nesting; maximum is 6", ""},
		"null in an array":        {`{"state":{"desired":{"a":[1,null]}},"clientToken":"t"}`, 400, "State contains an invalid node", "t"},
		"null deeper in an array": {`{"state":{"desired":{"a":[{"b":[[null]]}]}},"clientToken":"t"}`, 400, "State contains an invalid node", "t"},
		"larger than any message": {`{"state":{"desired":{"a":"` + strings.Repeat("x", maxPayload) + `"}}}`, 413, "The payload exceeds the maximum size allowed", ""},
		"not UTF-8":               {"{\"state\":{\"desired\":{\"a\":\"\xff\"}}}", 415, "Unsupported documented encoding; supported encoding is UTF-8", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseUpdate([]byte(c.payload))
			if code, text := Reject(err); code != c.code || text != c.text {
				t.Errorf("got %d %q, want %d %q", code, text, c.code, c.text)
			}
			if got := tokenOf(err); got != c.token {
				t.Errorf("token %q", got)
			}
		})
	}
	for _, ok := range []string{deep(8), `{"state":null}`, `{"state":{"desired":null,"reported":null}}`, `{"state":{},"version":null,"clientToken":null}`, `{"state":{"delta":{"a":[null]}}}`,
		`{"state":{"desired":{"a":[{"b":null}]}}}`, `{"state":{},"version":0}`, `{"state":{},"clientToken":"` + strings.Repeat("x", 64) + `"}`, `{"state":{"desired":{"a":` + strings.Repeat("9", 309) + `}}}`} {
		if _, err := parseUpdate([]byte(ok)); err != nil {
			t.Errorf("%.60s: %v", ok, err)
		}
	}
}

// FuzzUpdate plays any payload on a document: nothing panics, and what is
// accepted keeps the document valid.
func FuzzUpdate(f *testing.F) {
	for _, s := range []string{`{"state":{"desired":{"a":1,"b":{"c":[1,2.0,{"d":true}]}},"reported":{"a":1.0}},"version":3,"clientToken":"x"}`, `{"state":null}`, `{"state":{"desired":null,"reported":{"b":null}}}`,
		`{"state":{"desired":{"b":{"c":null}},"delta":{}}}`, `{"state":{"reported":{"b":[{"x":null}]}}}`, `{"state":{"desired":{"":{"":""}}}}`, `[]`, ``, `{"state":{"desired":{"a":1e999}}}`, "{\"state\":{\"desired\":{\"a\":\"\u2028<\"}}}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		var before Document
		start := request{desired: section{true, object(t, `{"a":1,"b":{"c":[1]}}`)}, reported: section{true, object(t, `{"a":2,"b":5}`)}}
		before = before.apply(&start, 1)
		r, err := parseUpdate(payload)
		if err != nil {
			if code, text := Reject(err); code < 400 || code >= 500 || text == "" {
				t.Fatalf("%d %q: %v", code, text, err)
			}
			return
		}
		after := before.apply(&r, 2)
		b, err := after.marshal()
		if err != nil {
			t.Fatal(err)
		}
		back, err := UnmarshalDocument(b)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if !maps.EqualFunc(back.Desired, after.Desired, equal) || !maps.EqualFunc(back.Reported, after.Reported, equal) {
			t.Fatalf("%s came back otherwise", b)
		}
		if !noNulls(after.Desired, false) || !noNulls(after.Reported, false) {
			t.Fatalf("null or empty object in %s", b)
		}
		for _, v := range []any{r.accepted(2, time.Unix(2, 0)), after.side(2), message{State: after.state(true), Metadata: after.metadata()}} {
			if out := text(t, v); !json.Valid([]byte(out)) {
				t.Fatalf("not JSON: %s", out)
			}
		}
	})
}

func ExampleDocument_Delta() {
	d, _ := UnmarshalDocument([]byte(`{"desired":{"colour":"red","speed":1},"reported":{"speed":1.0},"desiredMeta":{"colour":1,"speed":1},"reportedMeta":{"speed":1}}`))
	fmt.Println(d.Delta())
	// Output: map[colour:red]
}
