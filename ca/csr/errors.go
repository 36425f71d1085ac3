package csr

import "hallmark/internal/fault"

// The faults of this package. ACME edges show them as badCSR.
var (
	ErrTooLarge = fault.Define(fault.Invalid, "csr-too-large",
		"The certification request is too large.",
		"Send the request alone, without certificates or other files, in at most 16 KiB.")
	ErrMalformed = fault.Define(fault.Invalid, "csr-malformed",
		"The certification request is not a PKCS #10 request in DER or PEM.",
		"Make it again with a common tool and send exactly one request, nothing after it.")
	ErrDuplicate = fault.Define(fault.Invalid, "csr-duplicate",
		"The certification request lists an attribute or extension twice.",
		"Make the request again with each attribute and extension once.")
	ErrSubject = fault.Define(fault.Invalid, "csr-subject",
		"The subject of the certification request cannot be read in one way only.",
		"Use at most one common name of at most 128 printable characters.")
	ErrChallenge = fault.Define(fault.Invalid, "csr-challenge",
		"The challenge password of the certification request is malformed.",
		"Give one challenge password of 1 to 255 printable characters.")
	ErrAlgorithm = fault.Define(fault.Invalid, "csr-algorithm",
		"The certification request is signed with an algorithm that is not taken.",
		"Sign with ECDSA or RSA over SHA-256, SHA-384 or SHA-512, or with Ed25519.")
	ErrSignature = fault.Define(fault.Invalid, "csr-signature",
		"The signature of the certification request is not by the key in it.",
		"Sign the request with the private half of its key, and send it unchanged.")
	ErrAuthority = fault.Define(fault.Invalid, "csr-authority",
		"The certification request asks for the powers of an authority.",
		"Leave out CA:TRUE, keyCertSign, cRLSign and OCSPSigning; device certificates never have them.")
	ErrSigner = fault.Define(fault.Invalid, "csr-signer",
		"The key cannot sign a certification request.",
		"Use a P-256, P-384, P-521, RSA or Ed25519 key that may sign.")
)
