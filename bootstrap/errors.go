package bootstrap

import "hallmark/internal/fault"

// The refusals at the device door.
var (
	ErrNoCertificate = fault.Define(fault.Unauthenticated, "device-certificate-missing", "The device showed no certificate.", "Connect with the birth certificate, or the operational one, and its key.")
	ErrUnknown       = fault.Define(fault.Forbidden, "device-unknown", "This certificate was not issued here.", "Use the certificate that the factory installed; a copy of its subject is not enough.")
	ErrRole          = fault.Define(fault.Forbidden, "device-role", "This certificate is not a device's.", "Stations and people have doors of their own.")
	ErrRevoked       = fault.Define(fault.Forbidden, "device-revoked", "The device's certificate was revoked.", "Ask the owner of the fleet; the device needs service.")
	ErrHeld          = fault.Define(fault.Forbidden, "device-on-hold", "The device's certificate is on hold.", "Try again later; the hold may be released.")
	ErrExpired       = fault.Define(fault.Forbidden, "device-expired", "The device's certificate has expired.", "Register again with the birth certificate; check the clock.")
	ErrNotYet        = fault.Define(fault.Forbidden, "device-not-yet-valid", "The device's certificate is not valid yet.", "Check the service's clock.")
	ErrInactive      = fault.Define(fault.Forbidden, "device-inactive", "The device's certificate is not active.", "Ask the owner of the fleet to activate it, or register again with the birth certificate.")
	ErrBlocked       = fault.Define(fault.Forbidden, "device-blocked", "The device is blocked.", "Ask the owner of the fleet; a blocked device gets no certificate.")
)

// The refusals of a first boot.
var (
	ErrBinding   = fault.Define(fault.Forbidden, "register-binding", "The request is bound to another connection or to a nonce that is not valid.", "Make the CSR again with the exporter of this connection or a new nonce.")
	ErrKeyReused = fault.Define(fault.Invalid, "register-key-reused", "The CSR has the key of the certificate that asks.", "Make a new key for the operational certificate.")
	ErrNoBirth   = fault.Define(fault.Forbidden, "register-birth-invalid", "The device has no valid birth certificate any more.", "Ask the owner of the fleet; the device needs service.")
	ErrRequest   = fault.Define(fault.Invalid, "register-request-invalid", "The request cannot be used.", "Send what the interface description names, as application/json.")
)
