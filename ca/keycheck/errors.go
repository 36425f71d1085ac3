package keycheck

import "hallmark/internal/fault"

const nextNewKey = "Make a new key with a supported type and size, and ask again with it."

// The faults of this package; all mean "this key, never".
var (
	ErrUnsupported = fault.Define(fault.Invalid, "key-unsupported",
		"The public key has a type, curve or encoding that is not certified here.",
		"Use P-256, P-384, RSA of 2048 to 4096 bits or Ed25519, in the standard SubjectPublicKeyInfo form.")
	ErrSize = fault.Define(fault.Invalid, "key-size",
		"The public key has a size that is not certified here.", nextNewKey)
	ErrExponent = fault.Define(fault.Invalid, "key-exponent",
		"The public exponent of the RSA key is not an odd number from 65537 to 2^32-1.", nextNewKey)
	ErrFactor = fault.Define(fault.Invalid, "key-small-factor",
		"The RSA modulus has a small factor.", "Replace the generator that made this key, then ask again with a new key.")
	ErrROCA = fault.Define(fault.Invalid, "key-roca",
		"The RSA modulus was made by a chip with the flaw CVE-2017-15361.", "Replace the chip or its firmware, or use an EC key.")
	ErrClosePrimes = fault.Define(fault.Invalid, "key-close-primes",
		"The two primes of the RSA modulus are so close that it can be factored (CVE-2022-26320).",
		"Replace the generator that made this key, then ask again with a new key.")
	ErrPoint = fault.Define(fault.Invalid, "key-point",
		"The public key is not a proper point of its curve.", nextNewKey)
	ErrBlocked = fault.Define(fault.Invalid, "key-blocked",
		"The private half of this key is public knowledge.", "Make a new key on the device; never take one from an example or an image.")
	ErrBlocklist = fault.Define(fault.Invalid, "key-blocklist-malformed",
		"The list of blocked keys cannot be read.",
		"Give one key a line: the SHA-256 of its SubjectPublicKeyInfo as 64 hexadecimal digits, a space, where it is from.")
)
