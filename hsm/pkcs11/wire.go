//go:build cgo

package pkcs11

import (
	"encoding/binary"
	"errors"
)

// The protocol between this process and a module's: one message a packet, each
// of at most maxFrame octets. A question has a number that its answer repeats;
// answers come in any order. Both sides are the same program, so a version that
// differs ends the conversation instead of being spoken too.
//
//	question: version, operation, number(2), a(8), b(8), c(8), mechanism(8),
//	          parameter, data, secret, two templates
//	answer:   version, answerMark, number(2), code(8), numbers, octet strings
//
// Numbers are little-endian; an octet string is a length of four octets and so
// many octets; a list is a count of two octets and so many members.
const (
	wireVersion = 1
	answerMark  = 0xff
	maxFrame    = 64 << 10
	maxList     = 1024 // members of a list
)

// op is what a module is asked to do. Some are several functions of PKCS #11,
// so that a signature costs one round.
type op uint8

const (
	opInitialize op = iota + 1 // load data; C_Initialize with parameter
	opFinalize
	opSlots        // with a token present
	opTokenInfo    // a: slot
	opMechanisms   // a: slot
	opOpenSession  // a: slot, b: flags
	opCloseSession // a: session, as in all that follow
	opSessionInfo
	opLogin       // b: user type; secret
	opFind        // template, c: at most so many
	opAttribute   // b: object, c: type
	opSetAttr     // b: object, template
	opSign        // b: key, mechanism, data; c: 1 = log in for this signature with secret
	opGeneratePar // mechanism, templates: public, private
	opGenerateKey // mechanism, template
	opDestroy     // b: object
	opWrap        // b: wrapping key, c: key, mechanism
	opUnwrap      // b: unwrapping key, mechanism, data, template
	opCreate      // template
	opEnd
)

// attr is one attribute of a template.
type attr struct {
	typ   uint64
	value []byte
}

// ask is a question.
type ask struct {
	op      op
	a, b, c uint64
	mech    uint64
	param   []byte
	data    []byte
	secret  []byte // a PIN: wiped wherever it was written to
	tmpl    [2][]attr
}

// reply is an answer. A code that is not 0 is one of PKCS #11, or ours.
type reply struct {
	code  uint64
	nums  []uint64
	blobs [][]byte
}

var (
	errFrame   = errors.New("a message between the module's process and this one is malformed")
	errVersion = errors.New("the module's process speaks another version")
	errLong    = errors.New("a message to the module's process is too long")
)

var le = binary.LittleEndian

func appendBytes(b, v []byte) []byte {
	return append(le.AppendUint32(b, uint32(len(v))), v...)
}

// appendAsk writes a question.
func appendAsk(b []byte, id uint16, q *ask) ([]byte, error) {
	start := len(b)
	b = append(b, wireVersion, byte(q.op))
	b = le.AppendUint16(b, id)
	for _, n := range [...]uint64{q.a, q.b, q.c, q.mech} {
		b = le.AppendUint64(b, n)
	}
	for _, v := range [...][]byte{q.param, q.data, q.secret} {
		b = appendBytes(b, v)
	}
	for _, t := range q.tmpl {
		if len(t) > maxList {
			return b, errLong
		}
		b = le.AppendUint16(b, uint16(len(t)))
		for _, a := range t {
			b = appendBytes(le.AppendUint64(b, a.typ), a.value)
		}
	}
	if len(b)-start > maxFrame {
		return b, errLong
	}
	return b, nil
}

// appendReply writes an answer.
func appendReply(b []byte, id uint16, r *reply) ([]byte, error) {
	start := len(b)
	b = append(b, wireVersion, answerMark)
	b = le.AppendUint16(b, id)
	b = le.AppendUint64(b, r.code)
	if len(r.nums) > maxList || len(r.blobs) > maxList {
		return b, errLong
	}
	b = le.AppendUint16(b, uint16(len(r.nums)))
	for _, n := range r.nums {
		b = le.AppendUint64(b, n)
	}
	b = le.AppendUint16(b, uint16(len(r.blobs)))
	for _, v := range r.blobs {
		b = appendBytes(b, v)
	}
	if len(b)-start > maxFrame {
		return b, errLong
	}
	return b, nil
}

// parser reads a message. After the first error all it gives is empty.
type parser struct {
	b   []byte
	err error
}

func (p *parser) take(n int) []byte {
	if p.err == nil && n > len(p.b) {
		p.err = errFrame
	}
	if p.err != nil {
		return nil
	}
	v := p.b[:n:n]
	p.b = p.b[n:]
	return v
}

func (p *parser) u16() uint16 {
	if v := p.take(2); v != nil {
		return le.Uint16(v)
	}
	return 0
}

func (p *parser) u64() uint64 {
	if v := p.take(8); v != nil {
		return le.Uint64(v)
	}
	return 0
}

func (p *parser) bytes() []byte {
	v := p.take(4)
	if v == nil {
		return nil
	}
	n := le.Uint32(v)
	if n > maxFrame {
		p.err = errFrame
		return nil
	}
	return p.take(int(n))
}

// count is the length of a list whose members have at least size octets, so
// that a short message cannot ask for much memory.
func (p *parser) count(size int) int {
	n := int(p.u16())
	if p.err == nil && (n > maxList || n*size > len(p.b)) {
		p.err = errFrame
	}
	if p.err != nil {
		return 0
	}
	return n
}

func (p *parser) end() error {
	if p.err == nil && len(p.b) > 0 {
		p.err = errFrame
	}
	return p.err
}

// head reads what both kinds of message begin with.
func (p *parser) head() (kind byte, id uint16) {
	if len(p.b) > maxFrame {
		p.err = errFrame
	}
	v := p.take(4)
	if v == nil {
		return 0, 0
	}
	if v[0] != wireVersion {
		p.err = errVersion
	}
	return v[1], le.Uint16(v[2:])
}

// parseAsk reads a question. Its octets stay those of b.
func parseAsk(b []byte) (id uint16, q ask, err error) {
	p := parser{b: b}
	kind, id := p.head()
	q.op = op(kind)
	if p.err == nil && (q.op == 0 || q.op >= opEnd) {
		p.err = errFrame
	}
	q.a, q.b, q.c, q.mech = p.u64(), p.u64(), p.u64(), p.u64()
	q.param, q.data, q.secret = p.bytes(), p.bytes(), p.bytes()
	for i := range q.tmpl {
		n := p.count(12)
		if n == 0 {
			continue
		}
		q.tmpl[i] = make([]attr, n)
		for j := range q.tmpl[i] {
			q.tmpl[i][j] = attr{p.u64(), p.bytes()}
		}
	}
	if err := p.end(); err != nil {
		return 0, ask{}, err
	}
	return id, q, nil
}

// parseReply reads an answer. Its octets are copies: b is used again.
func parseReply(b []byte) (id uint16, r reply, err error) {
	p := parser{b: b}
	kind, id := p.head()
	if p.err == nil && kind != answerMark {
		p.err = errFrame
	}
	r.code = p.u64()
	if n := p.count(8); n > 0 {
		r.nums = make([]uint64, n)
		for i := range r.nums {
			r.nums[i] = p.u64()
		}
	}
	if n := p.count(4); n > 0 {
		r.blobs = make([][]byte, n)
		for i := range r.blobs {
			r.blobs[i] = append([]byte{}, p.bytes()...)
		}
	}
	if err := p.end(); err != nil {
		return 0, reply{}, err
	}
	return id, r, nil
}
