//go:build cgo

package pkcs11

import (
	"bytes"
	"errors"
	"testing"
)

func anAsk() *ask {
	return &ask{op: opSign, a: 7, b: 1 << 40, c: 1, mech: 0x1041, param: []byte{1, 2}, data: bytes.Repeat([]byte{5}, 32), secret: []byte("1234"),
		tmpl: [2][]attr{{{0, []byte{3}}, {0x102, []byte("label")}}, {{1, nil}}}}
}

func aReply() *reply {
	return &reply{code: 0x30, nums: []uint64{1, 1 << 63}, blobs: [][]byte{[]byte("signature"), {}}}
}

// What is read is written in the same octets, so there is one form for each
// message, and nothing is read that is not used.
func FuzzWire(f *testing.F) {
	q, _ := appendAsk(nil, 9, anAsk())
	r, _ := appendReply(nil, 9, aReply())
	for _, b := range [][]byte{q, r, q[:len(q)-1], r[:20], append(bytes.Clone(q), 0), {wireVersion}, {wireVersion + 1, byte(opSign), 0, 0}, nil} {
		f.Add(b)
	}
	f.Add(append([]byte{wireVersion, answerMark, 0, 0}, bytes.Repeat([]byte{0xff}, 64)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, q, err := parseAsk(b); err == nil {
			if again, err := appendAsk(nil, id, &q); err != nil || !bytes.Equal(again, b) {
				t.Fatalf("question %x became %x, %v", b, again, err)
			}
		} else if !errors.Is(err, errFrame) && !errors.Is(err, errVersion) {
			t.Fatal(err)
		}
		if id, r, err := parseReply(b); err == nil {
			if again, err := appendReply(nil, id, &r); err != nil || !bytes.Equal(again, b) {
				t.Fatalf("answer %x became %x, %v", b, again, err)
			}
		} else if !errors.Is(err, errFrame) && !errors.Is(err, errVersion) {
			t.Fatal(err)
		}
	})
}

func TestWire_BoundsWhatItWritesAndReads(t *testing.T) {
	long := anAsk()
	long.data = make([]byte, maxFrame)
	if _, err := appendAsk(nil, 0, long); !errors.Is(err, errLong) {
		t.Errorf("a long question: %v", err)
	}
	if _, err := appendReply(nil, 0, &reply{nums: make([]uint64, maxList+1)}); !errors.Is(err, errLong) {
		t.Errorf("a long answer: %v", err)
	}
	q, err := appendAsk(nil, 3, anAsk())
	if err != nil {
		t.Fatal(err)
	}
	for i := range q {
		if _, _, err := parseAsk(q[:i]); err == nil {
			t.Fatalf("the first %d of %d octets are taken for the whole", i, len(q))
		}
	}
	other := bytes.Clone(q)
	other[0]++
	if _, _, err := parseAsk(other); !errors.Is(err, errVersion) {
		t.Errorf("another version: %v", err)
	}
	if _, _, err := parseReply(q); !errors.Is(err, errFrame) {
		t.Errorf("a question is taken for an answer: %v", err)
	}
}
