package ceremony

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	merkle "golang.org/x/mod/sumdb/tlog"

	"hallmark/hsm"
)

// A ceremony is anchored as a log is: its lines are the leaves of a Merkle tree
// (RFC 6962), and a witness cosigns the checkpoint of that tree. The origin is
// the id of the ceremony behind a fixed prefix.
const originPrefix = "hallmark.ceremony/"

// Checkpoint is the text that witnesses sign: origin, number of lines up to and
// with the seal, and their root (C2SP tlog-checkpoint).
func checkpointOf(id string, lines [][]byte) string {
	hashes := map[int64]merkle.Hash{}
	reader := merkle.HashReaderFunc(func(ix []int64) ([]merkle.Hash, error) {
		out := make([]merkle.Hash, len(ix))
		for i, n := range ix {
			out[i] = hashes[n]
		}
		return out, nil
	})
	for i, l := range lines {
		// The reader holds every hash that was stored, so this cannot fail.
		stored, err := merkle.StoredHashes(int64(i), l, reader)
		if err != nil {
			return ""
		}
		first := merkle.StoredHashIndex(0, int64(i))
		for j, h := range stored {
			hashes[first+int64(j)] = h
		}
	}
	root, err := merkle.TreeHash(int64(len(lines)), reader)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s%s\n%d\n%s\n", originPrefix, id, len(lines), base64.StdEncoding.EncodeToString(root[:]))
}

// witnessed is one good signature of a witness.
type witnessed struct {
	name string
	at   time.Time // zero where the form of the signature carries none
}

// checkWitness opens a signed note over the checkpoint. Every signature line
// must be one of a witness that the script names, and good.
func checkWitness(text, checkpoint string, keys []string) ([]witnessed, error) {
	body, sigs, ok := strings.Cut(text, "\n\n")
	if !ok || body+"\n" != checkpoint {
		return nil, fmt.Errorf("it is not about this checkpoint")
	}
	if !strings.HasSuffix(sigs, "\n") || sigs == "" {
		return nil, fmt.Errorf("it has no signature")
	}
	var out []witnessed
	for line := range strings.Lines(sigs) {
		rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "— ")
		name, b64, ok2 := strings.Cut(rest, " ")
		raw, err := decode64(b64)
		if !ok || !ok2 || err != nil || len(raw) < 4 || base64.StdEncoding.EncodeToString(raw) != b64 {
			return nil, fmt.Errorf("a signature line is malformed")
		}
		w, found := witnessKey{}, false
		for _, k := range keys {
			if p, err := parseWitness(k); err == nil && p.name == name && p.hash == binary.BigEndian.Uint32(raw) {
				w, found = p, true
			}
		}
		if !found {
			return nil, fmt.Errorf("%.40q is no witness of the script", name)
		}
		seen, err := w.verify(checkpoint, raw[4:])
		if err != nil {
			return nil, err
		}
		out = append(out, seen)
	}
	return out, nil
}

func (w witnessKey) verify(checkpoint string, sig []byte) (witnessed, error) {
	if !w.cosigns {
		if !ed25519.Verify(w.pub, []byte(checkpoint), sig) {
			return witnessed{}, fmt.Errorf("the signature of %s is wrong", w.name)
		}
		return witnessed{name: w.name}, nil
	}
	// cosignature/v1: time stamp in front of the signature and in the message.
	if len(sig) != 8+ed25519.SignatureSize {
		return witnessed{}, fmt.Errorf("the cosignature of %s has a wrong length", w.name)
	}
	at := binary.BigEndian.Uint64(sig)
	message := "cosignature/v1\ntime " + strconv.FormatUint(at, 10) + "\n" + checkpoint
	if !ed25519.Verify(w.pub, []byte(message), sig[8:]) || at > 1<<40 {
		return witnessed{}, fmt.Errorf("the cosignature of %s is wrong", w.name)
	}
	return witnessed{w.name, time.Unix(int64(at), 0).UTC()}, nil
}

func noteHash(name string, key []byte) uint32 {
	h := sha256.New()
	h.Write([]byte(name + "\n"))
	h.Write(key)
	return binary.BigEndian.Uint32(h.Sum(nil))
}

func hexHash(n uint32) string { return fmt.Sprintf("%08x", n) }

// decode64 takes the one form of base64 and no other.
func decode64(s string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err == nil && !bytes.Equal([]byte(base64.StdEncoding.EncodeToString(b)), []byte(s)) {
		return nil, base64.CorruptInputError(0)
	}
	return b, err
}

// LogKey is the verifier key, in note form, of who hands a ceremony's checkpoint
// to witnesses: a witness looks at a checkpoint only if a key that it knows
// signed it. It stands among the witnesses of the script.
func LogKey(id string, pub ed25519.PublicKey) (string, error) {
	return note.NewEd25519VerifierKey(originPrefix+id, pub)
}

// SignCheckpoint signs a checkpoint as its log does, for a witness to look at.
func SignCheckpoint(ctx context.Context, checkpoint string, key hsm.Signer) (string, error) {
	origin, _, _ := strings.Cut(checkpoint, "\n")
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return "", ErrWitness.New("The key of a log is Ed25519.")
	}
	sig, err := sign(ctx, key, []byte(checkpoint))
	if err != nil {
		return "", err
	}
	raw := binary.BigEndian.AppendUint32(nil, noteHash(origin, append([]byte{1}, pub...)))
	return checkpoint + "\n— " + origin + " " + base64.StdEncoding.EncodeToString(append(raw, sig...)) + "\n", nil
}
