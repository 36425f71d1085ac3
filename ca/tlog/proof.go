package tlog

import (
	"context"
	"crypto/sha256"
	"errors"

	"hallmark/internal/fault"

	merkle "golang.org/x/mod/sumdb/tlog"
)

// reader reads hashes of the tree that c signs. The library checks every tile
// it reads against the root, so no proof comes from changed tiles.
func (l *Log) reader(ctx context.Context, c Checkpoint) merkle.HashReader {
	return merkle.TileHashReader(merkle.Tree{N: c.Size, Hash: c.Root}, &tileReader{ctx, l.store})
}

// tileReader gives the library the width of tile that it asks for; the store
// may have a wider one, of which the narrow one is the beginning.
type tileReader struct {
	ctx   context.Context
	store Store
}

func (r *tileReader) Height() int { return tileHeight }

func (r *tileReader) ReadTiles(tiles []merkle.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		hashes, err := r.store.Tile(r.ctx, t.L, t.N)
		if err != nil {
			return nil, err
		}
		if len(hashes) < t.W*hashSize {
			return nil, ErrCorrupt.New("The tile %s is not there.", tilePath(t.L, t.N, t.W))
		}
		out[i] = hashes[:t.W*hashSize]
	}
	return out, nil
}

func (r *tileReader) SaveTiles([]merkle.Tile, [][]byte) {}

// readFault keeps a fault or a cancelled context; what else the library says is
// about tiles that do not hash to the root.
func readFault(err error) error {
	var f *fault.Fault
	if err == nil || errors.As(err, &f) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return ErrCorrupt.Wrap(err, "")
}

// InclusionProof proves that leaf index is in the tree of the given size, which
// may be any size up to that of the newest checkpoint (RFC 6962, Section 2.1.1).
func (l *Log) InclusionProof(ctx context.Context, index, size int64) ([]Hash, error) {
	c, err := l.current(ctx)
	if err != nil {
		return nil, err
	}
	return l.inclusion(ctx, c, index, size)
}

func (l *Log) inclusion(ctx context.Context, c Checkpoint, index, size int64) ([]Hash, error) {
	if size > c.Size || index < 0 || index >= size {
		return nil, ErrRange.New("Leaf %d of %d; the newest checkpoint has %d.", index, size, c.Size)
	}
	proof, err := merkle.ProveRecord(size, index, l.reader(ctx, c))
	if err != nil {
		return nil, readFault(err)
	}
	return proof, nil
}

// ConsistencyProof proves that the tree of size newer begins with that of size
// older (RFC 6962, Section 2.1.2). From 0 and between equal sizes it is empty.
func (l *Log) ConsistencyProof(ctx context.Context, older, newer int64) ([]Hash, error) {
	c, err := l.current(ctx)
	if err != nil {
		return nil, err
	}
	if older < 0 || older > newer || newer > c.Size {
		return nil, ErrRange.New("From %d to %d; the newest checkpoint has %d.", older, newer, c.Size)
	}
	if older == 0 || older == newer {
		return nil, nil
	}
	proof, err := merkle.ProveTree(newer, older, l.reader(ctx, c))
	if err != nil {
		return nil, readFault(err)
	}
	return proof, nil
}

// Receipt proves one event to someone who has nothing but the log's verifier
// key. Without a checkpoint it is a promise: recorded, not integrated yet.
type Receipt struct {
	Leaf Leaf `json:"leaf"`
	// Certificate is the DER that an issuance is about, so that the receipt
	// stands alone; may be left out.
	Certificate []byte `json:"certificate,omitempty"`
	Proof       []Hash `json:"proof,omitempty"`
	Checkpoint  string `json:"checkpoint,omitempty"` // the signed note
}

// Pending says whether the receipt waits for a checkpoint.
func (r *Receipt) Pending() bool { return r.Checkpoint == "" }

// Receipt makes the receipt of a recorded leaf under the newest checkpoint;
// [ErrPending] while no checkpoint covers it.
func (l *Log) Receipt(ctx context.Context, leaf Leaf) (*Receipt, error) {
	if err := leaf.Check(); err != nil {
		return nil, err
	}
	c, err := l.current(ctx)
	if err != nil {
		return nil, err
	}
	return l.receipt(ctx, leaf, c, c)
}

// ReceiptUnder is [Log.Receipt] under an older checkpoint of this log, such as
// one that witnesses signed.
func (l *Log) ReceiptUnder(ctx context.Context, leaf Leaf, under Checkpoint) (*Receipt, error) {
	if err := leaf.Check(); err != nil {
		return nil, err
	}
	c, err := l.current(ctx)
	if err != nil {
		return nil, err
	}
	return l.receipt(ctx, leaf, c, under)
}

func (l *Log) receipt(ctx context.Context, leaf Leaf, newest, under Checkpoint) (*Receipt, error) {
	if leaf.Index < 0 || leaf.Index >= under.Size {
		return nil, ErrPending.New("Leaf %d, the checkpoint has %d.", leaf.Index, under.Size)
	}
	proof, err := l.inclusion(ctx, newest, leaf.Index, under.Size)
	if err != nil {
		return nil, err
	}
	if err := merkle.CheckRecord(proof, under.Size, under.Root, leaf.Index, MerkleLeaf(leaf.Entry)); err != nil {
		return nil, ErrCorrupt.Wrap(err, "Leaf %d is not what was integrated.", leaf.Index)
	}
	return &Receipt{Leaf: leaf, Proof: proof, Checkpoint: string(under.Note)}, nil
}

// VerifyReceipt checks a receipt without any I/O: the facts give the entry, the
// entry is in the tree, the tree is signed. The verifier key must come from
// somewhere other than the receipt.
func VerifyReceipt(r *Receipt, verifierKey string) (Checkpoint, error) {
	if r == nil {
		return Checkpoint{}, ErrReceipt.New("There is none.")
	}
	if r.Pending() {
		return Checkpoint{}, ErrPending.New("The receipt has no checkpoint.")
	}
	if err := r.Leaf.Check(); err != nil {
		return Checkpoint{}, ErrReceipt.Wrap(err, "Its facts are not those of its entry.")
	}
	c, err := ParseCheckpoint([]byte(r.Checkpoint), verifierKey)
	if err != nil {
		return Checkpoint{}, err
	}
	return c, r.under(c)
}

// VerifyUnder is [VerifyReceipt] against a checkpoint that the caller opened
// himself, whatever the receipt carries.
func (r *Receipt) VerifyUnder(c Checkpoint) error {
	if err := r.Leaf.Check(); err != nil {
		return ErrReceipt.Wrap(err, "Its facts are not those of its entry.")
	}
	return r.under(c)
}

func (r *Receipt) under(c Checkpoint) error {
	if r.Certificate != nil && (r.Leaf.Type != Issue || sha256.Sum256(r.Certificate) != r.Leaf.Subject) {
		return ErrReceipt.New("It is not about the certificate that it carries.")
	}
	if r.Leaf.Index < 0 || r.Leaf.Index >= c.Size {
		return ErrReceipt.New("Its index is beyond its checkpoint.")
	}
	if err := merkle.CheckRecord(r.Proof, c.Size, c.Root, r.Leaf.Index, MerkleLeaf(r.Leaf.Entry)); err != nil {
		return ErrReceipt.Wrap(err, "")
	}
	return nil
}
