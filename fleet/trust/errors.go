package trust

import "hallmark/internal/fault"

// The faults of trust.
var (
	ErrParameters = fault.Define(fault.Invalid, "trust-parameters", "The change of trust is not possible.", "Correct what the detail names.")
	ErrCut        = fault.Define(fault.Conflict, "trust-cut-off", "Devices that trust no more than that would not find this service trustworthy.", "Switch what the detail names to another root first, or leave this root.")
	ErrUnknown    = fault.Define(fault.NotFound, "trust-unknown", "It is not known what this thing trusts.", "It is known once a campaign of the kind update-trust was confirmed by it.")
	ErrRollover   = fault.Define(fault.NotFound, "trust-rollover-unknown", "There is no such rollover.", "List the rollovers with hallmark trust rollover status.")
	ErrSpec       = fault.Define(fault.Invalid, "trust-rollover-invalid", "The rollover is not possible.", "Correct what the detail names.")
	ErrNotReady   = fault.Define(fault.Conflict, "trust-rollover-not-ready", "Something speaks against the rollover.", "See it with hallmark trust rollover plan.")
	ErrExists     = fault.Define(fault.Conflict, "trust-rollover-exists", "There is a rollover of that name, or another one between these roots.", "Look at it with hallmark trust rollover status.")
	ErrPhase      = fault.Define(fault.Conflict, "trust-rollover-phase", "The rollover's phase does not allow this.", "Look at the rollover.")
	ErrGate       = fault.Define(fault.Conflict, "trust-gate-closed", "The gate is closed: its threshold is not reached.", "Wait; or lower the gate with two people and a reason.")
	ErrReason     = fault.Define(fault.Invalid, "trust-gate-reason", "A gate is not lowered without a reason.", "Say why it may be lower.")
	ErrChanged    = fault.Define(fault.Conflict, "trust-changed", "The rollover was changed by somebody else at the same time.", "Look at it, and send the request again.")
)
