package adapter

import (
	"context"
	"log/slog"
	"strings"
	"time"
)

// Device names the unit in the nest.
type Device struct {
	// Label is the station's own name of the work; it stays the same when the
	// work is done again after a crash.
	Label string
	// Unit is the unit's serial: the same as Label for a scanned one, empty for
	// one that is to be allocated until the service gave it its name.
	Unit string
}

// Adapter reaches the device in one nest. Methods are called one after the
// other, in the order below but possibly again from the start, with contexts
// that end when the device takes too long.
//
// Faults: [ErrKeyFault] for a key generation that may work the next time,
// [ErrAbsent] when there is no device, [ErrDevice] for anything the device
// refuses. After any fault the adapter must be good for the next unit.
type Adapter interface {
	// Connect prepares the device. It is called again when a unit is resumed,
	// possibly after a restart, in the nest that had it. An adapter that can
	// tell which device is in the nest answers ErrAbsent if it is another one.
	Connect(ctx context.Context, d Device) error
	// KeyAndCSR makes the device create its key, unless it has one, and sign a
	// CSR (DER) with it; the common name is d.Unit or empty. Called again for
	// the same device it returns a CSR for the same key, except if fresh, which
	// asks for a new key. The key must be durable before it returns: a
	// certificate may exist for it a moment later.
	KeyAndCSR(ctx context.Context, d Device, fresh bool) (csr []byte, err error)
	// Install writes the certificate and its chain, issuing CA first, durably
	// and so that it can be repeated.
	Install(ctx context.Context, d Device, certificate []byte, chain [][]byte) error
	// ReadBack returns the certificate that the device holds now, nil if none.
	ReadBack(ctx context.Context, d Device) (certificate []byte, err error)
	// Challenge lets the device sign the message with its key, as
	// uplink.SignCommit does.
	Challenge(ctx context.Context, d Device, message []byte) (signature []byte, err error)
	// Close ends the adapter.
	Close() error
}

// Config says where an adapter works.
type Config struct {
	Nest int // which nest it serves, from 0
	Log  *slog.Logger
	// Timeout bounds what the command adapter waits for its program to end on
	// Close; 0 means 3 s.
	Timeout time.Duration
}

// Open makes the adapter that spec describes.
func Open(spec string, cfg Config) (Adapter, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 3 * time.Second
	}
	scheme, rest, _ := strings.Cut(spec, ":")
	switch scheme {
	case "command":
		return newCommand(rest, cfg)
	case "simulate":
		return newSimulate(rest, cfg)
	}
	return nil, ErrSpec.New("It is %q.", spec)
}
