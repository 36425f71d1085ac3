package ceremony

import "hallmark/internal/fault"

// The faults of ceremonies.
var (
	ErrRequest = fault.Define(fault.Invalid, "ceremony-request-invalid",
		"The ceremony step was asked for something that cannot be done.", "Correct the named value and start the step again.")
	ErrInput = fault.Define(fault.Invalid, "ceremony-file-invalid",
		"A file that was brought to the ceremony cannot be used.", "Bring the file again and compare its checksum words with those of its sender.")
	ErrKey = fault.Define(fault.Invalid, "ceremony-key-mismatch",
		"The key in the token is not the key of the certificate.", "Insert the token of this authority, or correct the key URI.")
	ErrLifetime = fault.Define(fault.Invalid, "ceremony-lifetime-invalid",
		"The requested end does not fit the profile or the root.", "Ask for less; nothing outlives its issuer.")
	ErrLint = fault.Define(fault.Internal, "ceremony-lint-refused",
		"What would be signed breaks a rule of its standard, so it was not signed.", "Report the named rule; nothing was signed.")
	ErrSignature = fault.Define(fault.Internal, "ceremony-signature-wrong",
		"The signature did not verify and was destroyed.", "Stop the ceremony and examine the token: it signed with another key or is faulty.")
	ErrList = fault.Define(fault.Conflict, "ceremony-list-refused",
		"The list would contradict the list before it.", "Bring the newest list of this root, and name each certificate once.")
	ErrClock = fault.Define(fault.Conflict, "ceremony-clock-wrong",
		"The clock of this machine is behind what was done before.", "Set the clock by a clock that two people read, then start the step again.")
	ErrUsed = fault.Define(fault.Conflict, "ceremony-plan-used",
		"This plan was carried out or given up already.", "Make a new plan; each is signed at most once.")
	ErrNotConfirmed = fault.Define(fault.Forbidden, "ceremony-not-confirmed",
		"The step was not confirmed, and nothing was signed.", "Read what will be signed, then answer yes, or give --yes in a script.")
	ErrTranscript = fault.Define(fault.Invalid, "ceremony-transcript-invalid",
		"The transcript does not verify.", "Do not use what it describes; bring the original file again and ask how this one changed.")
	ErrAnchor = fault.Define(fault.Invalid, "ceremony-root-unknown",
		"The transcript belongs to another root than the given ones.", "Compare the words of the root with those written down at its creation.")
	ErrFileExists = fault.Define(fault.Conflict, "ceremony-file-exists",
		"A file of that name exists already; a ceremony overwrites nothing.", "Choose another directory or name.")
)
