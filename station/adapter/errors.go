package adapter

import "hallmark/internal/fault"

// The faults of reaching a device.
var (
	ErrSpec     = fault.Define(fault.Invalid, "adapter-invalid", "The adapter's description is not usable.", "Write command:PROGRAM ARGUMENTS or simulate:DIRECTORY?option=value.")
	ErrKeyFault = fault.Define(fault.Unavailable, "adapter-key-fault", "The device could not make its key.", "It was tried several times; check the bus and the secure element, then scan the unit again.")
	ErrDevice   = fault.Define(fault.Conflict, "adapter-device-failed", "The device did not do what it was asked to do.", "Check the device and its contact in the nest, then scan the unit again.")
	ErrAbsent   = fault.Define(fault.Unavailable, "adapter-device-absent", "The device does not answer.", "Put the unit into the nest and scan it again.")
	ErrSlow     = fault.Define(fault.Unavailable, "adapter-timeout", "The device took too long.", "Check the device and its contact in the nest, then scan the unit again.")
	ErrProgram  = fault.Define(fault.Unavailable, "adapter-program-ended", "The adapter program ended.", "Look at its last words in the log; it is started again for the next unit.")
	ErrProtocol = fault.Define(fault.Internal, "adapter-protocol", "The adapter program said something that is not in the protocol.", "Correct the program; docs/station.md has the protocol and an example.")
)
