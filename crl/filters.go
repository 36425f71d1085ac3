package crl

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl/filter"
	"hallmark/internal/lane"
)

// StoredFilter is the newest compact filter of an authority, and the changes since.
type StoredFilter struct {
	Authority  string
	Sequence   int64 // of the newest of both
	Size       int64
	NextUpdate time.Time
	File       []byte
	Delta      []byte
}

// FilterStore is what [Filters] reads and writes.
type FilterStore interface {
	Head(ctx context.Context) (int64, error)
	// EachSerial gives every serial number that was ever reserved under an
	// authority.
	EachSerial(ctx context.Context, authority string, each func(ca.Serial) error) error
	// EachRevoked gives every row of an authority whose newest leaf is at or after
	// from, released ones too. A row that cannot be read comes with an error.
	EachRevoked(ctx context.Context, authority string, from int64, each func(Revocation, error) error) error
	// Filter gives the newest filter, nil if there is none.
	Filter(ctx context.Context, authority string) (*StoredFilter, error)
	// PutFilter replaces the filter of sequence old (0: none); ErrListMoved if the
	// stored one has another. The sequence never falls.
	PutFilter(ctx context.Context, f StoredFilter, old int64) error
}

// FiltersConfig makes a [Filters].
type FiltersConfig struct {
	Store FilterStore
	CA    *ca.CA
	// Responder gives the key that status is signed with, as for OCSP.
	Responder func(ctx context.Context, authority string) (crypto.Signer, *x509.Certificate, error)
	// Every is how old a filter gets; 0 means a day. The changes since are published
	// at a twenty-fourth of it.
	Every time.Duration
	Dir   string // as the Publisher's
	Send  *Sender
	// Floor is the sequence above which the next filter has to be, as
	// [PublisherConfig.Floor].
	Floor int64
	Clock func() error
	Log   *slog.Logger
	Now   func() time.Time
}

// Filters makes the compact filters of all device authorities (S35) and serves
// them.
type Filters struct {
	cfg FiltersConfig
	log *slog.Logger
	now func() time.Time

	Stats FilterStats

	mu    sync.RWMutex
	files map[string]*served // by path
	made  map[string]*madeFilter
}

// FilterStats counts for the metrics.
type FilterStats struct{ Built, Failures atomic.Int64 }

type served struct {
	data []byte
	etag string
	made time.Time
	next time.Time
}

// madeFilter is what is known of the newest filter of an authority.
type madeFilter struct {
	full, newest filter.Header
	sequence     int64
	file         []byte
	delta        int // octets of the changes
}

// FilterState is what is known of an authority's filter, for metrics and alarms.
type FilterState struct {
	Authority  string
	Sequence   int64
	Covers     int64     // size of the log
	ThisUpdate time.Time // of the newest of filter and changes
	NextUpdate time.Time
	Issued     uint64 // certificates that the filter knows
	Octets     int
	Delta      int // octets of the changes since, 0 if there are none
}

// States tells how every filter is, in the order of the authorities' names.
func (f *Filters) States() (out []FilterState) {
	if f == nil {
		return nil
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, name := range slices.Sorted(maps.Keys(f.made)) {
		m := f.made[name]
		out = append(out, FilterState{Authority: name, Sequence: m.sequence, Covers: int64(m.newest.Size), ThisUpdate: m.newest.ThisUpdate, NextUpdate: m.newest.NextUpdate,
			Issued: m.full.Issued, Octets: len(m.file), Delta: m.delta})
	}
	return out
}

// serve answers for a path, if it is one of a filter.
func (f *Filters) serve(w http.ResponseWriter, r *http.Request, path string) bool {
	if f == nil {
		return false
	}
	f.mu.RLock()
	s := f.files[path]
	f.mu.RUnlock()
	if s == nil {
		return false
	}
	h := w.Header()
	h.Set("Content-Type", filterType)
	h.Set("Cache-Control", "public, no-transform, max-age="+strconv.Itoa(int(min(max(s.next.Sub(f.now()), 0), 5*time.Minute)/time.Second)))
	h.Set("ETag", s.etag)
	http.ServeContent(w, r, "", s.made, bytes.NewReader(s.data))
	return true
}

// NewFilters makes a Filters.
func NewFilters(cfg FiltersConfig) *Filters {
	f := &Filters{cfg: cfg, files: map[string]*served{}, made: map[string]*madeFilter{}}
	f.log, f.now = defaults(cfg.Log, cfg.Now)
	if f.cfg.Every == 0 {
		f.cfg.Every = 24 * time.Hour
	}
	return f
}

// Run makes filters until ctx ends: of an authority that came while it runs within
// seconds, and again a minute after a failure.
func (f *Filters) Run(ctx context.Context) {
	every := f.cfg.Every / 24
	due := map[string]time.Time{}
	for {
		for _, a := range f.cfg.CA.Authorities() {
			now := f.now()
			if a.Duty == profile.DutyRoot || !now.Before(a.Cert.NotAfter) || now.Before(due[a.Name]) {
				continue
			}
			due[a.Name] = now.Add(every)
			if err := f.Update(ctx, a.Name); err != nil && ctx.Err() == nil {
				due[a.Name] = now.Add(min(every, time.Minute))
				f.Stats.Failures.Add(1)
				f.log.ErrorContext(ctx, "filter not made; the former one stays", "authority", a.Name, "error", err)
			}
		}
		if !sleep(ctx, min(every, 5*time.Second)) {
			return
		}
	}
}

// Update brings the filter of an authority up to date: a new one when the last is
// old, the changes since otherwise, nothing when nothing changed.
func (f *Filters) Update(ctx context.Context, authority string) error {
	ctx = lane.With(ctx, lane.Status)
	for range maxTries {
		err := f.update(ctx, authority)
		if !errors.Is(err, ErrListMoved) {
			return err
		}
	}
	return ErrListMoved.New("Authority %s, its filter.", authority)
}

func (f *Filters) update(ctx context.Context, authority string) error {
	a, err := f.cfg.CA.Authority(authority)
	if err != nil {
		return err
	}
	last, err := f.load(ctx, a)
	if err != nil {
		return err
	}
	now := f.now()
	if f.cfg.Clock != nil {
		if err := f.cfg.Clock(); err != nil {
			return err
		}
	}
	// The size is read before the rows: what comes between may be in, and is looked
	// at again for the changes.
	size, err := f.cfg.Store.Head(ctx)
	if err != nil {
		return err
	}
	key, cert, err := f.cfg.Responder(ctx, authority)
	if err != nil {
		return err
	}
	if key == nil || cert == nil {
		return ErrResponder.New("%s has none.", authority)
	}
	signer := filter.Signer{Key: key, Cert: cert}
	h := filter.Header{Authority: authority, KeyHash: sha256.Sum256(a.Cert.RawSubjectPublicKeyInfo), Sequence: 1, Size: uint64(size), Day: settledDay(now),
		ThisUpdate: now.UTC().Truncate(time.Second), NextUpdate: now.Add(2 * f.cfg.Every).UTC().Truncate(time.Second)}
	if h.NextUpdate.After(cert.NotAfter) {
		h.NextUpdate = cert.NotAfter
	}
	row := StoredFilter{Authority: authority}
	old := int64(0)
	if last != nil {
		old = last.sequence
		h.Sequence = uint64(old) + 1
		h.Size, h.Day = max(h.Size, last.newest.Size), max(h.Day, last.newest.Day)
	}
	h.Sequence = max(h.Sequence, uint64(f.cfg.Floor)+1)
	if last == nil || now.Sub(last.full.ThisUpdate) >= f.cfg.Every {
		if row.File, err = f.full(ctx, h, authority, signer); err != nil {
			return err
		}
	} else {
		if last.newest.Size == h.Size && last.newest.Day == h.Day && last.newest.NextUpdate.Sub(now) > f.cfg.Every {
			return nil
		}
		h.Base = last.full.Sequence
		if row.Delta, err = f.delta(ctx, h, authority, last, signer); err != nil {
			return err
		}
		row.File = last.file
	}
	row.Sequence, row.Size, row.NextUpdate = int64(h.Sequence), int64(h.Size), h.NextUpdate
	// It is read back as a stranger would.
	if err := f.install(a, &row, now); err != nil {
		return err
	}
	if err := f.cfg.Store.PutFilter(ctx, row, old); err != nil {
		f.forget(authority)
		return err
	}
	f.Stats.Built.Add(1)
	f.log.InfoContext(ctx, "filter published", "authority", authority, "sequence", row.Sequence, "octets", len(row.File), "changes", len(row.Delta))
	return f.publish(authority, &row)
}

// settledDay is the first day whose serial numbers are not all known yet. Another
// node's clock may still be in the day before.
func settledDay(now time.Time) uint32 { return uint32(now.Add(-skew).Unix() / 86400) }

func (f *Filters) full(ctx context.Context, h filter.Header, authority string, s filter.Signer) ([]byte, error) {
	var revoked [][]byte
	if err := f.cfg.Store.EachRevoked(ctx, authority, 0, func(r Revocation, bad error) error {
		if bad != nil { // A3: revoked, as everywhere
			f.log.ErrorContext(ctx, "revocation row cannot be read", "authority", authority, "error", bad)
		}
		if (bad != nil || r.ReleasedAt.IsZero()) && r.Serial != (ca.Serial{}) {
			revoked = append(revoked, bytes.Clone(r.Serial[:]))
		}
		return nil
	}); err != nil {
		return nil, err
	}
	var n uint64
	if err := f.cfg.Store.EachSerial(ctx, authority, func(ca.Serial) error { n++; return nil }); err != nil {
		return nil, err
	}
	h.Issued = n
	return filter.Build(h, revoked, f.serials(ctx, authority), s)
}

func (f *Filters) serials(ctx context.Context, authority string) iter.Seq2[[]byte, error] {
	stop := errors.New("stop")
	return func(yield func([]byte, error) bool) {
		err := f.cfg.Store.EachSerial(ctx, authority, func(s ca.Serial) error {
			if !yield(s[:], nil) {
				return stop
			}
			return nil
		})
		if err != nil && !errors.Is(err, stop) {
			yield(nil, err)
		}
	}
}

func (f *Filters) delta(ctx context.Context, h filter.Header, authority string, last *madeFilter, s filter.Signer) ([]byte, error) {
	var put, gone [][]byte
	if err := f.cfg.Store.EachRevoked(ctx, authority, int64(last.full.Size), func(r Revocation, bad error) error {
		switch {
		case r.Serial == (ca.Serial{}):
		case bad != nil || r.ReleasedAt.IsZero():
			put = append(put, bytes.Clone(r.Serial[:]))
		default:
			gone = append(gone, bytes.Clone(r.Serial[:]))
		}
		return nil
	}); err != nil {
		return nil, err
	}
	h.Revoked = uint64(len(put))
	return filter.BuildDelta(h, put, gone, s)
}

// load gives what is stored, nil without a filter that verifies.
func (f *Filters) load(ctx context.Context, a ca.Info) (*madeFilter, error) {
	row, err := f.cfg.Store.Filter(ctx, a.Name)
	if err != nil || row == nil {
		return nil, err
	}
	f.mu.RLock()
	have := f.made[a.Name]
	f.mu.RUnlock()
	if have != nil && have.sequence >= row.Sequence {
		return have, nil
	}
	if err := f.install(a, row, f.now()); err != nil {
		// It is over, or somebody else wrote the row: a new one with a higher number.
		f.log.ErrorContext(ctx, "stored filter cannot be used", "authority", a.Name, "error", err)
		return &madeFilter{sequence: row.Sequence}, nil
	}
	f.mu.RLock()
	have = f.made[a.Name]
	f.mu.RUnlock()
	return have, f.publish(a.Name, row)
}

// install verifies a filter and what changed since, and keeps what they say.
func (f *Filters) install(a ca.Info, row *StoredFilter, now time.Time) error {
	v := filter.NewVerifier(a.Cert, 0)
	if err := v.Load(row.File, now); err != nil {
		return err
	}
	if row.Delta != nil {
		if err := v.Load(row.Delta, now); err != nil {
			return err
		}
	}
	full, changes := v.Headers()
	m := &madeFilter{full: *full, newest: *full, sequence: row.Sequence, file: row.File, delta: len(row.Delta)}
	if changes != nil {
		m.newest = *changes
	}
	if m.newest.Sequence != uint64(row.Sequence) {
		return filter.ErrRollback
	}
	f.mu.Lock()
	f.made[a.Name] = m
	f.mu.Unlock()
	return nil
}

func (f *Filters) forget(authority string) {
	f.mu.Lock()
	delete(f.made, authority)
	f.mu.Unlock()
}

const (
	filterType  = "application/octet-stream"
	filterFile  = "/filter.bin"
	filterDelta = "/filter-delta.bin"
)

func (f *Filters) publish(authority string, row *StoredFilter) error {
	for name, data := range map[string][]byte{filterFile: row.File, filterDelta: row.Delta} {
		path := "crl/" + authority + name
		if data == nil { // the changes since the former filter are of no use
			f.mu.Lock()
			delete(f.files, path)
			f.mu.Unlock()
			if f.cfg.Dir != "" {
				if err := os.Remove(filepath.Join(f.cfg.Dir, filepath.FromSlash(path))); err != nil && !os.IsNotExist(err) {
					return err
				}
			}
			continue
		}
		f.mu.Lock()
		f.files[path] = &served{data, etag(data), f.now(), row.NextUpdate}
		f.mu.Unlock()
		if f.cfg.Dir != "" {
			file := filepath.Join(f.cfg.Dir, filepath.FromSlash(path))
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return err
			}
			if err := writeFile(file, newParts([][]byte{data}), 0o644); err != nil {
				return err
			}
		}
		f.cfg.Send.Offer(File{Path: path, Type: filterType, Age: 5 * time.Minute, Number: row.Sequence, Changed: f.now(), parts: [][]byte{data}})
	}
	return nil
}
