package crl

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/durable"
)

// mode says how a list is made.
type mode uint8

const (
	changesOnly mode = iota // the last list, with what changed since
	full                    // compared with the table, without what expired
	again                   // as changesOnly, also when nothing changed
)

// sampleEntries is how many entries from either end of a list the lints look at;
// every entry is read when its piece is made.
const sampleEntries = 20

// update makes and publishes one list. The steps are in this order so that
// nothing is served that is not stored, and nothing is stored that was not read
// back and compared with the list before.
func (p *Publisher) update(ctx context.Context, id listID, m mode) (err error) {
	lock := &p.build[hash(id)%len(p.build)]
	lock.Lock()
	defer lock.Unlock()
	defer func() {
		if err != nil {
			p.Stats.Failures.Add(1)
			p.log.ErrorContext(ctx, "list not published; the former one stays", "authority", id.authority, "shard", id.shard, "error", err)
		}
	}()
	a, err := p.cfg.CA.Authority(id.authority)
	if err != nil {
		return err
	}
	for range maxTries {
		// 1. what is published
		asked := time.Now()
		last, old, err := p.load(ctx, id, a)
		if err != nil {
			return err
		}
		if last != nil && lastOf(a, last) {
			return nil // it was the last one
		}
		mode := m
		if last == nil || m == changesOnly && p.stale(last, p.now()) {
			mode = full
		}
		// 2. what it should say
		began := time.Now()
		p.Stats.loading.Store(int64(began.Sub(asked)))
		d, err := p.draft(ctx, id, last, old, mode)
		if err != nil {
			return err
		}
		if d == nil { // it says that already
			return nil
		}
		// 3. sign
		if p.cfg.Clock != nil {
			if err := p.cfg.Clock(); err != nil { // what is served stays
				return err
			}
		}
		front, back := d.frame(d.entries.size)
		sig, err := p.cfg.CA.SignListPieces(ctx, id.authority, &ca.ListPieces{Front: front, Entries: d.entries.octets(), Back: back, Sample: d.entries.sample(sampleEntries)})
		if err != nil {
			return err
		}
		head, tail := envelope(front, back, d.SigAlg, sig, d.entries.size)
		next := &published{Number: d.Number, ThisUpdate: d.ThisUpdate, NextUpdate: d.NextUpdate, URL: d.URL, front: head, entries: d.entries, back: tail, leaf: d.leaf}
		next.etag = etag(append(head[:len(head):len(head)], tail...)) // the signature is about all of it
		p.Stats.building.Store(int64(time.Since(began)))
		// 4. read back
		if err := p.check(next, a, last, d); err != nil {
			return err
		}
		if p.cfg.Deltas {
			if ref := p.refer(last, p.now()); ref != nil {
				if next.delta, err = p.makeDelta(ctx, id, a, ref, d); err != nil {
					return err
				}
				next.ref = ref
			}
		}
		// 5. store, if no other node was faster
		row := next.row(id)
		row.keep(next, last, old)
		err = p.cfg.Store.PutList(ctx, row, old)
		if errors.Is(err, ErrListMoved) {
			p.Stats.Moved.Add(1)
			continue
		}
		if err != nil {
			return stored(err)
		}
		next.stored = row.Pieces != nil
		// 6. serve
		p.Stats.Built.Add(1)
		p.log.InfoContext(ctx, "list published", "authority", id.authority, "shard", id.shard, "number", next.Number, "entries", next.entries.count)
		return p.serve(id, next)
	}
	return ErrListMoved.New("Authority %s, shard %d, %d times.", id.authority, id.shard, maxTries)
}

func hash(id listID) int {
	h := uint32(2166136261)
	for i := range len(id.authority) {
		h = (h ^ uint32(id.authority[i])) * 16777619
	}
	return int((h ^ uint32(id.shard)*2654435761) >> 8 & 0xffff)
}

// load gives the published list, nil if there is none, and the number in the
// store, which is another one after a restore from a backup: then the published
// file can be newer, and numbers and entries go on from it (A32).
func (p *Publisher) load(ctx context.Context, id listID, a ca.Info) (*published, int64, error) {
	have := p.current(id)
	known := int64(0)
	if have != nil {
		known = have.Number
	}
	row, err := p.cfg.Store.List(ctx, id.authority, id.shard, known)
	if err != nil {
		return nil, 0, stored(err)
	}
	number := int64(0)
	if row != nil {
		number = row.Number
	}
	if have == nil {
		if f := p.readFile(id, a); f != nil && f.Number > number {
			p.Stats.Rollback.Add(1)
			p.log.ErrorContext(ctx, "published list is newer than the stored one", "authority", id.authority, "shard", id.shard, "published", f.Number, "stored", number)
			n, err := publishedOf(f, nil, 0)
			if err != nil {
				return nil, 0, err
			}
			return p.install(id, n), number, nil
		}
	}
	if number <= known {
		if number < known {
			p.Stats.Rollback.Add(1)
			p.log.ErrorContext(ctx, "stored list is older than the served one", "authority", id.authority, "shard", id.shard, "served", known, "stored", number)
		}
		return have, number, nil
	}
	l, err := ours(row.DER, id, a)
	if err != nil || l.Number != number {
		// Something else wrote the row: go on from what is known, with a number above it.
		p.Stats.Rollback.Add(1)
		p.log.ErrorContext(ctx, "stored list is not what was signed", "authority", id.authority, "shard", id.shard, "error", err)
		if have == nil { // what was published keeps its entries (S32)
			if f := p.readFile(id, a); f != nil {
				if n, err := publishedOf(f, nil, 0); err == nil {
					return p.install(id, n), number, nil
				}
			}
		}
		return have, number, nil
	}
	n, err := publishedOf(l, row.Cuts, row.Leaf)
	if err != nil {
		return nil, 0, err
	}
	n.delta = p.readDelta(row.Delta, l, a)
	if err := p.serve(id, n); err != nil {
		return nil, 0, err
	}
	return n, number, nil
}

// ours parses a list and proves that it is one of ours for this shard.
func ours(in []byte, id listID, a ca.Info) (*List, error) {
	l, err := ParseList(in)
	if err != nil {
		return nil, err
	}
	if err := l.Verify(a.Cert); err != nil {
		return nil, err
	}
	if want := listURL(a.ListBase(), id.shard); l.URL != want {
		return nil, ErrListUntrusted.New("It is for %s, not for %s.", l.URL, want)
	}
	if !l.Ordered || l.Base != 0 {
		return nil, malformed(nil, "Its entries are not ordered, or it is a delta list.")
	}
	return l, nil
}

// draft is a list to be.
type draft struct {
	header
	entries *entries
	leaf    int64
	gone    map[ca.Serial]bool // may leave, with evidence
}

// draft composes a list; nil if the published one says the same and is fresh.
func (p *Publisher) draft(ctx context.Context, id listID, last *published, old int64, m mode) (*draft, error) {
	now := p.now()
	d := &draft{gone: map[ca.Serial]bool{}}
	var err error
	// The size is read before the rows: what comes between is in this list and
	// looked at again for the next.
	if d.leaf, err = p.cfg.Store.Head(ctx); err != nil {
		return nil, stored(err)
	}
	alg, issuer, err := p.cfg.CA.ListAlgorithm(id.authority)
	if err != nil {
		return nil, err
	}
	this := now.UTC().Truncate(time.Second)
	number := old + 1
	if last != nil {
		number = max(last.Number, old) + 1
		// Also when the clock fell: time and number rise together (A32).
		if !this.After(last.ThisUpdate) {
			this = last.ThisUpdate.Add(time.Second)
		}
	}
	forgotten := false // lists after the last one
	if p.cfg.Floor != nil {
		if floor := p.cfg.Floor(id.authority, id.shard); number <= floor {
			number, forgotten = floor+1, true
		}
	}
	end := now.Add(p.cfg.Validity).UTC().Truncate(time.Second)
	if !end.After(this) {
		end = this.Add(p.cfg.Validity)
	}
	d.header = header{SigAlg: alg, Issuer: issuer.Subject, KeyID: issuer.KeyID, URL: listURL(issuer.CRLBase, id.shard), Number: number, ThisUpdate: this, NextUpdate: end}

	if a, err := p.cfg.CA.Authority(id.authority); err == nil && a.State == ca.StateEnded {
		d.NextUpdate = a.Cert.NotAfter.UTC() // no list comes after this one
	}

	if p.cfg.Deltas {
		d.Freshest = deltaURL(issuer.CRLBase, id.shard)
	}

	var edits []edit
	switch {
	case last == nil:
		if d.entries, edits, err = p.table(ctx, id, this); err != nil {
			return nil, err
		}
	case m == full:
		d.entries = last.entries
		if edits, err = p.against(ctx, id, last, this, d.gone); err != nil {
			return nil, err
		}
	default:
		d.entries = last.entries
		if edits, err = p.since(ctx, id, last, this, d.gone); err != nil {
			return nil, err
		}
	}
	if len(edits) > 0 {
		if d.entries, err = d.entries.apply(edits); err != nil {
			return nil, err
		}
	}
	if last != nil && m != again && !forgotten && !p.stale(last, now) && old == last.Number && (d.entries == last.entries || same(last.entries, d.entries)) {
		p.cover(id, d.leaf)
		return nil, nil
	}
	return d, nil
}

// lastOf tells whether a list is the last one of an authority (S2).
func lastOf(a ca.Info, l *published) bool {
	return a.State == ca.StateEnded && !l.NextUpdate.Before(a.Cert.NotAfter.UTC().Truncate(time.Second))
}

// same tells whether two lists have the same entries.
func same(a, b *entries) bool {
	differ := func(Entry) error { return errDiffer }
	return a.count == b.count && a.size == b.size && compare(a, b, differ, differ) == nil
}

var errDiffer = errors.New("crl: entries differ")

// cover notes that the served list already says what the log says up to leaf.
func (p *Publisher) cover(id listID, leaf int64) {
	p.mu.Lock()
	if l := p.lists[id]; l != nil && l.leaf < leaf {
		c := *l
		c.leaf = leaf
		p.lists[id] = &c
	}
	p.mu.Unlock()
}

// earlier keeps a time of revocation, which may come from a node whose clock is
// ahead, from lying after thisUpdate.
func earlier(at, this time.Time) time.Time {
	if at.After(this) {
		return this
	}
	return at
}

// table encodes what is revoked, where there is no list yet. Rows that are not as
// they were written come as edits.
func (p *Publisher) table(ctx context.Context, id listID, this time.Time) (*entries, []edit, error) {
	var b builder
	var odd []Revocation
	err := p.cfg.Store.ShardRevocations(ctx, id.authority, id.shard, time.Time{}, func(r Revocation, bad error) error {
		if bad != nil { // A3
			p.log.ErrorContext(ctx, "revocation row cannot be read", "authority", id.authority, "error", bad)
			odd = append(odd, r)
			return nil
		}
		return b.put(func(out []byte) []byte { return appendEntry(out, r.Serial, earlier(r.At, this), r.Reason) })
	})
	if err != nil {
		return nil, nil, stored(err)
	}
	edits, err := p.odd(ctx, id, nil, this, odd, nil)
	if err != nil {
		return nil, nil, err
	}
	made, err := b.done()
	return made, edits, err
}

// against compares the last list with what is revoked, row by row. An expired
// certificate leaves only after it was on a list that was made after its end
// (A27).
func (p *Publisher) against(ctx context.Context, id listID, last *published, this time.Time, gone map[ca.Serial]bool) ([]edit, error) {
	var edits []edit
	var lost []Entry
	var odd []Revocation
	w := walker{pieces: last.entries.pieces}
	if err := w.next(); err != nil {
		return nil, err
	}
	var buf []byte
	err := p.cfg.Store.ShardRevocations(ctx, id.authority, id.shard, last.ThisUpdate, func(r Revocation, bad error) error {
		if bad != nil { // A3
			p.log.ErrorContext(ctx, "revocation row cannot be read", "authority", id.authority, "error", bad)
			odd = append(odd, r)
			return nil
		}
		for !w.done && compareSerials(w.e.Serial, r.Serial[:]) < 0 {
			lost = append(lost, w.e)
			if err := w.next(); err != nil {
				return err
			}
		}
		buf = appendEntry(buf[:0], r.Serial, earlier(r.At, this), r.Reason)
		on := !w.done && compareSerials(w.e.Serial, r.Serial[:]) == 0
		if !on || !bytes.Equal(w.e.Raw, buf) {
			edits = append(edits, edit{r.Serial, bytes.Clone(buf)})
		}
		if on {
			return w.next()
		}
		return nil
	})
	if err != nil {
		return nil, stored(err)
	}
	for !w.done {
		lost = append(lost, w.e)
		if err := w.next(); err != nil {
			return nil, err
		}
	}
	if edits, err = p.keep(ctx, id, last, lost, edits, gone); err != nil {
		return nil, err
	}
	return p.odd(ctx, id, last, this, odd, edits)
}

// odd adds to edits the rows that are not as they were written. What is on the
// last list stays there as it was signed, with its reason and time; the others
// are listed as the row says, if the authority ever reserved the serial number.
func (p *Publisher) odd(ctx context.Context, id listID, last *published, this time.Time, rows []Revocation, edits []edit) ([]edit, error) {
	if len(rows) == 0 {
		return edits, nil
	}
	on := map[string]bool{}
	if last != nil {
		if err := last.entries.each(func(e Entry) error { on[string(e.Serial)] = true; return nil }); err != nil {
			return nil, err
		}
	}
	for _, r := range rows {
		if r.Serial == (ca.Serial{}) || on[string(r.Serial[:])] {
			continue
		}
		why, err := p.cfg.Store.Evidence(ctx, id.authority, r.Serial)
		if err != nil {
			return nil, stored(err)
		}
		if !why.NotAfter.IsZero() {
			edits = append(edits, edit{r.Serial, appendEntry(nil, r.Serial, earlier(r.At, this), r.Reason)})
		}
	}
	slices.SortFunc(edits, func(a, b edit) int { return slices.Compare(a.serial[:], b.serial[:]) })
	return edits, nil
}

// keep takes off what may leave, of what the last list revokes and the table no
// longer does. What neither expired nor was released stays on the list and in the
// set, and is an alarm: a database writer does not win (S32).
func (p *Publisher) keep(ctx context.Context, id listID, last *published, lost []Entry, edits []edit, gone map[ca.Serial]bool) ([]edit, error) {
	for _, e := range lost {
		e, _, err := readEntry(e.Raw)
		if err != nil {
			return nil, err
		}
		serial, ok := e.ours()
		if !ok {
			return nil, malformed(nil, "The published list has the serial number %x, which is not of our form.", e.Serial)
		}
		why, err := p.cfg.Store.Evidence(ctx, id.authority, serial)
		if err != nil {
			return nil, stored(err)
		}
		if why.Released || !why.NotAfter.IsZero() && why.NotAfter.Before(last.ThisUpdate) {
			gone[serial] = true
			edits = append(edits, edit{serial: serial})
			continue
		}
		p.carry(ctx, id, e, serial, why)
	}
	slices.SortFunc(edits, func(a, b edit) int { return slices.Compare(a.serial[:], b.serial[:]) })
	return edits, nil
}

func (p *Publisher) carry(ctx context.Context, id listID, e Entry, serial ca.Serial, why Evidence) {
	p.Stats.Carried.Add(1)
	p.log.ErrorContext(ctx, "revocation is on the signed list but not in the table; it stays revoked", "authority", id.authority, "shard", id.shard, "serial", serial.String())
	end := why.NotAfter
	if end.IsZero() {
		end = profile.NoExpiry
	}
	p.cfg.Set.adopt(id.authority, e, end)
}

// since gives what changed after the last list was made.
func (p *Publisher) since(ctx context.Context, id listID, last *published, this time.Time, gone map[ca.Serial]bool) (out []edit, err error) {
	var released, odd []Revocation
	err = p.cfg.Store.ShardChanges(ctx, id.authority, id.shard, last.leaf, func(r Revocation, bad error) error {
		switch {
		case bad != nil:
			p.log.ErrorContext(ctx, "revocation row cannot be read", "authority", id.authority, "error", bad)
			odd = append(odd, r)
		case !r.ReleasedAt.IsZero():
			released = append(released, r)
		default:
			out = append(out, edit{r.Serial, appendEntry(nil, r.Serial, earlier(r.At, this), r.Reason)})
		}
		return nil
	})
	if err != nil {
		return nil, stored(err)
	}
	for _, r := range released {
		why, err := p.cfg.Store.Evidence(ctx, id.authority, r.Serial)
		if err != nil {
			return nil, stored(err)
		}
		if !why.Released { // the row says so and the log does not: it stays
			p.carry(ctx, id, Entry{Serial: r.Serial[:], At: r.At, Reason: r.Reason}, r.Serial, why)
			continue
		}
		gone[r.Serial] = true
		out = append(out, edit{serial: r.Serial})
	}
	slices.SortFunc(out, func(a, b edit) int { return slices.Compare(a.serial[:], b.serial[:]) })
	return p.odd(ctx, id, last, this, odd, out)
}

// check reads a signed list back before it is stored: its frame parses, it has a
// higher number and later times, and it keeps what the last one had (S32). Its
// entries were read when their pieces were made, and its signature was verified
// over the octets of the pieces.
func (p *Publisher) check(n *published, a ca.Info, last *published, d *draft) error {
	mini, err := ParseList(n.without())
	if err != nil {
		return err
	}
	if !bytes.Equal(mini.Issuer, a.Cert.RawSubject) || !bytes.Equal(mini.KeyID, a.Cert.SubjectKeyId) ||
		mini.Number != d.Number || mini.URL != d.URL || !mini.ThisUpdate.Equal(d.ThisUpdate) || !mini.NextUpdate.Equal(d.NextUpdate) || mini.Base != 0 {
		return malformed(nil, "The signed list says something else than was planned.")
	}
	if !mini.NextUpdate.After(p.now()) {
		return malformed(nil, "The signed list is over already.")
	}
	if last == nil {
		return nil
	}
	if mini.Number <= last.Number || !mini.ThisUpdate.After(last.ThisUpdate) {
		return ErrListOld.New("Number %d after %d.", mini.Number, last.Number)
	}
	return compare(last.entries, n.entries, func(e Entry) error {
		if serial, ok := e.ours(); !ok || !d.gone[serial] {
			return ErrListDrops.New("Serial number %x.", e.Serial)
		}
		return nil
	}, nil)
}

// serve writes the files, then answers with the list.
func (p *Publisher) serve(id listID, n *published) error {
	if p.cfg.Dir != "" {
		dir := filepath.Join(p.cfg.Dir, "crl", id.authority)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := writeFile(p.file(id), n.reader(), 0o644); err != nil {
			return err
		}
		if n.delta != nil {
			if err := durable.WriteFile(strings.TrimSuffix(p.file(id), ".crl")+deltaSuffix, n.delta.der, 0o644); err != nil {
				return err
			}
		}
	}
	p.install(id, n)
	p.cfg.Send.offer(id, n, p.cfg.MaxAge)
	return nil
}

func (p *Publisher) install(id listID, n *published) *published {
	p.mu.Lock()
	p.lists[id] = n
	p.mu.Unlock()
	return n
}

// writeFile is [durable.WriteFile] for what does not lie in one place.
func writeFile(name string, in io.WriterTo, perm os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = in.WriteTo(f); err != nil {
		return err
	}
	if err = errors.Join(f.Chmod(perm), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(name))
}

func (p *Publisher) file(id listID) string {
	return filepath.Join(p.cfg.Dir, filepath.FromSlash(listPath(id)))
}

// listPath is where a list is, below any place of publication.
func listPath(id listID) string {
	return "crl/" + id.authority + "/" + strconv.Itoa(id.shard) + ".crl"
}

// readFile reads the published file, nil if there is none of ours.
func (p *Publisher) readFile(id listID, a ca.Info) *List {
	if p.cfg.Dir == "" {
		return nil
	}
	data, err := os.ReadFile(p.file(id))
	if err != nil {
		return nil
	}
	l, err := ours(data, id, a)
	if err != nil {
		p.log.Error("published file is not a list of ours", "authority", id.authority, "shard", id.shard, "error", err)
		return nil
	}
	return l
}
