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
		"The clock of this machine does not fit what was done before, or what another clock says.", "Set the clock by a clock that two people read, then start the step again.")
	ErrReading = fault.Define(fault.Invalid, "ceremony-clock-unreadable",
		"What was given as the time on another clock is no time.", "Give it in UTC as YYYY-MM-DD HH:MM, as somebody reads it from a clock that is not this machine's.")
	ErrOutput = fault.Define(fault.Invalid, "ceremony-output-unwritable",
		"What the ceremony makes cannot be written to where it was told to.", "Make the directory, or free space in it, and start again.")
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
	ErrScript = fault.Define(fault.Invalid, "ceremony-script-invalid",
		"The script of the ceremony is not one that can be carried out.", "Correct the named line or step, and have the script reviewed again; its hash has changed.")
	ErrApproval = fault.Define(fault.Forbidden, "ceremony-approval-invalid",
		"An approval is not by a custodian of this script, or not of this content.", "Let the custodian approve again, with the key that the script names.")
	ErrQuorum = fault.Define(fault.Forbidden, "ceremony-quorum-missing",
		"Too few custodians approved.", "Bring more approvals and start again; what was done is kept.")
	ErrUnfinished = fault.Define(fault.Conflict, "ceremony-unfinished",
		"The ceremony is not finished.", "Run the script again with the same directory; it goes on where it stopped.")
	ErrDiffers = fault.Define(fault.Conflict, "ceremony-script-differs",
		"The directory holds a ceremony of another script.", "Give the script that was approved, or another directory.")
	ErrAttestation = fault.Define(fault.Forbidden, "ceremony-attestation-missing",
		"The token does not attest the key, but the script requires it.", "Use a token that attests, or change the script and have it approved again.")
	ErrNotGone = fault.Define(fault.Conflict, "ceremony-key-not-gone",
		"The key is still in the token.", "Destroy it with the token's own tool, then answer again.")
	ErrShare = fault.Define(fault.Invalid, "ceremony-share-invalid",
		"A part of a PIN cannot be used.", "Compare it word by word with the paper; each part is needed once, and of one set.")
	ErrWitness = fault.Define(fault.Invalid, "ceremony-witness-invalid",
		"The witness line does not anchor this transcript.", "Let a witness that the script names sign the checkpoint that hallmark ceremony anchor prints.")
	ErrExchange = fault.Define(fault.Invalid, "ceremony-exchange-invalid",
		"The exchange file cannot be used.", "Bring the file again and compare its words with those of its sender.")
)
