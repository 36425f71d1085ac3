package ownership

import "hallmark/internal/fault"

// The faults of ownership.
var (
	ErrReleased = fault.Define(fault.Unavailable, "device-released", "The device was released by its owner, and nobody has accepted it yet.", "Ask the new owner to accept it with the code of the release: hallmark owner accept. Then try again.").Expected()
	ErrGone     = fault.Define(fault.Forbidden, "device-decommissioned", "The device was taken out of use for ever.", "There is no way back for it.")
	ErrLeft     = fault.Define(fault.Forbidden, "device-left", "The device belongs to another owner, or to none yet.", "Its first boot finds the owner.")

	ErrUnknown  = fault.Define(fault.NotFound, "ownership-unknown", "There is no such unit here.", "Name a unit with a birth certificate of this tenant, or one that it accepted.")
	ErrNotOwner = fault.Define(fault.Conflict, "ownership-state", "The unit is not in a state for this.", "Look at it with hallmark owner show.")
	ErrBirth    = fault.Define(fault.Conflict, "ownership-birth", "The unit has no birth certificate in force.", "A device without one cannot boot for anybody; decommission it.")
	ErrInvalid  = fault.Define(fault.Invalid, "ownership-invalid", "The request cannot be carried out.", "Correct what the detail names.")
	ErrCode     = fault.Define(fault.Forbidden, "ownership-code", "The transfer code is wrong, used, withdrawn or has ended.", "Ask the former owner; it can withdraw the release and make another.")
	ErrTaken    = fault.Define(fault.Conflict, "ownership-taken", "This tenant has a unit of that name already.", "Two units of one name cannot belong to one tenant.")
	ErrTemplate = fault.Define(fault.Invalid, "ownership-template", "The template cannot register accepted units.", "Name a template of the kind first-boot of this tenant.")
	ErrAct      = fault.Define(fault.NotFound, "ownership-act-unknown", "There is no release, reset or decommissioning of that name.", "List them with hallmark owner acts.")
	ErrExists   = fault.Define(fault.Conflict, "ownership-act-exists", "There is another act of that name.", "Give this one another name.")
	ErrChanged  = fault.Define(fault.Conflict, "ownership-changed", "Somebody else changed it at the same time.", "Look at it, and send the request again.")
)
