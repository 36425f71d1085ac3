//go:build cgo

package pkcs11

import (
	"errors"
	"unsafe"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
)

// library is a loaded module, in this process or in one of its own. Calls may
// come from many goroutines, those of one session from one at a time.
type library interface {
	// call asks and waits for the answer. Its error is that there will be none;
	// what the module says is in the answer.
	call(q *ask) (reply, error)
	// end is the last call. In a process of its own, the module ends with it.
	end()
	// ended says whether the module is gone although nobody ended it.
	ended() bool
}

// errGone is that the process of the module ended before it answered.
var errGone = errors.New("the module's process ended")

// codeNoModule is that a file is no PKCS #11 module. It is at the end of what
// PKCS #11 leaves to vendors, where none of them begins to count.
const codeNoModule = 0xfffffffe

// codeLong is that an answer of the module does not fit into a message.
const codeLong = 0xfffffffd

// ckError is an answer's code as the error of the binding, which the rest of
// this package classifies.
func ckError(code uint64) error {
	if code == 0 {
		return nil
	}
	return p11.Error(code)
}

// calls are the functions of PKCS #11 that we use. Several that belong together
// are one call here, which is one round to a module in a process of its own.
type calls struct{ lib library }

func (c *calls) do(q *ask) (reply, error) {
	r, err := c.lib.call(q)
	if err == nil {
		err = ckError(r.code)
	}
	return r, err
}

func (c *calls) one(q *ask) (uint64, error) {
	r, err := c.do(q)
	switch {
	case err != nil:
		return 0, err
	case len(r.nums) != 1:
		return 0, errFrame
	}
	return r.nums[0], nil
}

func (c *calls) octets(q *ask) ([]byte, error) {
	r, err := c.do(q)
	switch {
	case err != nil:
		return nil, err
	case len(r.blobs) != 1:
		return nil, errFrame
	}
	return r.blobs[0], nil
}

func (c *calls) none(q *ask) error {
	_, err := c.do(q)
	return err
}

// initialize loads the module at path and is C_Initialize. parameters are for
// modules that take their configuration so, as NSS does.
func (c *calls) initialize(path, parameters string) error {
	return c.none(&ask{op: opInitialize, data: []byte(path), param: []byte(parameters)})
}

func (c *calls) finalize() error { return c.none(&ask{op: opFinalize}) }

// slots lists the slots with a token.
func (c *calls) slots() ([]uint, error) {
	r, err := c.do(&ask{op: opSlots})
	return uints(r.nums), err
}

// mechanisms lists what the token can do.
func (c *calls) mechanisms(slot uint) ([]uint, error) {
	r, err := c.do(&ask{op: opMechanisms, a: uint64(slot)})
	return uints(r.nums), err
}

func uints(nums []uint64) []uint {
	all := make([]uint, len(nums))
	for i, n := range nums {
		all[i] = uint(n)
	}
	return all
}

func (c *calls) tokenInfo(slot uint) (p11.TokenInfo, error) {
	r, err := c.do(&ask{op: opTokenInfo, a: uint64(slot)})
	switch {
	case err != nil:
		return p11.TokenInfo{}, err
	case len(r.nums) != 4 || len(r.blobs) != 4:
		return p11.TokenInfo{}, errFrame
	}
	return p11.TokenInfo{
		Flags: uint(r.nums[0]), MaxSessionCount: uint(r.nums[1]),
		FirmwareVersion: p11.Version{Major: byte(r.nums[2]), Minor: byte(r.nums[3])},
		Label:           string(r.blobs[0]), ManufacturerID: string(r.blobs[1]), Model: string(r.blobs[2]), SerialNumber: string(r.blobs[3]),
	}, nil
}

func (c *calls) openSession(slot, flags uint) (p11.SessionHandle, error) {
	n, err := c.one(&ask{op: opOpenSession, a: uint64(slot), b: uint64(flags)})
	return p11.SessionHandle(n), err
}

func (c *calls) closeSession(s p11.SessionHandle) error {
	return c.none(&ask{op: opCloseSession, a: uint64(s)})
}

// sessionState is one of CKS_….
func (c *calls) sessionState(s p11.SessionHandle) (uint, error) {
	n, err := c.one(&ask{op: opSessionInfo, a: uint64(s)})
	return uint(n), err
}

func (c *calls) login(s p11.SessionHandle, user uint, pin token.Secret) error {
	return c.none(&ask{op: opLogin, a: uint64(s), b: uint64(user), secret: pin.Reveal()})
}

// find lists at most limit objects that match a template.
func (c *calls) find(s p11.SessionHandle, tmpl []*p11.Attribute, limit int) ([]p11.ObjectHandle, error) {
	r, err := c.do(&ask{op: opFind, a: uint64(s), c: uint64(limit), tmpl: [2][]attr{attrs(tmpl)}})
	if err != nil {
		return nil, err
	}
	all := make([]p11.ObjectHandle, len(r.nums))
	for i, n := range r.nums {
		all[i] = p11.ObjectHandle(n)
	}
	return all, nil
}

func (c *calls) attribute(s p11.SessionHandle, h p11.ObjectHandle, typ uint) ([]byte, error) {
	return c.octets(&ask{op: opAttribute, a: uint64(s), b: uint64(h), c: uint64(typ)})
}

func (c *calls) setAttributes(s p11.SessionHandle, h p11.ObjectHandle, tmpl []*p11.Attribute) error {
	return c.none(&ask{op: opSetAttr, a: uint64(s), b: uint64(h), tmpl: [2][]attr{attrs(tmpl)}})
}

// sign is C_SignInit and C_Sign, with the login between them that a key with
// CKA_ALWAYS_AUTHENTICATE wants (PKCS #11 v3.1, Section 5.6.8) if pin is not nil.
func (c *calls) sign(s p11.SessionHandle, h p11.ObjectHandle, m *p11.Mechanism, data []byte, pin *token.Secret) ([]byte, error) {
	q := ask{op: opSign, a: uint64(s), b: uint64(h), mech: uint64(m.Mechanism), param: m.Parameter, data: data}
	if pin != nil {
		q.c, q.secret = 1, pin.Reveal()
	}
	return c.octets(&q)
}

func (c *calls) generateKeyPair(s p11.SessionHandle, m *p11.Mechanism, public, private []*p11.Attribute) (pub, priv p11.ObjectHandle, err error) {
	r, err := c.do(&ask{op: opGeneratePar, a: uint64(s), mech: uint64(m.Mechanism), param: m.Parameter, tmpl: [2][]attr{attrs(public), attrs(private)}})
	switch {
	case err != nil:
		return 0, 0, err
	case len(r.nums) != 2:
		return 0, 0, errFrame
	}
	return p11.ObjectHandle(r.nums[0]), p11.ObjectHandle(r.nums[1]), nil
}

func (c *calls) generateKey(s p11.SessionHandle, m *p11.Mechanism, tmpl []*p11.Attribute) (p11.ObjectHandle, error) {
	n, err := c.one(&ask{op: opGenerateKey, a: uint64(s), mech: uint64(m.Mechanism), param: m.Parameter, tmpl: [2][]attr{attrs(tmpl)}})
	return p11.ObjectHandle(n), err
}

func (c *calls) destroy(s p11.SessionHandle, h p11.ObjectHandle) error {
	return c.none(&ask{op: opDestroy, a: uint64(s), b: uint64(h)})
}

// create makes an object of public parts.
func (c *calls) create(s p11.SessionHandle, tmpl []*p11.Attribute) (p11.ObjectHandle, error) {
	n, err := c.one(&ask{op: opCreate, a: uint64(s), tmpl: [2][]attr{attrs(tmpl)}})
	return p11.ObjectHandle(n), err
}

// wrap encrypts key with the key by.
func (c *calls) wrap(s p11.SessionHandle, m *p11.Mechanism, by, key p11.ObjectHandle) ([]byte, error) {
	return c.octets(&ask{op: opWrap, a: uint64(s), b: uint64(by), c: uint64(key), mech: uint64(m.Mechanism), param: m.Parameter})
}

// unwrap makes a key of what wrap gave.
func (c *calls) unwrap(s p11.SessionHandle, m *p11.Mechanism, by p11.ObjectHandle, wrapped []byte, tmpl []*p11.Attribute) (p11.ObjectHandle, error) {
	n, err := c.one(&ask{op: opUnwrap, a: uint64(s), b: uint64(by), mech: uint64(m.Mechanism), param: m.Parameter, data: wrapped, tmpl: [2][]attr{attrs(tmpl)}})
	return p11.ObjectHandle(n), err
}

func attrs(tmpl []*p11.Attribute) []attr {
	all := make([]attr, len(tmpl))
	for i, a := range tmpl {
		all[i] = attr{uint64(a.Type), a.Value}
	}
	return all
}

func p11Attrs(tmpl []attr) []*p11.Attribute {
	all := make([]*p11.Attribute, len(tmpl))
	for i, a := range tmpl {
		all[i] = &p11.Attribute{Type: uint(a.typ), Value: a.value}
	}
	return all
}

// text is b as a string without a copy that nobody could wipe.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
