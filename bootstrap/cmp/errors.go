package cmp

import (
	"errors"

	"hallmark/bootstrap"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/internal/fault"
)

// The faults of this package.
var (
	ErrMessage     = fault.Define(fault.Invalid, "cmp-message-malformed", "The message cannot be read.", "Send one PKIMessage in DER (RFC 9810), as application/pkixcmp.")
	ErrProtection  = fault.Define(fault.Unauthenticated, "cmp-protection-invalid", "The protection of the message is missing or does not verify.", "Protect the message with the one-time password under its reference, or with the device's certificate and key.")
	ErrAlgorithm   = fault.Define(fault.Invalid, "cmp-algorithm", "The message uses an algorithm or a parameter that is not taken.", "Use SHA-256 or better, and at most 100,000 iterations.")
	ErrBody        = fault.Define(fault.Invalid, "cmp-body-unsupported", "The message asks for something that is not offered.", "Use ir, cr, p10cr, kur, rr, certConf or genm, with one request a message.")
	ErrTemplate    = fault.Define(fault.Invalid, "cmp-template-invalid", "The certificate template cannot be used.", "Give a public key; and in an update the names of the certificate that is updated, or none.")
	ErrPossession  = fault.Define(fault.Invalid, "cmp-possession-unproven", "The possession of the new key is not proven.", "Sign the request with the new key.")
	ErrClock       = fault.Define(fault.Invalid, "cmp-time", "The time of the message is not now.", "Set the clock of the device, or leave the time out.")
	ErrTransaction = fault.Define(fault.Conflict, "cmp-transaction-in-use", "The transaction's identifier belongs to another request.", "Draw a new identifier.")
	ErrNonce       = fault.Define(fault.Invalid, "cmp-nonce", "A nonce or the transaction's identifier is missing, or is not the one that was given.", "Send 16 random octets each, and the nonce of the answer that is confirmed.")
)

// PKIFailureInfo (RFC 9810, Section 5.2.3).
const (
	badAlg             = 0
	badMessageCheck    = 1
	badRequest         = 2
	badTime            = 3
	badCertID          = 4
	badDataFormat      = 5
	badPOP             = 9
	certRevoked        = 10
	badRecipientNonce  = 13
	badCertTemplate    = 19
	signerNotTrusted   = 20
	transactionIDInUse = 21
	notAuthorized      = 23
	systemUnavail      = 24
	systemFailure      = 25
	duplicateCertReq   = 26
)

// failures translate single faults; kinds do the rest.
var failures = []struct {
	is  *fault.Definition
	bit int
}{
	{ErrMessage, badDataFormat}, {ErrProtection, badMessageCheck}, {ErrAlgorithm, badAlg}, {ErrTemplate, badCertTemplate}, {ErrPossession, badPOP},
	{ErrClock, badTime}, {ErrTransaction, transactionIDInUse}, {ErrNonce, badRecipientNonce},
	{bootstrap.ErrEnrolPassword, signerNotTrusted}, {bootstrap.ErrUnknown, signerNotTrusted}, {bootstrap.ErrRole, signerNotTrusted}, {bootstrap.ErrExpired, signerNotTrusted}, {bootstrap.ErrDarkElsewhere, signerNotTrusted},
	{bootstrap.ErrRevoked, certRevoked}, {bootstrap.ErrHeld, certRevoked}, {bootstrap.ErrEnrolUnknown, badCertID}, {ca.ErrHolderRevoked, certRevoked},
	{ca.ErrKeyInUse, duplicateCertReq}, {bootstrap.ErrKeyReused, badCertTemplate}, {csr.ErrSignature, badPOP}, {crl.ErrReason, badRequest},
}

var kinds = map[fault.Kind]int{
	fault.Invalid: badRequest, fault.Unauthenticated: badMessageCheck, fault.Forbidden: notAuthorized, fault.NotFound: badRequest,
	fault.Conflict: notAuthorized, fault.Exhausted: systemUnavail, fault.Unavailable: systemUnavail, fault.Internal: systemFailure,
}

// failure is the bit of PKIFailureInfo that says what went wrong.
func failure(err error) int {
	for _, f := range failures {
		if errors.Is(err, f.is) {
			return f.bit
		}
	}
	return kinds[fault.KindOf(err)]
}

// labels are the profiles that a path can name.
var labels = map[string]profile.Name{"": "", string(profile.IDevID): profile.IDevID, string(profile.LDevID): profile.LDevID}
