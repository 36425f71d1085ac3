package fleet

import "hallmark/internal/fault"

// The faults of the shared words.
var (
	ErrThingName = fault.Define(fault.Invalid, "thing-name-invalid", "This is no name for a thing.", "Use 1 to 128 characters of a-z A-Z 0-9 : _ -")
	ErrStatus    = fault.Define(fault.Invalid, "thing-principal-status-invalid", "There is no such certificate status.", "Use ACTIVE, INACTIVE or REVOKED.")
)
