package witness

import "hallmark/internal/fault"

// The faults of this package.
var (
	ErrConfig = fault.Define(fault.Invalid, "witness-config",
		"The witness is not configured properly.",
		"Give it a name, a directory of its own, and the verifier keys of the logs that it looks at.")
	ErrLocked = fault.Define(fault.Conflict, "witness-locked",
		"Another process has the witness's directory.",
		"Stop it first: two would not see what the other signs.")
	ErrState = fault.Define(fault.Internal, "witness-state",
		"The witness's state is missing or is not its own.",
		"Restore the file as it was last; if it is lost for good, give the witness a new key and name.")
	ErrRequest = fault.Define(fault.Invalid, "witness-request",
		"This is not a request to a witness.",
		"Send what C2SP tlog-witness says: the old size, the proof, an empty line, the checkpoint.")
	ErrOrigin = fault.Define(fault.NotFound, "witness-origin",
		"The witness does not look at this log.",
		"Have the witness's operator add the log's verifier key.")
	ErrKey = fault.Define(fault.Forbidden, "witness-key",
		"The checkpoint is not signed by the key that the witness knows for this log.",
		"Compare the log's verifier key with the one in the witness's configuration.")
	ErrSize = fault.Define(fault.Conflict, "witness-size",
		"The proof does not start at the checkpoint that the witness signed last.",
		"Ask again with a proof from the size in the answer.")
	ErrConflict = fault.Define(fault.Conflict, "witness-conflict",
		"The witness signed another tree of this size.",
		"The log has two histories: keep both checkpoints, stop issuing, and find out which database is the right one.")
	ErrProof = fault.Define(fault.Invalid, "witness-proof",
		"The proof does not show that the checkpoint extends the one that the witness signed last.",
		"If the proof was made from the log's own tiles, the log has two histories: keep both checkpoints and stop issuing.")
	ErrUnreachable = fault.Define(fault.Unavailable, "witness-unreachable",
		"The witness does not answer as it should.",
		"Check its address and that it runs; the log goes on meanwhile.")
)
