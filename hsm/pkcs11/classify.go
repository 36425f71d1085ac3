//go:build cgo

package pkcs11

import (
	"errors"
	"strings"

	p11 "github.com/miekg/pkcs11"
)

// class says what an error of a module means for the request and the token.
type class uint8

const (
	classCaller   class = iota // the request is wrong; the token is well
	classSession               // this session is spoilt: another one, once
	classLogin                 // login or handle is gone: log in, find again, once
	classToken                 // the token is gone: breaker
	classDoubtful              // could be either: a test signature decides
	classPIN                   // stop until a person came
)

var classes = map[p11.Error]class{
	p11.CKR_SESSION_HANDLE_INVALID:         classSession,
	p11.CKR_SESSION_CLOSED:                 classSession,
	p11.CKR_OPERATION_ACTIVE:               classSession,
	p11.CKR_OPERATION_NOT_INITIALIZED:      classSession,
	p11.CKR_FUNCTION_CANCELED:              classSession,
	p11.CKR_USER_NOT_LOGGED_IN:             classLogin,
	p11.CKR_OBJECT_HANDLE_INVALID:          classLogin,
	p11.CKR_KEY_HANDLE_INVALID:             classLogin,
	p11.CKR_CRYPTOKI_NOT_INITIALIZED:       classToken,
	p11.CKR_DEVICE_ERROR:                   classToken,
	p11.CKR_DEVICE_REMOVED:                 classToken,
	p11.CKR_DEVICE_MEMORY:                  classToken,
	p11.CKR_TOKEN_NOT_PRESENT:              classToken,
	p11.CKR_TOKEN_NOT_RECOGNIZED:           classToken,
	p11.CKR_SLOT_ID_INVALID:                classToken,
	p11.CKR_HOST_MEMORY:                    classToken,
	p11.CKR_SESSION_COUNT:                  classDoubtful,
	p11.CKR_GENERAL_ERROR:                  classDoubtful,
	p11.CKR_FUNCTION_FAILED:                classDoubtful,
	p11.CKR_PIN_INCORRECT:                  classPIN,
	p11.CKR_PIN_INVALID:                    classPIN,
	p11.CKR_PIN_LEN_RANGE:                  classPIN,
	p11.CKR_PIN_EXPIRED:                    classPIN,
	p11.CKR_PIN_LOCKED:                     classPIN,
	p11.CKR_USER_PIN_NOT_INITIALIZED:       classPIN,
	p11.CKR_USER_TYPE_INVALID:              classPIN,
	p11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN: classPIN,
}

// classify looks through wrapping. A module whose process ended is a token that
// is gone. What else did not come from a module, or has no entry, is the
// caller's.
func classify(err error) class {
	var e p11.Error
	if errors.As(err, &e) {
		return classes[e]
	}
	if errors.Is(err, errGone) {
		return classToken
	}
	return classCaller
}

func isCode(err error, code uint) bool {
	var e p11.Error
	return errors.As(err, &e) && e == p11.Error(code)
}

// codeName is the CKR name for metrics and logs.
func codeName(err error) string {
	var e p11.Error
	if !errors.As(err, &e) {
		return "none"
	}
	s := e.Error()
	if i := strings.Index(s, "CKR_"); i >= 0 {
		return s[i:]
	}
	return strings.TrimPrefix(s, "pkcs11: ")
}
