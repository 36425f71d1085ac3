package hsm_test

import (
	"crypto"
	"crypto/sha256"
	"testing"

	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
)

// The figure to compare with is a bare C_SignInit and C_Sign in one session.
// What the process of the module costs is the difference of the first two and
// the last two.
func BenchmarkSigner_SoftHSM(b *testing.B) {
	for _, c := range []struct {
		name   string
		direct bool
	}{{"direct", true}, {"process", false}} {
		b.Run(c.name, func(b *testing.B) {
			tok := hsmtest.SoftHSM(b)
			k := hsm.Open(hsm.Config{Direct: c.direct})
			defer k.Close()
			s, err := k.Generate(b.Context(), tok.URI("ca"), hsm.Spec{Algorithm: hsm.P256})
			if err != nil {
				b.Fatal(err)
			}
			digest := sha256.Sum256([]byte("x"))
			b.Run("serial", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := s.SignContext(b.Context(), digest[:], crypto.SHA256); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run("parallel", func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(8)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := s.SignContext(b.Context(), digest[:], crypto.SHA256); err != nil {
							b.Error(err)
						}
					}
				})
			})
		})
	}
}
