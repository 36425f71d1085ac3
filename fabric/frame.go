package fabric

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"sync"
	"sync/atomic"
)

// sealer seals frames of this process and opens those of others. Every process has
// a key of its own, derived from the shared one and its random name, and counts its
// frames: a nonce is never used twice, and no state has to be kept for that.
type sealer struct {
	master []byte
	name   [senderSize]byte
	own    cipher.AEAD
	count  atomic.Uint64

	mu     sync.Mutex
	others map[[senderSize]byte]cipher.AEAD
}

const (
	senderSize = 16
	headSize   = senderSize + 8
	tagSize    = 16
	// manySenders is how many processes are remembered: far more than a service has.
	manySenders = 256
)

func newSealer(master []byte) (*sealer, error) {
	s := &sealer{master: master, others: map[[senderSize]byte]cipher.AEAD{}}
	rand.Read(s.name[:])
	var err error
	s.own, err = s.derive(s.name)
	return s, err
}

func (s *sealer) derive(name [senderSize]byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, s.master, name[:], "hallmark fabric frame v1", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// subjects is the first part of every subject: what only the nodes can know.
func (s *sealer) subjects() (string, error) {
	b, err := hkdf.Key(sha256.New, s.master, nil, "hallmark fabric subjects v1", 12)
	return "hallmark." + hex.EncodeToString(b), err
}

// seal makes a frame: sender, counter, and the sealed octets. place is where it
// goes: a frame that somebody moves elsewhere does not open.
func (s *sealer) seal(place string, data []byte) []byte {
	out := make([]byte, headSize, headSize+len(data)+tagSize)
	copy(out, s.name[:])
	binary.BigEndian.PutUint64(out[senderSize:], s.count.Add(1))
	return s.own.Seal(out, nonce(out), data, []byte(place))
}

func nonce(frame []byte) []byte {
	n := make([]byte, 12)
	copy(n[4:], frame[senderSize:headSize])
	return n
}

// open is the reverse of seal.
func (s *sealer) open(place string, frame []byte) ([]byte, error) {
	if len(frame) < headSize+tagSize {
		return nil, ErrForged.New("It has %d octets.", len(frame))
	}
	name := [senderSize]byte(frame)
	s.mu.Lock()
	a := s.others[name]
	s.mu.Unlock()
	fresh := a == nil
	if fresh {
		var err error
		if a, err = s.derive(name); err != nil {
			return nil, err
		}
	}
	data, err := a.Open(nil, nonce(frame), frame[headSize:], []byte(place))
	if err != nil {
		return nil, ErrForged.Wrap(err, "")
	}
	if fresh { // only of nodes: strangers do not fill the map
		s.mu.Lock()
		if len(s.others) >= manySenders {
			clear(s.others)
		}
		s.others[name] = a
		s.mu.Unlock()
	}
	return data, nil
}
