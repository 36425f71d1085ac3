//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
)

// errNoToken is the absence of the token, which for a network HSM is what an
// outage looks like.
var errNoToken = errors.New("the token is not present")

// errUnanswered is that the first login of this process has no answer.
var errUnanswered = errors.New("the token has not answered to its PIN; it is not sent again before a restart")

// connect makes a new link without touching the module: find the token, log
// in, find and prove every key. prev is the generation the caller saw; if the
// link is newer already, there is nothing to do. It ends with errSilent when
// one of its steps takes longer than a signature may.
func (d *device) connect(ctx context.Context, prev uint64) error {
	d.connectMu.Lock()
	defer d.connectMu.Unlock()
	if l := d.link.Load(); l != nil && l.gen > prev {
		return nil
	}
	if d.state.Load() == stopped {
		return token.ErrClosed.New("")
	}
	registry.mu.Lock()
	err := registry.refused[d.refusalKey()]
	registry.mu.Unlock()
	if err != nil {
		return err
	}
	if err := d.readPIN(ctx); err != nil {
		return err
	}

	d.attempts++
	next := &link{gen: d.attempts}
	keeper, keeperGen := d.keeper, d.keeperGen
	var pinLow bool
	var latency time.Duration
	err = d.mod.do(d.loginLimit(), func(v visit, alive func() bool) error {
		s, err := v.one(token.URI{Token: d.id.Label, Serial: d.id.Serial})
		if err != nil {
			return err
		}
		sess, err := v.ctx.openSession(s.number, p11.CKF_SERIAL_SESSION)
		if err != nil {
			return err
		}
		// Each step looks whether it is still wanted: a PIN above all is not
		// sent by somebody who was given up.
		err = errSilent
		if alive() {
			err = d.login(v, sess, s)
		}
		if err == nil {
			latency, err = d.proveAll(v, sess, next.gen, alive)
		}
		if err == nil && !alive() {
			err = errSilent
		}
		if err != nil {
			v.ctx.closeSession(sess)
			return err
		}
		// The new keeper exists before the old one goes: closing the last session
		// of a token logs out.
		if keeperGen == v.gen && keeper != sess {
			v.ctx.closeSession(keeper)
		}
		keeper, keeperGen = sess, v.gen
		next.modGen, next.slot, next.ctx = v.gen, s.number, v.ctx
		pinLow = s.flags&p11.CKF_USER_PIN_COUNT_LOW != 0
		return nil
	})
	if err != nil {
		return err
	}
	d.keeper, d.keeperGen = keeper, keeperGen
	d.link.Store(next)
	d.mu.Lock()
	d.pinLow = pinLow
	if latency > 0 {
		d.latency = latency
	}
	d.mu.Unlock()
	return nil
}

// readPIN gets the PIN before its first use. A person may have to type it, so
// no call waits for it.
func (d *device) readPIN(ctx context.Context) error {
	d.pinMu.Lock()
	defer d.pinMu.Unlock()
	flags := d.found.flags
	if flags&p11.CKF_LOGIN_REQUIRED == 0 || !d.pin.Empty() {
		return nil
	}
	if flags&p11.CKF_USER_PIN_LOCKED != 0 {
		return d.refuse(p11.Error(p11.CKR_PIN_LOCKED))
	}
	if flags&p11.CKF_USER_PIN_FINAL_TRY != 0 {
		// Somebody failed before us; the last try is not ours to take.
		return d.refuse(errors.New("only one try is left; log in once with the vendor's tool"))
	}
	if d.keypad() {
		return nil
	}
	pin, err := d.cfg.PINFor(ctx, d.uri, d.id, "to use the keys of the token")
	if err != nil {
		return err
	}
	d.pin = pin
	return nil
}

// copyPIN is the PIN for one call. The caller wipes it.
func (d *device) copyPIN() token.Secret {
	d.pinMu.Lock()
	defer d.pinMu.Unlock()
	return token.NewSecret(d.pin.Reveal())
}

// login uses the PIN once. A refusal is remembered for the life of the
// process: a retry counter of three does not survive a reconnect loop (A23).
// For the same reason a PIN that was not accepted yet is not sent again when
// the first try has no answer: the call hangs, or the module's process ended
// under it, and nobody knows whether it was counted.
func (d *device) login(v visit, sess p11.SessionHandle, s slot) error {
	if s.flags&p11.CKF_LOGIN_REQUIRED == 0 {
		return nil
	}
	if s.flags&p11.CKF_USER_PIN_LOCKED != 0 {
		return d.refuse(p11.Error(p11.CKR_PIN_LOCKED))
	}
	if !d.accepted.Load() {
		key := d.refusalKey()
		registry.mu.Lock()
		asked := registry.asking[key]
		registry.asking[key] = true
		registry.mu.Unlock()
		if asked {
			return errUnanswered
		}
	}
	pin := d.copyPIN()
	err := v.ctx.login(sess, p11.CKU_USER, pin)
	pin.Wipe()
	if !errors.Is(err, errGone) {
		registry.mu.Lock()
		delete(registry.asking, d.refusalKey())
		registry.mu.Unlock()
	}
	switch {
	case err == nil:
		d.accepted.Store(true)
		return nil
	case isCode(err, p11.CKR_USER_ALREADY_LOGGED_IN):
		return nil // says nothing about the PIN
	case classify(err) == classPIN:
		return d.refuse(err)
	}
	return err
}

func (d *device) refuse(cause error) error {
	d.count(cause)
	f := token.ErrPINRefused.Wrap(cause, "The token is %q, serial %q.", d.id.Label, d.id.Serial)
	registry.mu.Lock()
	registry.refused[d.refusalKey()] = f
	registry.mu.Unlock()
	return f
}

// proveAll finds every known key again and tests it. At least one must be
// there if any was known: a token without its keys is not the token.
func (d *device) proveAll(v visit, sess p11.SessionHandle, gen uint64, alive func() bool) (took time.Duration, err error) {
	d.mu.Lock()
	keys := make([]*Key, 0, len(d.keys))
	for _, k := range d.keys {
		keys = append(keys, k)
	}
	d.mu.Unlock()
	good := 0
	var missing error
	for _, k := range keys {
		if !alive() {
			return 0, errSilent
		}
		began := time.Now()
		err := k.resolve(v.ctx, sess, gen)
		switch {
		case err == nil:
			good++
			took = time.Since(began)
		case errors.Is(err, errNoKey):
			missing = err
		default:
			return 0, err
		}
	}
	if good == 0 && missing != nil {
		return 0, missing
	}
	return took, nil
}

// reconnect tries until the token is back, the PIN is refused or the keyring is
// closed: first a new link, then the same after a new start of the module,
// which is what most modules need after their far side was away. A module that
// was silent is not asked before it was started anew.
func (d *device) reconnect(gen uint64, silent bool) {
	pause := minRetry
	told := false
	for {
		// Full jitter over the upper half keeps many processes apart that lost
		// one HSM at the same moment.
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-d.stop:
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(2*pause, maxRetry)

		modGen := d.mod.generation()
		err := errSilent
		if !silent {
			err = d.connect(context.Background(), gen)
		}
		if err != nil && !token.Fault(err, token.ErrPINRefused) {
			if err = d.mod.restart(modGen, silent, d.log); err == nil {
				err = d.connect(context.Background(), gen)
			}
		}
		silent = errors.Is(err, errSilent)
		switch {
		case err == nil:
			d.mu.Lock()
			away := time.Since(d.since)
			if d.state.CompareAndSwap(down, up) {
				d.since = time.Now()
			}
			d.mu.Unlock()
			d.breaker.Set(0)
			d.log.Info("token is back", "away", away)
			return
		case token.Fault(err, token.ErrPINRefused):
			d.mu.Lock()
			d.state.CompareAndSwap(down, refused)
			d.since, d.lastErr = time.Now(), err
			d.mu.Unlock()
			d.breaker.Set(2)
			d.log.Error("the token refuses the PIN, waiting for a person", "error", err)
			return
		case token.Fault(err, token.ErrClosed):
			return
		case token.Fault(err, token.ErrModuleStuck) && !told:
			told = true
			d.log.Error("calls hang in the module, which is loaded directly: restart the service", "error", err)
		}
		d.mu.Lock()
		d.lastErr = err
		d.mu.Unlock()
		d.log.Debug("token still away", "error", err, "pause", pause)
	}
}
