package token

import "hallmark/internal/fault"

// The faults of keys and tokens.
var (
	ErrURIInvalid = fault.Define(fault.Invalid, "hsm-uri-invalid",
		"The key URI is not one we accept.", "Correct the URI; the forms are pkcs11:, piv: and file:.")
	ErrKeyNotFound = fault.Define(fault.NotFound, "hsm-key-not-found",
		"The token has no such key.", "List the token's objects and correct the URI, or generate the key.")
	ErrNoCertificate = fault.Define(fault.NotFound, "hsm-certificate-not-found",
		"The token holds no certificate for this key.", "Import the certificate into the token, or read it from its file.")
	ErrKeyAmbiguous = fault.Define(fault.Conflict, "hsm-key-ambiguous",
		"The URI matches more than one thing.", "Name the key by id and the token by serial.")
	ErrKeyExists = fault.Define(fault.Conflict, "hsm-key-exists",
		"There is a key with this name or id already.", "Choose another object name and id; keys are never overwritten.")
	ErrTokenDown = fault.Define(fault.Unavailable, "hsm-token-down",
		"The token that holds the key does not answer.", "Check the token and its connection; the service reconnects by itself.")
	ErrPINRefused = fault.Define(fault.Unavailable, "hsm-pin-refused",
		"The token refused the PIN; it is not tried again before a restart.", "Correct the PIN source, check the token's retry counter, then restart.")
	ErrPINMissing = fault.Define(fault.Invalid, "hsm-pin-missing",
		"The PIN or passphrase could not be read.", "Give the URI a pin-source (or passphrase-source) that this process alone can read.")
	ErrPassphraseRefused = fault.Define(fault.Invalid, "hsm-passphrase-refused",
		"The key file does not open with this passphrase.", "Correct the passphrase-source.")
	ErrKeyUnsafe = fault.Define(fault.Forbidden, "hsm-key-unsafe",
		"The key is not protected as a CA key must be.", "Generate a new key on the token; an unsafe key cannot be repaired.")
	ErrUnsupported = fault.Define(fault.Invalid, "hsm-mechanism-unsupported",
		"The token or key cannot do this operation.", "Choose an algorithm that the token offers.")
	ErrDigest = fault.Define(fault.Invalid, "hsm-digest-invalid",
		"The digest does not fit the hash or the key.", "Hash the message with the algorithm that is named in the call.")
	ErrBusy = fault.Define(fault.Exhausted, "hsm-busy",
		"Too many signatures wait for this token.", "Try again later, or give the token more sessions.")
	ErrModule = fault.Define(fault.Invalid, "hsm-module-invalid",
		"The PKCS #11 module cannot be loaded.", "Correct module-path; it must name an installed shared object.")
	ErrModuleStuck = fault.Define(fault.Unavailable, "hsm-module-stuck",
		"Calls hang in the PKCS #11 module, which is loaded into the service itself.", "Restart the service, and let the module run in a process of its own (tokens.direct: false).")
	ErrOperation = fault.Define(fault.Internal, "hsm-operation-failed",
		"The token answered with an error but is alive.", "See the log for the token's return code.")
	ErrFile = fault.Define(fault.Invalid, "hsm-file-invalid",
		"The key file cannot be used.", "It must be an encrypted PKCS #8 PEM file of mode 0600.")
	ErrKeyDiffers = fault.Define(fault.Conflict, "hsm-key-differs",
		"A token holds another key under this name than the other tokens.", "Compare the public keys (hallmark hsm keys) and correct tokens.groups; a token with another key is never used.")
	ErrWrongSignature = fault.Define(fault.Internal, "hsm-signature-wrong",
		"A token made a signature that is not the key's; it was destroyed.", "Take the token out of use and find out who changed it.")
	ErrTransfer = fault.Define(fault.Invalid, "hsm-transfer-invalid",
		"The record of a key's transfer does not prove what it says.", "Bring the record that hallmark hsm replicate wrote for this key and these tokens.")
	ErrClosed = fault.Define(fault.Unavailable, "hsm-closed",
		"The keyring was closed.", "Open it again; this happens while the process stops.")
)
