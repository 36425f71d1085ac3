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
	ErrBinding    = fault.Define(fault.Forbidden, "register-binding", "The request is bound to another connection or to a nonce that is not valid.", "Make the CSR again with the exporter of this connection or a new nonce.")
	ErrKeyReused  = fault.Define(fault.Invalid, "register-key-reused", "The CSR has the key of the certificate that asks.", "Make a new key for the operational certificate.")
	ErrNoBirth    = fault.Define(fault.Forbidden, "register-birth-invalid", "The device has no valid birth certificate any more.", "Ask the owner of the fleet; the device needs service.")
	ErrRenewThing = fault.Define(fault.Forbidden, "register-renewal-thing", "A device renews its own certificate only.", "Publish to the topic with the thing of this connection.")
	ErrRequest    = fault.Define(fault.Invalid, "register-request-invalid", "The request cannot be used.", "Send what the interface description names for this address, with its content type and encoding.")
)

// The refusals of the MQTT door beyond those above.
var (
	ErrParked     = fault.Define(fault.Forbidden, "device-pending", "The certificate is registered and waits to be activated.", "Ask the owner of the fleet to activate it.")
	ErrRegistered = fault.Define(fault.Unavailable, "device-registered-now", "The device was registered by this connection.", "Connect again.")
	ErrDoorClosed = fault.Define(fault.Forbidden, "device-registration-off", "The CA of this certificate registers no devices now.", "Ask the owner of the fleet to activate the CA and its automatic registration.")
	ErrDoorWeak   = fault.Define(fault.Forbidden, "device-certificate-weak", "The certificate has a key or a form that is not taken.", "Use an end-entity certificate with a strong key.")
)

// The refusals of registration by claim, by hand and in bulk.
var (
	ErrClaim               = fault.Define(fault.Forbidden, "claim-refused", "This certificate may not provision devices.", "Connect with a claim certificate for this template.")
	ErrClaimSite           = fault.Define(fault.Forbidden, "claim-site-refused", "The claim certificate is not for this network.", "Provision at the site that the claim was made for, or name this network: hallmark claim budget ID --network PREFIX.")
	ErrClaimToken          = fault.Define(fault.Invalid, "claim-token-invalid", "The certificate ownership token is not valid.", "Ask for a new certificate and use its token once, within an hour, over a connection with the same claim certificate.")
	ErrClaimSpent          = fault.Define(fault.Conflict, "claim-key-used", "This key had a certificate before.", "Make a new key on the device.")
	ErrClaimPayload        = fault.Define(fault.Invalid, "claim-payload-invalid", "The payload cannot be read.", "Send one JSON object or CBOR map with text strings, as the interface description names them.")
	ErrClaimKeys           = fault.Define(fault.Forbidden, "claim-server-keys-off", "The service makes no keys for devices.", "Make the key on the device and send a certification request (CreateCertificateFromCsr).")
	ErrClaimConfig         = fault.Define(fault.Invalid, "claim-config-invalid", "The claim or budget cannot be made.", "Correct the named field.")
	ErrBudgetUnknown       = fault.Define(fault.NotFound, "registration-budget-unknown", "There is no such budget.", "Make the budget first.")
	ErrBudgetExpired       = fault.Define(fault.Forbidden, "registration-budget-expired", "The budget has ended.", "Ask the owner of the fleet for a new claim certificate or budget.")
	ErrBudgetSpent         = fault.Define(fault.Exhausted, "registration-budget-spent", "The budget is used up.", "Ask the owner of the fleet to raise it.")
	ErrBudgetRate          = fault.Define(fault.Exhausted, "registration-budget-rate", "Too many devices in this minute.", "Try again after the stated time.")
	ErrBudgetOutstanding   = fault.Define(fault.Exhausted, "registration-budget-outstanding", "Too many certificates wait to be claimed.", "Register the devices that have one, or wait until they are revoked.")
	ErrGrantUnknown        = fault.Define(fault.NotFound, "registration-grant-unknown", "No certificate was made for this key.", "Ask for a certificate first.")
	ErrRegistrationChanged = fault.Define(fault.Conflict, "registration-changed", "The registration was changed by somebody else at the same time.", "Ask again; the new state is seen then.")
	ErrLeafProof           = fault.Define(fault.Invalid, "device-certificate-proof", "The possession of the certificate's key is not proven.", "Sign the message of the registration with the certificate's key and send the signature along (S23).")
	ErrLeafInvalid         = fault.Define(fault.Invalid, "device-certificate-invalid", "The certificate cannot be registered.", "Give one end-entity certificate in force, in PEM, with a strong key.")
	ErrBulk                = fault.Define(fault.Invalid, "bulk-invalid", "The bulk registration cannot run.", "Give one JSON object with text values a line, and a template of the kind bulk.")
)

// The refusals of enrolment by a standard protocol.
var (
	ErrEnrolNone       = fault.Define(fault.Unauthenticated, "enrol-credential-missing", "The request shows neither a certificate nor a one-time password.", "Connect with the device's certificate, or send the unit and its one-time password.")
	ErrEnrolPassword   = fault.Define(fault.Unauthenticated, "enrol-password-refused", "The one-time password is wrong, used, expired or for another unit.", "Ask for a new one with hallmark enrol password create.")
	ErrEnrolIdentity   = fault.Define(fault.Forbidden, "enrol-identity-mismatch", "The request names another identity or profile than its credential is for.", "Ask for what the credential is for; leave the names out where the protocol allows it.")
	ErrEnrolProof      = fault.Define(fault.Invalid, "enrol-proof-mismatch", "The request is not tied to the connection that brings it.", "Make the CSR with the channel binding of this connection as its challenge password, or without one where that is allowed.")
	ErrEnrolAttributes = fault.Define(fault.Invalid, "enrol-attributes-missing", "The request lacks what the service asks of every request.", "Ask for the request attributes, and make the CSR as they say.")
	ErrEnrolRenew      = fault.Define(fault.Forbidden, "enrol-renewal-identity", "A renewal needs the operational certificate that it renews, with its subject and its names.", "Connect with that certificate and copy subject and names from it; enrol anew for anything else.")
	ErrEnrolProfile    = fault.Define(fault.NotFound, "enrol-profile-unknown", "Nothing is enrolled under that label.", "Use idevid or ldevid, or leave the label out.")
	ErrEnrolKeys       = fault.Define(fault.Forbidden, "enrol-server-keys-off", "The service makes no keys for this.", "Make the key on the device.")
	ErrEnrolRate       = fault.Define(fault.Exhausted, "enrol-rate", "Too many enrolments in this minute, or too many refused ones from this address.", "Try again after the stated time.")
	ErrEnrolConfig     = fault.Define(fault.Invalid, "enrol-password-invalid", "The one-time password cannot be made.", "Correct the named field.")
	ErrEnrolUnknown    = fault.Define(fault.NotFound, "enrol-certificate-unknown", "The device has no such certificate.", "Name a certificate of the device that asks.")
)

// The refusals of the dark-device lane.
var (
	ErrDarkBounds     = fault.Define(fault.Forbidden, "dark-lane-bounds", "The device's certificate expired, and it is not one that may come back by itself.", "Register again with the birth certificate, or ask the owner of the fleet; the device needs service.")
	ErrDarkNewer      = fault.Define(fault.Forbidden, "dark-lane-newer", "The device has a newer certificate than the expired one.", "Connect with the newest certificate; if it is lost the device needs service.")
	ErrDarkSpent      = fault.Define(fault.Exhausted, "dark-lane-spent", "No more devices come back with an expired certificate today.", "Try again tomorrow, or ask the owner of the fleet to raise the number.")
	ErrDarkElsewhere  = fault.Define(fault.Forbidden, "dark-lane-elsewhere", "The device's certificate has expired, and this protocol has no way back: its requests are tied to no connection.", "Come back at the device door with the expired certificate: POST /bootstrap/v1/register, or EST simplereenroll, with a CSR that is bound to the connection.")
	ErrDarkQuarantine = fault.Define(fault.Forbidden, "dark-lane-quarantine", "The device came back with an expired certificate and is in quarantine.", "Ask the owner of the fleet to let it out: detach the quarantine policy from its certificate and attach the device's own.")
)
