package tlog

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	// tileHeight and tileWidth are fixed by C2SP tlog-tiles.
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	// maxLevel: six levels of 8 hold 2^48 leaves, the most a path may name.
	maxLevel = 5
	hashSize = 32
)

// Tile is up to 256 neighbouring hashes of one level: the hashes at level
// 8·Level of the tree from 256·Index on. It is full or at the right edge.
type Tile struct {
	Level  int
	Index  int64
	Hashes []byte // 32 octets each
}

// Width is the number of hashes.
func (t Tile) Width() int { return len(t.Hashes) / hashSize }

// Path is where C2SP tlog-tiles puts the tile: tile/0/x001/x234/067, and
// tile/0/x001/x234/067.p/8 while it has only 8 hashes.
func (t Tile) Path() string { return tilePath(t.Level, t.Index, t.Width()) }

func tilePath(level int, index int64, width int) string {
	n := fmt.Sprintf("%03d", index%1000)
	for index >= 1000 {
		index /= 1000
		n = fmt.Sprintf("x%03d/%s", index%1000, n)
	}
	path := fmt.Sprintf("tile/%d/%s", level, n)
	if width != tileWidth {
		path += fmt.Sprintf(".p/%d", width)
	}
	return path
}

// ParseTilePath is the reverse of [Tile.Path]. It takes the one form of a path
// only, so a cache never holds a tile under two names.
func ParseTilePath(path string) (level int, index int64, width int, err error) {
	bad := func() (int, int64, int, error) { return 0, 0, 0, ErrTilePath.New("") }
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok || len(path) > 64 {
		return bad()
	}
	l, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return bad()
	}
	if level, err = strconv.Atoi(l); err != nil || level < 0 || level > maxLevel {
		return bad()
	}
	width = tileWidth
	if n, w, partial := strings.Cut(rest, ".p/"); partial {
		if width, err = strconv.Atoi(w); err != nil || width < 1 || width >= tileWidth {
			return bad()
		}
		rest = n
	}
	for part := range strings.SplitSeq(rest, "/") {
		three, err := strconv.ParseUint(strings.TrimPrefix(part, "x"), 10, 16)
		if err != nil || three > 999 || index > 1<<48 {
			return bad()
		}
		index = index*1000 + int64(three)
	}
	if tilePath(level, index, width) != path {
		return bad()
	}
	return level, index, width, nil
}

// widthAt is how many hashes the tile has in a tree of the given size; 0 = the
// tile is not there yet.
func widthAt(size int64, level int, index int64) int {
	hashes := size >> (tileHeight * level)
	return int(min(max(hashes-index*tileWidth, 0), tileWidth))
}
