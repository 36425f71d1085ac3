package tlog

import "context"

// Store keeps leaves, tiles and the newest checkpoint. All methods are safe for
// concurrent use and from several processes.
type Store interface {
	// Head is the number of leaves that are committed. Their indexes run from 0
	// to Head-1 without gaps, and a leaf counted once stays as it is.
	Head(ctx context.Context) (size int64, err error)

	// Entries gives the entries of leaves from ≤ index < to, in order, all of
	// them or an error. Callers ask for at most 65,536 at once and for none at
	// or beyond Head.
	Entries(ctx context.Context, from, to int64) ([][32]byte, error)

	// Lost gives, in order, the indexes from ≤ index < to of the leaves whose entry
	// is a hash of the tree ([Lost]).
	Lost(ctx context.Context, from, to int64) ([]int64, error)

	// Tile gives the hashes of the widest version of a tile that was committed,
	// nil without an error if there is none. The result belongs to the caller.
	Tile(ctx context.Context, level int, index int64) (hashes []byte, err error)

	// Integrated gives what the last Commit wrote; 0, zeros and nil before the
	// first.
	Integrated(ctx context.Context) (size int64, root [32]byte, note []byte, err error)

	// Commit writes tiles, each in place of an older version of itself, and the
	// new size, root and signed note, all or nothing, durable on return. If the
	// integrated size is not oldSize it writes nothing and returns an error that
	// is [ErrMoved]. It does not keep the slices.
	Commit(ctx context.Context, oldSize int64, tiles []Tile, size int64, root [32]byte, note []byte) error
}
