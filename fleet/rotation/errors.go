package rotation

import "hallmark/internal/fault"

// The faults of rotation.
var (
	ErrParameters = fault.Define(fault.Invalid, "rotation-parameters", "The parameters of the rotation are not possible.", "Correct what the detail names.")
	ErrUnproven   = fault.Define(fault.Conflict, "rotation-unproven", "The new certificate is not in use, so the old one stays.", "Look at the device's certificates; it is tried again.")
	ErrNotYet     = fault.Define(fault.Unavailable, "rotation-not-yet", "Campaigns have not started yet.", "Try again in a moment.")

	ErrSameAuthority = fault.Define(fault.Conflict, "rotation-same-authority", "The authority that the plan is about still makes the devices' certificates.", "Let another one issue them first (hallmark ca rollover), and then rotate.")
)
