package strictjson

import "hallmark/internal/fault"

// What can be wrong with a document. Every fault but ErrTooLarge carries the
// members line, column and path.
var (
	ErrMalformed    = fault.Define(fault.Invalid, "json-malformed", "The JSON document is malformed.", "Send one JSON value in UTF-8, without a byte order mark and with nothing after it.")
	ErrDuplicateKey = fault.Define(fault.Invalid, "json-duplicate-key", "An object of the JSON document has a member twice.", "Send each member once.")
	ErrUnknownField = fault.Define(fault.Invalid, "json-unknown-field", "The JSON document has a member that is not known here.", "Remove the member or correct its name; names are case sensitive.")
	ErrWrongType    = fault.Define(fault.Invalid, "json-wrong-type", "A value of the JSON document has the wrong type.", "Send the type that the interface description names.")
	ErrLimit        = fault.Define(fault.Invalid, "json-limit", "The JSON document is nested too deeply or holds too much.", "Send a simpler document.")
	ErrTooLarge     = fault.Define(fault.Invalid, "json-too-large", "The JSON document is too large.", "Send a smaller document.")
)
