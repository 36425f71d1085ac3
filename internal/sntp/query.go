package sntp

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	packetLen = 48
	version   = 4
	client    = 3 // modes
	server    = 4
	// eraSeconds is how long the 32 bits of seconds last; era 0 began in 1900.
	eraSeconds = 1 << 32
	to1970     = 2_208_988_800 // seconds from 1900 to 1970
)

// Answer is what a server said.
type Answer struct {
	// Offset is what has to be added to the local clock to get the server's time.
	Offset time.Duration
	// Delay is how long question and answer were under way; the offset is wrong
	// by at most half of it, if the server is right.
	Delay time.Duration
}

// Query asks the server at HOST:PORT once. It ends with ctx, or after 5 seconds.
func Query(ctx context.Context, addr string, now func() time.Time) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", addr)
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return Answer{}, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	question := make([]byte, packetLen)
	question[0] = version<<3 | client
	rand.Read(question[40:]) // in the place of the transmit timestamp
	began := time.Now()      // its monotonic reading measures the delay
	sent := now()
	if _, err := conn.Write(question); err != nil {
		return Answer{}, err
	}
	buf := make([]byte, 512)
	var last error
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return Answer{}, errors.Join(err, last)
		}
		took := time.Since(began)
		// A wrong answer is nobody's: the right one may still come.
		received, transmitted, err := parse(buf[:n], question[40:], sent)
		if err != nil {
			last = err
			continue
		}
		// RFC 4330, Section 5: offset ((T2-T1)+(T3-T4))/2, delay (T4-T1)-(T3-T2).
		back := sent.Add(took)
		return Answer{
			Offset: (received.Sub(sent) + transmitted.Sub(back)) / 2,
			Delay:  took - transmitted.Sub(received),
		}, nil
	}
}

// parse checks an answer as RFC 4330, Section 5 says and gives the times at which
// the server received the question and sent its answer. near picks the era.
func parse(b, nonce []byte, near time.Time) (received, transmitted time.Time, err error) {
	switch {
	case len(b) < packetLen:
		return received, transmitted, fmt.Errorf("sntp: an answer of %d octets", len(b))
	case b[0]&7 != server || b[0]>>3&7 < 3 || b[0]>>3&7 > version:
		return received, transmitted, fmt.Errorf("sntp: mode %d, version %d is no answer", b[0]&7, b[0]>>3&7)
	case string(b[24:32]) != string(nonce):
		return received, transmitted, errors.New("sntp: the answer is to another question")
	case b[0]>>6 == 3:
		return received, transmitted, errors.New("sntp: the server's clock is not set")
	case b[1] == 0:
		return received, transmitted, fmt.Errorf("sntp: the server refuses (%q)", b[12:16])
	case b[1] > 15:
		return received, transmitted, fmt.Errorf("sntp: the server has no source (stratum %d)", b[1])
	case binary.BigEndian.Uint64(b[32:]) == 0 || binary.BigEndian.Uint64(b[40:]) == 0:
		return received, transmitted, errors.New("sntp: the answer has no time")
	}
	received, transmitted = timestamp(b[32:40], near), timestamp(b[40:48], near)
	if d := transmitted.Sub(received); d < 0 || d > 5*time.Second {
		return received, transmitted, fmt.Errorf("sntp: the server took %s to answer", d)
	}
	return received, transmitted, nil
}

// timestamp reads 32 bits of seconds and 32 of their fraction, in the era that
// comes nearest to a time: the first ends in 2036.
func timestamp(b []byte, near time.Time) time.Time {
	sec := int64(binary.BigEndian.Uint32(b)) - to1970
	eras := (near.Unix() - sec + eraSeconds/2) / eraSeconds
	if near.Unix()-sec+eraSeconds/2 < 0 {
		eras = 0
	}
	frac := int64(binary.BigEndian.Uint32(b[4:]))
	return time.Unix(sec+eras*eraSeconds, frac*int64(time.Second)>>32)
}
