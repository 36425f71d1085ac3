package tlog

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

const (
	// algCosignature tells a witness's key from a log's: type 4 of C2SP signed-note.
	algCosignature = 4
	// sigLine begins a signature line of a note: an em dash and a space.
	sigLine = "\u2014 "
)

// CosignerKey is a witness's public key in the form of signed notes (C2SP
// tlog-cosignature): give it to everyone who relies on the witness.
func CosignerKey(name string, pub ed25519.PublicKey) (string, error) {
	if !validName(name) || len(pub) != ed25519.PublicKeySize {
		return "", ErrConfig.New("%q cannot be the name of a witness, or its key is not Ed25519.", name)
	}
	key := append([]byte{algCosignature}, pub...)
	return fmt.Sprintf("%s+%08x+%s", name, keyHash(name, key), base64.StdEncoding.EncodeToString(key)), nil
}

func validName(name string) bool {
	return name != "" && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsSpace) && !strings.Contains(name, "+")
}

// keyHash is the key's short name in signature lines.
func keyHash(name string, key []byte) uint32 {
	sum := sha256.Sum256(append([]byte(name+"\n"), key...))
	return binary.BigEndian.Uint32(sum[:])
}

// cosigner verifies the lines of one witness; it is a [note.Verifier].
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func newCosigner(verifierKey string) (*cosigner, error) {
	bad := func() (*cosigner, error) {
		return nil, ErrCosigner.New("%.80q.", verifierKey)
	}
	name, rest, ok := strings.Cut(verifierKey, "+")
	if !ok {
		return bad()
	}
	hash, text, ok := strings.Cut(rest, "+")
	if !ok || !validName(name) {
		return bad()
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) != 1+ed25519.PublicKeySize || key[0] != algCosignature || fmt.Sprintf("%08x", keyHash(name, key)) != hash {
		return bad()
	}
	return &cosigner{name, keyHash(name, key), ed25519.PublicKey(key[1:])}, nil
}

// CosignerName is the name in a witness's verifier key.
func CosignerName(verifierKey string) (string, error) {
	c, err := newCosigner(verifierKey)
	if err != nil {
		return "", err
	}
	return c.name, nil
}

func (c *cosigner) Name() string    { return c.name }
func (c *cosigner) KeyHash() uint32 { return c.hash }

// Verify checks a timestamped_signature over the text of a note.
func (c *cosigner) Verify(text, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	at := binary.BigEndian.Uint64(sig)
	return at <= math.MaxInt64 && ed25519.Verify(c.key, cosigned(string(text), int64(at)), sig[8:])
}

// cosigned is what a witness signs about the text of a note.
func cosigned(text string, at int64) []byte {
	return fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, text)
}

// Cosign makes a witness's signature line for a checkpoint. Whoever calls it
// says that this is the largest tree of the log that it ever saw, and that it
// contains all that it saw before.
func Cosign(c Checkpoint, name string, key crypto.Signer, at time.Time) (line []byte, err error) {
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, ErrConfig.New("The witness's key is not Ed25519.")
	}
	vkey, err := CosignerKey(name, pub)
	if err != nil {
		return nil, err
	}
	v, err := newCosigner(vkey)
	if err != nil {
		return nil, err
	}
	text, _, err := splitNote(c.Note)
	if err != nil {
		return nil, err
	}
	sig, err := key.Sign(rand.Reader, cosigned(text, at.Unix()), crypto.Hash(0))
	if err != nil {
		return nil, ErrSigner.Wrap(err, "The witness cannot sign.")
	}
	stamped := append(binary.BigEndian.AppendUint64(nil, uint64(at.Unix())), sig...)
	if !v.Verify([]byte(text), stamped) {
		return nil, ErrSigner.New("The witness's signature does not verify.")
	}
	full := append(binary.BigEndian.AppendUint32(nil, v.hash), stamped...)
	return []byte(sigLine + name + " " + base64.StdEncoding.EncodeToString(full) + "\n"), nil
}

// splitNote parts a signed note into its text and its signature lines.
func splitNote(signed []byte) (text, lines string, err error) {
	i := bytes.LastIndex(signed, []byte("\n\n"))
	if i < 0 || len(signed) > 1<<20 {
		return "", "", ErrCheckpoint.New("It is not a signed note.")
	}
	return string(signed[:i+1]), string(signed[i+2:]), nil
}

// Cosignature is that a witness saw a checkpoint.
type Cosignature struct {
	Witness string    `json:"witness"`
	At      time.Time `json:"at"`
}

// maxCosignatures bounds what a note may carry of them; notes come from outside.
const maxCosignatures = 64

// Cosignatures lists the witnesses among verifierKeys that signed the note, one
// entry each, with the newest time.
func Cosignatures(signed []byte, verifierKeys ...string) (out []Cosignature, err error) {
	text, lines, err := splitNote(signed)
	if err != nil {
		return nil, err
	}
	for _, k := range verifierKeys {
		v, err := newCosigner(k)
		if err != nil {
			return nil, err
		}
		newest := time.Time{}
		for n, line := range strings.Split(lines, "\n") {
			name, sig, ok := parseLine(line)
			if n >= 2*maxCosignatures || !ok || name != v.name || len(sig) < 12 || binary.BigEndian.Uint32(sig) != v.hash || !v.Verify([]byte(text), sig[4:]) {
				continue
			}
			if at := time.Unix(int64(binary.BigEndian.Uint64(sig[4:])), 0).UTC(); at.After(newest) {
				newest = at
			}
		}
		if !newest.IsZero() {
			out = append(out, Cosignature{v.name, newest})
		}
	}
	return out, nil
}

func parseLine(line string) (name string, sig []byte, ok bool) {
	rest, ok := strings.CutPrefix(line, sigLine)
	if !ok {
		return "", nil, false
	}
	name, text, ok := strings.Cut(rest, " ")
	if !ok {
		return "", nil, false
	}
	sig, err := base64.StdEncoding.DecodeString(text)
	return name, sig, err == nil
}

// AddCosignature adds to a note those of the lines that are a witness's valid
// signature over it; there must be one. A line that the witness gave before is
// replaced.
func AddCosignature(signed, lines []byte, verifierKey string) ([]byte, error) {
	v, err := newCosigner(verifierKey)
	if err != nil {
		return nil, err
	}
	text, have, err := splitNote(signed)
	if err != nil {
		return nil, err
	}
	var fresh strings.Builder
	for n, line := range strings.Split(string(lines), "\n") {
		name, sig, ok := parseLine(line)
		if n < maxCosignatures && ok && name == v.name && len(sig) > 4 && binary.BigEndian.Uint32(sig) == v.hash && v.Verify([]byte(text), sig[4:]) {
			fresh.WriteString(line + "\n")
		}
	}
	if fresh.Len() == 0 {
		return nil, ErrCosignature.New("Nothing of what %s answered is its signature over this checkpoint.", v.name)
	}
	out := text + "\n"
	for line := range strings.Lines(have) {
		if name, sig, ok := parseLine(strings.TrimSuffix(line, "\n")); !ok || name != v.name || len(sig) < 4 || binary.BigEndian.Uint32(sig) != v.hash {
			out += line
		}
	}
	return []byte(out + fresh.String()), nil
}

// Policy says when a checkpoint is believed: the log signed it, and so did
// Quorum of the witnesses.
type Policy struct {
	Log       string   // the log's verifier key
	Witnesses []string // theirs
	Quorum    int
}

// Open is [ParseCheckpoint] under the policy. The cosignatures of the policy's
// witnesses are returned also where no quorum is asked for.
func (p Policy) Open(signed []byte) (Checkpoint, []Cosignature, error) {
	c, err := ParseCheckpoint(signed, p.Log)
	if err != nil {
		return c, nil, err
	}
	have, err := Cosignatures(signed, p.Witnesses...)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	if len(have) < p.Quorum {
		return Checkpoint{}, have, ErrQuorum.New("%d of %d witnesses signed it, %d have to.", len(have), len(p.Witnesses), p.Quorum)
	}
	return c, have, nil
}

var _ note.Verifier = (*cosigner)(nil)
