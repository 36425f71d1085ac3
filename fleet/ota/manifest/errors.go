package manifest

import "hallmark/internal/fault"

// The faults of manifests. Devices report their codes.
var (
	ErrManifest  = fault.Define(fault.Invalid, "firmware-manifest-malformed", "This is not a firmware manifest.", "Sign it with hallmark ota sign, and send the file as it is.")
	ErrVersion   = fault.Define(fault.Invalid, "firmware-version-malformed", "This is not a version.", "Write one to four numbers without leading zeros, such as 1.4.0.")
	ErrTrust     = fault.Define(fault.Invalid, "firmware-trust-invalid", "The keys that may sign firmware cannot be used.", "Write PUBLIC KEY blocks, or root CERTIFICATE blocks, in PEM.")
	ErrKey       = fault.Define(fault.Invalid, "firmware-key-unsuitable", "This key cannot sign firmware.", "Use a key of ECDSA P-256, P-384 or Ed25519; a certificate for it allows code signing.")
	ErrSignature = fault.Define(fault.Forbidden, "firmware-signature", "A signature of the firmware manifest is not right.", "Take the manifest as it was signed, and compare the pinned keys with the signer's.")
	ErrSigners   = fault.Define(fault.Forbidden, "firmware-signers", "Too few people whose keys are trusted have signed the firmware.", "Have it signed by one more of them with hallmark ota sign --add.")
	ErrClass     = fault.Define(fault.Forbidden, "firmware-class", "The firmware is for another product.", "Choose an artifact of the device's product class.")
	ErrHardware  = fault.Define(fault.Forbidden, "firmware-hardware", "The firmware is not for this hardware.", "Choose an artifact whose manifest names the device's hardware.")
	ErrFloor     = fault.Define(fault.Forbidden, "firmware-floor", "The firmware is older than what this device may go back to.", "Choose a version from the device's floor on.")
	ErrRequires  = fault.Define(fault.Forbidden, "firmware-requires", "The firmware needs another version to be installed first.", "Roll out the version that the manifest requires first.")
	ErrExpired   = fault.Define(fault.Forbidden, "firmware-expired", "The firmware may not be installed any more.", "Sign a manifest with a later end.")
	ErrImage     = fault.Define(fault.Forbidden, "firmware-image", "The image is not the one that was signed.", "Send the image that the manifest was made for; a device fetches it again.")
)
