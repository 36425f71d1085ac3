package device

import "hallmark/internal/fault"

// The faults of the reference device.
var (
	ErrDir         = fault.Define(fault.Invalid, "agent-directory", "The device's directory is not usable.", "Name a directory with idevid.pem and idevid.key, writable by this user.")
	ErrBusy        = fault.Define(fault.Conflict, "agent-busy", "Another agent works in this directory.", "Wait for it to end.")
	ErrIdentity    = fault.Define(fault.Invalid, "agent-identity", "The birth certificate and its key do not fit together.", "Provision the device again.")
	ErrServer      = fault.Define(fault.Unavailable, "agent-server", "The service cannot be reached.", "Check the URL, the network and the root certificate; then run it again.")
	ErrLater       = fault.Define(fault.Unavailable, "agent-later", "The service cannot serve the device now.", "Do what the service's answer says; the agent asks again by itself, when the service says so.")
	ErrRefused     = fault.Define(fault.Forbidden, "agent-refused", "The service refused the device.", "Do what the service's answer says.")
	ErrCertificate = fault.Define(fault.Invalid, "agent-certificate", "The service's answer is not a certificate for this device.", "Check that the URL is that of your service, and its roots those of the device.")
	ErrToken       = fault.Define(fault.Invalid, "agent-token", "A key of the device cannot be reached or made.", "Give the URI of the token, pkcs11:token=…;object=…, with its module and PIN source.")
	ErrEndpoint    = fault.Define(fault.Invalid, "agent-endpoint", "The broker's address is not known.", "Give --endpoint HOST:PORT, or the service's directory.")
	ErrAllowList   = fault.Define(fault.Invalid, "agent-allow-list", "The list of allowed commands cannot be used.", "Write {\"commands\": [{\"command\": [\"/absolute/path\", \"argument\"]}]} into a file that only its owner can change.")
	ErrState       = fault.Define(fault.Invalid, "agent-state", "The device's settings cannot be kept.", "Look at state.json in the device's directory; without it the device starts with none.")
	ErrRotation    = fault.Define(fault.Unavailable, "agent-rotation", "The change of keys cannot go on now.", "Look at the free space and the clock of the device; it goes on by itself.")
	ErrFirmware    = fault.Define(fault.Unavailable, "agent-firmware", "The change of firmware cannot go on now.", "Look at the free space and the network of the device; it goes on by itself.")
	ErrBundle      = fault.Define(fault.Unavailable, "agent-bundle", "The change of trusted roots cannot go on now.", "Look at the free space and the network of the device; it goes on by itself.")
	ErrSettings    = fault.Define(fault.Invalid, "agent-settings", "The settings that were asked for cannot be taken.", "Ask for an object of at most 8 KiB that leaves the member device alone.")
)
