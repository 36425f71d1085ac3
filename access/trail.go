package access

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Outcomes of an action, as the trail says them.
const (
	TrailDone    = "done"    // written with the change, or nothing had to change
	TrailBegun   = "begun"   // written before an effect that no transaction holds, such as a key made in a token
	TrailAsked   = "asked"   // nothing changed: it waits for a second person
	TrailRefused = "refused" // nothing changed; the code says why
	TrailFailed  = "failed"  // it had begun or changed something and then ended with an error
)

// TrailEntry is who did what, as it is kept. It holds no secret: of a request's
// body only the digest.
type TrailEntry struct {
	At       time.Time         `json:"at"`
	Tenant   string            `json:"tenant"`
	Actor    string            `json:"actor"`           // as [Actor.String] writes it
	Role     Role              `json:"role,omitempty"`  // that it had
	Token    string            `json:"token,omitempty"` // id of the token; see [TokenID]
	Action   Action            `json:"action"`
	On       string            `json:"on,omitempty"`    // method and path, or what else was acted upon
	About    map[string]string `json:"about,omitempty"` // names out of the request
	Request  string            `json:"request,omitempty"`
	From     string            `json:"from,omitempty"`     // address of the connection
	Body     string            `json:"body,omitempty"`     // SHA-256 of the request's body
	Approval string            `json:"approval,omitempty"` // of the request that somebody else approves, or approved by this
	Outcome  string            `json:"outcome"`
	Code     string            `json:"code,omitempty"`  // of the fault
	Count    int64             `json:"count,omitempty"` // how many the entry stands for, if more than one
}

// TokenID names a token in the trail: enough to tell two apart, useless to sign in.
func TokenID(hash [32]byte) string { return hex.EncodeToString(hash[:6]) }

// TrailHead is the newest row of a trail: everything before it follows from its hash.
type TrailHead struct {
	Seq  int64
	Hash [32]byte
}

// next is the head with one row more.
func (h TrailHead) next(digest [32]byte) TrailHead {
	b := append([]byte("hallmark trail v1\x00"), h.Hash[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Seq+1))
	return TrailHead{h.Seq + 1, sha256.Sum256(append(b, digest[:]...))}
}

// Next is the head after an entry, given as its octets.
func (h TrailHead) Next(entry []byte) TrailHead { return h.next(sha256.Sum256(entry)) }

const trailLine = "trail "

// Line is the head as the log's checkpoints carry it: a line of their own below the
// root. It is "" for a trail without rows.
func (h TrailHead) Line() string {
	if h.Seq == 0 {
		return ""
	}
	return trailLine + strconv.FormatInt(h.Seq, 10) + " " + base64.StdEncoding.EncodeToString(h.Hash[:]) + "\n"
}

// ParseTrailHead finds the head among the lines that a checkpoint carries; the zero
// head if it carries none.
func ParseTrailHead(lines string) (h TrailHead, err error) {
	for line := range strings.Lines(lines) {
		rest, ok := strings.CutPrefix(line, trailLine)
		if !ok {
			continue
		}
		seq, hash, _ := strings.Cut(strings.TrimSuffix(rest, "\n"), " ")
		b, err := base64.StdEncoding.DecodeString(hash)
		if twice := h.Seq != 0; !twice && err == nil && len(b) == len(h.Hash) {
			h.Seq, err = strconv.ParseInt(seq, 10, 64)
			copy(h.Hash[:], b)
		} else {
			h = TrailHead{}
		}
		if err != nil || h.Seq < 1 || h.Line() != line {
			return TrailHead{}, ErrTrailHead.New("The line %.120q.", strings.TrimSpace(line))
		}
	}
	return h, nil
}

// TrailRow is a row of the trail. A row of another tenant shows its digest alone, so
// that the chain can be checked by who may not read it.
type TrailRow struct {
	Seq    int64
	Hash   [32]byte
	Entry  []byte // JSON, as it was hashed; nil if hidden
	Digest [32]byte
}

// Hide takes the content away.
func (r TrailRow) Hide() TrailRow {
	return TrailRow{Seq: r.Seq, Hash: r.Hash, Digest: sha256.Sum256(r.Entry)}
}

// exported is a line of an export.
type exported struct {
	Seq    int64           `json:"seq"`
	Hash   string          `json:"hash"`
	Entry  json.RawMessage `json:"entry,omitempty"`
	Digest string          `json:"digest,omitempty"`
}

// Export is the row as a line of JSON, without its end.
func (r TrailRow) Export() ([]byte, error) {
	e := exported{Seq: r.Seq, Hash: hex.EncodeToString(r.Hash[:]), Entry: r.Entry}
	if r.Entry == nil {
		e.Digest = hex.EncodeToString(r.Digest[:])
	}
	return json.Marshal(e)
}

// ParseTrailRow reads a line that [TrailRow.Export] wrote. There is one way to write
// a row, so that no octet can be changed unseen.
func ParseTrailRow(line []byte) (r TrailRow, err error) {
	var e exported
	if err := json.Unmarshal(line, &e); err != nil {
		return r, ErrTrailBroken.Wrap(err, "")
	}
	hash, herr := hex.DecodeString(e.Hash)
	digest, derr := hex.DecodeString(e.Digest)
	if herr != nil || derr != nil || len(hash) != 32 || (e.Entry == nil) != (len(digest) == 32) {
		return r, ErrTrailBroken.New("")
	}
	r = TrailRow{Seq: e.Seq, Hash: [32]byte(hash), Entry: e.Entry}
	if e.Entry == nil {
		r.Digest = [32]byte(digest)
	}
	if again, err := r.Export(); err != nil || !bytes.Equal(again, line) {
		return TrailRow{}, ErrTrailBroken.New("")
	}
	return r, nil
}

// Read is the entry's content; false if it is hidden.
func (r TrailRow) Read() (e TrailEntry, ok bool, err error) {
	if r.Entry == nil {
		return e, false, nil
	}
	if err := json.Unmarshal(r.Entry, &e); err != nil {
		return e, false, ErrTrailBroken.Wrap(err, "Entry %d cannot be read.", r.Seq)
	}
	return e, true, nil
}

// Chain checks rows one after the other, from the first one on.
type Chain struct {
	head   TrailHead
	signed []TrailHead
}

// NewChain makes a Chain that also holds the rows to heads that checkpoints signed.
func NewChain(signed ...TrailHead) *Chain { return &Chain{signed: signed} }

// Head is the last row that was right.
func (c *Chain) Head() TrailHead { return c.head }

// Add takes the next row. The error names the first entry that is wrong; what comes
// after it is not worth looking at.
func (c *Chain) Add(r TrailRow) error {
	want := c.head.Seq + 1
	if r.Seq != want {
		return c.bad(want, "It is not there: the next one found is entry %d.", r.Seq)
	}
	digest := r.Digest
	if r.Entry != nil {
		digest = sha256.Sum256(r.Entry)
	}
	next := c.head.next(digest)
	if next.Hash != r.Hash {
		return c.bad(want, "It is not what was written, or not after entry %d.", c.head.Seq)
	}
	for _, s := range c.signed {
		if s.Seq == want && s.Hash != r.Hash {
			return c.bad(want, "A signed checkpoint has another one in its place, or other ones before it.")
		}
	}
	c.head = next
	return nil
}

// Broken is the fault of a next row that cannot be read at all.
func (c *Chain) Broken(err error) error {
	return c.bad(c.head.Seq+1, "It cannot be read: %s", err)
}

// End says whether rows are missing that a checkpoint signed.
func (c *Chain) End() error {
	for _, s := range c.signed {
		if s.Seq > c.head.Seq {
			return c.bad(c.head.Seq+1, "It is not there: the trail ends before it, and a checkpoint signed %d entries.", s.Seq)
		}
	}
	return nil
}

func (c *Chain) bad(seq int64, detail string, args ...any) error {
	return ErrTrailBroken.New("Entry %d. %s", seq, fmt.Sprintf(detail, args...)).With("entry", seq)
}

// Record is the entry of an action that is under way. The first transaction of the
// action that writes anything takes it along, so that there is no change without it.
type Record struct {
	mu      sync.Mutex
	entry   TrailEntry
	taken   bool
	written bool
}

type recordKey struct{}

// WithRecord lets the transactions of ctx write the entry.
func WithRecord(ctx context.Context, e TrailEntry) (context.Context, *Record) {
	r := &Record{entry: e}
	return context.WithValue(ctx, recordKey{}, r), r
}

// RecordFrom is the record of ctx, nil if there is none. All methods take nil.
func RecordFrom(ctx context.Context) *Record {
	r, _ := ctx.Value(recordKey{}).(*Record)
	return r
}

// Take gives the entry to one transaction; false if another one has it.
func (r *Record) Take() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taken {
		return false
	}
	r.taken = true
	return true
}

// Settle says what became of the transaction that took it.
func (r *Record) Settle(committed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken, r.written = committed, r.written || committed
}

// Entry is the entry as it stands.
func (r *Record) Entry() TrailEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.entry
}

// Written tells whether the entry is in the trail.
func (r *Record) Written() bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.written
}

// Note completes the entry before it is written.
func (r *Record) Note(f func(e *TrailEntry)) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.entry)
}

// TrailWriter adds entries. AppendTrail joins the transaction of its context, else
// it is durable when it returns.
type TrailWriter interface {
	AppendTrail(ctx context.Context, e TrailEntry) error
}

// outside are the actions with an effect that no transaction holds, such as a key
// made in a token. Their entries are written first: without trail no effect.
var outside = map[Action]bool{CreateAuthority: true, CreateRoot: true, InstallAuthority: true}

// errPanic stands for an action that panicked.
var errPanic = errors.New("the action panicked")

// What people do to a service that does not run, as the trail says it: two approvers
// sign it (S36).
const (
	AcceptRestore Action = "restore.accept"
	RecoverLog    Action = "log.recover"
	CloseLog      Action = "log.close"
)

// ChangesState tells whether an action belongs into the trail. Actions that look and
// do no more are named so.
func ChangesState(a Action) bool { return !strings.HasSuffix(string(a), ".read") }

// Recorded does an action with its entry in the trail, however it ends.
//
//  1. If the action has effects outside the database, the entry goes first.
//  2. Its first transaction that writes anything takes the entry along.
//  3. If there was none, the entry is written now.
//  4. An error is written too, with its code, and so is a panic.
//
// Where the entry cannot be written the action is refused or its transaction taken
// back. Only the entry of an error may be lost, which changed nothing.
func Recorded(ctx context.Context, w TrailWriter, e TrailEntry, code func(error) string, do func(ctx context.Context) error) error {
	e.Outcome = TrailDone
	if outside[e.Action] {
		e.Outcome = TrailBegun
		if err := w.AppendTrail(ctx, e); err != nil {
			return ErrTrailWrite.Wrap(err, "")
		}
		e.Outcome = TrailDone
	}
	ctx, r := WithRecord(ctx, e)
	plain := context.WithoutCancel(context.WithValue(ctx, recordKey{}, (*Record)(nil)))
	panics := true
	defer func() {
		if panics { // nobody knows how far it came; the panic goes on
			e = r.Entry()
			e.Outcome, e.Code = TrailFailed, code(errPanic)
			w.AppendTrail(plain, e)
		}
	}()
	err := do(ctx)
	panics = false
	e = r.Entry()
	switch {
	case err == nil && r.Written():
		return nil
	case err == nil:
		if err := w.AppendTrail(plain, e); err != nil {
			return ErrTrailWrite.Wrap(err, "")
		}
		return nil
	case e.Outcome == TrailAsked && r.Written():
		return err
	}
	if e.Outcome, e.Code = TrailRefused, code(err); r.Written() || outside[e.Action] {
		e.Outcome = TrailFailed
	}
	if werr := w.AppendTrail(plain, e); werr != nil {
		return fmt.Errorf("%w; not in the trail: %w", err, werr)
	}
	return err
}
