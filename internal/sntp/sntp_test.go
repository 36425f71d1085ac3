package sntp

import (
	"context"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"hallmark/internal/sntp/sntptest"
)

func TestQuery_MeasuresTheOffset_S38(t *testing.T) {
	s := sntptest.New(t)
	for _, off := range []time.Duration{0, time.Second, -time.Hour, 6 * time.Minute, 20 * 365 * 24 * time.Hour} {
		s.Ahead(off)
		got, err := Query(t.Context(), s.Addr, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		if d := got.Offset - off; d.Abs() > 200*time.Millisecond || got.Delay < 0 || got.Delay > 2*time.Second {
			t.Errorf("offset %s, delay %s, want %s", got.Offset, got.Delay, off)
		}
	}
	// The local clock may be the wrong one.
	s.Ahead(0)
	got, err := Query(t.Context(), s.Addr, func() time.Time { return time.Now().Add(-time.Hour) })
	if err != nil || (got.Offset-time.Hour).Abs() > 200*time.Millisecond {
		t.Errorf("an hour behind: %+v, %v", got, err)
	}
}

func TestQuery_TakesNoOtherAnswer_S38(t *testing.T) {
	s := sntptest.New(t)
	for name, change := range map[string]func(b []byte) []byte{
		"short":                  func(b []byte) []byte { return b[:47] },
		"empty":                  func(b []byte) []byte { return nil },
		"another question":       func(b []byte) []byte { b[24] ^= 1; return b },
		"a client's packet":      func(b []byte) []byte { b[0] = b[0]&^7 | 3; return b },
		"version 7":              func(b []byte) []byte { b[0] |= 7 << 3; return b },
		"not synchronised":       func(b []byte) []byte { b[0] |= 3 << 6; return b },
		"kiss of death":          func(b []byte) []byte { b[1] = 0; copy(b[12:], "RATE"); return b },
		"stratum 16":             func(b []byte) []byte { b[1] = 16; return b },
		"no time":                func(b []byte) []byte { clear(b[40:48]); return b },
		"sent before it arrived": func(b []byte) []byte { binary.BigEndian.PutUint32(b[32:], binary.BigEndian.Uint32(b[40:])+9); return b },
	} {
		s.Change(change)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := Query(ctx, s.Addr, time.Now); err == nil {
			t.Errorf("%s is an answer", name)
		}
		cancel()
		// A good answer after a bad one counts.
		s.ChangeFirst(change)
		if _, err := Query(t.Context(), s.Addr, time.Now); err != nil {
			t.Errorf("%s, then a good one: %v", name, err)
		}
	}
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	if _, err := Query(t.Context(), gone.LocalAddr().String(), time.Now); err == nil {
		t.Error("nobody answered")
	}
}

func TestTimestamp_CrossesTheEra(t *testing.T) {
	b := make([]byte, 8)
	for _, at := range []string{"2026-11-22T06:00:00.25Z", "2036-02-07T06:28:15Z", "2036-02-07T06:28:17Z", "2100-01-01T00:00:00Z", "1999-12-31T23:59:59.5Z"} {
		want, _ := time.Parse(time.RFC3339Nano, at)
		stamp(b, want)
		for _, away := range []time.Duration{0, 30 * 365 * 24 * time.Hour, -30 * 365 * 24 * time.Hour} {
			if got := timestamp(b, want.Add(away)); got.Sub(want).Abs() > time.Microsecond {
				t.Errorf("%s, read %s away, is %s", at, away, got.UTC())
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	nonce := make([]byte, 8)
	good := make([]byte, packetLen)
	good[0], good[1] = version<<3|server, 2
	stamp(good[32:], time.Now())
	stamp(good[40:], time.Now())
	f.Add(good)
	f.Add(good[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		received, sent, err := parse(b, nonce, time.Now())
		if err == nil && (len(b) < packetLen || sent.Before(received) || b[1] == 0) {
			t.Errorf("%x is an answer", b)
		}
	})
}

// stamp is the inverse of timestamp.
func stamp(b []byte, t time.Time) {
	binary.BigEndian.PutUint32(b, uint32(t.Unix()+to1970))
	binary.BigEndian.PutUint32(b[4:], uint32(int64(t.Nanosecond())<<32/int64(time.Second)))
}
