package crl

import "hallmark/internal/fault"

// The faults of revocation, lists and status.
var (
	ErrReason        = fault.Define(fault.Invalid, "revocation-reason-invalid", "The revocation reason cannot be used here.", "Use unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation, certificateHold or privilegeWithdrawn.")
	ErrWeaken        = fault.Define(fault.Conflict, "revocation-not-weakened", "The key was revoked as compromised; that is never taken back.", "Nothing needs to be done; the stronger reason stays.")
	ErrRevoked       = fault.Define(fault.Conflict, "revocation-exists", "The serial number is revoked already for another reason.", "Nothing needs to be done; only keyCompromise can replace a permanent reason.")
	ErrNotHeld       = fault.Define(fault.Conflict, "revocation-not-held", "The serial number is not on hold.", "Only a hold can be released; a revoked device needs a new certificate.")
	ErrSerialUnknown = fault.Define(fault.NotFound, "revocation-serial-unknown", "This serial number was never reserved under this authority.", "Check authority and serial number.")
	ErrHolderUnknown = fault.Define(fault.NotFound, "revocation-holder-unknown", "There is no such device.", "Check the name; list devices to find it.")
	ErrRight         = fault.Define(fault.Forbidden, "revocation-not-yours", "This certificate belongs to somebody else.", "Ask a person with the right to revoke.")
	ErrNotLoaded     = fault.Define(fault.Unavailable, "revocation-not-loaded", "The revoked certificates are not loaded yet.", "Try again in a moment; no connection is let in before.")
	ErrListMalformed = fault.Define(fault.Invalid, "list-malformed", "This is not a revocation list that can be published.", "Make the list again; the detail names what is wrong.")
	ErrListUntrusted = fault.Define(fault.Invalid, "list-signature-wrong", "The revocation list is not signed by this authority.", "Check which authority the list was made for.")
	ErrListOld       = fault.Define(fault.Conflict, "list-not-newer", "The revocation list is not newer than the published one.", "Give it a higher CRL number and a time after the published list.")
	ErrListDrops     = fault.Define(fault.Conflict, "list-drops-revocation", "The revocation list lacks an unexpired certificate that the published one revokes.", "Add the named serial numbers; revocation is permanent.")
	ErrListMoved     = fault.Define(fault.Conflict, "list-moved", "Another node published a list meanwhile.", "Nothing needs to be done; the newer list is read.")
	ErrListMissing   = fault.Define(fault.Unavailable, "list-missing", "The revocation list is not there yet.", "Try again in a moment; for a root, upload its list.")
	ErrResponder     = fault.Define(fault.Unavailable, "ocsp-responder-invalid", "The OCSP responder has no usable certificate.", "Renew the responder's certificate under this authority.")
)

// The faults of plans to revoke in bulk.
var (
	ErrBlastQuery    = fault.Define(fault.Invalid, "revocation-plan-invalid", "The revocation plan cannot be made like this.", "Correct the named field; name at least a station, order, operator, authority, tool version or key.")
	ErrBlastEmpty    = fault.Define(fault.NotFound, "revocation-plan-empty", "No certificate is like this.", "Check names and times; nothing was planned.")
	ErrBlastLarge    = fault.Define(fault.Invalid, "revocation-plan-too-large", "The plan would cover too many certificates.", "Make several plans with narrower times.")
	ErrBlastUnknown  = fault.Define(fault.NotFound, "revocation-plan-unknown", "There is no such revocation plan.", "List them with hallmark revoke list.")
	ErrBlastMoved    = fault.Define(fault.Conflict, "revocation-plan-moved", "The revocation plan was changed by somebody else at the same time.", "Look at it again and repeat the request if it is still wanted.")
	ErrBlastOther    = fault.Define(fault.Conflict, "revocation-plan-other", "What was approved is not this plan.", "Look at the plan again and approve the hash that it shows for this stage.")
	ErrBlastApproval = fault.Define(fault.Forbidden, "revocation-plan-not-approved", "A second person has not approved this stage.", "Ask another security officer to run hallmark revoke approve; a hold needs nobody else.")
	ErrBlastStage    = fault.Define(fault.Conflict, "revocation-plan-stage", "This cannot be done with the plan now.", "Look at its state with hallmark revoke status.")
	ErrDestination   = fault.Define(fault.Invalid, "list-destination-invalid", "Lists cannot be sent to this place.", "Correct lists.destinations in the configuration.")
	ErrImport        = fault.Define(fault.Unavailable, "list-import-failed", "The list of another CA cannot be fetched.", "Check its address and whether its CA still publishes it; the former list stays.")
	ErrImportMissing = fault.Define(fault.Unavailable, "list-import-missing", "There is no current list of the CA that issued this certificate.", "Wait for the CA's next list; until then its devices are refused as configured.")
	ErrImportSource  = fault.Define(fault.Invalid, "list-import-invalid", "The source of another CA's list is not configured right.", "Correct lists.import in the configuration.")
)
