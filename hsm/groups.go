package hsm

import (
	"bytes"
	"context"

	"hallmark/hsm/token"
)

// Check reads the URIs of a group and refuses a configuration that cannot work.
func (c GroupConfig) Check() ([]token.URI, error) {
	if c.Name == "" {
		return nil, ErrURIInvalid.New("A group of tokens has no name.")
	}
	if len(c.Keys) < 2 || len(c.Keys) > maxMembers {
		return nil, ErrURIInvalid.New("%s names %d tokens; 2 to %d are possible.", c.Name, len(c.Keys), maxMembers)
	}
	var out []token.URI
	for _, text := range c.Keys {
		u, err := token.ParseURI(text)
		if err != nil {
			return nil, err
		}
		if u.Scheme == token.SchemePKCS11 && u.Object == "" && len(u.ID) == 0 {
			return nil, ErrURIInvalid.New("A URI of %s must name the key by object or id.", c.Name)
		}
		for _, have := range out {
			if have.Key() == u.Key() {
				return nil, ErrURIInvalid.New("%s names %s twice.", c.Name, u.Key())
			}
		}
		out = append(out, u)
	}
	for _, t := range c.Transfers {
		if err := t.Verify(); err != nil {
			return nil, err
		}
		if c.SPKI != nil && !bytes.Equal(c.SPKI, t.Key.SPKI) {
			return nil, ErrTransfer.New("A record of %s is about another key.", c.Name)
		}
	}
	return out, nil
}

// groupOf finds the group that names the key of u: one of its URIs names the
// same token and the same key as far as both say. A wrong guess does no harm:
// the public key is pinned, and who opens a CA key compares it.
func (k *Keyring) groupOf(u token.URI) *keyGroup {
	for _, g := range k.groups {
		for _, have := range g.uris {
			if sameKey(have, u) {
				return g
			}
		}
	}
	return nil
}

func sameKey(a, b token.URI) bool {
	if a.Scheme != b.Scheme {
		return false
	}
	if a.Scheme != token.SchemePKCS11 {
		return a.Key() == b.Key()
	}
	agree := func(x, y string) bool { return x == "" || y == "" || x == y }
	if !agree(a.Token, b.Token) || !agree(a.Serial, b.Serial) || !agree(a.Object, b.Object) || !agree(a.Model, b.Model) || !agree(a.Manufacturer, b.Manufacturer) {
		return false
	}
	if len(a.ID) > 0 && len(b.ID) > 0 && !bytes.Equal(a.ID, b.ID) {
		return false
	}
	token := a.Token != "" && a.Token == b.Token || a.Serial != "" && a.Serial == b.Serial
	key := a.Object != "" && a.Object == b.Object || len(a.ID) > 0 && bytes.Equal(a.ID, b.ID)
	return token && key
}

func (k *Keyring) openGroup(ctx context.Context, g *keyGroup) (*Group, error) {
	if k.badGroup != nil {
		return nil, k.badGroup
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	k.mu.Lock()
	closed := k.closed
	k.mu.Unlock()
	if closed {
		return nil, ErrClosed.New("")
	}
	if g.open != nil {
		return g.open, nil
	}
	made, err := newGroup(ctx, g.cfg, g.uris, &Group{
		log:     k.cfg.Log,
		metrics: k.metrics,
		open: func(ctx context.Context, u token.URI) (token.Signer, error) {
			u, b, err := k.resolve(u.String())
			if err != nil {
				return nil, err
			}
			return b.Signer(ctx, u)
		},
		check: func(ctx context.Context, u token.URI) error {
			u, b, err := k.resolve(u.String())
			if err != nil {
				return err
			}
			a, err := b.Attributes(ctx, u)
			if err != nil {
				return err
			}
			return CheckReplicatedKey(a, g.cfg.Transfers, false)
		},
	})
	if err != nil {
		return nil, err
	}
	g.open = made
	return made, nil
}

// GroupHealth is the state of a key that several tokens hold.
type GroupHealth struct {
	Name      string
	URI       string
	SPKI      string // SHA-256, hexadecimal
	Share     bool
	Serving   int // tokens that serve
	Waiting   int
	Failovers int64
	Late      int64 // answers that came after another token was asked
	Wrong     int64 // signatures that did not verify
	Tokens    []MemberHealth
}

// Groups is the state of every group that was opened.
func (k *Keyring) Groups() []GroupHealth {
	var out []GroupHealth
	for _, g := range k.groups {
		g.mu.Lock()
		open := g.open
		g.mu.Unlock()
		if open != nil {
			out = append(out, open.Health())
		}
	}
	return out
}

// Covered tells whether every key that is served from the token could be served
// by another one at this moment, so that its loss is a warning and no outage.
func (k *Keyring) Covered(h TokenHealth) bool {
	in, keys := 0, h.Keys
	for _, g := range k.groups {
		g.mu.Lock()
		open := g.open
		g.mu.Unlock()
		if open == nil {
			continue
		}
		here, other := 0, false
		for _, m := range open.members {
			if m.uri.Scheme == h.Scheme && (m.uri.Token == "" || m.uri.Token == h.Token.Label) && (m.uri.Serial == "" || m.uri.Serial == h.Token.Serial) {
				here++
			} else if m.up.Load() {
				other = true
			}
		}
		if here > 0 && !other {
			return false
		}
		in += here
	}
	return in > 0 && keys <= in
}
