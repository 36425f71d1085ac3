package crl

import (
	"bytes"
	"context"
	"strings"
	"time"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/der"
)

// reference is the list that delta lists are made against. It shares what did
// not change with the newest list.
type reference struct {
	number  int64
	made    time.Time
	entries *entries
}

// delta is a published delta list (RFC 5280, Section 5.2.4). It has the number of
// the full list that was made with it and says the same.
type delta struct {
	number     int64
	thisUpdate time.Time
	nextUpdate time.Time
	der        []byte
	etag       string
}

// deltaURL is where the delta of a shard is published.
func deltaURL(base string, shard int) string {
	return strings.TrimSuffix(listURL(base, shard), ".crl") + deltaSuffix
}

const deltaSuffix = "-delta.crl"

// freshestPoint is CRLDistributionPoints with one URL.
func freshestPoint(url string) []byte {
	return der.Sequence(nil, func(b []byte) []byte {
		return der.Sequence(b, func(b []byte) []byte { return profile.AppendDistributionPointName(b, url) })
	})
}

// freshest reads the one URL of a freshestCRL extension; of another form of it we
// know nothing, and it is not critical.
func freshest(in []byte) (string, error) {
	seq, err := der.Only(in, der.TagSequence)
	if err != nil {
		return "", malformed(err, "Its freshest list is malformed.")
	}
	content := seq.Content
	for _, tag := range [...]byte{der.TagSequence, der.ContextConstructed(0), der.ContextConstructed(0), der.Context(6)} {
		e, err := der.Only(content, tag)
		if err != nil {
			return "", nil
		}
		content = e.Content
	}
	if !der.IsIA5(string(content)) {
		return "", malformed(nil, "Its freshest list is not a URL.")
	}
	return string(content), nil
}

// changes gives the entries of a delta list: what base and it together make is
// exactly full. What left is there with removeFromCRL, whether its hold was
// released or it expired (RFC 5280, Section 5.3.1).
func changes(base, full *entries, at time.Time) ([]byte, error) {
	var out []byte
	err := compare(base, full, func(e Entry) error {
		out = appendRemoval(out, e.Serial, at)
		return nil
	}, func(e Entry) error {
		out = append(out, e.Raw...)
		return nil
	})
	return out, err
}

func appendRemoval(b, serial []byte, at time.Time) []byte {
	return der.Sequence(b, func(b []byte) []byte {
		b = der.AppendTLV(b, der.TagInteger, serial)
		b = der.AppendUTCOrGeneralizedTime(b, at)
		return append(b, reasonExtensions[removeFromCRL]...)
	})
}

// join applies a delta list's entries to those of its base.
func join(base *entries, l *List) (*entries, error) {
	var edits []edit
	if err := l.Each(func(e Entry) error {
		serial, ok := e.ours()
		if !ok {
			return malformed(nil, "It has the serial number %x, which is not of our form.", e.Serial)
		}
		if e.Reason == removeFromCRL {
			edits = append(edits, edit{serial: serial})
		} else {
			edits = append(edits, edit{serial, e.Raw})
		}
		return nil
	}); err != nil {
		return nil, err
	}
	return base.apply(edits)
}

// Join gives the entries of the full list that has a delta's number, made from an
// older full list and the delta, as a client does (RFC 5280, Section 5.2.4).
func Join(base, delta *List) ([]byte, error) {
	switch {
	case delta.Base == 0 || base.Base != 0:
		return nil, malformed(nil, "It is not a full list and a delta list.")
	case base.Number < delta.Base || base.Number > delta.Number || base.URL != delta.URL || !bytes.Equal(base.Issuer, delta.Issuer) || !bytes.Equal(base.KeyID, delta.KeyID):
		return nil, ErrListOld.New("The delta list is for lists from number %d to %d of %s, this is %d of %s.", delta.Base, delta.Number, delta.URL, base.Number, base.URL)
	}
	e, err := newEntries(base.Entries)
	if err != nil {
		return nil, err
	}
	if e, err = join(e, delta); err != nil {
		return nil, err
	}
	return bytes.Join(e.octets(), nil), nil
}

// refer decides what the next delta list is made against: the reference of the
// last one, or the last list when that is old or would make the delta long.
func (p *Publisher) refer(last *published, now time.Time) *reference {
	if last == nil {
		return nil
	}
	ref := last.ref
	if ref == nil || now.Sub(ref.made) >= p.cfg.BaseEvery {
		return &reference{last.Number, last.ThisUpdate, last.entries}
	}
	return ref
}

// makeDelta makes the delta list that goes with a full one, and proves that base
// and delta make that list, entry by entry (A32).
func (p *Publisher) makeDelta(ctx context.Context, id listID, a ca.Info, ref *reference, d *draft) (*delta, error) {
	body, err := changes(ref.entries, d.entries, d.ThisUpdate)
	if err != nil {
		return nil, err
	}
	h := d.header
	h.Base, h.Freshest = ref.number, ""
	e, err := newEntries(body)
	if err != nil {
		return nil, err
	}
	front, back := h.frame(e.size)
	sig, err := p.cfg.CA.SignListPieces(ctx, id.authority, &ca.ListPieces{Front: front, Entries: e.octets(), Back: back, Sample: e.sample(sampleEntries)})
	if err != nil {
		return nil, err
	}
	head, tail := envelope(front, back, h.SigAlg, sig, e.size)
	out := append(append(head, body...), tail...)
	l, err := ParseList(out)
	if err != nil {
		return nil, err
	}
	if err := l.Verify(a.Cert); err != nil {
		return nil, err
	}
	if l.Base != ref.number || l.Number != d.Number || l.URL != d.URL || !l.Ordered {
		return nil, malformed(nil, "The signed delta list says something else than was planned.")
	}
	joined, err := join(ref.entries, l)
	if err != nil {
		return nil, err
	}
	differ := func(e Entry) error {
		return malformed(nil, "Base and delta do not make the list: serial number %x.", e.Serial)
	}
	if err := compare(joined, d.entries, differ, differ); err != nil {
		return nil, err
	}
	return &delta{l.Number, l.ThisUpdate, l.NextUpdate, out, etag(out)}, nil
}

// readDelta takes a stored delta list if it goes with the list; it is made anew
// with the next one otherwise.
func (p *Publisher) readDelta(in []byte, full *List, a ca.Info) *delta {
	if in == nil {
		return nil
	}
	l, err := ParseList(in)
	if err != nil || l.Verify(a.Cert) != nil || l.Base == 0 || l.Number != full.Number || l.URL != full.URL {
		p.Stats.Rollback.Add(1)
		p.log.Error("stored delta list is not what was signed", "authority", a.Name, "error", err)
		return nil
	}
	return &delta{l.Number, l.ThisUpdate, l.NextUpdate, in, etag(in)}
}
