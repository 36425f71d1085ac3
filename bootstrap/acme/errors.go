package acme

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	lib "github.com/smallstep/certificates/acme"

	"hallmark/bootstrap"
	"hallmark/bootstrap/acme/state"
	"hallmark/ca"
	"hallmark/crl"
	"hallmark/internal/fault"
	"hallmark/web"
)

// The refusals of ACME.
var (
	ErrMessage      = fault.Define(fault.Invalid, "acme-message-invalid", "The message is not a JWS as ACME wants it.", "Send a flattened JWS with protected header, payload and signature (RFC 8555, Section 6.2).")
	ErrTooLarge     = fault.Define(fault.Invalid, "acme-message-too-large", "The message is too large.", "Send at most 64 KiB.")
	ErrMedia        = fault.Define(fault.Invalid, "acme-media-type", "The content type is not that of a JWS.", "Send application/jose+json.")
	ErrAlgorithm    = fault.Define(fault.Invalid, "acme-algorithm-refused", "The signature algorithm is not taken.", "Sign with ES256, ES384, ES512, RS256 or EdDSA and the key that belongs to it.")
	ErrURL          = fault.Define(fault.Forbidden, "acme-url-mismatch", "The message was signed for another URL.", "Sign the URL that the message is sent to.")
	ErrSignature    = fault.Define(fault.Invalid, "acme-signature-invalid", "The signature does not verify.", "Sign with the account's key, or with the certificate's for its revocation.")
	ErrPublicKey    = fault.Define(fault.Invalid, "acme-public-key-refused", "The key is not taken.", "Use a strong P-256, P-384, P-521, RSA or Ed25519 key.")
	ErrAccountEnded = fault.Define(fault.Forbidden, "acme-account-ended", "The account is not active, or what it was made with was revoked.", "Make a new account with a new key.")
	ErrNotYours     = fault.Define(fault.Forbidden, "acme-not-yours", "This is not the account's.", "Use the account that made it, or the certificate's own key.")
	ErrContact      = fault.Define(fault.Invalid, "acme-contact-invalid", "A contact is not a mail address.", "Give at most ten contacts as mailto:NAME@DOMAIN.")
	ErrScheme       = fault.Define(fault.Invalid, "acme-contact-unsupported", "A contact has a scheme that is not taken.", "Give contacts as mailto:NAME@DOMAIN.")
	ErrExternal     = fault.Define(fault.Forbidden, "acme-external-account-required", "An account needs an external account key here.", "Ask for one made with hallmark enrol acme-key create.")
	ErrBinding      = fault.Define(fault.Forbidden, "acme-external-account-refused", "The external account binding is not good.", "Use the key id and the key of hallmark enrol acme-key create, once, before it ends.")
	ErrIdentifiers  = fault.Define(fault.Invalid, "acme-identifiers-invalid", "The order's identifiers are malformed.", "Ask for one device, or for one to ten different names.")
	ErrUnsupported  = fault.Define(fault.Invalid, "acme-identifier-unsupported", "Identifiers of this type are not taken.", "Use permanent-identifier for a device, or dns where sites are switched on.")
	ErrRejected     = fault.Define(fault.Invalid, "acme-identifier-rejected", "There is no certificate for this identifier.", "Ask the owner of the service to allow it.")
	ErrValidity     = fault.Define(fault.Invalid, "acme-validity-refused", "The validity is not the client's to choose.", "Leave notBefore and notAfter out.")
	ErrNotReady     = fault.Define(fault.Forbidden, "acme-order-not-ready", "The order is not ready.", "Fulfil its authorizations first, or make a new order.")
	ErrCSR          = fault.Define(fault.Invalid, "acme-csr-refused", "The certification request is not what the order is for.", "Make a CSR for the order's names, or the attested key, with a key that is not the account's.")
	ErrRevoked      = fault.Define(fault.Invalid, "acme-already-revoked", "The certificate is revoked already.", "Nothing is left to do.")
	ErrReason       = fault.Define(fault.Invalid, "acme-reason-refused", "The reason is not one a holder may give.", "Use 0, 1, 3, 4, 5 or 9 (RFC 5280, Section 5.3.1).")
	ErrKeyConfig    = fault.Define(fault.Invalid, "acme-key-invalid", "The external account key cannot be made.", "Correct the named field.")
	ErrOff          = fault.Define(fault.Conflict, "acme-off", "ACME is switched off.", "Switch it on in the configuration (enrolment.acme).")
)

// as says which error of RFC 8555, Section 6.7 a fault is; what is not here goes by
// its kind.
var as = []struct {
	definition *fault.Definition
	kind       string
	status     int
}{
	{state.ErrNonceSpent, "badNonce", 400}, {state.ErrNoAccount, "accountDoesNotExist", 400},
	{ErrTooLarge, "malformed", 413}, {ErrMedia, "malformed", 415}, {ErrAlgorithm, "badSignatureAlgorithm", 400}, {ErrURL, "unauthorized", 403},
	{ErrPublicKey, "badPublicKey", 400}, {ErrAccountEnded, "unauthorized", 403}, {ErrNotYours, "unauthorized", 403},
	{ErrContact, "invalidContact", 400}, {ErrScheme, "unsupportedContact", 400}, {ErrExternal, "externalAccountRequired", 403}, {ErrBinding, "unauthorized", 403},
	{state.ErrKeyBound, "unauthorized", 403}, {state.ErrTaken, "conflict", 409},
	{ErrUnsupported, "unsupportedIdentifier", 400}, {ErrRejected, "rejectedIdentifier", 400}, {ErrNotReady, "orderNotReady", 403}, {ErrCSR, "badCSR", 400},
	{ErrRevoked, "alreadyRevoked", 400}, {ErrReason, "badRevocationReason", 400}, {crl.ErrReason, "badRevocationReason", 400},
	{bootstrap.ErrEnrolRate, "rateLimited", 429}, {ca.ErrSlots, "rateLimited", 429},
}

// problem is the error form (RFC 8555, Section 6.7; RFC 9457).
type problem struct {
	Type       string           `json:"type"`
	Detail     string           `json:"detail"`
	Status     int              `json:"status"`
	Code       string           `json:"code"` // ours, stable
	RequestID  string           `json:"request_id,omitempty"`
	Algorithms []string         `json:"algorithms,omitempty"`
	Identifier *json.RawMessage `json:"identifier,omitempty"`
}

const urn = "urn:ietf:params:acme:error:"

func problemOf(f *fault.Fault) problem {
	p := problem{Status: web.Status(f), Code: f.Code, Detail: f.What + " " + f.Next}
	if f.Kind != fault.Internal && f.Detail != "" {
		p.Detail = f.What + " " + f.Detail
	}
	switch f.Kind {
	case fault.Internal, fault.Unavailable:
		p.Type = "serverInternal"
	case fault.Unauthenticated, fault.Forbidden:
		p.Type, p.Status = "unauthorized", http.StatusForbidden
	case fault.Exhausted:
		p.Type = "rateLimited"
	default:
		p.Type = "malformed"
	}
	for _, a := range as {
		if a.definition == f.Definition {
			p.Type, p.Status = a.kind, a.status
		}
	}
	if f.Definition == ErrAlgorithm {
		p.Algorithms = algorithms
	}
	if p.Type != "conflict" { // of which the standard says nothing but the status
		p.Type = urn + p.Type
	} else {
		p.Type = urn + "malformed"
	}
	return p
}

func (c *call) fail(f *fault.Fault) {
	p := problemOf(f)
	p.RequestID = web.RequestID(c.r.Context())
	h := c.w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if p.Status == http.StatusTooManyRequests || p.Status == http.StatusServiceUnavailable {
		wait := max(f.RetryAfter, time.Second)
		h.Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
	}
	c.w.WriteHeader(p.Status)
	json.NewEncoder(c.w).Encode(p) // a client that is gone asks again
}

// refused is an error of the library as one of ours. Its own detail says nothing
// that the client did not send.
func refused(err error) error {
	var e *lib.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Type {
	case urn + "badCSR":
		return ErrCSR.Wrap(err, "The names differ from the order's.")
	case urn + "unauthorized":
		return ErrCSR.Wrap(err, "The key is not the attested one.")
	case urn + "orderNotReady":
		return ErrNotReady.Wrap(err, "")
	}
	return err
}
