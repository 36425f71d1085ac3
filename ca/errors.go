package ca

import "hallmark/internal/fault"

// The faults of issuance.
var (
	ErrNoAuthority       = fault.Define(fault.Unavailable, "ca-no-authority", "No active authority serves this profile.", "Install or activate an authority with this duty (hallmark ca list).")
	ErrAuthorityUnknown  = fault.Define(fault.NotFound, "ca-authority-unknown", "There is no authority of that name.", "List them with hallmark ca list.")
	ErrAuthorityClosed   = fault.Define(fault.Unavailable, "ca-authority-closed", "The authority no longer issues certificates.", "Roll over to a new issuing CA; this one only signs its lists.")
	ErrAuthorityExists   = fault.Define(fault.Conflict, "ca-authority-exists", "An authority of that name is installed already.", "Choose another name; an installed authority is never replaced.")
	ErrAuthorityMismatch = fault.Define(fault.Invalid, "ca-authority-mismatch", "The certificate does not fit the authority.", "Check that it was made from this authority's CSR and signed by its root.")
	ErrProfileUnknown    = fault.Define(fault.Invalid, "ca-profile-unknown", "There is no certificate profile of that name.", "Use one of the profiles that the error lists.")
	ErrSubject           = fault.Define(fault.Invalid, "ca-subject-invalid", "The subject or a name cannot be put into a certificate.", "Correct the named value; unit names are 1 to 64 characters of A-Z a-z 0-9 . _ : -")
	ErrLint              = fault.Define(fault.Internal, "ca-lint-refused", "The certificate would break a rule of its standard, so it was not signed.", "Report the named rule; the profile must be corrected.")
	ErrSignature         = fault.Define(fault.Internal, "ca-signature-wrong", "The signature did not verify under the pinned key of the CA and was destroyed.", "Stop issuing and check the token: it signed with another key or is faulty.")
	ErrSigner            = fault.Define(fault.Unavailable, "ca-signer-unavailable", "The key of the CA cannot sign now.", "Try again; the reservation is kept and the same certificate comes out.")
	ErrLifetime          = fault.Define(fault.Invalid, "ca-lifetime-invalid", "The requested lifetime does not fit the profile or the issuer.", "Ask for less, or use an issuer that lives longer.")
	ErrHolderRevoked     = fault.Define(fault.Conflict, "identity-revoked", "The certificate of this identity was revoked or voided and is not handed out again.", "Make a new key, or ask a security officer whether the identity may enrol again.")
	ErrHolderBlocked     = fault.Define(fault.Conflict, "identity-blocked", "This identity is blocked.", "Ask a security officer; a blocked device gets no certificate.")
	ErrRework            = fault.Define(fault.Conflict, "identity-rework-required", "The unit is installed with another key.", "Ask for a rework of the unit; a new key on an installed unit needs approval.")
	ErrRekeys            = fault.Define(fault.Exhausted, "identity-rekeys-exhausted", "The unit changed its key too often before it was installed.", "Check the secure element; scrap the unit or ask for a rework.")
	ErrElsewhere         = fault.Define(fault.Conflict, "identity-elsewhere", "Another station or order holds this unit.", "Finish the unit where it was started, or check the scanned serial.")
	ErrSlots             = fault.Define(fault.Exhausted, "identity-slots-exhausted", "The identity renewed its certificate too often.", "Wait until the stated time; repeated renewals point to a device in a loop.")
	ErrKeyInUse          = fault.Define(fault.Conflict, "key-in-use", "Another identity holds this public key already.", "Make a new key on the device; one key is never in two devices.")
	ErrKeyCompromised    = fault.Define(fault.Forbidden, "key-compromised", "This public key was revoked as compromised.", "Make a new key on the device.")
	ErrQuota             = fault.Define(fault.Exhausted, "quota-exhausted", "All units of the account are used.", "Ask for a new order; no certificate is made beyond the approved quantity.")
	ErrAccountClosed     = fault.Define(fault.Conflict, "account-closed", "The account does not take requests.", "Check that the order is open and inside its window.")
	ErrRequesterRevoked  = fault.Define(fault.Forbidden, "requester-revoked", "The certificate of whoever asked was revoked.", "Enrol again with a new code from the owner.")
	ErrSerialTaken       = fault.Define(fault.Internal, "ca-serial-taken", "The drawn serial number exists already.", "Try again; if it happens twice, check the random source.")
	ErrList              = fault.Define(fault.Internal, "ca-list-refused", "The list would break a rule and was not signed.", "Report the named rule.")
	ErrInvalidRequest    = fault.Define(fault.Invalid, "ca-request-invalid", "The request for a certificate is incomplete.", "Correct the named field.")
)
