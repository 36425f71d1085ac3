package tlog

import "hallmark/internal/fault"

// The faults of this package.
var (
	ErrConfig = fault.Define(fault.Invalid, "tlog-config",
		"The transparency log is not configured properly.",
		"Give an origin without spaces and plus signs, and an Ed25519 key.")
	ErrMoved = fault.Define(fault.Conflict, "tlog-moved",
		"Another node has integrated leaves meanwhile.",
		"Read the log again; nothing was lost.")
	ErrForked = fault.Define(fault.Internal, "tlog-forked",
		"The log disagrees with a checkpoint that was signed for it.",
		"Stop issuing, keep the database and the checkpoint, and run fsck.")
	ErrBehind = fault.Define(fault.Internal, "tlog-behind",
		"The log has fewer leaves than a checkpoint that was signed for it.",
		"The database was set back: enter the missing leaves again from tiles and receipts, or close the log and start a new origin.")
	ErrCorrupt = fault.Define(fault.Internal, "tlog-corrupt",
		"The stored log is not what was integrated.",
		"Run fsck, and restore the part it names from a backup or a copy of the tiles.")
	ErrRange = fault.Define(fault.Invalid, "tlog-range",
		"The log has no such leaf or size.",
		"Take the size from a checkpoint, and an index below it.")
	ErrPending = fault.Define(fault.Unavailable, "tlog-pending",
		"The leaf is recorded and waits for the next checkpoint.",
		"Ask for the receipt again in a few seconds.")
	ErrSigner = fault.Define(fault.Unavailable, "tlog-signer",
		"The checkpoint could not be signed.",
		"Check the token that holds the checkpoint key; recorded leaves wait meanwhile.")
	ErrCheckpoint = fault.Define(fault.Invalid, "tlog-checkpoint",
		"This is not a checkpoint signed by the log's key.",
		"Compare the verifier key with the one the log's operator published.")
	ErrReceipt = fault.Define(fault.Invalid, "tlog-receipt",
		"The receipt does not prove what it says.",
		"Ask the service for the receipt again; if it stays like this, keep it and report it.")
	ErrTilePath = fault.Define(fault.NotFound, "tlog-tile-path",
		"There is no tile at this path.",
		"Use tile/<level>/<index> as in C2SP tlog-tiles, for a size in the checkpoint. If you gave the address of a log, it ends in /log: https://HOST/log.")
	ErrLeaf = fault.Define(fault.Internal, "tlog-leaf",
		"A leaf's facts do not give its entry.",
		"Run fsck and restore the row it names from a backup.")
	ErrCosigner = fault.Define(fault.Invalid, "tlog-cosigner",
		"This is not a witness's verifier key.",
		"Use the line that hallmark witness key prints: NAME+HASH+KEY.")
	ErrCosignature = fault.Define(fault.Unavailable, "tlog-cosignature",
		"The witness did not sign the checkpoint.",
		"Compare the witness's verifier key with the one in the configuration.")
	ErrQuorum = fault.Define(fault.Unavailable, "tlog-quorum",
		"Too few witnesses signed the checkpoint.",
		"See which witnesses are silent (hallmark log show) and why; the log goes on meanwhile.")
	ErrPublish = fault.Define(fault.Internal, "tlog-publish",
		"The directory of published tiles is not what this log published.",
		"Find out who wrote there; publish to an empty directory if it was never this log's.")
	ErrSource = fault.Define(fault.Unavailable, "tlog-source",
		"The copy of the log cannot be read.",
		"Give the directory or the URL that has the file checkpoint and the directory tile.")
)
