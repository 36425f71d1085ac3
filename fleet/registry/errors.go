package registry

import "hallmark/internal/fault"

// The faults of the registry. None names another device (S15).
var (
	ErrThingUnknown     = fault.Define(fault.NotFound, "thing-unknown", "There is no thing of that name.", "List them with hallmark things list.")
	ErrThingCase        = fault.Define(fault.Conflict, "thing-case", "A thing of this name exists in another spelling.", "Use the exact spelling; names that differ only in case are one thing.")
	ErrThingTaken       = fault.Define(fault.Conflict, "thing-taken", "The thing has a live certificate of another device.", "Revoke the other device first, or allow the take-over in the registration and the hook.")
	ErrThingElsewhere   = fault.Define(fault.Conflict, "thing-elsewhere", "The thing was registered under another authority.", "Choose another thing name in the template, or delete the thing.")
	ErrThingConflict    = fault.Define(fault.Conflict, "thing-conflict", "The thing exists and differs from what the template gives.", "Set OverrideSettings in the template, or correct the thing.")
	ErrThingChanged     = fault.Define(fault.Conflict, "thing-changed", "The thing was registered by somebody else at the same time.", "Ask again; the new state is seen then.")
	ErrPrincipalUnknown = fault.Define(fault.NotFound, "thing-principal-unknown", "No thing has this certificate.", "Check the serial number; list them with hallmark things show.")
	ErrPrincipalBound   = fault.Define(fault.Conflict, "thing-principal-bound", "The certificate belongs to another thing.", "Make a new key and register again.")
	ErrPrincipalStatus  = fault.Define(fault.Conflict, "thing-principal-status", "The certificate's status does not allow this change.", "A revoked certificate stays revoked; a pending one becomes active by a connection.")
	ErrQuery            = fault.Define(fault.Invalid, "thing-query-invalid", "The search cannot be made.", "Name an attribute to search values, and use the cursor of the page before unchanged.")
)
