package web

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"slices"

	"hallmark/internal/seal"
)

// Cursors makes and reads the cursors of lists. A cursor is a position and a MAC
// over it, the tenant, the list and its filters, so that it can be neither
// altered nor carried to another list (A66).
type Cursors struct{ box *seal.Box }

// NewCursors uses the service's box, so that a cursor outlives a restart and
// goes to every node. Nil draws a key that lives as long as the process.
func NewCursors(box *seal.Box) Cursors {
	if box == nil {
		var key [seal.MasterSize]byte
		rand.Read(key[:])
		box, _ = seal.Open(key[:]) // fails for no random key
	}
	return Cursors{box}
}

const cursorMAC = 16 // octets kept of the MAC

// Make is the cursor of a position; "" of the end.
func (c Cursors) Make(tenant, list string, filter url.Values, position string) string {
	if position == "" {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(append(c.mac(tenant, list, filter, position), position...))
}

// Read is the position of a cursor.
func (c Cursors) Read(tenant, list string, filter url.Values, cursor string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(b) <= cursorMAC {
		return "", ErrCursor.New("")
	}
	position := string(b[cursorMAC:])
	if !slices.Equal(b[:cursorMAC], c.mac(tenant, list, filter, position)) {
		return "", ErrCursor.New("")
	}
	return position, nil
}

func (c Cursors) mac(tenant, list string, filter url.Values, position string) []byte {
	f := url.Values{}
	for k, v := range filter {
		if k != "cursor" && k != "limit" {
			f[k] = v
		}
	}
	sum := sha256.Sum256([]byte(f.Encode()))
	return c.box.MAC("cursor", []byte(tenant), []byte(list), sum[:], []byte(position))[:cursorMAC]
}
