package ca

import (
	"bytes"
	"context"
	"strings"

	"hallmark/ca/lint"
	"hallmark/ca/profile"
	"hallmark/internal/der"
)

const (
	// wholeListEntries is how many entries zlint reads in full; of a longer list
	// it reads the header and sampleEntries from either end, since it copies
	// every entry several times.
	wholeListEntries = 2000
	sampleEntries    = 100
	// longList is beyond what zlint allows a public CA between two lists of
	// end-entity certificates; private device CAs may be configured so.
	longListDays = 10
)

// ListAlgorithm gives what the list of an authority must say: its signature
// algorithm, as DER of the AlgorithmIdentifier, and the authority.
func (c *CA) ListAlgorithm(authority string) (sigAlg []byte, issuer profile.Issuer, err error) {
	a, err := c.loaded(authority)
	if err != nil {
		return nil, profile.Issuer{}, err
	}
	return a.sigAlg, a.Issuer(), nil
}

// SignList signs a tBSCertList and returns the whole list. A closed authority
// still signs lists (S2); a root's list is signed offline. The caller has
// checked the entries; here the frame is proven to be a list of this authority,
// it is linted, and the signature is verified with the pinned key.
func (c *CA) SignList(ctx context.Context, authority string, tbs []byte) ([]byte, error) {
	a, err := c.loaded(authority)
	if err != nil {
		return nil, err
	}
	if a.key == nil {
		return nil, ErrList.New("The list of %s is signed offline, with the root's key.", authority)
	}
	if !c.now().Before(a.cert.NotAfter) {
		return nil, ErrAuthorityClosed.New("%s ended at %s; nobody can verify a list of it any more.", authority, a.cert.NotAfter.Format("2006-01-02"))
	}
	l, err := splitList(tbs)
	if err != nil {
		return nil, ErrList.Wrap(err, "The list of %s is not DER.", authority)
	}
	if !bytes.Equal(l.sigAlg, a.sigAlg) || !bytes.Equal(l.issuer, a.cert.RawSubject) {
		return nil, ErrList.New("The list names another issuer or algorithm than %s.", authority)
	}
	sample, err := l.sample()
	if err != nil {
		return nil, ErrList.Wrap(err, "The entries of the list of %s are not DER.", authority)
	}
	if err := listFindings(c.linter.List(profile.Assemble(sample, a.sigAlg, []byte{0}), l.long)); err != nil {
		return nil, err
	}
	sig, err := a.signature(ctx, tbs)
	if err != nil {
		return nil, err
	}
	return profile.Assemble(tbs, a.sigAlg, sig), nil
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

// listParts are the parts of a tBSCertList (RFC 5280, Section 5.1.2).
type listParts struct {
	sigAlg, issuer []byte
	front          []byte // up to the entries
	entries        []byte // one after another
	back           []byte // the extensions
	whole          []byte
	long           bool // it runs for longer than public rules allow
}

func splitList(tbs []byte) (*listParts, error) {
	seq, err := der.Only(tbs, der.TagSequence)
	if err != nil {
		return nil, err
	}
	l := &listParts{whole: tbs}
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
	l.sigAlg, l.issuer = alg.Raw, issuer.Raw
	l.long = until.Sub(from).Hours() > longListDays*24
	l.front = seq.Content[:len(seq.Content)-len(rest)]
	if len(rest) > 0 && rest[0] == der.TagSequence {
		var list der.Element
		if list, rest, err = der.Next(rest); err != nil {
			return nil, err
		}
		l.entries = list.Content
	}
	if _, err := der.Only(rest, der.ContextConstructed(0)); err != nil {
		return nil, err
	}
	l.back = rest
	return l, nil
}

// sample is the list itself if it is short, else one with its first and last entries.
func (l *listParts) sample() ([]byte, error) {
	var ends []int
	for in := l.entries; len(in) > 0; {
		_, rest, err := der.Take(in, der.TagSequence)
		if err != nil {
			return nil, err
		}
		ends = append(ends, len(l.entries)-len(rest))
		in = rest
	}
	if len(ends) <= wholeListEntries {
		return l.whole, nil
	}
	return der.Sequence(nil, func(b []byte) []byte {
		b = append(b, l.front...)
		b = der.AppendTLV(b, der.TagSequence, l.entries[:ends[sampleEntries-1]], l.entries[ends[len(ends)-1-sampleEntries]:])
		return append(b, l.back...)
	}), nil
}
