package tlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	merkle "golang.org/x/mod/sumdb/tlog"

	"hallmark/internal/fsck"
)

// Row is a leaf as the database has it, with what the database says beside it.
type Row struct {
	Leaf
	Foreign bool      // another tenant's: only Index and Entry are told
	Serial  []byte    // serial number that the leaf is about
	At      time.Time // to the millisecond
	Genuine bool      // serial number and time are those that the salt was made from

	Shown       string // the unit's name as it was written
	Profile     string
	Requester   string // who asked, for example station:line-3
	Operator    string
	Tool        string
	Certificate *RowCertificate // with the serial number; nil if there is none
}

// RowCertificate is the certificate that a row's serial number has.
type RowCertificate struct {
	Sum      [32]byte // SHA-256 of its DER
	Leaf     int64    // index that its own row names
	IssuedAt time.Time
	Account  string // of its reservation
	Holder   string
}

// Rows gives the rows from ≤ index < to that there are, in the order of their
// indexes. A missing one is left out: that is what an audit looks for.
type Rows func(ctx context.Context, from, to int64) ([]Row, error)

// AuditReport is what an audit of the whole log found.
type AuditReport struct {
	Leaves       int64          `json:"leaves"` // that the checkpoint signs
	Certificates int64          `json:"certificates"`
	Foreign      int64          `json:"foreign"` // leaves of other tenants, compared by their entry only
	Lost         int64          `json:"lost"`    // leaves whose facts went with a restore
	Findings     []fsck.Finding `json:"findings"`
}

// maxFindings bounds the report of a log that is wrong as a whole.
const maxFindings = 1000

// auditStep is how many leaves are compared at once.
const auditStep = 2048

// Audit compares the tree with the rows of the database and names every leaf
// that was removed, reordered or altered, and every leaf whose certificate is
// missing or another one. rows may be nil: then the tiles alone are checked.
// The error is about reading; what is wrong is in the report.
func (t *Tree) Audit(ctx context.Context, rows Rows) (*AuditReport, error) {
	a := &audit{tree: t, rep: &AuditReport{Leaves: t.Size, Findings: []fsck.Finding{}}, stored: map[int64]Hash{}, signed: map[Hash]int64{}, about: map[int64]string{}}
	if err := a.tiles(ctx); err != nil {
		return a.rep, err
	}
	for from := int64(0); from < t.Size; from += auditStep {
		to := min(from+auditStep, t.Size)
		if rows == nil {
			if _, _, err := a.signedHashes(ctx, from, to); err != nil {
				return a.rep, err
			}
			continue
		}
		page, err := rows(ctx, from, to)
		if err != nil {
			return a.rep, err
		}
		if err := a.step(ctx, from, to, page); err != nil {
			return a.rep, err
		}
	}
	a.explain()
	return a.rep, nil
}

type audit struct {
	tree *Tree
	rep  *AuditReport

	// Of the leaves whose row is not what was signed.
	stored map[int64]Hash   // index → what the row hashes to
	signed map[Hash]int64   // what was signed → index
	order  []int64          // their indexes
	gone   map[int64]bool   // those without a row
	about  map[int64]string // what the row says it is about
}

func (a *audit) add(check, object, detail string, args ...any) {
	switch len(a.rep.Findings) {
	case maxFindings:
		a.rep.Findings = append(a.rep.Findings, fsck.Finding{Check: "more", Object: "transparency log", Detail: fmt.Sprintf("there are more than %d findings; the others are left out", maxFindings)})
		return
	case maxFindings + 1:
		return
	}
	a.rep.Findings = append(a.rep.Findings, fsck.Finding{Check: check, Object: object, Detail: fmt.Sprintf(detail, args...)})
}

// tiles checks every tile from the root downwards, so that the one that was
// changed is named and not those above it.
func (a *audit) tiles(ctx context.Context) error {
	t := a.tree
	if t.Size == 0 {
		return nil
	}
	r := t.reader(ctx)
	if _, err := merkle.TreeHash(t.Size, r); err != nil {
		if unreadable(err) {
			return err
		}
		a.add("log-root", "transparency log", "the tiles at its right edge do not hash to the root that was signed for %d leaves: %v", t.Size, err)
		return nil
	}
	levels := 0
	for t.Size>>(tileHeight*levels) > 0 {
		levels++
	}
	for level := levels - 1; level >= 1; level-- { // level 0 is read leaf by leaf
		for index := int64(0); widthAt(t.Size, level, index) > 0; index++ {
			width := widthAt(t.Size, level, index)
			b, err := t.src.Tile(ctx, level, index, width)
			if err == nil {
				err = checkTile(r, merkle.Tile{H: tileHeight, L: level, N: index, W: width}, b)
			}
			if err := a.tile(level, index, width, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// unreadable parts what keeps an audit from going on from what it is about.
func unreadable(err error) bool {
	return errors.Is(err, ErrSource) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// tile reports a tile that is missing or wrong.
func (a *audit) tile(level int, index int64, width int, err error) error {
	switch {
	case err == nil:
		return nil
	case unreadable(err):
		return err
	case errors.Is(err, ErrTilePath):
		a.add("tile-missing", tilePath(level, index, width), "it is not there")
	default:
		a.add("tile-altered", tilePath(level, index, width), "its hashes are not those that were signed")
	}
	return nil
}

// signedHashes are the leaf hashes from ≤ index < to, by tile; ok[i] is false
// where a tile cannot be believed.
func (a *audit) signedHashes(ctx context.Context, from, to int64) (hashes []Hash, ok []bool, err error) {
	hashes, ok = make([]Hash, to-from), make([]bool, to-from)
	r := a.tree.reader(ctx)
	for first := from / tileWidth * tileWidth; first < to; first += tileWidth {
		index := first / tileWidth
		width := widthAt(a.tree.Size, 0, index)
		b, err := a.tree.src.Tile(ctx, 0, index, width)
		if err == nil {
			err = checkTile(r, merkle.Tile{H: tileHeight, L: 0, N: index, W: width}, b)
		}
		if err := a.tile(0, index, width, err); err != nil {
			return nil, nil, err
		}
		for i := range int64(width) {
			if at := first + i; err == nil && at >= from && at < to {
				copy(hashes[at-from][:], b[i*hashSize:])
				ok[at-from] = true
			}
		}
	}
	return hashes, ok, nil
}

func (a *audit) step(ctx context.Context, from, to int64, page []Row) error {
	want, known, err := a.signedHashes(ctx, from, to)
	if err != nil {
		return err
	}
	have := make([]*Row, to-from)
	for i := range page {
		r := &page[i]
		if r.Index < from || r.Index >= to || have[r.Index-from] != nil {
			a.add("leaf-index", "leaf "+fmt.Sprint(r.Index), "the database has it where leaf %d to %d were asked for, or twice", from, to-1)
			continue
		}
		have[r.Index-from] = r
	}
	for i, r := range have {
		index := from + int64(i)
		if r == nil {
			a.differs(index, want[i], known[i], nil)
			continue
		}
		a.row(r)
		if r.Merkle() != want[i] || !known[i] {
			a.differs(index, want[i], known[i], r)
		}
	}
	return nil
}

// differs remembers a leaf whose row is not what was signed, or is not there.
func (a *audit) differs(index int64, want Hash, known bool, r *Row) {
	if r == nil {
		if a.gone == nil {
			a.gone = map[int64]bool{}
		}
		a.gone[index] = true
	} else if known {
		a.stored[index] = r.Merkle()
		a.about[index] = name(r)
	} else {
		return // the tile was named; the row cannot be held against anything
	}
	a.order = append(a.order, index)
	if known {
		a.signed[want] = index
	}
}

// explain tells removed, moved and altered leaves apart: what was signed for
// one place and is stored at another was moved.
func (a *audit) explain() {
	for _, index := range a.order {
		object := fmt.Sprintf("leaf %d", index)
		if a.gone[index] {
			a.add("leaf-removed", object, "the log has it, the database has not")
			continue
		}
		if was, ok := a.signed[a.stored[index]]; ok {
			a.add("leaf-reordered", object+a.about[index], "in the log this is leaf %d", was)
			continue
		}
		a.add("leaf-altered", object+a.about[index], "its entry is not the one that was signed")
	}
}

func name(r *Row) string {
	if r.Foreign {
		return " (another tenant's)"
	}
	return fmt.Sprintf(" (%s, serial number %x, %s)", r.Type, r.Serial, r.Holder)
}

// row checks what a row says against itself and its certificate.
func (a *audit) row(r *Row) {
	if r.Type == Lost {
		a.rep.Lost++
		return
	}
	if r.Foreign {
		a.rep.Foreign++
		return
	}
	object := fmt.Sprintf("leaf %d%s", r.Index, name(r))
	switch {
	case r.Check() != nil:
		a.add("leaf-altered", object, "its entry is not the hash of what it says")
	case !r.Genuine:
		a.add("leaf-altered", object, "its serial number or time was changed")
	}
	if r.Type != Issue {
		return
	}
	c := r.Certificate
	if c == nil {
		a.add("certificate-removed", object, "the log has the certificate, the database has not")
		return
	}
	a.rep.Certificates++
	switch {
	case c.Sum != r.Subject:
		a.add("certificate-altered", object, "the stored certificate is not the logged one")
	case c.Leaf != r.Index:
		a.add("certificate-altered", object, "the certificate's row names leaf %d", c.Leaf)
	case !c.IssuedAt.Equal(r.At):
		a.add("certificate-altered", object, "the certificate's row says that it was issued at %s, the log %s", c.IssuedAt.UTC().Format(time.RFC3339Nano), r.At.UTC().Format(time.RFC3339Nano))
	case c.Account != r.Account || c.Holder != r.Holder:
		a.add("certificate-altered", object, "the certificate's reservation is for %s of %s, the log says %s of %s", c.Holder, c.Account, r.Holder, r.Account)
	}
}
