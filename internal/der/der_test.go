package der

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// std is what encoding/asn1 makes of v.
func std(t *testing.T, v any, params string) []byte {
	t.Helper()
	b, err := asn1.MarshalWithParams(v, params)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func same(t *testing.T, what any, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%v: got %x, want %x", what, got, want)
	}
	if err := Check(got, MaxDepth); err != nil {
		t.Errorf("%v: own encoding refused: %v", what, err)
	}
}

func TestAppend_WritesWhatEncodingASN1Writes(t *testing.T) {
	ints := []int64{0, 1, -1, 127, 128, -128, -129, 255, 256, 32767, 32768, math.MaxInt64, math.MinInt64, math.MaxInt32}
	for range 2000 {
		ints = append(ints, int64(rand.Uint64())>>rand.IntN(64))
	}
	for _, v := range ints {
		same(t, v, AppendInt(nil, v), std(t, v, ""))
		same(t, v, AppendBigInt(nil, big.NewInt(v)), std(t, v, ""))
		e, err := Only(AppendInt(nil, v), TagInteger)
		if got, err2 := e.Int(); err != nil || err2 != nil || got != v {
			t.Fatalf("%d read back as %d (%v, %v)", v, got, err, err2)
		}
	}
	for range 2000 {
		raw := make([]byte, rand.IntN(24))
		for i := range raw {
			raw[i] = byte(rand.Uint32())
		}
		n := new(big.Int).SetBytes(raw)
		same(t, n, AppendUint(nil, raw), std(t, n, ""))
		n.Neg(n)
		same(t, n, AppendBigInt(nil, n), std(t, n, ""))
		same(t, "octets", AppendOctetString(nil, raw), std(t, raw, ""))
		same(t, "bits", AppendBitString(nil, raw), std(t, asn1.BitString{Bytes: raw, BitLength: 8 * len(raw)}, ""))
	}
	same(t, true, AppendBool(nil, true), std(t, true, ""))
	same(t, false, AppendBool(nil, false), std(t, false, ""))
	same(t, "null", AppendNull(nil), std(t, asn1.NullRawValue, ""))
	same(t, "enum", AppendEnumerated(nil, 300), std(t, asn1.Enumerated(300), ""))
	for _, n := range []int{0, 1, 127, 128, 255, 256, 65535, 65536, 1 << 20} {
		s := strings.Repeat("a", n)
		same(t, n, AppendUTF8String(nil, s), std(t, s, "utf8"))
		same(t, n, AppendPrintableString(nil, s), std(t, s, "printable"))
		same(t, n, AppendIA5String(nil, s), std(t, s, "ia5"))
		wrapped := Sequence(nil, func(b []byte) []byte { return AppendUTF8String(b, s) })
		same(t, n, wrapped, AppendTLV(nil, TagSequence, AppendUTF8String(nil, s)))
	}
	same(t, "directory", AppendDirectoryString(nil, "Müller"), std(t, "Müller", "utf8"))
	same(t, "directory", AppendDirectoryString(nil, "Mill 7"), std(t, "Mill 7", "printable"))
}

func TestAppendNamedBits_LeavesOutTrailingZeros(t *testing.T) {
	for _, set := range []uint32{0, 1, 1 << 5, 1<<5 | 1<<6, 1 << 8, 1 | 1<<8, 1 << 31, math.MaxUint32} {
		got := AppendNamedBits(nil, set)
		var want asn1.BitString
		rest, err := asn1.Unmarshal(got, &want)
		if err != nil || len(rest) != 0 {
			t.Fatalf("%#x: %x: %v", set, got, err)
		}
		for i := range 32 {
			if want.At(i) != int(set>>i&1) {
				t.Errorf("%#x: bit %d reads %d", set, i, want.At(i))
			}
		}
		e, _, _ := Next(got)
		if back, err := e.NamedBits(); err != nil || back != set {
			t.Errorf("%#x read back as %#x (%v)", set, back, err)
		}
	}
	if got := AppendNamedBits(nil, 1<<5|1<<6); !bytes.Equal(got, []byte{3, 2, 1, 6}) {
		t.Errorf("keyCertSign and cRLSign are 03020106 in every CA certificate, got %x", got)
	}
}

func TestAppendUTCOrGeneralizedTime_ChangesOverIn2050(t *testing.T) {
	east := time.FixedZone("", 3600)
	for _, c := range []struct {
		at   time.Time
		want string
	}{
		{time.Date(2049, 12, 31, 23, 59, 59, 999, time.UTC), "491231235959Z"},
		{time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC), "20500101000000Z"},
		{time.Date(2050, 1, 1, 0, 30, 0, 0, east), "491231233000Z"},
		{time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC), "500101000000Z"},
		{time.Date(1949, 12, 31, 23, 59, 59, 0, time.UTC), "19491231235959Z"},
		{NoExpiry, "99991231235959Z"},
	} {
		got := AppendUTCOrGeneralizedTime(nil, c.at)
		e, _, err := Next(got)
		if err != nil || string(e.Content) != c.want {
			t.Errorf("%v: got %q, want %q (%v)", c.at, e.Content, c.want, err)
		}
		back, err := e.Time()
		if err != nil || !back.Equal(c.at.Truncate(time.Second)) {
			t.Errorf("%v read back as %v (%v)", c.at, back, err)
		}
	}
	if err := Check(AppendUTCOrGeneralizedTime(nil, NoExpiry.Add(time.Hour*24)), 1); err == nil {
		t.Error("the year 10000 has no form and was accepted")
	}
}

func TestOID_AgreesWithTheStandardLibrary(t *testing.T) {
	for _, s := range []string{"0.0", "0.39", "1.2.840.113549.1.9.7", "2.5.4.3", "2.999", "2.25.329800735698586629295641978511506172918", "2.5.29.15", "1.3.6.1.4.1.4294967296.128.127.16384"} {
		o, err := ParseOID(s)
		if err != nil {
			t.Fatal(err)
		}
		x, err := x509.ParseOID(s)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := x.MarshalBinary()
		if string(o) != string(want) || o.String() != s {
			t.Errorf("%s: content %x, want %x; reads %s", s, string(o), want, o)
		}
		var short asn1.ObjectIdentifier
		if rest, err := asn1.Unmarshal(o.Append(nil), &short); err == nil && len(rest) == 0 {
			same(t, s, AppendOID(nil, short), o.Append(nil))
		}
	}
	for _, s := range []string{"", "1", "3.1", "1.40", "1.-2", "1.2.", ".1.2", "1.02", "1.2.x", "1.+2", strings.Repeat("1.", 400) + "1"} {
		if _, err := ParseOID(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
	for _, bad := range []asn1.ObjectIdentifier{nil, {1}, {3, 1}, {1, 40}, {1, 2, -3}} {
		if err := Check(AppendOID(nil, bad), 1); err == nil {
			t.Errorf("%v has no form and was accepted", bad)
		}
	}
}

func TestAppendSetOf_SortsItsElements(t *testing.T) {
	got := AppendSetOf(nil, TagSet, AppendInt(nil, 300), AppendInt(nil, 5), AppendInt(nil, 2))
	want := std(t, []int{300, 5, 2}, "set")
	same(t, "set", got, want)
}

func TestBegin_NestsAcrossLengthForms(t *testing.T) {
	got := []byte("before")
	got, a := Begin(got, TagSequence)
	got, b := Begin(got, TagSet)
	got = AppendOctetString(got, make([]byte, 300))
	got = End(got, b)
	got = AppendBool(got, true)
	got = End(got, a)
	want := append([]byte("before"), AppendTLV(nil, TagSequence, AppendTLV(nil, TagSet, AppendOctetString(nil, make([]byte, 300))), AppendBool(nil, true))...)
	if !bytes.Equal(got, want) {
		t.Fatalf("got %x", got)
	}
}

// A56: whatever is not DER is refused at once, with no memory taken by a length.
func TestCheck_RefusesWhatIsNotDER(t *testing.T) {
	for name, in := range map[string][]byte{
		"indefinite length":      {0x30, 0x80, 0x00, 0x00},
		"long form of a short":   {0x04, 0x81, 0x01, 0x00},
		"leading zero in length": append([]byte{0x04, 0x82, 0x00, 0x80}, make([]byte, 128)...),
		"length 2^31":            {0x04, 0x84, 0x80, 0x00, 0x00, 0x00},
		"length of 5 octets":     {0x04, 0x85, 1, 0, 0, 0, 0},
		"beyond the end":         {0x30, 0x02, 0x05},
		"tag only":               {0x30},
		"high tag":               {0x1f, 0x01, 0x00},
		"string in pieces":       {0x24, 0x03, 0x04, 0x01, 0x00},
		"primitive sequence":     {0x10, 0x00},
		"padded integer":         {0x02, 0x02, 0x00, 0x01},
		"empty integer":          {0x02, 0x00},
		"true as 01":             {0x01, 0x01, 0x01},
		"unused bits set":        {0x03, 0x02, 0x04, 0xff},
		"padded arc":             {0x06, 0x02, 0x80, 0x01},
		"time with offset":       append([]byte{0x17, 0x11}, "250101000000+0100"...),
		"30 February":            append([]byte{0x17, 0x0d}, "250230000000Z"...),
		"not UTF-8":              {0x0c, 0x01, 0xff},
		"at sign in printable":   {0x13, 0x01, '@'},
	} {
		if err := Check(in, MaxDepth); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	bomb := []byte{}
	for range 2000 {
		bomb = AppendTLV(nil, TagSequence, bomb)
	}
	if err := Check(bomb, MaxDepth); err == nil {
		t.Error("2000 levels were taken")
	}
	if n := testing.AllocsPerRun(10, func() { Check(bomb, MaxDepth) }); n > 50 {
		t.Errorf("refusing a bomb allocates %v times", n)
	}
}

func TestOnly_RefusesTrailingBytes(t *testing.T) {
	if _, err := Only([]byte{0x05, 0x00, 0x00}, TagNull); err == nil {
		t.Error("trailing byte was taken")
	}
	if _, err := Only([]byte{0x05, 0x00}, TagBoolean); err == nil {
		t.Error("another tag was taken")
	}
}

// A checked value, read and written again, is the same bytes.
func FuzzCheck_RoundTrip(f *testing.F) {
	f.Add(Sequence(nil, func(b []byte) []byte {
		b = AppendOID(b, asn1.ObjectIdentifier{1, 2, 840, 113549})
		b = AppendBool(AppendInt(b, -129), true)
		b = AppendUTCOrGeneralizedTime(b, NoExpiry)
		return AppendNamedBits(AppendUTF8String(b, "ü"), 0x61)
	}))
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Add([]byte{0x17, 0x0d, '5', '2', '0', '2', '2', '9', '0', '0', '0', '0', '0', '0', 'Z'})
	f.Fuzz(func(t *testing.T, in []byte) {
		if Check(in, 8) != nil {
			return
		}
		if out := rewrite(t, nil, in); !bytes.Equal(out, in) {
			t.Fatalf("in  %x\nout %x", in, out)
		}
	})
}

func rewrite(t *testing.T, dst, in []byte) []byte {
	for len(in) > 0 {
		e, rest, err := Next(in)
		if err != nil {
			t.Fatal(err)
		}
		in = rest
		switch {
		case e.Tag&0x20 != 0:
			dst = Wrap(dst, e.Tag, func(b []byte) []byte { return rewrite(t, b, e.Content) })
		case e.Tag == TagInteger && len(e.Content) <= 8:
			v, err := e.Int()
			if err != nil {
				t.Fatal(err)
			}
			dst = AppendInt(dst, v)
		case e.Tag == TagOID:
			o, err := e.OID()
			if err != nil {
				t.Fatal(err)
			}
			if parsed, err := ParseOID(o.String()); len(o.String()) <= maxOIDText && (err != nil || parsed != o) {
				t.Fatalf("%s: %v", o, err)
			}
			dst = o.Append(dst)
		case e.Tag == TagUTCTime, e.Tag == TagGeneralizedTime:
			at, err := e.Time()
			if err != nil {
				t.Fatal(err)
			}
			if e.Tag == TagUTCTime {
				dst = AppendUTCOrGeneralizedTime(dst, at)
			} else {
				dst = AppendGeneralizedTime(dst, at)
			}
		case e.Tag == TagBoolean:
			v, err := e.Bool()
			if err != nil {
				t.Fatal(err)
			}
			dst = AppendBool(dst, v)
		default:
			dst = AppendTLV(dst, e.Tag, e.Content)
		}
	}
	return dst
}

func BenchmarkSequence(b *testing.B) {
	buf := make([]byte, 0, 1024)
	content := make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		buf = buf[:0]
		buf, m := Begin(buf, TagSequence)
		buf = AppendOID(buf, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2})
		buf = AppendUTCOrGeneralizedTime(buf, NoExpiry)
		buf = AppendBitString(buf, content)
		_ = End(buf, m)
	}
}
