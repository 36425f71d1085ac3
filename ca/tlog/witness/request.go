package witness

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	merkle "golang.org/x/mod/sumdb/tlog"

	"hallmark/ca/tlog"
)

const (
	// maxRequest bounds what a witness reads: a proof and a note with many signatures.
	maxRequest = 64 << 10
	// maxProof is the most hashes of a proof (C2SP tlog-witness).
	maxProof = 63
	// sizeType is the media type of the answer that names the size.
	sizeType = "text/x.tlog.size"
)

// encodeRequest is the body of add-checkpoint.
func encodeRequest(old int64, proof []tlog.Hash, signed []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", old)
	for _, h := range proof {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	b.WriteString("\n")
	b.Write(signed)
	return b.Bytes()
}

// parseRequest takes one form of each number and hash only.
func parseRequest(body []byte) (old int64, proof []tlog.Hash, signed []byte, err error) {
	bad := func(detail string) (int64, []tlog.Hash, []byte, error) {
		return 0, nil, nil, ErrRequest.New("%s", detail)
	}
	if len(body) > maxRequest {
		return bad("It is too large.")
	}
	head, signed, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok {
		return bad("There is no empty line.")
	}
	lines := strings.Split(string(head), "\n")
	text, ok := strings.CutPrefix(lines[0], "old ")
	if old, err = strconv.ParseInt(text, 10, 64); !ok || err != nil || old < 0 || strconv.FormatInt(old, 10) != text {
		return bad("The old size is malformed.")
	}
	if len(lines)-1 > maxProof {
		return bad("The proof is too long.")
	}
	for _, line := range lines[1:] {
		h, err := merkle.ParseHash(line)
		if err != nil || base64.StdEncoding.EncodeToString(h[:]) != line {
			return bad("A hash of the proof is malformed.")
		}
		proof = append(proof, h)
	}
	return old, proof, signed, nil
}

// originOf is the first line of a note, which names the log.
func originOf(signed []byte) string {
	origin, _, _ := bytes.Cut(signed, []byte("\n"))
	return string(origin)
}
