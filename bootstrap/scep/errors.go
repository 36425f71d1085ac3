package scep

import (
	"errors"

	"hallmark/bootstrap"
	"hallmark/ca"
	"hallmark/ca/keycheck"
	"hallmark/internal/fault"
)

// The faults of this package.
var (
	ErrOperation   = fault.Define(fault.Invalid, "scep-operation", "The operation is not offered.", "Use GetCACaps, GetCACert or PKIOperation (RFC 8894, Section 4).")
	ErrMessage     = fault.Define(fault.Invalid, "scep-message-malformed", "The message cannot be read.", "Send one pkiMessage with a transactionID, a senderNonce and one signer (RFC 8894, Section 3).")
	ErrSignature   = fault.Define(fault.Unauthenticated, "scep-signature-invalid", "The signature of the message does not verify.", "Sign with the key of the certificate that comes along.")
	ErrAlgorithm   = fault.Define(fault.Invalid, "scep-algorithm", "The message uses an algorithm or a key that is not taken.", "Use RSA of 2048 to 4096 bits to sign, SHA-256 or better, and AES with CBC.")
	ErrType        = fault.Define(fault.Invalid, "scep-message-type", "The message asks for something that is not offered.", "Use PKCSReq (19), RenewalReq (17), GetCert (21) or GetCRL (22), and state the type once.")
	ErrEnvelope    = fault.Define(fault.Invalid, "scep-envelope-invalid", "What the message encloses cannot be opened, or is not what its type asks for.", "Encrypt for the RA certificate that GetCACert gives now, and enclose one good request.")
	ErrTransaction = fault.Define(fault.Conflict, "scep-transaction-in-use", "The transaction's identifier belongs to another request.", "Draw a new identifier.")
	ErrPoll        = fault.Define(fault.NotFound, "scep-nothing-pending", "Nothing is pending: requests are decided at once.", "Send the request again; the same key gets the same certificate.")
	ErrList        = fault.Define(fault.NotFound, "scep-list-unknown", "There is no such revocation list here.", "Name a certificate that was issued here; its CRL distribution point has the list too.")
	ErrChallenge   = fault.Define(fault.Unauthenticated, "scep-challenge-refused", "The hook does not vouch for the challenge.", "Ask whoever gives out challenges for a new one.")
)

// failInfo (RFC 8894, Section 3.2.1.4).
const (
	badAlg          = "0"
	badMessageCheck = "1"
	badRequest      = "2"
	badCertID       = "4"
)

// failures translate single faults; everything else is badRequest.
var failures = []struct {
	is   error
	info string
}{
	{ErrAlgorithm, badAlg}, {keycheck.ErrUnsupported, badAlg}, {keycheck.ErrSize, badAlg},
	{ErrSignature, badMessageCheck}, {ErrEnvelope, badMessageCheck},
	// A38: a renewal that no live certificate of ours signed.
	{bootstrap.ErrUnknown, badMessageCheck}, {bootstrap.ErrRole, badMessageCheck}, {bootstrap.ErrRevoked, badMessageCheck}, {bootstrap.ErrHeld, badMessageCheck},
	{bootstrap.ErrExpired, badMessageCheck}, {bootstrap.ErrDarkElsewhere, badMessageCheck}, {bootstrap.ErrDarkBounds, badMessageCheck}, {bootstrap.ErrNotYet, badMessageCheck}, {bootstrap.ErrInactive, badMessageCheck}, {bootstrap.ErrBlocked, badMessageCheck},
	{ca.ErrHolderRevoked, badMessageCheck},
	{ErrPoll, badCertID}, {ErrList, badCertID}, {bootstrap.ErrEnrolUnknown, badCertID},
}

func failInfo(err error) string {
	for _, f := range failures {
		if errors.Is(err, f.is) {
			return f.info
		}
	}
	return badRequest
}

// words is what a fault tells its reader; an internal one tells nothing more.
func words(err error) string {
	f := fault.From(err)
	text := f.What
	if f.Kind != fault.Internal && f.Detail != "" {
		text += " " + f.Detail
	}
	return text + " " + f.Next + " (" + f.Code + ")"
}
