package tlog

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"io"

	"golang.org/x/mod/sumdb/note"
)

// Lost is the type of a leaf whose facts went with a database that was restored
// from an older backup. Its Entry is not an entry but the leaf's hash in the
// tree, taken from a verified copy of the tiles: the tree goes on as it was
// signed, and the gap stays visible for ever (S34). It is no event: nothing
// appends one but a recovery, and [Event.Valid] refuses it.
const Lost Event = "lost"

// Merkle is the leaf's hash in the tree.
func (l *Leaf) Merkle() Hash {
	if l.Type == Lost {
		return Hash(l.Entry)
	}
	return MerkleLeaf(l.Entry)
}

// VerifierKey is a log's public key in the form of signed notes.
func VerifierKey(origin string, pub crypto.PublicKey) (string, error) {
	k, ok := pub.(ed25519.PublicKey)
	if !ok {
		return "", ErrConfig.New("The key is not Ed25519.")
	}
	v, err := note.NewEd25519VerifierKey(origin, k)
	if err != nil {
		return "", ErrConfig.Wrap(err, "")
	}
	return v, nil
}

// readOnly stands for a key that is not here: everything can be verified with
// it, nothing signed.
type readOnly struct{ pub ed25519.PublicKey }

// ReadOnly is a key for a [Log] that only reads, made from the log's verifier
// key: for checks on a machine without the token.
func ReadOnly(pub ed25519.PublicKey) crypto.Signer { return readOnly{pub} }

func (r readOnly) Public() crypto.PublicKey { return r.pub }

func (r readOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the log is open for reading only")
}

// SignTree signs the stored tree anew with this log's name and key, whatever name
// and key its checkpoint has: old is the verifier key of that checkpoint. It is
// how a log is closed and another one goes on from its leaves. Nothing is stored.
func (l *Log) SignTree(ctx context.Context, old string) (Checkpoint, error) {
	size, root, signed, err := l.store.Integrated(ctx)
	if err != nil {
		return Checkpoint{}, err
	}
	was, err := ParseCheckpoint(signed, old)
	if err != nil {
		return Checkpoint{}, err
	}
	if was.Size != size || was.Root != root {
		return Checkpoint{}, ErrCorrupt.New("The stored size and root are not those of the stored checkpoint.")
	}
	if _, err := l.edge(ctx, was); err != nil {
		return Checkpoint{}, err
	}
	return l.signer.sign(size, Hash(root), was.More)
}
