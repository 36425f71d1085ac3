package token

import (
	"context"
	"log/slog"
	"time"
)

// Config is what a keyring hands to its backends, completed by its defaults.
type Config struct {
	Log         *slog.Logger
	Sessions    int
	SignTimeout time.Duration
	PIN         PINSource // for URIs that name no source; may be nil
	Metrics     *Metrics
}

// PINFor finds the PIN for u: the URI's own source, its value, then the
// configured source.
func (c Config) PINFor(ctx context.Context, u URI, id ID, reason string) (Secret, error) {
	switch {
	case u.PINSource != "":
		return ReadSource(u.PINSource)
	case !u.PINValue.Empty():
		return NewSecret(u.PINValue.Reveal()), nil
	case c.PIN != nil:
		s, err := c.PIN.PIN(ctx, id, reason)
		if err == nil && s.Empty() {
			err = ErrPINMissing.New("The source gave an empty PIN.")
		}
		return s, err
	}
	return Secret{}, ErrPINMissing.New("The URI names no source and none is configured.")
}
