package uplink

import "hallmark/internal/fault"

// The faults of this package. What the service refuses comes with the service's
// own code, sentence and next step.
var (
	ErrCode       = fault.Define(fault.Invalid, "uplink-code-mistyped", "The enrolment string is mistyped or incomplete.", "Copy it again from where it was made; it begins with HMK1 and has 16 groups of five characters.")
	ErrProof      = fault.Define(fault.Invalid, "uplink-proof-wrong", "The signature over the commit message is not by the certified key.", "Repeat the challenge; if it fails again, the certificate sits on another device or its key is broken.")
	ErrProofKey   = fault.Define(fault.Invalid, "uplink-proof-key", "The key is of a kind that cannot sign a commit message.", "Use a P-256, P-384, P-521, RSA or Ed25519 key.")
	ErrConfig     = fault.Define(fault.Invalid, "uplink-config-invalid", "The client's settings are not usable.", "Correct the named setting.")
	ErrUnreached  = fault.Define(fault.Unavailable, "uplink-unreached", "The service cannot be reached.", "Check the network and the address; units that were begun are finished by starting again.")
	ErrUntrusted  = fault.Define(fault.Forbidden, "uplink-server-untrusted", "The server does not prove that it is the service of this station.", "Check the address and the station's clock; if both are right, somebody may be between station and service.")
	ErrOldStation = fault.Define(fault.Forbidden, "uplink-station-refused", "The service refused the station's certificate in the handshake.", "Look at its expiry with hallmark station status; a revoked or expired station enrols again with a new code.")
	ErrAnswer     = fault.Define(fault.Internal, "uplink-answer-invalid", "The service's answer cannot be read.", "Check that the address is the service's and that both are of versions that fit.")
	ErrCertified  = fault.Define(fault.Forbidden, "uplink-certificate-wrong", "The certificate that came back is not the one that was asked for.", "Do not use it; report it to the people who run the service.")
)
