package vpiv

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/binary"
	"math/big"
	"sync"
)

// Card is one card. Its methods are safe for concurrent use.
type Card struct {
	Serial   uint32
	Firmware [3]byte

	mu      sync.Mutex
	pin     []byte // padded to eight bytes
	tries   int
	wrong   int
	keys    map[byte]*key
	objects map[string][]byte

	attestor *authority // made by the first ATTEST

	// Volatile: gone with the power.
	selected bool
	verified bool
	fresh    bool // VERIFY was the command before this one
	admin    bool
	witness  []byte
	chained  []byte
	rest     []byte // of a long answer
}

type key struct {
	alg       byte
	pinPolicy byte
	private   crypto.Signer
}

const (
	algRSA2048 = 0x07
	algP256    = 0x11
	algP384    = 0x14
	alg3DES    = 0x03
	algAES192  = 0x0a

	pinAlways = 3
)

// Status words of ISO/IEC 7816-4, Table 6.
const (
	swOK           = 0x9000
	swLength       = 0x6700
	swNotSatisfied = 0x6982
	swBlocked      = 0x6983
	swWrongData    = 0x6a80
	swNotSupported = 0x6a81
	swNotFound     = 0x6a82
	swNoReference  = 0x6a88
	swNoINS        = 0x6d00
)

// PIN of a new card, and its management key.
const PIN = "123456"

var managementKey = bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 3)

// New makes a card as it leaves the factory.
func New(serial uint32, major, minor, patch byte) *Card {
	return &Card{
		Serial: serial, Firmware: [3]byte{major, minor, patch}, pin: pad(PIN), tries: 3,
		keys: map[byte]*key{}, objects: map[string][]byte{},
	}
}

func pad(pin string) []byte { return append([]byte(pin), bytes.Repeat([]byte{0xff}, 8-len(pin))...) }

// WrongPINs is how many wrong PINs the card has seen in its life.
func (c *Card) WrongPINs() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wrong
}

// Import puts a key into a slot, as no honest ceremony does.
func (c *Card) Import(slot byte, k *ecdsa.PrivateKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys[slot] = &key{alg: algP256, pinPolicy: 2, private: imported{k}}
}

type imported struct{ *ecdsa.PrivateKey }

func (c *Card) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.selected, c.verified, c.admin, c.fresh = false, false, false, false
	c.witness, c.chained, c.rest = nil, nil, nil
}

// Transmit answers one command.
func (c *Card) Transmit(cmd []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	data, sw := c.command(cmd)
	return binary.BigEndian.AppendUint16(data, sw)
}

func (c *Card) command(cmd []byte) ([]byte, uint16) {
	if len(cmd) < 4 {
		return nil, swLength
	}
	cla, ins, p1, p2 := cmd[0], cmd[1], cmd[2], cmd[3]
	var data []byte
	if len(cmd) > 5 {
		n := int(cmd[4])
		if len(cmd) < 5+n {
			return nil, swLength
		}
		data = cmd[5 : 5+n]
	}
	if cla&0x10 != 0 { // ISO/IEC 7816-4, Section 5.3.3: more is to come
		c.chained = append(c.chained, data...)
		return nil, swOK
	}
	if len(c.chained) > 0 {
		data = append(c.chained, data...)
		c.chained = nil
	}
	if ins == 0xc0 {
		return c.answer(c.rest)
	}
	if !c.selected && ins != 0xa4 {
		return nil, swNoINS
	}
	fresh := c.fresh
	c.fresh = false
	out, sw := c.run(ins, p1, p2, data, fresh)
	if sw != swOK {
		return nil, sw
	}
	return c.answer(out)
}

// answer gives at most 256 bytes; the rest waits for GET RESPONSE.
func (c *Card) answer(out []byte) ([]byte, uint16) {
	if len(out) <= 256 {
		c.rest = nil
		return bytes.Clone(out), swOK
	}
	c.rest = out[256:]
	return bytes.Clone(out[:256]), 0x6100 | uint16(min(len(c.rest), 255))
}

func (c *Card) run(ins, p1, p2 byte, data []byte, fresh bool) ([]byte, uint16) {
	switch ins {
	case 0xa4: // SELECT
		if !bytes.HasPrefix([]byte{0xa0, 0, 0, 3, 8, 0, 0, 0x10, 0, 1, 0}, data) || len(data) < 5 {
			return nil, swNotFound
		}
		c.selected, c.verified, c.admin = true, false, false
		return []byte{0x61, 0x11, 0x4f, 0x06, 0, 0, 0x10, 0, 1, 0, 0x79, 0x07, 0x4f, 0x05, 0xa0, 0, 0, 3, 8}, swOK
	case 0xfd: // GET VERSION
		return c.Firmware[:], swOK
	case 0xf8: // GET SERIAL
		return binary.BigEndian.AppendUint32(nil, c.Serial), swOK
	case 0x20:
		return nil, c.verify(data)
	case 0x47:
		return c.generate(p2, data)
	case 0x87:
		if p2 == 0x9b {
			return c.authenticate(p1, data)
		}
		return c.sign(p1, p2, data, fresh)
	case 0xcb:
		return c.getData(data)
	case 0xdb:
		return nil, c.putData(data)
	case 0xf7:
		return c.metadata(p2)
	case 0xf9:
		return c.attest(p1)
	}
	return nil, swNoINS
}

func (c *Card) verify(data []byte) uint16 {
	switch {
	case len(data) == 0 && c.verified:
		return swOK
	case c.tries == 0:
		return swBlocked
	case len(data) == 0:
		return 0x63c0 | uint16(c.tries)
	case subtle.ConstantTimeCompare(data, c.pin) == 1:
		c.tries, c.verified, c.fresh = 3, true, true
		return swOK
	}
	c.tries--
	c.wrong++
	c.verified = false
	return 0x63c0 | uint16(c.tries)
}

func (c *Card) managementAlg() byte {
	if c.Firmware[0] > 5 || c.Firmware[0] == 5 && c.Firmware[1] >= 7 {
		return algAES192
	}
	return alg3DES
}

func (c *Card) managementCipher() cipher.Block {
	var b cipher.Block
	var err error
	if c.managementAlg() == algAES192 {
		b, err = aes.NewCipher(managementKey)
	} else {
		b, err = des.NewTripleDESCipher(managementKey)
	}
	if err != nil {
		panic(err) // the key is a constant
	}
	return b
}

// authenticate is the mutual authentication of SP 800-73-4, Part 2, A.2: the
// host decrypts our witness, we encrypt its challenge.
func (c *Card) authenticate(alg byte, data []byte) ([]byte, uint16) {
	body, ok := find(data, 0x7c)
	if !ok || alg != c.managementAlg() {
		return nil, swWrongData
	}
	block := c.managementCipher()
	if w, ok := find(body, 0x80); ok && len(w) == 0 {
		c.witness = make([]byte, block.BlockSize())
		rand.Read(c.witness)
		enc := make([]byte, len(c.witness))
		block.Encrypt(enc, c.witness)
		return tlv(0x7c, tlv(0x80, enc)), swOK
	}
	got, _ := find(body, 0x80)
	challenge, ok := find(body, 0x81)
	if !ok || len(challenge) != block.BlockSize() || c.witness == nil || !bytes.Equal(got, c.witness) {
		c.witness = nil
		return nil, swNotSatisfied
	}
	c.witness, c.admin = nil, true
	enc := make([]byte, len(challenge))
	block.Encrypt(enc, challenge)
	return tlv(0x7c, tlv(0x82, enc)), swOK
}

func (c *Card) generate(slot byte, data []byte) ([]byte, uint16) {
	if !c.admin {
		return nil, swNotSatisfied
	}
	body, _ := find(data, 0xac)
	alg, ok := find(body, 0x80)
	if !ok || len(alg) != 1 {
		return nil, swWrongData
	}
	k := &key{alg: alg[0], pinPolicy: 2}
	if p, ok := find(body, 0xaa); ok && len(p) == 1 {
		k.pinPolicy = p[0]
	}
	var err error
	switch k.alg {
	case algP256:
		k.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case algP384:
		k.private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case algRSA2048:
		k.private, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		return nil, swNotSupported
	}
	if err != nil {
		return nil, swNotSupported
	}
	c.keys[slot] = k
	pub := public(k.private)
	// 7F49, a tag of two bytes.
	return append([]byte{0x7f}, tlv(0x49, pub)...), swOK
}

// public is the body of SP 800-73-4, Part 2, Table 11.
func public(k crypto.Signer) []byte {
	switch p := k.Public().(type) {
	case *ecdsa.PublicKey:
		point, err := p.Bytes()
		if err != nil {
			return nil
		}
		return tlv(0x86, point)
	case *rsa.PublicKey:
		return append(tlv(0x81, p.N.Bytes()), tlv(0x82, big.NewInt(int64(p.E)).Bytes())...)
	}
	return nil
}

func (c *Card) sign(alg, slot byte, data []byte, fresh bool) ([]byte, uint16) {
	k := c.keys[slot]
	if k == nil || k.alg != alg {
		return nil, swNoReference
	}
	if !c.verified || k.pinPolicy == pinAlways && !fresh {
		return nil, swNotSatisfied
	}
	body, _ := find(data, 0x7c)
	in, ok := find(body, 0x81)
	if !ok {
		return nil, swWrongData
	}
	var sig []byte
	switch p := k.private.(type) {
	case *rsa.PrivateKey:
		if len(in) != p.Size() {
			return nil, swWrongData
		}
		sig = new(big.Int).Exp(new(big.Int).SetBytes(in), p.D, p.N).FillBytes(make([]byte, p.Size()))
	default:
		var err error
		if sig, err = k.private.Sign(rand.Reader, in, crypto.Hash(0)); err != nil {
			return nil, swWrongData
		}
	}
	return tlv(0x7c, tlv(0x82, sig)), swOK
}

func (c *Card) getData(data []byte) ([]byte, uint16) {
	tag, ok := find(data, 0x5c)
	if !ok {
		return nil, swWrongData
	}
	v, ok := c.objects[string(tag)]
	if !ok || len(v) == 0 {
		return nil, swNotFound
	}
	return tlv(0x53, v), swOK
}

func (c *Card) putData(data []byte) uint16 {
	if !c.admin {
		return swNotSatisfied
	}
	tag, ok := find(data, 0x5c)
	v, ok2 := find(data, 0x53)
	if !ok || !ok2 {
		return swWrongData
	}
	c.objects[string(tag)] = bytes.Clone(v)
	return swOK
}

func (c *Card) metadata(slot byte) ([]byte, uint16) {
	if c.Firmware[0] < 5 || c.Firmware[0] == 5 && c.Firmware[1] < 3 {
		return nil, swNoINS
	}
	if slot == 0x9b {
		return append(tlv(1, []byte{c.managementAlg()}), tlv(2, []byte{0, 1})...), swOK
	}
	k := c.keys[slot]
	if k == nil {
		return nil, swNoReference
	}
	origin := byte(1)
	if _, ok := k.private.(imported); ok {
		origin = 2
	}
	out := tlv(1, []byte{k.alg})
	out = append(out, tlv(2, []byte{k.pinPolicy, 1})...)
	out = append(out, tlv(3, []byte{origin})...)
	return append(out, tlv(4, public(k.private))...), swOK
}

func tlv(tag byte, v []byte) []byte {
	out := []byte{tag}
	switch n := len(v); {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 0x100:
		out = append(out, 0x81, byte(n))
	default:
		out = append(out, 0x82, byte(n>>8), byte(n))
	}
	return append(out, v...)
}

// find looks for a one-byte tag on the top level of b.
func find(b []byte, tag byte) ([]byte, bool) {
	for len(b) >= 2 {
		t, n, skip := b[0], int(b[1]), 2
		switch {
		case b[1] == 0x81 && len(b) >= 3:
			n, skip = int(b[2]), 3
		case b[1] == 0x82 && len(b) >= 4:
			n, skip = int(b[2])<<8|int(b[3]), 4
		case b[1] >= 0x80:
			return nil, false
		}
		if len(b) < skip+n {
			return nil, false
		}
		if t == tag {
			return b[skip : skip+n], true
		}
		b = b[skip+n:]
	}
	return nil, false
}
