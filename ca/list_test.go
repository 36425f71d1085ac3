package ca

import (
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

func TestReadFrame_RefusesWhatIsCut(t *testing.T) {
	tbs := tbsOf(3)
	for n := range tbs {
		if _, err := readFrame(tbs[:n]); err == nil {
			t.Errorf("the first %d octets are a list", n)
		}
	}
}
