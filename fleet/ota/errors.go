package ota

import "hallmark/internal/fault"

// The faults of firmware. Those of manifests are in package manifest.
var (
	ErrOff        = fault.Define(fault.Invalid, "firmware-off", "This service takes no firmware.", "Pin whose signatures count with fleet.firmware.trust in the configuration.")
	ErrUnknown    = fault.Define(fault.NotFound, "firmware-unknown", "There is no such firmware.", "List what there is with hallmark ota list.")
	ErrExists     = fault.Define(fault.Conflict, "firmware-exists", "This version of the firmware is there already, and is another.", "Sign the new image as a new version.")
	ErrChanged    = fault.Define(fault.Conflict, "firmware-changed", "Somebody else changed the firmware at the same time.", "Look at it again, and repeat the request.")
	ErrState      = fault.Define(fault.Conflict, "firmware-state", "This cannot be done with the firmware now.", "Look at its state with hallmark ota show.")
	ErrApproval   = fault.Define(fault.Conflict, "firmware-approval", "What was approved is not this firmware.", "Publish it again, and have the new request approved.")
	ErrParameters = fault.Define(fault.Invalid, "firmware-parameters", "The parameters of the roll-out are not possible.", "Correct what the detail names.")
	ErrURL        = fault.Define(fault.Forbidden, "firmware-url", "This address of an image is not good, or not any more.", "The device asks for its job again, which has a new address.")
	ErrSignURL    = fault.Define(fault.Invalid, "firmware-url-foreign", "Addresses are made for this service's firmware only.", "Write the address of an image as hallmark ota show names it.")
	ErrBlob       = fault.Define(fault.Internal, "firmware-blob", "The image is not in the store as it was published.", "Look at the directory or bucket of fleet.firmware; publish the image again.")
)
