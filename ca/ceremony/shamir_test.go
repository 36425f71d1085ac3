package ceremony_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hallmark/ca/ceremony"
	"hallmark/hsm"
)

// The field is one: tried on all pairs.
func TestGF_IsAField(t *testing.T) {
	for a := range 256 {
		a := byte(a)
		if ceremony.GFMul(a, 1) != a || ceremony.GFMul(a, 0) != 0 || a != 0 && ceremony.GFMul(a, ceremony.GFInv(a)) != 1 {
			t.Fatalf("%d: 1, 0 or the inverse", a)
		}
		for b := range 256 {
			b := byte(b)
			if ceremony.GFMul(a, b) != ceremony.GFMul(b, a) {
				t.Fatalf("%d·%d", a, b)
			}
			c := a ^ b<<1 ^ 0x35
			if ceremony.GFMul(a, b^c) != ceremony.GFMul(a, b)^ceremony.GFMul(a, c) || ceremony.GFMul(a, ceremony.GFMul(b, c)) != ceremony.GFMul(ceremony.GFMul(a, b), c) {
				t.Fatalf("%d %d %d", a, b, c)
			}
		}
	}
	// FIPS 197, Section 4.2: the worked example of this field.
	if ceremony.GFMul(0x57, 0x83) != 0xc1 || ceremony.GFMul(0x57, 0x13) != 0xfe {
		t.Error("another field")
	}
}

// Every M of N parts give the PIN, and no fewer.
func TestPIN_AnyMOfNPartsGiveItAndFewerDoNot(t *testing.T) {
	for _, k := range []struct{ m, n, length int }{{2, 3, 6}, {2, 2, 1}, {3, 5, 8}, {5, 5, 15}, {4, 7, 16}, {2, 16, ceremony.MaxPIN}} {
		pin := make([]byte, k.length)
		rand.Read(pin)
		parts, err := ceremony.SplitPIN(hsm.NewSecret(pin), k.m, k.n, nil)
		if err != nil {
			t.Fatal(err)
		}
		tried := 0
		for set := 1; set < 1<<k.n && tried < 400; set++ {
			var some []string
			for i := range k.n {
				if set>>i&1 == 1 {
					some = append(some, parts[i])
				}
			}
			tried++
			if set%2 == 0 {
				slices.Reverse(some)
			}
			got, err := ceremony.JoinPIN(some)
			switch {
			case len(some) < k.m && !errors.Is(err, ceremony.ErrShare):
				t.Fatalf("%d of %d/%d: %v", len(some), k.m, k.n, err)
			case len(some) >= k.m && (err != nil || !bytes.Equal(got.Reveal(), pin)):
				t.Fatalf("%d of %d/%d: %v", len(some), k.m, k.n, err)
			}
		}
	}
}

// Fewer than M parts say nothing: whatever one octet of one part is, every PIN
// has one polynomial that gives it. Seen from outside: parts of one PIN are
// spread evenly.
func TestPIN_OnePartIsUniform(t *testing.T) {
	var seen [256]int
	const n = 3000
	for range n {
		parts, err := ceremony.SplitPIN(hsm.NewSecret([]byte("123456")), 2, 2, nil)
		if err != nil {
			t.Fatal(err)
		}
		w := strings.Fields(strings.ReplaceAll(parts[0], "-", " "))
		seen[slices.Index(ceremony.WordList, w[6])]++ // the first digit of the PIN
	}
	chi := 0.0
	for _, c := range seen {
		d := float64(c) - n/256.0
		chi += d * d / (n / 256.0)
	}
	// 255 degrees of freedom: above 400 once in ten million runs.
	if chi > 400 {
		t.Errorf("chi square %.0f", chi)
	}
}

// A mistake on paper is found before it reaches a token, and is not repeated.
func TestPIN_AMistypedPartIsFound(t *testing.T) {
	parts, err := ceremony.SplitPIN(hsm.NewSecret([]byte("493811")), 2, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ceremony.SplitPIN(hsm.NewSecret([]byte("493811")), 2, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p, m, err := ceremony.CheckShare(strings.ToUpper(strings.ReplaceAll(parts[1], " - ", "  "))); p != 2 || m != 2 || err != nil {
		t.Errorf("part %d of %d: %v", p, m, err)
	}
	words := strings.Fields(strings.ReplaceAll(parts[0], "-", " "))
	for i := range words {
		swapped, wrong := slices.Clone(words), slices.Clone(words)
		wrong[i] = ceremony.WordList[(slices.Index(ceremony.WordList, words[i])+1)%256]
		for _, bad := range [][]string{wrong, slices.Delete(slices.Clone(words), i, i+1), slices.Insert(swapped, i, "acorn")} {
			if _, _, err := ceremony.CheckShare(strings.Join(bad, " ")); !errors.Is(err, ceremony.ErrShare) {
				t.Errorf("word %d: %v", i, err)
			} else if strings.Contains(err.Error(), words[i]+" ") && i > 5 {
				t.Errorf("the fault repeats a word: %v", err)
			}
		}
	}
	for name, some := range map[string][]string{"twice": {parts[0], parts[0]}, "of another set": {parts[0], other[1]}, "none": nil, "noise": {"acorn", parts[0]}} {
		if _, err := ceremony.JoinPIN(some); !errors.Is(err, ceremony.ErrShare) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, k := range []struct{ m, n int }{{1, 3}, {3, 2}, {2, 17}, {0, 0}} {
		if _, err := ceremony.SplitPIN(hsm.NewSecret([]byte("1")), k.m, k.n, nil); !errors.Is(err, ceremony.ErrShare) {
			t.Errorf("%d of %d: %v", k.m, k.n, err)
		}
	}
	pin, err := ceremony.JoinPIN(parts[1:])
	if err != nil || fmt.Sprint(pin) == "493811" {
		t.Errorf("the PIN prints: %v %v", pin, err)
	}
}

func FuzzJoinPIN(f *testing.F) {
	parts, err := ceremony.SplitPIN(hsm.NewSecret([]byte("493811")), 2, 2, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(parts[0], parts[1])
	f.Add("", "acorn acorn")
	f.Fuzz(func(t *testing.T, a, b string) {
		if pin, err := ceremony.JoinPIN([]string{a, b}); err == nil && (pin.Empty() || len(pin.Reveal()) > ceremony.MaxPIN) {
			t.Error("parts gave no PIN and no error")
		}
	})
}
