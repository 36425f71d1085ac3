package fabric

import (
	"bytes"
	"testing"
)

func FuzzSealer_Open(f *testing.F) {
	key := bytes.Repeat([]byte{1}, 32)
	a, err := newSealer(key)
	if err != nil {
		f.Fatal(err)
	}
	b, err := newSealer(key)
	if err != nil {
		f.Fatal(err)
	}
	good := a.seal("place", []byte("text"))
	f.Add(good)
	f.Add(good[:headSize])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		data, err := b.open("place", frame)
		if err == nil && !bytes.Equal(frame, good) {
			t.Fatalf("%x opened as %q", frame, data)
		}
		if bytes.Equal(frame, good) && (err != nil || string(data) != "text") {
			t.Fatalf("%q %v", data, err)
		}
	})
}

func TestSealer_NeverUsesANonceTwice(t *testing.T) {
	s, err := newSealer(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 1000 {
		head := string(s.seal("p", nil)[:headSize])
		if seen[head] {
			t.Fatal("the same head twice")
		}
		seen[head] = true
	}
}
