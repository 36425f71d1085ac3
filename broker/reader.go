package broker

import (
	"io"
	"sync"
)

// reader cuts the octets of a connection into packets. While a connection is
// idle it holds idleBuffer octets; a larger buffer is borrowed when more comes
// and given back when all of it is used.
type reader struct {
	src   io.Reader
	max   int                // largest packet
	begin func(partial bool) // before each read from src; partial tells that a packet has begun
	small [idleBuffer]byte
	buf   []byte
	r, w  int
	lent  bool // buf is from readBuffers
}

const (
	idleBuffer  = 64
	readBufSize = 16 << 10 // a TLS record
)

var readBuffers = sync.Pool{New: func() any { b := make([]byte, readBufSize); return &b }}

// next gives the first octet of the next packet and its body, which is valid until
// the next call.
func (r *reader) next() (header byte, body []byte, err error) {
	for {
		have := r.buf[r.r:r.w]
		size, length := 0, 0
		if len(have) > 1 {
			if size, length, err = remaining(have[1:]); err != nil {
				return 0, nil, err
			}
		}
		if size > 0 {
			total := 1 + size + length
			if total > r.max {
				return have[0], nil, end(codeTooLarge, ClientError, "packet too large")
			}
			if len(have) >= total {
				r.r += total
				return have[0], have[1+size : total], nil
			}
		}
		if err := r.fill(); err != nil {
			return 0, nil, err
		}
	}
}

// fill reads once.
func (r *reader) fill() error {
	if r.r == r.w {
		r.release()
		r.begin(false)
	} else {
		r.room()
		r.begin(true)
	}
	n, err := r.src.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil // an error comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// room makes space behind a packet that has begun.
func (r *reader) room() {
	if r.w < len(r.buf) {
		return
	}
	if !r.lent {
		big := *readBuffers.Get().(*[]byte)
		r.w = copy(big, r.buf[r.r:r.w])
		r.r, r.buf, r.lent = 0, big, true
		return
	}
	if r.r > 0 {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
		return
	}
	// A packet larger than the buffer: grow as it arrives, not as it announces.
	bigger := make([]byte, min(2*len(r.buf), r.max+5))
	r.w = copy(bigger, r.buf[:r.w])
	r.giveBack()
	r.buf, r.lent = bigger, true
}

func (r *reader) release() {
	if r.lent {
		r.giveBack()
		r.lent = false
	}
	r.buf, r.r, r.w = r.small[:], 0, 0
}

func (r *reader) giveBack() {
	if b := r.buf; len(b) == readBufSize {
		readBuffers.Put(&b)
	}
}

// remaining reads the remaining length, MQTT 5, Section 2.1.4. size is 0 if it is
// not all there yet.
func remaining(b []byte) (size, length int, err error) {
	for i := range 4 {
		if i >= len(b) {
			return 0, 0, nil
		}
		length |= int(b[i]&0x7F) << (7 * i)
		if b[i] < 0x80 {
			// The encoded value must use the fewest octets [MQTT-1.5.5-1].
			if i > 0 && b[i] == 0 {
				return 0, 0, malformed("length with needless octets")
			}
			return i + 1, length, nil
		}
	}
	return 0, 0, malformed("length of more than four octets")
}
