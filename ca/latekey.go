package ca

import (
	"context"
	"crypto"
	"errors"
	"io"
	"sync/atomic"

	"hallmark/internal/fault"
)

// lateKey is the key of an authority whose token was away when the authority was
// loaded. It is opened, with every check, when it is asked for a signature; before
// that it fails like any key that does not answer, so that the next authority that
// is declared issues.
type lateKey struct {
	open func(context.Context) (Key, error)
	pub  crypto.PublicKey // as in the certificate
	turn chan struct{}    // holds one: who has it opens
	key  atomic.Pointer[Key]
	why  atomic.Pointer[error] // the last failure
}

func newLateKey(pub crypto.PublicKey, open func(context.Context) (Key, error), why error) *lateKey {
	k := &lateKey{open: open, pub: pub, turn: make(chan struct{}, 1)}
	k.why.Store(&why)
	return k
}

// Public is the key that the certificate is for.
func (k *lateKey) Public() crypto.PublicKey { return k.pub }

// Sign implements [crypto.Signer].
func (k *lateKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.SignContext(context.Background(), digest, opts)
}

// SignContext implements [Key].
func (k *lateKey) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	key, err := k.get(ctx)
	if err != nil {
		return nil, ErrSigner.Wrap(err, "Its token was away at the start, and still is.").After(restFirst)
	}
	return key.SignContext(ctx, digest, opts)
}

func (k *lateKey) get(ctx context.Context) (Key, error) {
	if have := k.key.Load(); have != nil {
		return *have, nil
	}
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if have := k.key.Load(); have != nil {
		return *have, nil
	}
	key, err := k.open(ctx)
	if err != nil {
		k.why.Store(&err)
		return nil, err
	}
	k.key.Store(&key)
	return key, nil
}

// lost is why the key was never opened, nil if it was.
func (l *authority) lost() error {
	k, ok := l.key.(*lateKey)
	if !ok || k.key.Load() != nil {
		return nil
	}
	return *k.why.Load()
}

// comesBack tells whether a key that cannot be opened may be open later: not one
// that is refused for what it is.
func comesBack(err error) bool {
	return !errors.Is(err, ErrAuthorityMismatch) && fault.KindOf(err) != fault.Forbidden
}

// deserted gives the failure of a duty for which some authority is active and the
// key of none could be opened. A service that starts so could do nothing of what it
// is for, and says so at once.
func deserted(auth map[string]*authority) error {
	lost, there := map[string]error{}, map[string]bool{}
	for _, a := range auth {
		if a.key == nil || a.State != StateActive {
			continue
		}
		if err := a.lost(); err == nil {
			there[string(a.Duty)] = true
		} else {
			lost[string(a.Duty)] = err
		}
	}
	for duty, err := range lost {
		if !there[duty] {
			return err
		}
	}
	return nil
}
