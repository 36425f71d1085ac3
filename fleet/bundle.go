package fleet

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
)

// RootID is how a trusted root is named: the SHA-256 of its certificate, in hexadecimal.
func RootID(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// BundleID names a set of trusted roots, in whatever order they are: the SHA-256 of
// the certificates' SHA-256 sums, which are sorted and put one after the other. ok is
// false if an id is not one of [RootID].
func BundleID(roots []string) (id string, ok bool) {
	var sums [][]byte
	for _, r := range roots {
		sum, err := hex.DecodeString(r)
		if err != nil || len(sum) != sha256.Size {
			return "", false
		}
		sums = append(sums, sum)
	}
	slices.SortFunc(sums, bytes.Compare)
	sums = slices.CompactFunc(sums, bytes.Equal)
	all := sha256.Sum256(bytes.Join(sums, nil))
	return hex.EncodeToString(all[:]), len(sums) > 0
}
