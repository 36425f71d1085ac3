package ca

import (
	"strings"

	"hallmark/ca/lint"
	"hallmark/ca/profile"
	"hallmark/internal/der"
)

// longListDays is beyond what zlint allows a public CA between two lists of
// end-entity certificates; private device CAs may be configured so.
const longListDays = 10

// ListAlgorithm gives what the list of an authority must say: its signature
// algorithm, as DER of the AlgorithmIdentifier, and the authority.
func (c *CA) ListAlgorithm(authority string) (sigAlg []byte, issuer profile.Issuer, err error) {
	a, err := c.loaded(authority)
	if err != nil {
		return nil, profile.Issuer{}, err
	}
	return a.sigAlg, a.Issuer(), nil
}

// LintList runs the lints on a list that was signed elsewhere: a root's.
func (c *CA) LintList(list []byte) error { return listFindings(c.linter.List(list, true)) }

func listFindings(found []lint.Finding) error {
	if len(found) == 0 {
		return nil
	}
	names := make([]string, len(found))
	for i, f := range found {
		names[i] = f.String()
	}
	return ErrList.New("%s.", strings.Join(names, "; ")).With("rules", names)
}

func (c *CA) loaded(name string) (*authority, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if a := c.auth[name]; a != nil {
		return a, nil
	}
	return nil, ErrAuthorityUnknown.New("%s.", name)
}

// listFrame is what a tBSCertList says of itself (RFC 5280, Section 5.1.2).
type listFrame struct {
	sigAlg, issuer []byte
	long           bool // it runs for longer than public rules allow
}

func readFrame(tbs []byte) (*listFrame, error) {
	seq, err := der.Only(tbs, der.TagSequence)
	if err != nil {
		return nil, err
	}
	_, rest, err := der.Take(seq.Content, der.TagInteger)
	if err != nil {
		return nil, err
	}
	alg, rest, err := der.Take(rest, der.TagSequence)
	if err != nil {
		return nil, err
	}
	issuer, rest, err := der.Take(rest, der.TagSequence)
	if err != nil {
		return nil, err
	}
	this, rest, err := der.Next(rest)
	if err != nil {
		return nil, err
	}
	next, rest, err := der.Next(rest)
	if err != nil {
		return nil, err
	}
	from, err := this.Time()
	if err != nil {
		return nil, err
	}
	until, err := next.Time()
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 && rest[0] == der.TagSequence {
		if _, rest, err = der.Next(rest); err != nil {
			return nil, err
		}
	}
	if _, err := der.Only(rest, der.ContextConstructed(0)); err != nil {
		return nil, err
	}
	return &listFrame{alg.Raw, issuer.Raw, until.Sub(from).Hours() > longListDays*24}, nil
}
