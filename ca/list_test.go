package ca

import (
	"bytes"
	"testing"
	"time"

	"hallmark/internal/der"
)

// tbsOf builds a tBSCertList frame with n entries.
func tbsOf(n int) []byte {
	return der.Sequence(nil, func(b []byte) []byte {
		b = der.AppendInt(b, 1)
		b = der.Sequence(b, func(b []byte) []byte { return der.MustOID("1.2.840.10045.4.3.2").Append(b) })
		b = der.Sequence(b, func(b []byte) []byte { return b })
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		b = der.AppendUTCOrGeneralizedTime(b, at)
		b = der.AppendUTCOrGeneralizedTime(b, at.AddDate(0, 0, 7))
		if n > 0 {
			b = der.Sequence(b, func(b []byte) []byte {
				for i := range n {
					b = der.Sequence(b, func(b []byte) []byte { return der.AppendUTCOrGeneralizedTime(der.AppendInt(b, int64(i+1)), at) })
				}
				return b
			})
		}
		return der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte { return der.Sequence(b, func(b []byte) []byte { return b }) })
	})
}

func TestSample_KeepsShortListsWholeAndBoundsLongOnes(t *testing.T) {
	for _, n := range []int{0, 1, wholeListEntries, wholeListEntries + 1, 30_000} {
		tbs := tbsOf(n)
		l, err := splitList(tbs)
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.sample()
		if err != nil {
			t.Fatal(err)
		}
		if n <= wholeListEntries {
			if !bytes.Equal(s, tbs) {
				t.Errorf("%d entries: not the list itself", n)
			}
			continue
		}
		got, err := splitList(s)
		if err != nil {
			t.Fatal(err)
		}
		first, last, count := int64(0), int64(0), 0
		for in := got.entries; len(in) > 0; count++ {
			e, rest, err := der.Take(in, der.TagSequence)
			if err != nil {
				t.Fatal(err)
			}
			v, _, _ := der.Take(e.Content, der.TagInteger)
			last, _ = v.Int()
			if count == 0 {
				first = last
			}
			in = rest
		}
		if count != 2*sampleEntries || first != 1 || last != int64(n) || !bytes.Equal(got.front, l.front) || !bytes.Equal(got.back, l.back) {
			t.Errorf("%d entries: a sample of %d from %d to %d", n, count, first, last)
		}
	}
}

func TestSplitList_RefusesWhatIsCut(t *testing.T) {
	tbs := tbsOf(3)
	for n := range tbs {
		if _, err := splitList(tbs[:n]); err == nil {
			t.Errorf("the first %d octets are a list", n)
		}
	}
}
