package tlog

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	merkle "golang.org/x/mod/sumdb/tlog"
)

// Checkpoint is a signed statement that the log of Origin had Size leaves with
// this root (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin string
	Size   int64
	Root   Hash
	Note   []byte // the signed note, as it is published
	// More is the lines below the root that the log's owner put there; "" if none.
	More string
}

// checkpointText is the signed part. The root of the empty tree is the hash of
// nothing (RFC 6962, Section 2.1).
func checkpointText(origin string, size int64, root Hash, more string) string {
	return origin + "\n" + strconv.FormatInt(size, 10) + "\n" + base64.StdEncoding.EncodeToString(root[:]) + "\n" + more
}

// ParseCheckpoint opens a signed note with a verifier key in note form. The
// key's name must be the origin, so a key of one log vouches for no other.
func ParseCheckpoint(signed []byte, verifierKey string) (Checkpoint, error) {
	v, err := note.NewVerifier(verifierKey)
	if err != nil {
		return Checkpoint{}, ErrCheckpoint.Wrap(err, "The verifier key is malformed.")
	}
	return openCheckpoint(signed, v)
}

// CheckVerifierKey says whether this is a log's public key in note form.
func CheckVerifierKey(verifierKey string) error {
	if _, err := note.NewVerifier(verifierKey); err != nil {
		return ErrCheckpoint.Wrap(err, "The verifier key is malformed.")
	}
	return nil
}

func openCheckpoint(signed []byte, v note.Verifier) (Checkpoint, error) {
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		// Nothing vouches for the name in it, which is most often that of the service
		// before somebody changed its base URL.
		if c, rerr := ReadCheckpoint(signed); rerr == nil && c.Origin != v.Name() {
			return Checkpoint{}, ErrCheckpoint.Wrap(err, "It says that it is of the log %.200q, and the key is of %.200q. Where the service was given another base_url, set log.origin to the name it had.", c.Origin, v.Name())
		}
		return Checkpoint{}, ErrCheckpoint.Wrap(err, "")
	}
	c, err := readText(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != v.Name() {
		return Checkpoint{}, ErrCheckpoint.New("It is of another log.")
	}
	c.Note = signed
	return c, nil
}

// ReadCheckpoint reads what a note says and verifies nothing: for notes whose
// signatures were checked in another way.
func ReadCheckpoint(signed []byte) (Checkpoint, error) {
	text, _, err := splitNote(signed)
	if err != nil {
		return Checkpoint{}, err
	}
	c, err := readText(text)
	c.Note = signed
	return c, err
}

func readText(text string) (Checkpoint, error) {
	// Lines after the third are extensions (C2SP tlog-checkpoint); see [Config].
	lines := strings.SplitN(text, "\n", 4)
	if len(lines) < 4 {
		return Checkpoint{}, ErrCheckpoint.New("It has too few lines.")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, ErrCheckpoint.New("Its size is malformed.")
	}
	root, err := merkle.ParseHash(lines[2])
	if err != nil {
		return Checkpoint{}, ErrCheckpoint.New("Its root is malformed.")
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: root, More: lines[3]}, nil
}

// signer makes a crypto.Signer, which a token gives, into one of notes.
type signer struct {
	note.Verifier
	key crypto.Signer
}

// newSigner also gives the verifier key in note form.
func newSigner(origin string, key crypto.Signer) (signer, string, error) {
	if key == nil {
		return signer{}, "", errors.New("there is no key")
	}
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return signer{}, "", errors.New("the key is not Ed25519")
	}
	vkey, err := note.NewEd25519VerifierKey(origin, pub)
	if err != nil {
		return signer{}, "", err
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return signer{}, "", err
	}
	return signer{v, key}, vkey, nil
}

// Sign signs the text of a note.
func (s signer) Sign(msg []byte) ([]byte, error) {
	return s.key.Sign(rand.Reader, msg, crypto.Hash(0))
}

// sign makes a checkpoint and opens it again before anybody sees it: a token
// that computes wrongly must not publish.
func (s signer) sign(size int64, root Hash, more string) (Checkpoint, error) {
	signed, err := note.Sign(&note.Note{Text: checkpointText(s.Name(), size, root, more)}, s)
	if err != nil {
		return Checkpoint{}, ErrSigner.Wrap(err, "")
	}
	c, err := openCheckpoint(signed, s.Verifier)
	if err != nil {
		return Checkpoint{}, ErrSigner.Wrap(err, "The token's signature does not verify.")
	}
	return c, nil
}
