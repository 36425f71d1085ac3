package seal

import "hallmark/internal/fault"

// The faults of this package. None is a caller's doing: edges show Internal
// and Unavailable without detail.
var (
	ErrKeyFile = fault.Define(fault.Unavailable, "seal-key-file",
		"The master key file cannot be used.",
		"Give the path of a file of exactly 32 octets that only the service's user can read, or create one.")
	ErrKeyExists = fault.Define(fault.Conflict, "seal-key-exists",
		"There is a master key file already.",
		"Use it; replacing it would make every sealed secret unreadable.")
	ErrKeySize = fault.Define(fault.Internal, "seal-key-size",
		"A master key has 32 octets.",
		"Create one with the command of this program.")
	ErrOtherKey = fault.Define(fault.Internal, "seal-other-key",
		"The value was sealed under another master key.",
		"Start the service with the master key that belongs to this database.")
	ErrSealBroken = fault.Define(fault.Internal, "seal-broken",
		"A sealed value was changed, cut or moved to another place.",
		"Run fsck and restore the row it names from a backup.")
	ErrMACMismatch = fault.Define(fault.Internal, "seal-mac-mismatch",
		"A protected row was changed outside the service.",
		"Run fsck, find out who writes to the database, and enter the row again.")
)
