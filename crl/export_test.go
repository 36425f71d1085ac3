package crl

import (
	"context"
	"time"

	"hallmark/ca"
)

// CheckPieces is the part of [Fsck] that looks at lists and their pieces.
func CheckPieces(ctx context.Context, s FsckStore, now time.Time) (out []string, err error) {
	c := &checker{now: now, store: s, authorities: map[string]ca.Info{}, lists: map[listID]*checkedList{}}
	if err = c.readLists(ctx); err == nil {
		err = c.pieces(ctx)
	}
	for _, f := range c.found {
		out = append(out, f.String())
	}
	return out, err
}
