package hook

import "hallmark/internal/fault"

// What can come of a call besides an allowing [Decision].
var (
	ErrRefused       = fault.Define(fault.Forbidden, "hook-refused", "The provisioning hook refused the device.", "Ask those who run the hook why.")
	ErrFailed        = fault.Define(fault.Unavailable, "hook-failed", "The provisioning hook did not answer.", "Try again later; check that the hook runs and can be reached.")
	ErrAddress       = fault.Define(fault.Forbidden, "hook-address-refused", "The provisioning hook's address is not allowed.", "Add the address to the hook's allow-list, or correct the hook's URL.")
	ErrAnswerInvalid = fault.Define(fault.Unavailable, "hook-answer-invalid", "The provisioning hook's answer cannot be trusted.", "Correct the hook: signature, status 200, and JSON with allowProvisioning.")
	ErrConfig        = fault.Define(fault.Invalid, "hook-config-invalid", "The provisioning hook's configuration is not usable.", "Correct the configuration.")
	ErrRequest       = fault.Define(fault.Unauthenticated, "hook-request-invalid", "The request to the hook is not signed as it must be.", "Check the secret, the URL and the clocks of both ends.")
)
