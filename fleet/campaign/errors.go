package campaign

import "hallmark/internal/fault"

// The faults of campaigns.
var (
	ErrInvalid  = fault.Define(fault.Invalid, "campaign-invalid", "The campaign is not possible.", "Correct what the detail names.")
	ErrKind     = fault.Define(fault.Invalid, "campaign-kind-unknown", "There is no such kind of campaign here.", "Use one of the kinds that the detail lists.")
	ErrExists   = fault.Define(fault.Conflict, "campaign-exists", "A campaign of that name exists already.", "Choose another name.")
	ErrUnknown  = fault.Define(fault.NotFound, "campaign-unknown", "There is no such campaign.", "List the campaigns.")
	ErrNoMember = fault.Define(fault.NotFound, "campaign-member-unknown", "The thing is not in this campaign.", "List the campaign's members.")
	ErrState    = fault.Define(fault.Conflict, "campaign-state", "The campaign's state does not allow this.", "Look at the campaign.")
	ErrChanged  = fault.Define(fault.Conflict, "campaign-changed", "The campaign was changed by somebody else at the same time.", "Send the request again.")
	ErrApproval = fault.Define(fault.Conflict, "campaign-approval", "This is not the campaign that was to be approved.", "Look at the campaign, and ask for approval again.")
	ErrNobody   = fault.Define(fault.Invalid, "campaign-nobody", "There is no such target, or the campaign names none.", "Name thing/NAME, thinggroup/NAME or a query; only a continuous campaign can go without.")
	ErrPage     = fault.Define(fault.Invalid, "campaign-page", "The list cannot be made.", "Ask for 1 to 250 rows.")
)
