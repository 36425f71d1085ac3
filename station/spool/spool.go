package spool

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"hallmark/internal/durable"
)

// Config says how a journal is opened.
type Config struct {
	Dir string // made with mode 0700 if it is missing
	Log *slog.Logger
	Now func() time.Time
}

// file is what the journal needs of *os.File; tests put failing disks here.
type file interface {
	WriteAt(b []byte, off int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// Spool is an open journal. It is safe for concurrent use.
type Spool struct {
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	file  file
	lock  *os.File
	state journal
	at    time.Time // of the last record
	units map[string]Unit
	named map[string]string // order and unit to the job that was worked on last
	dead  error             // why nothing can be appended any more
}

// Name of the journal in its directory.
const journalName = "journal"

// Open opens the journal in dir, or begins one.
func Open(dir string) (*Spool, error) { return OpenConfig(Config{Dir: dir}) }

// OpenConfig is [Open] with a logger and a clock.
func OpenConfig(cfg Config) (s *Spool, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, ErrRead.Wrap(err, "")
	}
	lock, err := takeLock(filepath.Join(cfg.Dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()

	name := filepath.Join(cfg.Dir, journalName)
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		var id [16]byte
		rand.Read(id[:])
		if err := durable.WriteFile(name, header(id), 0o600); err != nil {
			return nil, writeFault(err)
		}
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, ErrRead.Wrap(err, "")
	}
	s = &Spool{log: cfg.Log, now: cfg.Now, lock: lock, units: map[string]Unit{}, named: map[string]string{}}
	if s.state, err = scan(b, s.note); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, ErrRead.Wrap(err, "")
	}
	s.file = f
	if torn := b[s.state.end:]; len(torn) > 0 {
		if err := s.setAside(cfg.Dir, torn); err != nil {
			f.Close()
			return nil, err
		}
	}
	return s, nil
}

// setAside cuts off a torn last record. Append had not returned for it, so
// nothing was done in its name; its octets are kept for whoever wonders.
func (s *Spool) setAside(dir string, torn []byte) error {
	s.log.Warn("last journal record was torn and is set aside", "after", s.state.seq, "octets", len(torn))
	name := filepath.Join(dir, "torn-"+strconv.FormatUint(s.state.seq+1, 10)+"-"+rand.Text()[:6])
	if err := durable.WriteFile(name, torn, 0o600); err != nil {
		return writeFault(err)
	}
	if err := s.file.Truncate(int64(s.state.end)); err != nil {
		return writeFault(err)
	}
	if err := s.file.Sync(); err != nil {
		return writeFault(err)
	}
	return nil
}

// note joins a record into the table of units.
func (s *Spool) note(r *Record) {
	u := s.units[r.Job].join(r)
	s.units[r.Job] = u
	if u.Unit != "" {
		s.named[nameOf(u.Order, u.Unit)] = r.Job
	}
	s.at = r.At
}

// nameOf: two units whose names differ in case only are one to the service.
func nameOf(order, unit string) string { return order + "\x00" + strings.ToLower(unit) }

// Append writes r and returns when it is on the disk. After a failure the
// journal is as it was before, or takes nothing any more until it is opened
// again; the record is never half there.
func (s *Spool) Append(r Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead != nil {
		return s.dead
	}
	if r.Job == "" || !r.State.known() {
		return ErrRecord.New("It has job %q and state %q.", r.Job, string(r.State))
	}
	r.Seq, r.Prev = s.state.seq+1, s.state.last[:]
	// A station's clock that was set back must not reorder its history (S38).
	if r.At = s.now().UTC().Round(0); r.At.Before(s.at) {
		r.At = s.at
	}
	payload, err := json.Marshal(&r)
	if err != nil {
		return ErrRecord.Wrap(err, "")
	}
	if len(payload) > MaxRecord {
		return ErrRecord.New("It has %d octets.", len(payload))
	}
	b := frame(payload)
	if _, err := s.file.WriteAt(b, int64(s.state.end)); err != nil {
		s.undo(err)
		return writeFault(err)
	}
	if err := s.file.Sync(); err != nil {
		// After a failed sync the kernel may have dropped the pages and say
		// yes the next time: nobody knows what is on the disk. Only reading
		// it again tells.
		s.dead = writeFault(err)
		return s.dead
	}
	s.state = journal{last: sha256.Sum256(payload), seq: r.Seq, end: s.state.end + len(b)}
	s.note(&r)
	return nil
}

// undo takes back what a failed write left, so that the journal can go on when
// there is room again.
func (s *Spool) undo(cause error) {
	if err := s.file.Truncate(int64(s.state.end)); err != nil {
		s.dead = writeFault(errors.Join(cause, err))
	}
}

func writeFault(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return ErrFull.Wrap(err, "")
	}
	return ErrWrite.Wrap(err, "")
}

// Unit is what the journal knows of a job.
func (s *Spool) Unit(job string) (Unit, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.units[job]
	return u, ok
}

// Named is what the journal knows of a unit of an order by its name, whichever
// job it is: one that the service named began under another.
func (s *Spool) Named(order, unit string) (Unit, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.units[s.named[nameOf(order, unit)]]
	return u, ok
}

// Unfinished lists the jobs that are not at their end, oldest first.
func (s *Spool) Unfinished() []Unit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return unfinished(s.units)
}

func unfinished(units map[string]Unit) []Unit {
	var open []Unit
	for _, u := range units {
		if !u.State.Final() {
			open = append(open, u)
		}
	}
	slices.SortFunc(open, func(a, b Unit) int {
		if c := a.Began.Compare(b.Began); c != 0 {
			return c
		}
		return cmp.Compare(a.Seq, b.Seq)
	})
	return open
}

// Close gives the lock back.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead == nil {
		s.dead = ErrWrite.New("It was closed.")
	}
	return errors.Join(s.file.Close(), s.lock.Close())
}

// Overview is what a journal says about its station.
type Overview struct {
	Records uint64        `json:"records"`
	Last    time.Time     `json:"last,omitzero"`
	Count   map[State]int `json:"count"`
	Open    []Unit        `json:"-"`              // not at their end, oldest first
	Torn    int           `json:"torn,omitempty"` // octets of a last record that is being written or was torn
}

// Inspect reads the journal in dir beside a process that may be writing it.
func Inspect(dir string) (Overview, error) {
	o := Overview{Count: map[State]int{}}
	b, err := os.ReadFile(filepath.Join(dir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	} else if err != nil {
		return o, ErrRead.Wrap(err, "")
	}
	units := map[string]Unit{}
	j, err := scan(b, func(r *Record) {
		units[r.Job] = units[r.Job].join(r)
		o.Last = r.At
	})
	if err != nil {
		return o, err
	}
	for _, u := range units {
		o.Count[u.State]++
	}
	o.Records, o.Open, o.Torn = j.seq, unfinished(units), len(b)-j.end
	return o, nil
}

// Records reads the journal in dir, oldest record first.
func Records(dir string, each func(Record)) error {
	b, err := os.ReadFile(filepath.Join(dir, journalName))
	if err != nil {
		return ErrRead.Wrap(err, "")
	}
	_, err = scan(b, func(r *Record) { each(*r) })
	return err
}
