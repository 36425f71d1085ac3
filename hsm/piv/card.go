//go:build cgo && !nopcsc

package piv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-piv/piv-go/v2/piv"

	"hallmark/hsm/token"
	"hallmark/internal/fault"
)

// limit is for one operation: RSA takes seconds, a touch fifteen.
const limit = 30 * time.Second

// refusedCards holds the cards that refused a PIN, for the life of the process.
var refusedCards sync.Map // serial -> error

// card is one card, whether it is inserted or not.
type card struct {
	serial uint32
	cfg    token.Config
	lock   chan struct{} // holds one value while the card is free

	// Only the holder of lock uses these.
	yk      *piv.YubiKey
	version string
	pin     token.Secret

	mu      sync.Mutex // for health, which does not wait for a card
	lastErr error
	since   time.Time
	opened  uint64
}

func newCard(serial uint32, cfg token.Config) *card {
	c := &card{serial: serial, cfg: cfg, lock: make(chan struct{}, 1), since: time.Now()}
	c.lock <- struct{}{}
	return c
}

func (c *card) id() token.ID {
	return token.ID{Label: "piv-" + c.name(), Model: "PIV", Serial: c.name(), Firmware: c.version}
}

func (c *card) name() string { return strconv.FormatUint(uint64(c.serial), 10) }

// do runs f with the open card, alone. After an error of the reader or of the
// card's state it opens the card again, once: what we do is idempotent.
func (c *card) do(ctx context.Context, f func(*piv.YubiKey) error) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c.lock:
	case <-ctx.Done():
		return c.left(ctx)
	case <-timer.C:
		return c.down(errors.New("the card is busy"))
	}
	result := make(chan error, 1)
	go func() {
		defer func() { c.lock <- struct{}{} }()
		result <- c.run(f)
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return c.left(ctx)
	case <-timer.C:
		return c.down(fmt.Errorf("no answer within %v", limit))
	}
}

func (c *card) left(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return token.ErrBusy.Wrap(ctx.Err(), "The request's own time ran out.")
	}
	return fmt.Errorf("hsm: %w", ctx.Err())
}

func (c *card) run(f func(*piv.YubiKey) error) error {
	for try := 0; ; try++ {
		if c.yk == nil {
			if err := c.open(); err != nil {
				return c.down(err)
			}
		}
		err := f(c.yk)
		if err == nil || settled(err) {
			c.note(nil)
			return c.translate(err)
		}
		c.cfg.Metrics.Errors.WithLabelValues("piv-"+c.name(), statusName(err)).Inc()
		c.yk.Close()
		c.yk = nil
		if try > 0 {
			return c.down(err)
		}
	}
}

// status is the status word of a card's answer, which the binding shows only
// by this method.
type status interface {
	error
	Status() uint16
}

// settled says that opening the card again would not change the answer.
func settled(err error) bool {
	var f *fault.Fault
	var auth piv.AuthErr
	var sw status
	switch {
	case errors.As(err, &f), errors.As(err, &auth):
		return true
	case errors.As(err, &sw):
		switch sw.Status() {
		case 0x6d00, 0x6e00, 0x6982:
			// Another card, or this one after a reset: no application is
			// selected, no PIN is verified.
			return false
		}
		return true
	}
	return false
}

func statusName(err error) string {
	var sw status
	if errors.As(err, &sw) {
		return fmt.Sprintf("SW_%04X", sw.Status())
	}
	return "PCSC"
}

func (c *card) translate(err error) error {
	var f *fault.Fault
	var auth piv.AuthErr
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return f
	case errors.As(err, &auth):
		return c.refuse(err)
	case errors.Is(err, piv.ErrNotFound):
		return token.ErrKeyNotFound.Wrap(err, "The card is %s.", c.name())
	}
	return token.ErrOperation.Wrap(err, "The card is %s.", c.name())
}

func (c *card) refuse(cause error) error {
	err := token.ErrPINRefused.Wrap(cause, "The card is %s.", c.name())
	refusedCards.Store(c.serial, err)
	return err
}

// open looks through the readers for the card. Readers that name a YubiKey come
// first, so that other cards are not disturbed without need.
func (c *card) open() error {
	names, err := piv.Cards()
	if err != nil {
		return err
	}
	var likely, rest []string
	for _, n := range names {
		if strings.Contains(strings.ToLower(n), "yubi") {
			likely = append(likely, n)
		} else {
			rest = append(rest, n)
		}
	}
	cause := errors.New("no reader holds the card")
	for _, n := range append(likely, rest...) {
		yk, err := piv.Open(n)
		if err != nil {
			cause = err
			continue
		}
		serial, err := yk.Serial()
		if err != nil || serial != c.serial {
			yk.Close()
			continue
		}
		v := yk.Version()
		c.yk = yk
		c.version = fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
		c.mu.Lock()
		c.opened++
		c.mu.Unlock()
		c.cfg.Log.Info("card opened", "serial", c.name(), "firmware", c.version, "reader", n)
		return nil
	}
	return cause
}

// login makes sure that there is a PIN which the card accepts. It is tried once.
func (c *card) login(ctx context.Context, u token.URI, yk *piv.YubiKey) error {
	if err, ok := refusedCards.Load(c.serial); ok {
		return err.(error)
	}
	if !c.pin.Empty() {
		return nil
	}
	if n, err := yk.Retries(); err == nil && n <= 1 {
		// Somebody failed before us; the last try is not ours to take.
		return c.refuse(fmt.Errorf("%d tries are left; use the vendor's tool", n))
	}
	pin, err := c.cfg.PINFor(ctx, u, c.id(), "to use the keys of the card")
	if err != nil {
		return err
	}
	if err := yk.VerifyPIN(string(pin.Reveal())); err != nil {
		return err
	}
	c.pin = pin
	return nil
}

func (c *card) down(cause error) error {
	c.note(cause)
	return token.ErrTokenDown.Wrap(cause, "The card is %s.", c.name()).After(time.Second)
}

// note keeps the state for health.
func (c *card) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if (err == nil) != (c.lastErr == nil) {
		c.since = time.Now()
		state := 0.0
		if err != nil {
			state = 1
			c.cfg.Log.Error("card lost", "serial", c.name(), "error", err)
		}
		c.cfg.Metrics.Breaker.WithLabelValues("piv-" + c.name()).Set(state)
	}
	c.lastErr = err
}

func (c *card) health(ctx context.Context) token.Health {
	h := token.Health{Scheme: token.SchemePIV, Sessions: 1, State: token.StateUp}
	var id token.ID
	began := time.Now()
	err := c.do(ctx, func(yk *piv.YubiKey) error {
		id = c.id()
		_, err := yk.Serial()
		return err
	})
	if err == nil {
		h.Token = id
	} else {
		h.State, h.LastError = token.StateDown, err.Error()
		h.Token = token.ID{Label: "piv-" + c.name(), Model: "PIV", Serial: c.name()}
	}
	h.Latency = time.Since(began)
	if _, ok := refusedCards.Load(c.serial); ok {
		h.State = token.StateRefused
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h.Since, h.Generation = c.since, c.opened
	return h
}

func (c *card) close() {
	select {
	case <-c.lock: // never given back: later calls time out, the store refuses them first
		if c.yk != nil {
			c.yk.Close()
			c.yk = nil
		}
		c.pin.Wipe()
		c.pin = token.Secret{}
	case <-time.After(2 * time.Second):
		c.cfg.Log.Warn("a card hangs while closing", "serial", c.name())
	}
}
