package ca_test

import (
	"math/bits"
	"testing"
	"time"

	"hallmark/ca"
)

// TestNewSerial_IsPositiveWideAndRandom_A4_S4: 20 octets that start with the bits
// 01, a day and no finer time, and 128 bits of which each is set half of the time.
func TestNewSerial_IsPositiveWideAndRandom_A4_S4(t *testing.T) {
	const n = 20_000
	day := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	seen := map[ca.Serial]bool{}
	var set [128]int
	var head [4]byte
	for i := range n {
		s, err := ca.NewSerial(day.Add(time.Duration(i)*4*time.Second), nil) // within the day
		if err != nil {
			t.Fatal(err)
		}
		if seen[s] {
			t.Fatalf("%s twice", s)
		}
		seen[s] = true
		if s[0]>>6 != 1 || s.Int().Sign() <= 0 || s.Int().BitLen() != 159 || len(s.Int().Bytes()) != ca.SerialLen {
			t.Fatalf("%s", s)
		}
		if i == 0 {
			copy(head[:], s[:4])
		} else if head != [4]byte(s[:4]) {
			t.Fatalf("the time of day shows: %x, %s", head, s)
		}
		for b := range set {
			set[b] += int(s[4+b/8] >> (7 - b%8) & 1)
		}
	}
	for b, k := range set { // five standard deviations are 1.8 %
		if k < n*48/100 || k > n*52/100 {
			t.Errorf("bit %d is set in %d of %d", b, k, n)
		}
	}
	tomorrow, err := ca.NewSerial(day.AddDate(0, 0, 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if string(tomorrow[:4]) <= string(head[:]) {
		t.Errorf("%x does not rise to %x", head, tomorrow[:4])
	}
	if bits.LeadingZeros8(tomorrow[0]) != 1 {
		t.Errorf("%s", tomorrow)
	}
	if text, err := ca.ParseSerial(tomorrow.String()); err != nil || text != tomorrow {
		t.Errorf("%s: %v", tomorrow, err)
	}
}
