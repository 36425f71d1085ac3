package der

import "hallmark/internal/fault"

// ErrMalformed says that outside bytes are not DER.
var ErrMalformed = fault.Define(fault.Invalid, "der-malformed",
	"The data is not valid DER.",
	"Encode it again with definite, shortest-form lengths, one object, nothing after it.")
