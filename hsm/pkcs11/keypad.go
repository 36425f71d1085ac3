//go:build cgo

package pkcs11

import (
	"time"
	"unsafe"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
)

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>

typedef unsigned long (*login_fn)(unsigned long session, unsigned long user, unsigned char *pin, unsigned long len);

// CK_FUNCTION_LIST: a version, then functions in the order of the standard.
enum { LOGIN = 18 };
typedef struct {
	unsigned char version[2];
	void *function[LOGIN + 1];
} function_list;

// keypad_login is C_Login without a PIN. The module is loaded already: the same
// file is the same module.
static unsigned long keypad_login(const char *path, unsigned long session, unsigned long user)
{
	function_list *list = 0;
	void *lib = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
	if (!lib)
		return 0x30; // CKR_DEVICE_ERROR
	unsigned long (*get)(function_list **) = (unsigned long (*)(function_list **))dlsym(lib, "C_GetFunctionList");
	unsigned long rv = get ? get(&list) : 0x30;
	if (rv == 0)
		rv = ((login_fn)list->function[LOGIN])(session, user, 0, 0);
	dlclose(lib);
	return rv;
}
*/
import "C"

// keypadLimit is for a person who types a PIN at the token's own keypad.
const keypadLimit = 2 * time.Minute

// keypadLogin has the token ask for the PIN itself: PKCS #11 v3.1, Section 5.6.8,
// a null pointer where the PIN would be, which the binding cannot pass.
func keypadLogin(path string, sess p11.SessionHandle, user uint) error {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	if rv := C.keypad_login(name, C.ulong(sess), C.ulong(user)); rv != 0 {
		return p11.Error(rv)
	}
	return nil
}

// keypad tells whether the token asks for the PIN itself: the URI says so, or
// names no source although the token can.
func (d *device) keypad() bool {
	if d.found.flags&p11.CKF_PROTECTED_AUTHENTICATION_PATH == 0 || !d.uri.PINValue.Empty() {
		return false
	}
	return d.uri.PINSource == token.SourceProtected || d.uri.PINSource == "" && d.cfg.PIN == nil
}

// loginLimit is how long connecting may take.
func (d *device) loginLimit() time.Duration {
	if d.keypad() && d.found.flags&p11.CKF_LOGIN_REQUIRED != 0 {
		return max(keypadLimit, d.cfg.SignTimeout)
	}
	return d.cfg.SignTimeout
}
