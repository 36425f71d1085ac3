package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"hallmark/internal/fault"
)

type inner struct {
	Size int `json:"size"`
}

type Base struct {
	ID string `json:"id"`
}

type sample struct {
	Base
	Name  string           `json:"name"`
	Inner *inner           `json:"inner"`
	List  []inner          `json:"list"`
	Map   map[string]inner `json:"map"`
	Any   any              `json:"any"`
	Raw   json.RawMessage  `json:"raw"`
	When  time.Time        `json:"when"`
	Skip  string           `json:"-"`
	Plain bool
}

func TestDecode_TakesWhatIsStrict(t *testing.T) {
	var got sample
	err := Decode([]byte(` {"id":"x","name":"a\u00e9\ud83d\ude00","inner":{"size":1},"list":[{"size":2}],"map":{"k":{"size":3}},
		"any":{"free":[1.5e3,null,true]},"raw":{"other":1},"when":"2026-01-02T03:04:05Z","Plain":true} `), &got)
	if err != nil {
		t.Fatal(err)
	}
	want := sample{Base: Base{"x"}, Name: "aé😀", Inner: &inner{1}, List: []inner{{2}}, Map: map[string]inner{"k": {3}},
		Any: map[string]any{"free": []any{json.Number("1.5e3"), nil, true}}, Raw: json.RawMessage(`{"other":1}`),
		When: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Plain: true}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestDecode_RefusesWithPlaceAndReason(t *testing.T) {
	for name, c := range map[string]struct {
		in     string
		code   *fault.Definition
		detail string
	}{
		"duplicate key":           {`{"name":"a","name":"b"}`, ErrDuplicateKey, `Line 1, column 13, in the document: the member "name" stands twice.`},
		"duplicate by escape":     {"{\"any\":\n {\"a\":1, \"\\u0061\":2}}", ErrDuplicateKey, `Line 2, column 10, in any: the member "a" stands twice.`},
		"duplicate in raw":        {`{"raw":{"a":[{"b":1,"b":1}]}}`, ErrDuplicateKey, `Line 1, column 21, in raw.a[0]: the member "b" stands twice.`},
		"unknown field":           {`{"nmae":"a"}`, ErrUnknownField, `Line 1, column 2, in the document: the member "nmae" is not known, perhaps "name" was meant.`},
		"other case":              {`{"Name":"a"}`, ErrUnknownField, `Line 1, column 2, in the document: the member "Name" is not known, perhaps "name" was meant.`},
		"nothing near":            {`{"isCA":true}`, ErrUnknownField, `Line 1, column 2, in the document: the member "isCA" is not known.`},
		"unknown in slice":        {`{"list":[{"size":1},{"sice":1}]}`, ErrUnknownField, `Line 1, column 22, in list[1]: the member "sice" is not known, perhaps "size" was meant.`},
		"unknown in map":          {`{"map":{"a b":{"x":1}}}`, ErrUnknownField, `Line 1, column 16, in map["a b"]: the member "x" is not known.`},
		"hidden field":            {`{"Skip":""}`, ErrUnknownField, `Line 1, column 2, in the document: the member "Skip" is not known.`},
		"wrong type":              {`{"inner":{"size":"x"}}`, ErrWrongType, `Line 1, column 21, in inner.size: want a whole number in range.`},
		"trailing bytes":          {`{} {}`, ErrMalformed, `Line 1, column 4, in the document: bytes follow the value.`},
		"trailing NUL":            {"{}\x00", ErrMalformed, `Line 1, column 3, in the document: bytes follow the value.`},
		"byte order mark":         {"\xef\xbb\xbf{}", ErrMalformed, `Line 1, column 1, in the document: a byte order mark is not allowed.`},
		"empty":                   {``, ErrMalformed, `Line 1, column 1, in the document: the text ends where a value is expected.`},
		"NaN":                     {`{"any":NaN}`, ErrMalformed, `Line 1, column 8, in any: 'N' where a value is expected.`},
		"Infinity":                {`{"any":-Infinity}`, ErrMalformed, `Line 1, column 9, in any: 'I' where a digit is expected.`},
		"leading zero":            {`{"any":01}`, ErrMalformed, `Line 1, column 8, in any: a number starts with 0.`},
		"no fraction":             {`{"any":1.}`, ErrMalformed, `Line 1, column 10, in any: '}' where a digit is expected.`},
		"hexadecimal":             {`{"any":0x1}`, ErrMalformed, `Line 1, column 9, in the document: 'x' where a comma or a closing brace is expected.`},
		"large exponent":          {`{"any":1e9999}`, ErrLimit, `Line 1, column 14, in any: a number has an exponent of more than 3 digits.`},
		"trailing comma":          {`{"any":[1,]}`, ErrMalformed, `Line 1, column 11, in any[1]: ']' where a value is expected.`},
		"comment":                 {`{"any":/**/1}`, ErrMalformed, `Line 1, column 8, in any: '/' where a value is expected.`},
		"single quotes":           {`{'any':1}`, ErrMalformed, `Line 1, column 2, in the document: '\'' where a member name is expected.`},
		"raw control character":   {"{\"any\":\"a\nb\"}", ErrMalformed, `Line 1, column 10, in any: a control character stands in a string.`},
		"invalid UTF-8":           {"{\"any\":\"\xc3(\"}", ErrMalformed, `Line 1, column 9, in any: invalid UTF-8 in a string.`},
		"encoded surrogate":       {"{\"any\":\"\xed\xa0\x80\"}", ErrMalformed, `Line 1, column 9, in any: invalid UTF-8 in a string.`},
		"lone surrogate":          {`{"any":"\ud800"}`, ErrMalformed, `Line 1, column 9, in any: a surrogate stands alone.`},
		"swapped surrogates":      {`{"any":"\ude00\ud83d"}`, ErrMalformed, `Line 1, column 9, in any: a surrogate stands alone.`},
		"bad escape":              {`{"any":"\x41"}`, ErrMalformed, `Line 1, column 9, in any: an escape is not known.`},
		"short escape":            {`{"any":"\u12"}`, ErrMalformed, `Line 1, column 9, in any: an escape needs four hexadecimal digits.`},
		"open string":             {`{"any":"a`, ErrMalformed, `Line 1, column 10, in any: a string does not end.`},
		"open object":             {`{"any":1`, ErrMalformed, `Line 1, column 9, in the document: the text ends where a comma or a closing brace is expected.`},
		"word":                    {`{"any":tru}`, ErrMalformed, `Line 1, column 8, in any: want true.`},
		"depth":                   {`{"any":` + strings.Repeat("[", 32), ErrLimit, `Line 1, column 39, in any` + strings.Repeat("[0]", 31) + `: nested deeper than 32.`},
		"long number":             {`{"any":` + strings.Repeat("7", 65) + `}`, ErrLimit, `Line 1, column 8, in any: a number has more than 64 characters.`},
		"columns count runes":     {`{"any":"éé",,}`, ErrMalformed, `Line 1, column 13, in the document: ',' where a member name is expected.`},
		"foreign text is clipped": {`{"` + strings.Repeat("k", 100) + "\":1}", ErrUnknownField, `Line 1, column 2, in the document: the member "` + strings.Repeat("k", 64) + `"... is not known.`},
	} {
		t.Run(name, func(t *testing.T) {
			var v sample
			err := Decode([]byte(c.in), &v)
			if !errors.Is(err, c.code) {
				t.Fatalf("got %v, want %s", err, c.code.Code)
			}
			if got := fault.From(err).Detail; got != c.detail {
				t.Errorf("got  %s\nwant %s", got, c.detail)
			}
		})
	}
}

// A67: hostile documents of 10 MB are refused within 50 ms.
func TestA67_HostileDocumentsAreRefusedQuickly(t *testing.T) {
	const size = hostileSize
	wide := Limits{Size: 2 * size}
	members := func() []byte {
		var b bytes.Buffer
		b.WriteByte('{')
		for i := 0; b.Len() < size; i++ {
			b.WriteString(`"`)
			b.WriteString(strings.Repeat("k", i%7))
			b.WriteString(time.Duration(i).String())
			b.WriteString(`":0,`)
		}
		return b.Bytes()
	}()
	for name, data := range map[string][]byte{
		"depth":         []byte(strings.Repeat("[", size)),
		"object depth":  []byte(strings.Repeat(`{"a":`, size/5)),
		"number":        []byte(strings.Repeat("9", size)),
		"fraction":      []byte("0." + strings.Repeat("9", size)),
		"exponent":      []byte("1e" + strings.Repeat("9", size)),
		"values":        []byte("[" + strings.Repeat("0,", size/2)),
		"members":       members,
		"open string":   []byte(`"` + strings.Repeat("a", size)),
		"two bytes":     []byte(`"` + strings.Repeat("é", size/2)),
		"escapes":       []byte(`"` + strings.Repeat(`\u0061`, size/6)),
		"white space":   []byte(strings.Repeat(" ", size)),
		"long key":      []byte(`{"` + strings.Repeat("a", size) + `":1}`),
		"minus":         []byte(strings.Repeat("-", size)),
		"long key open": []byte(`{"` + strings.Repeat("a", size) + `":{"b":[}`),
	} {
		t.Run(name, func(t *testing.T) {
			for limits, opts := range map[string][]Option{"default": nil, "wide": {WithLimits(wide)}} {
				// The quickest of three, so that a busy machine does not fail it.
				best := time.Hour
				for range 3 {
					var v sample
					start := time.Now()
					err := Decode(data, &v, opts...)
					best = min(best, time.Since(start))
					if err == nil || fault.KindOf(err) != fault.Invalid {
						t.Fatalf("%s: accepted or not Invalid: %v", limits, err)
					}
					if len(err.Error()) > 4096 {
						t.Fatalf("%s: the error has %d bytes", limits, len(err.Error()))
					}
				}
				if best > quick {
					t.Errorf("%s limits: %v", limits, best)
				}
			}
		})
	}
}

func TestDecode_AllowUnknownFieldsStillMindsCase(t *testing.T) {
	var v sample
	if err := Decode([]byte(`{"name":"a","extra":{"x":1}}`), &v, AllowUnknownFields()); err != nil || v.Name != "a" {
		t.Errorf("got %v, %q", err, v.Name)
	}
	if err := Decode([]byte(`{"NAME":"a"}`), &v, AllowUnknownFields()); !errors.Is(err, ErrUnknownField) {
		t.Errorf("a field was filled from another name: %v", err)
	}
}

func TestDecode_NeedsAPointer(t *testing.T) {
	for _, v := range []any{nil, sample{}, (*sample)(nil)} {
		if err := Decode([]byte(`{}`), v); err == nil || fault.KindOf(err) != fault.Internal {
			t.Errorf("%T: %v", v, err)
		}
	}
}

func TestGeneric_KeepsNumbersAsText(t *testing.T) {
	got, err := Generic([]byte(`[0.10, 12345678901234567890, "\b\f\n\r\t\/\\\"", {"":{}}, []]`))
	if err != nil {
		t.Fatal(err)
	}
	want := []any{json.Number("0.10"), json.Number("12345678901234567890"), "\b\f\n\r\t/\\\"", map[string]any{"": map[string]any{}}, []any{}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v", got)
	}
}

func TestLimits_ApplyToSizeAndValues(t *testing.T) {
	if err := Check([]byte(`[1,2]`), WithLimits(Limits{Size: 4})); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if err := Check([]byte(`[1,2]`), WithLimits(Limits{Values: 3})); err != nil {
		t.Error(err)
	}
	if err := Check([]byte(`[1,2,3]`), WithLimits(Limits{Values: 3})); !errors.Is(err, ErrLimit) {
		t.Error(err)
	}
	if err := Check([]byte(strings.Repeat("[", 5000)+strings.Repeat("]", 5000)), WithLimits(Limits{Depth: 1 << 30})); !errors.Is(err, ErrLimit) {
		t.Error("a caller can take the depth limit away", err)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"ThingName", "ThingGroups", "Fn::Join"}
	for in, want := range map[string]string{"thingname": "ThingName", "ThingNmae": "ThingName", "ThingGroup": "ThingGroups", "Fn::Jion": "Fn::Join", "x": "", "Certificate": ""} {
		if got := Nearest(in, names); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

// What we accept, encoding/json accepts with the same meaning; what we build
// survives a round trip.
func FuzzGeneric(f *testing.F) {
	for _, s := range []string{`{}`, `[1,-0.5e+10,"a\u00e9\ud83d\ude00",{"a":null}]`, `{"a":1,"a":2}`, "\xef\xbb\xbf1", `"\ud800"`, `1e999`, `[[[[`, "\"\xff\"", `{"a":{"b":[true,false]}}  `} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Generic(data)
		if checked := Check(data); (checked == nil) != (err == nil) {
			t.Fatalf("Generic says %v, Check says %v", err, checked)
		}
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("not a fault: %v", err)
			}
			return
		}
		var want any
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.UseNumber()
		if err := dec.Decode(&want); err != nil {
			t.Fatalf("encoding/json refuses what we took: %v", err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %#v, encoding/json got %#v", got, want)
		}
		again, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Generic(again)
		if err != nil || !reflect.DeepEqual(back, got) {
			t.Fatalf("round trip: %v %#v", err, back)
		}
		var v sample
		_ = Decode(data, &v) // must not panic
	})
}
