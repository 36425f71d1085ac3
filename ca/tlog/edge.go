package tlog

import (
	"fmt"

	merkle "golang.org/x/mod/sumdb/tlog"
)

// edge is the right side of the tree: on each level of tiles the hashes that do
// not fill a tile yet. It is all that an append needs.
type edge struct {
	size   int64
	levels [][]byte
}

// add appends a Merkle leaf and hands every tile that it fills to full.
func (e *edge) add(h Hash, full func(Tile) error) error {
	for level := 0; ; level++ {
		if level == len(e.levels) {
			e.levels = append(e.levels, make([]byte, 0, tileWidth*hashSize))
		}
		e.levels[level] = append(e.levels[level], h[:]...)
		if len(e.levels[level]) < tileWidth*hashSize {
			break
		}
		tile := Tile{Level: level, Index: e.size >> (tileHeight * (level + 1)), Hashes: e.levels[level]}
		h = subtree(tile.Hashes)
		e.levels[level] = make([]byte, 0, tileWidth*hashSize) // full may keep the old one
		if err := full(tile); err != nil {
			return err
		}
	}
	e.size++
	return nil
}

// partial are the tiles at the edge, lowest level first.
func (e *edge) partial() (tiles []Tile) {
	for level, hashes := range e.levels {
		if len(hashes) > 0 {
			tiles = append(tiles, Tile{Level: level, Index: e.size >> (tileHeight * (level + 1)), Hashes: hashes})
		}
	}
	return tiles
}

// root is the hash of the tree. All subtrees it is made of lie in the edge.
func (e *edge) root() (Hash, error) {
	return merkle.TreeHash(e.size, merkle.HashReaderFunc(func(indexes []int64) ([]Hash, error) {
		out := make([]Hash, len(indexes))
		for i, index := range indexes {
			tile := merkle.TileForIndex(tileHeight, index)
			if tile.L >= len(e.levels) {
				return nil, fmt.Errorf("level %d is not in the edge", tile.L)
			}
			h, err := merkle.HashFromTile(tile, e.levels[tile.L], index)
			if err != nil {
				return nil, err
			}
			out[i] = h
		}
		return out, nil
	}))
}

// subtree is the root over the 256 hashes of a full tile.
func subtree(hashes []byte) Hash {
	var nodes [tileWidth]Hash
	for i := range nodes {
		copy(nodes[i][:], hashes[i*hashSize:])
	}
	for n := tileWidth; n > 1; n /= 2 {
		for i := range n / 2 {
			nodes[i] = merkle.NodeHash(nodes[2*i], nodes[2*i+1])
		}
	}
	return nodes[0]
}
