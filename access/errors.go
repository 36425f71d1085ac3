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

	ErrTrailBroken = fault.Define(fault.Internal, "trail-broken", "The trail of what people did is not as it was written.", "Keep the database, the export and all checkpoints; compare with an older export, and find out who can write to the database.")
	ErrTrailHead   = fault.Define(fault.Invalid, "trail-checkpoint", "What the checkpoint says of the trail cannot be read.", "Use a checkpoint as the log published it.")
	ErrTrailWrite  = fault.Define(fault.Unavailable, "trail-unavailable", "The action could not be written to the trail. What is not in the trail is not done.", "Try again; if it stays, look at the database: disk full, or not reachable.")

	ErrBreakGlassNone     = fault.Define(fault.Unavailable, "break-glass-none", "No break-glass key is configured.", "Make one with hallmark breakglass create and put its public half into break_glass.key.")
	ErrBreakGlassKey      = fault.Define(fault.Unauthenticated, "break-glass-key", "The request was not signed with the service's break-glass key.", "Use the two shares of the key that the configuration names.")
	ErrBreakGlassNonce    = fault.Define(fault.Unauthenticated, "break-glass-nonce", "The request is not about a fresh nonce of this service.", "Run hallmark breakglass open again.")
	ErrBreakGlassReplayed = fault.Define(fault.Conflict, "break-glass-replayed", "This request was made before.", "Run hallmark breakglass open again; if you did not, somebody repeats what was sent.")
	ErrBreakGlassSpent    = fault.Define(fault.Conflict, "break-glass-spent", "The break-glass key opened its session already.", "Make a new key with hallmark breakglass create, put its public half into break_glass.key and restart the service.")
	ErrBreakGlassOver     = fault.Define(fault.Unauthenticated, "break-glass-over", "The break-glass session is over.", "Sign in as yourself; another session needs a new break-glass key.")
	ErrBreakGlassReason   = fault.Define(fault.Invalid, "break-glass-reason", "A break-glass session needs a reason in one line of at most 512 octets.", "Say in a few words what happened.")
	ErrBreakGlassAdmin    = fault.Define(fault.Forbidden, "break-glass-admin", "Break-glass repairs the sign-in of enabled principals with the role platform or security-officer only.", "Name another administrator; hallmark principal list shows them to who can sign in.")
	ErrShare              = fault.Define(fault.Invalid, "break-glass-share", "The text is not a share of a break-glass key.", "Type it again as it is written on the paper, or read it from its file.")
	ErrShares             = fault.Define(fault.Invalid, "break-glass-shares", "The shares do not make a key.", "Bring share a and share b of the same key.")
)
