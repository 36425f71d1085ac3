//go:build cgo

package pkcs11

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
)

// worker is one goroutine with one session. It alone uses the session.
type worker struct {
	d        *device
	reserved bool

	sess p11.SessionHandle
	link *link // the link sess belongs to; nil = no session

	active atomic.Pointer[request] // for the watch to see
}

// run works until the queue is closed.
func (w *worker) run() {
	defer w.d.wg.Done()
	for r := w.d.q.next(nil, w.reserved); r != nil; r = w.d.q.next(r, w.reserved) {
		r.began, r.gen = time.Now(), w.d.link.Load().gen
		w.active.Store(r)
		sig, err := w.sign(r)
		w.active.Store(nil)
		if err == nil {
			w.d.lastUse.Store(r.began.UnixNano())
		}
		r.settle(sig, err)
	}
	w.drop()
}

// expire gives up on a signature that takes longer than allowed: the breaker
// keeps others from following it, and the module's process is ended for another.
func (w *worker) expire(now time.Time) {
	r := w.active.Load()
	if r == nil || now.Sub(r.began) < w.d.cfg.SignTimeout {
		return
	}
	err := fmt.Errorf("%w: a signature took longer than %v", errSilent, w.d.cfg.SignTimeout)
	w.d.lost(r.gen, err)
	r.settle(nil, w.d.downFault(err))
}

// sign signs, with one retry for a lost session and one for a lost login, which
// can come one after the other. Signing again is harmless: nobody saw the first
// signature.
func (w *worker) sign(r *request) ([]byte, error) {
	d := w.d
	var tried [classPIN + 1]bool
	for {
		if err := d.available(); err != nil {
			return nil, err
		}
		sig, l, err := w.once(r)
		if err == nil {
			return sig, nil
		}
		d.count(err)
		var gone lostError
		c := classify(err)
		switch {
		case errors.As(err, &gone):
			c = classToken
		case c == classDoubtful:
			// Remote input must not be able to declare the token dead, and the
			// session may keep half an operation: a fresh one decides.
			w.drop()
			if perr := d.probe(noDeadline); perr != nil {
				return nil, perr
			}
			c = classSession
		}
		switch c {
		case classToken:
			d.lost(l.gen, err)
			return nil, d.downFault(err)
		case classSession, classLogin:
			w.drop()
			if tried[c] {
				return nil, token.ErrOperation.Wrap(err, "The token says %s.", codeName(err))
			}
			tried[c] = true
			if c == classLogin {
				if cerr := d.connect(noDeadline, l.gen); cerr != nil {
					d.lost(l.gen, cerr)
					return nil, d.downFault(cerr)
				}
			}
		default:
			// An error between SignInit and Sign leaves the operation active.
			w.drop()
			return nil, wrapCode(err)
		}
	}
}

// once is one signature in the worker's session.
func (w *worker) once(r *request) ([]byte, *link, error) {
	d := w.d
	v, err := d.mod.enter()
	l := d.link.Load()
	if err != nil {
		return nil, l, err
	}
	defer v.leave()
	if l.modGen != v.gen {
		// Another token of the module made it start anew: our login is gone.
		return nil, l, p11.Error(p11.CKR_USER_NOT_LOGGED_IN)
	}
	if w.link != l {
		w.dropIn(v)
		sess, err := v.ctx.openSession(l.slot, p11.CKF_SERIAL_SESSION)
		if err != nil {
			return nil, l, err
		}
		w.sess, w.link = sess, l
	}
	h, ok := r.key.handle(l.gen)
	if !ok {
		if err := w.find(r.key, l); err != nil {
			return nil, l, err
		}
		h, _ = r.key.handle(l.gen)
	}
	raw, err := r.key.raw(v.ctx, w.sess, h, r.in)
	if err != nil {
		if isCode(err, p11.CKR_OBJECT_HANDLE_INVALID) || isCode(err, p11.CKR_KEY_HANDLE_INVALID) {
			// Deleted and perhaps made anew by somebody else, or all is gone:
			// look before the login is blamed.
			r.key.forget(l.gen)
			if err := w.find(r.key, l); err != nil {
				return nil, l, err
			}
			h, _ = r.key.handle(l.gen)
			raw, err = r.key.raw(v.ctx, w.sess, h, r.in)
		}
		if err != nil {
			return nil, l, err
		}
	}
	sig, err := r.key.encode(raw)
	return sig, l, err
}

// find resolves a key in the worker's session. That it is not there has three
// reasons, which PKCS #11 reports in the same way: the token is gone, the login
// is gone, or the key is gone.
func (w *worker) find(k *Key, l *link) error {
	err := k.resolve(l.ctx, w.sess, l.gen)
	if !errors.Is(err, errNoKey) {
		return err
	}
	return w.d.whyNoKey(w.sess, l, k.uri)
}

func (d *device) whyNoKey(sess p11.SessionHandle, l *link, u token.URI) error {
	info, err := l.ctx.tokenInfo(l.slot)
	if err != nil {
		return lostError{err}
	}
	state, err := l.ctx.sessionState(sess)
	if err != nil {
		return err
	}
	loggedIn := state == p11.CKS_RO_USER_FUNCTIONS || state == p11.CKS_RW_USER_FUNCTIONS
	if info.Flags&p11.CKF_LOGIN_REQUIRED != 0 && !loggedIn {
		return p11.Error(p11.CKR_USER_NOT_LOGGED_IN)
	}
	return token.ErrKeyNotFound.New("%s", u.Key())
}

// drop closes the session, if it is still one of the module's.
func (w *worker) drop() {
	if w.link == nil {
		return
	}
	if v, err := w.d.mod.enter(); err == nil {
		w.dropIn(v)
		v.leave()
	}
	w.link = nil
}

func (w *worker) dropIn(v visit) {
	// A handle from before a re-initialisation may be somebody else's now.
	if w.link != nil && w.link.modGen == v.gen {
		v.ctx.closeSession(w.sess)
	}
	w.link = nil
}
