package access

import "hallmark/internal/fault"

// The faults of who may do what.
var (
	ErrNoToken          = fault.Define(fault.Unauthenticated, "token-missing", "The request names nobody.", "Send the header Authorization: Bearer with a principal's token.")
	ErrToken            = fault.Define(fault.Unauthenticated, "token-refused", "The token is not known, expired or disabled.", "Check the token, or ask for a new one; a platform principal makes it with hallmark principal create.")
	ErrTooManyFailures  = fault.Define(fault.Exhausted, "token-too-many-failures", "Too many wrong tokens came from this address.", "Wait for the stated time and check the token before trying again.")
	ErrForbidden        = fault.Define(fault.Forbidden, "action-forbidden", "The role does not allow this.", "Ask somebody whose role is listed in the member roles.")
	ErrSelfApproval     = fault.Define(fault.Forbidden, "approval-self", "Whoever asked for this cannot approve it.", "Ask a second person whose role allows the approval.")
	ErrPrincipalInvalid = fault.Define(fault.Invalid, "principal-invalid", "The principal cannot be made like this.", "Correct the named field; names are 1 to 64 characters of a-z 0-9 . _ @ -")
	ErrPrincipalExists  = fault.Define(fault.Conflict, "principal-exists", "A principal of that name exists already.", "Choose another name; a name is never used again, so that records stay true.")
	ErrPrincipalUnknown = fault.Define(fault.NotFound, "principal-unknown", "There is no principal of that name.", "List them with hallmark principal list.")
	ErrLastPlatform     = fault.Define(fault.Conflict, "principal-last-platform", "This is the last principal that can make others.", "Create another platform principal first.")
)
