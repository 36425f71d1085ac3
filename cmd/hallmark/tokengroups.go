package main

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hallmark/hsm"
	"hallmark/internal/fault"
)

// TokenGroup is a key that more than one token holds.
type TokenGroup struct {
	Name string `yaml:"name"`
	// Keys are its URIs in order of preference. An authority whose key is one of
	// them is served by all of them.
	Keys []string `yaml:"keys"`
	// PublicKey pins the key: PEM text, or the name of a PEM file, with a public
	// key or certificate; empty pins that of the records.
	PublicKey string `yaml:"public_key"`
	// Records are the files that hallmark hsm replicate wrote (S6).
	Records []string `yaml:"records"`
	// Share spreads the load; otherwise the first token that works has all of it.
	Share bool `yaml:"share"`
	// Patience is after which a silent token is left for the next; default 500ms.
	Patience Duration `yaml:"patience"`
	// Deadline is the longest that a signature may wait; default 5s.
	Deadline Duration `yaml:"deadline"`
	// Waiting is how many signatures may wait; default 4096.
	Waiting int `yaml:"waiting"`
}

// groups reads tokens.groups with the files that it names.
func (c *Config) groups() ([]hsm.GroupConfig, error) {
	var out []hsm.GroupConfig
	names := map[string]bool{}
	file := func(name string) string {
		if filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(c.dir, name)
	}
	for i, t := range c.Tokens.Groups {
		g := hsm.GroupConfig{Name: t.Name, Keys: t.Keys, Share: t.Share, Patience: time.Duration(t.Patience), Deadline: time.Duration(t.Deadline), Waiting: t.Waiting}
		if names[g.Name] {
			return nil, errConfig.New("tokens.groups[%d].name: %q is there twice.", i, g.Name)
		}
		names[g.Name] = true
		if g.Patience < 0 || g.Deadline < 0 || g.Deadline > time.Minute || g.Waiting < 0 || g.Deadline > 0 && g.Patience > g.Deadline {
			return nil, errConfig.New("tokens.groups[%d]: patience, deadline (at most 1m) and waiting are positive, and patience is the shorter one.", i)
		}
		if t.PublicKey != "" {
			text := []byte(t.PublicKey)
			if !strings.Contains(t.PublicKey, "-----BEGIN") {
				var err error
				if text, err = os.ReadFile(file(t.PublicKey)); err != nil {
					return nil, errConfig.New("tokens.groups[%d].public_key: %v.", i, err)
				}
			}
			pub, err := parsePublicKey(text)
			if err == nil {
				g.SPKI, err = x509.MarshalPKIXPublicKey(pub)
			}
			if err != nil {
				return nil, errConfig.New("tokens.groups[%d].public_key: no public key or certificate in PEM.", i)
			}
		}
		for _, name := range t.Records {
			r, err := readTransfer(file(name))
			if err != nil {
				return nil, errConfig.Wrap(err, "tokens.groups[%d].records: %s: %s", i, name, fault.From(err).Detail)
			}
			g.Transfers = append(g.Transfers, r)
		}
		uris, err := g.Check()
		if err != nil {
			return nil, errConfig.Wrap(err, "tokens.groups[%d]: %s", i, fault.From(err).Detail)
		}
		for _, u := range uris {
			if err := c.moduleAllowed(u.ModulePath); err != nil {
				return nil, err
			}
			if c.Production && u.Scheme == "file" {
				return nil, errConfig.New("tokens.groups[%d]: production mode takes no key from a file.", i)
			}
		}
		out = append(out, g)
	}
	return out, nil
}

func readTransfer(name string) (*hsm.Transfer, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return hsm.ReadTransfer(f)
}

// checkGroups tells of keys with several tokens: one that is missing is a
// warning, none that is left an outage.
func (b *backend) checkGroups(c *checks) {
	for _, g := range b.keys.Groups() {
		name := "key " + g.Name
		var lost []string
		for _, t := range g.Tokens {
			if !t.Serving {
				lost = append(lost, t.Token)
			}
		}
		switch {
		case g.Serving == 0:
			c.add(name, "failing", "None of its tokens works.", "Check the tokens and their connections; the service tests them by itself.")
		case g.Wrong > 0:
			c.add(name, "failing", "A token made a signature that is not the key's.", "Take the token out of use and find out who changed it; restart when it is well.")
		case len(lost) > 0:
			c.add(name, "warning", "Without "+strings.Join(lost, ", ")+"; the others serve.", "Bring the token back; its return is noticed.")
		default:
			c.add(name, "ok", "", "")
		}
	}
}
