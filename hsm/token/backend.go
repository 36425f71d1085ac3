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
	Direct      bool     // load PKCS #11 modules into this process
	Environment []string // names of variables that a module's process gets, too
}

// PINFor finds the PIN for u: the URI's own source, its value, then the
// configured source.
func (c Config) PINFor(ctx context.Context, u URI, id ID, reason string) (Secret, error) {
	switch {
	case u.PINSource == SourceProtected:
		return Secret{}, ErrPINMissing.New("The token has no keypad of its own; name another pin-source.")
	case u.PINSource == SourcePrompt && c.PIN == nil:
		return AskTerminal(id, reason)
	case u.PINSource != "" && u.PINSource != SourcePrompt:
		return ReadSource(u.PINSource)
	case u.PINSource == "" && !u.PINValue.Empty():
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
