package crl

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sort"
)

// pieceOctets is about how long a piece is. One revocation costs the rebuilding of
// one piece; a list of a million has some hundred of them.
const pieceOctets = 64 << 10

// piece is a run of entries as DER. It never changes; a list made anew shares
// those in which nothing changed.
type piece struct {
	id    int64 // in the list it belongs to; its name in the store
	der   []byte
	count int
	first []byte // serial numbers, contents of the INTEGER
	last  []byte
}

// entries are the entries of a list in order of their serial numbers, or in the
// order of the list they were read from.
type entries struct {
	pieces []*piece
	count  int
	size   int
	nextID int64
}

// newEntries cuts entries that were read before. The pieces lie where in lies.
func newEntries(in []byte) (*entries, error) {
	e := &entries{}
	for len(in) > 0 {
		p, err := cut(in)
		if err != nil {
			return nil, err
		}
		e.add(p)
		in = in[len(p.der):]
	}
	return e, nil
}

// cut takes one piece from the start of entries.
func cut(in []byte) (*piece, error) {
	p := &piece{}
	rest := in
	for len(rest) > 0 && len(in)-len(rest) < pieceOctets {
		e, more, err := nextEntry(rest)
		if err != nil {
			return nil, err
		}
		if p.count == 0 {
			p.first = e.Serial
		}
		p.last = e.Serial
		p.count++
		rest = more
	}
	n := len(in) - len(rest)
	p.der = in[:n:n]
	return p, nil
}

// add appends a piece and gives it an id if it has none.
func (e *entries) add(p *piece) {
	if p.id == 0 {
		e.nextID++
		p.id = e.nextID
	}
	e.nextID = max(e.nextID, p.id)
	e.pieces = append(e.pieces, p)
	e.count += p.count
	e.size += len(p.der)
}

// octets gives the entries piece by piece.
func (e *entries) octets() [][]byte {
	out := make([][]byte, len(e.pieces))
	for i, p := range e.pieces {
		out[i] = p.der
	}
	return out
}

// each calls f for every entry, read in full.
func (e *entries) each(f func(Entry) error) error {
	for _, p := range e.pieces {
		for in := p.der; len(in) > 0; {
			one, rest, err := readEntry(in)
			if err != nil {
				return err
			}
			if err := f(one); err != nil {
				return err
			}
			in = rest
		}
	}
	return nil
}

// apply gives the entries with edits made, which are ordered by serial number.
// Pieces that no edit is in are shared. Every piece that is made here is read in
// full, and must be in order with its neighbours.
func (e *entries) apply(edits []edit) (*entries, error) {
	out := &entries{nextID: e.nextID, pieces: make([]*piece, 0, len(e.pieces)+1)}
	var small []byte // of changed pieces, to be joined with the next changed one
	flush := func() error {
		for len(small) > 0 {
			p, err := cut(small)
			if err != nil {
				return err
			}
			if rest := len(small) - len(p.der); rest > 0 && rest < pieceOctets/4 { // no crumbs
				p.der = small
				if err := p.read(); err != nil {
					return err
				}
			}
			if err := p.check(); err != nil {
				return err
			}
			out.add(p)
			small = small[len(p.der):]
		}
		small = nil
		return nil
	}
	for i, p := range e.pieces {
		n := len(edits)
		if i+1 < len(e.pieces) {
			next := e.pieces[i+1].first
			n = sort.Search(len(edits), func(k int) bool { return compareSerials(edits[k].serial[:], next) >= 0 })
		}
		if n == 0 {
			if len(small) > 0 && len(small)+len(p.der) > pieceOctets*3/2 || len(small) >= pieceOctets/4 {
				if err := flush(); err != nil {
					return nil, err
				}
			}
			if len(small) > 0 { // what is left of its neighbour joins it
				small = append(small, p.der...)
				continue
			}
			out.add(p)
			continue
		}
		runs, err := merge(p.der, edits[:n])
		if err != nil {
			return nil, err
		}
		edits = edits[n:]
		if small == nil {
			size := 0
			for _, r := range runs {
				size += len(r)
			}
			small = make([]byte, 0, size)
		}
		for _, r := range runs {
			small = append(small, r...)
		}
		if len(small) >= pieceOctets/4 {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	for _, d := range edits {
		small = append(small, d.raw...)
	}
	if err := flush(); err != nil {
		return nil, err
	}
	return out, out.ordered()
}

// read counts a piece anew.
func (p *piece) read() error {
	p.count = 0
	for in := p.der; len(in) > 0; p.count++ {
		e, rest, err := nextEntry(in)
		if err != nil {
			return err
		}
		if p.count == 0 {
			p.first = e.Serial
		}
		p.last, in = e.Serial, rest
	}
	return nil
}

// check reads a new piece in full, since what is in it will be signed.
func (p *piece) check() error {
	l := List{Entries: p.der, Ordered: true}
	if err := l.parseEntries(); err != nil {
		return err
	}
	if !l.Ordered || l.Count != p.count {
		return malformed(nil, "Its entries are not ordered.")
	}
	return nil
}

// ordered proves that each piece begins after the end of the one before.
func (e *entries) ordered() error {
	for i := 1; i < len(e.pieces); i++ {
		if compareSerials(e.pieces[i-1].last, e.pieces[i].first) >= 0 {
			return malformed(nil, "Its entries are not ordered.")
		}
	}
	return nil
}

// apart gives the pieces that two lists do not share, in order.
func apart(a, b *entries) (onlyA, onlyB []*piece) {
	in := make(map[*piece]bool, len(a.pieces))
	for _, p := range a.pieces {
		in[p] = true
	}
	for _, p := range b.pieces {
		if in[p] {
			delete(in, p)
		} else {
			onlyB = append(onlyB, p)
		}
	}
	for _, p := range a.pieces {
		if in[p] {
			onlyA = append(onlyA, p)
		}
	}
	return onlyA, onlyB
}

// walker reads the entries of pieces one after another.
type walker struct {
	pieces []*piece
	in     []byte
	e      Entry
	done   bool
}

func (w *walker) next() error {
	for len(w.in) == 0 {
		if len(w.pieces) == 0 {
			w.done = true
			return nil
		}
		w.in, w.pieces = w.pieces[0].der, w.pieces[1:]
	}
	var err error
	w.e, w.in, err = nextEntry(w.in)
	return err
}

// compare calls gone for every entry of a that b has not, and put for every entry
// of b that a has not or has otherwise. Shared pieces are not looked at. Both are
// in order.
func compare(a, b *entries, gone, put func(Entry) error) error {
	pa, pb := apart(a, b)
	x, y := walker{pieces: pa}, walker{pieces: pb}
	if err := errors.Join(x.next(), y.next()); err != nil {
		return err
	}
	full := func(e Entry, f func(Entry) error) error {
		if f == nil {
			return nil
		}
		e, _, err := readEntry(e.Raw)
		if err != nil {
			return err
		}
		return f(e)
	}
	for !x.done || !y.done {
		c := 0
		switch {
		case x.done:
			c = 1
		case y.done:
			c = -1
		default:
			c = compareSerials(x.e.Serial, y.e.Serial)
		}
		var err error
		switch {
		case c < 0:
			err = full(x.e, gone)
		case c > 0 || !bytes.Equal(x.e.Raw, y.e.Raw):
			err = full(y.e, put)
		}
		if err != nil {
			return err
		}
		if c <= 0 {
			err = x.next()
		}
		if c >= 0 {
			err = errors.Join(err, y.next())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sample is a few entries from either end, for the lints.
func (e *entries) sample(n int) []byte {
	if e.count <= 2*n {
		return bytes.Join(e.octets(), nil)
	}
	var out []byte
	in := e.pieces[0].der
	for range min(n, e.pieces[0].count) {
		one, rest, err := nextEntry(in)
		if err != nil {
			return out
		}
		out, in = append(out, one.Raw...), rest
	}
	p := e.pieces[len(e.pieces)-1]
	if len(e.pieces) == 1 {
		return out
	}
	skip := max(p.count-n, 0)
	in = p.der
	for range skip {
		_, rest, err := nextEntry(in)
		if err != nil {
			return out
		}
		in = rest
	}
	return append(out, in...)
}

// builder makes entries from rows that come in order, without holding them twice.
type builder struct {
	made entries
	buf  []byte
}

func (b *builder) put(add func([]byte) []byte) error {
	if b.buf == nil {
		b.buf = make([]byte, 0, pieceOctets+256)
	}
	if b.buf = add(b.buf); len(b.buf) < pieceOctets {
		return nil
	}
	return b.flush()
}

func (b *builder) flush() error {
	if len(b.buf) == 0 {
		return nil
	}
	p := &piece{der: slices.Clip(b.buf)}
	if err := errors.Join(p.read(), p.check()); err != nil {
		return err
	}
	b.made.add(p)
	b.buf = nil
	return nil
}

func (b *builder) done() (*entries, error) {
	if err := b.flush(); err != nil {
		return nil, err
	}
	return &b.made, b.made.ordered()
}

// parts reads a list that lies in several places. It is safe for one reader.
type parts struct {
	all  [][]byte
	ends []int64
	pos  int64
}

func newParts(all [][]byte) *parts {
	p := &parts{all: all, ends: make([]int64, len(all))}
	n := int64(0)
	for i, b := range all {
		n += int64(len(b))
		p.ends[i] = n
	}
	return p
}

func (p *parts) size() int64 {
	if len(p.ends) == 0 {
		return 0
	}
	return p.ends[len(p.ends)-1]
}

// Read implements [io.Reader].
func (p *parts) Read(b []byte) (int, error) {
	i := sort.Search(len(p.ends), func(i int) bool { return p.ends[i] > p.pos })
	if i == len(p.all) {
		return 0, io.EOF
	}
	from := int64(len(p.all[i])) - (p.ends[i] - p.pos)
	n := copy(b, p.all[i][from:])
	p.pos += int64(n)
	return n, nil
}

// Seek implements [io.Seeker].
func (p *parts) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += p.pos
	case io.SeekEnd:
		offset += p.size()
	}
	if offset < 0 {
		return 0, errors.New("crl: seek before the start")
	}
	p.pos = offset
	return offset, nil
}

// WriteTo implements [io.WriterTo].
func (p *parts) WriteTo(w io.Writer) (n int64, err error) {
	for i := sort.Search(len(p.ends), func(i int) bool { return p.ends[i] > p.pos }); i < len(p.all); i++ {
		from := int64(len(p.all[i])) - (p.ends[i] - p.pos)
		k, err := w.Write(p.all[i][from:])
		n += int64(k)
		p.pos += int64(k)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
