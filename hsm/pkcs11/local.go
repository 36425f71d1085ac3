//go:build cgo

package pkcs11

import (
	"errors"
	"sync"
	"sync/atomic"
	"unsafe"

	p11 "github.com/miekg/pkcs11"
)

// #include <stdlib.h>
import "C"

// local is a module in this process: the module's own process has one, and so
// has this one for a module that is loaded directly.
type local struct {
	mu  sync.Mutex
	ctx atomic.Pointer[p11.Ctx]

	path atomic.Pointer[string] // of ctx
}

func (l *local) call(q *ask) (reply, error) {
	r, err := l.run(q)
	if err != nil {
		var code p11.Error
		if !errors.As(err, &code) {
			code = p11.CKR_GENERAL_ERROR
		}
		r = reply{code: uint64(code)}
	}
	return r, nil
}

func (l *local) end()        { l.call(&ask{op: opFinalize}) }
func (l *local) ended() bool { return false }

// load opens the file at its first call, and keeps it open for ever: a binding
// that was destroyed crashes the process at its next use.
func (l *local) load(path string) (*p11.Ctx, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.ctx.Load(); c != nil {
		return c, nil
	}
	c := p11.New(path)
	if c == nil {
		return nil, p11.Error(codeNoModule)
	}
	l.path.Store(&path)
	l.ctx.Store(c)
	return c, nil
}

func (l *local) initialize(q *ask) error {
	ctx, err := l.load(string(q.data))
	if err != nil {
		return err
	}
	if len(q.param) == 0 {
		return ctx.Initialize()
	}
	// The module may keep the text, so it is never freed; there is one a process
	// and initialisation.
	return ctx.Initialize(p11.InitializeWithReserved(unsafe.Pointer(C.CString(string(q.param)))))
}

func (l *local) run(q *ask) (reply, error) {
	if q.op == opInitialize {
		return reply{}, l.initialize(q)
	}
	ctx := l.ctx.Load()
	if ctx == nil {
		return reply{}, p11.Error(p11.CKR_CRYPTOKI_NOT_INITIALIZED)
	}
	sess, object := p11.SessionHandle(q.a), p11.ObjectHandle(q.b)
	mech := []*p11.Mechanism{{Mechanism: uint(q.mech), Parameter: q.param}}
	switch q.op {
	case opSign:
		return blob(l.sign(ctx, q, sess, object, mech))
	case opFinalize:
		return reply{}, ctx.Finalize()
	case opSlots:
		ids, err := ctx.GetSlotList(true)
		r := reply{}
		for _, id := range ids[:min(len(ids), maxList)] {
			r.nums = append(r.nums, uint64(id))
		}
		return r, err
	case opMechanisms:
		all, err := ctx.GetMechanismList(uint(q.a))
		r := reply{}
		for _, m := range all[:min(len(all), maxList)] {
			r.nums = append(r.nums, uint64(m.Mechanism))
		}
		return r, err
	case opTokenInfo:
		i, err := ctx.GetTokenInfo(uint(q.a))
		return reply{
			nums:  []uint64{uint64(i.Flags), uint64(i.MaxSessionCount), uint64(i.FirmwareVersion.Major), uint64(i.FirmwareVersion.Minor)},
			blobs: [][]byte{[]byte(i.Label), []byte(i.ManufacturerID), []byte(i.Model), []byte(i.SerialNumber)},
		}, err
	case opOpenSession:
		s, err := ctx.OpenSession(uint(q.a), uint(q.b))
		return num(uint(s), err)
	case opCloseSession:
		return reply{}, ctx.CloseSession(sess)
	case opSessionInfo:
		i, err := ctx.GetSessionInfo(sess)
		return num(i.State, err)
	case opLogin:
		if len(q.secret) == 0 {
			return reply{}, keypadLogin(*l.path.Load(), sess, uint(q.b))
		}
		return reply{}, ctx.Login(sess, uint(q.b), text(q.secret))
	case opFind:
		return l.find(ctx, q, sess)
	case opAttribute:
		a, err := ctx.GetAttributeValue(sess, object, []*p11.Attribute{{Type: uint(q.c)}})
		if err == nil && len(a) != 1 {
			err = p11.Error(p11.CKR_GENERAL_ERROR)
		}
		if err != nil {
			return reply{}, err
		}
		return blob(a[0].Value, nil)
	case opSetAttr:
		return reply{}, ctx.SetAttributeValue(sess, object, p11Attrs(q.tmpl[0]))
	case opGeneratePar:
		pub, priv, err := ctx.GenerateKeyPair(sess, mech, p11Attrs(q.tmpl[0]), p11Attrs(q.tmpl[1]))
		return reply{nums: []uint64{uint64(pub), uint64(priv)}}, err
	case opGenerateKey:
		h, err := ctx.GenerateKey(sess, mech, p11Attrs(q.tmpl[0]))
		return num(uint(h), err)
	case opDestroy:
		return reply{}, ctx.DestroyObject(sess, object)
	case opCreate:
		h, err := ctx.CreateObject(sess, p11Attrs(q.tmpl[0]))
		return num(uint(h), err)
	case opWrap:
		return blob(ctx.WrapKey(sess, mech, object, p11.ObjectHandle(q.c)))
	case opUnwrap:
		h, err := ctx.UnwrapKey(sess, mech, object, q.data, p11Attrs(q.tmpl[0]))
		return num(uint(h), err)
	}
	return reply{}, p11.Error(p11.CKR_FUNCTION_NOT_SUPPORTED)
}

func (l *local) sign(ctx *p11.Ctx, q *ask, sess p11.SessionHandle, key p11.ObjectHandle, mech []*p11.Mechanism) ([]byte, error) {
	if err := ctx.SignInit(sess, mech, key); err != nil {
		return nil, err
	}
	if q.c == 1 {
		if err := ctx.Login(sess, p11.CKU_CONTEXT_SPECIFIC, text(q.secret)); err != nil {
			return nil, err
		}
	}
	return ctx.Sign(sess, q.data)
}

func (l *local) find(ctx *p11.Ctx, q *ask, sess p11.SessionHandle) (reply, error) {
	if err := ctx.FindObjectsInit(sess, p11Attrs(q.tmpl[0])); err != nil {
		return reply{}, err
	}
	limit := int(min(q.c, maxList))
	var r reply
	for len(r.nums) < limit {
		// Some modules give fewer than asked for although there are more.
		h, _, err := ctx.FindObjects(sess, limit-len(r.nums))
		if err != nil {
			ctx.FindObjectsFinal(sess)
			return reply{}, err
		}
		if len(h) == 0 {
			break
		}
		for _, h := range h {
			r.nums = append(r.nums, uint64(h))
		}
	}
	return r, ctx.FindObjectsFinal(sess)
}

func num(n uint, err error) (reply, error) { return reply{nums: []uint64{uint64(n)}}, err }

func blob(b []byte, err error) (reply, error) { return reply{blobs: [][]byte{b}}, err }
