package device

import "hallmark/internal/fault"

// The faults of the reference device.
var (
	ErrDir         = fault.Define(fault.Invalid, "agent-directory", "The device's directory is not usable.", "Name a directory with idevid.pem and idevid.key, writable by this user.")
	ErrBusy        = fault.Define(fault.Conflict, "agent-busy", "Another agent works in this directory.", "Wait for it to end.")
	ErrIdentity    = fault.Define(fault.Invalid, "agent-identity", "The birth certificate and its key do not fit together.", "Provision the device again.")
	ErrServer      = fault.Define(fault.Unavailable, "agent-server", "The service cannot be reached.", "Check the URL, the network and the root certificate; then run it again.")
	ErrRefused     = fault.Define(fault.Forbidden, "agent-refused", "The service refused the device.", "Do what the service's answer says.")
	ErrCertificate = fault.Define(fault.Invalid, "agent-certificate", "The service's answer is not a certificate for this device.", "Check that the URL is that of your service, and its roots those of the device.")
)
