package shadow

import (
	"errors"

	"hallmark/internal/fault"
)

// The faults of shadows. [Reject] gives their code and text on the wire.
var (
	ErrJSON        = fault.Define(fault.Invalid, "shadow-json-invalid", "The shadow request is not a JSON object.", "Send one JSON object without repeated members.")
	ErrNoState     = fault.Define(fault.Invalid, "shadow-state-missing", "The shadow update has no state.", "Send a member state with desired or reported in it.")
	ErrState       = fault.Define(fault.Invalid, "shadow-state-invalid", "The state of the shadow update is not an object.", "Send state as an object.")
	ErrDesired     = fault.Define(fault.Invalid, "shadow-desired-invalid", "The desired section of the shadow update is not an object.", "Send desired as an object or null.")
	ErrReported    = fault.Define(fault.Invalid, "shadow-reported-invalid", "The reported section of the shadow update is not an object.", "Send reported as an object or null.")
	ErrVersion     = fault.Define(fault.Invalid, "shadow-version-invalid", "The version of the shadow update is not a whole number.", "Send the version of the document that the update is based on, or none.")
	ErrToken       = fault.Define(fault.Invalid, "shadow-token-invalid", "The clientToken is not a text of at most 64 bytes.", "Send a shorter clientToken, or none.")
	ErrDepth       = fault.Define(fault.Invalid, "shadow-depth", "The shadow state is nested too deeply.", "Use at most 8 levels below desired and reported.")
	ErrNode        = fault.Define(fault.Invalid, "shadow-node-invalid", "The shadow state holds an array with a null in it.", "Remove nulls from arrays.")
	ErrName        = fault.Define(fault.Invalid, "shadow-name-invalid", "This is no name for a shadow.", "Use 1 to 64 characters of a-z A-Z 0-9 : _ - $")
	ErrPage        = fault.Define(fault.Invalid, "shadow-page-invalid", "The list of shadows cannot be made.", "Ask for at most 100 on a page and send nextToken unchanged.")
	ErrUnknown     = fault.Define(fault.NotFound, "shadow-unknown", "There is no such shadow.", "Check thing and name; the first update makes a shadow.")
	ErrConflict    = fault.Define(fault.Conflict, "shadow-version-conflict", "The shadow has another version than the request expects.", "Get the document and repeat the change on it.")
	ErrSize        = fault.Define(fault.Exhausted, "shadow-size", "The shadow document would be too large.", "Remove what is not needed by sending null for it, or use named shadows.")
	ErrEncoding    = fault.Define(fault.Invalid, "shadow-encoding", "The shadow request is not UTF-8.", "Send UTF-8.")
	ErrInFlight    = fault.Define(fault.Exhausted, "shadow-in-flight", "Too many requests for this thing's shadows are under way.", "Wait for the answers before sending more.")
	ErrDocument    = fault.Define(fault.Internal, "shadow-document-broken", "The stored shadow document cannot be read.", "Run hallmark fsck and restore from a backup.")
	ErrChanged     = fault.Define(fault.Conflict, "shadow-changed", "The shadow was changed by somebody else at the same time.", "Send the request again.")
	ErrUndelivered = fault.Define(fault.Unavailable, "shadow-undelivered", "The shadow was changed but not everybody could be told.", "Nothing is lost: whoever needs the state gets the document.")
)

// wire is what a fault is called on the wire.
var wire = map[*fault.Definition]struct {
	code int
	text string
}{
	ErrJSON:     {400, "Invalid JSON"},
	ErrNoState:  {400, "Missing required node: state"},
	ErrState:    {400, "State node must be an object"},
	ErrDesired:  {400, "Desired node must be an object"},
	ErrReported: {400, "Reported node must be an object"},
	ErrVersion:  {400, "Invalid version"},
	ErrToken:    {400, "Invalid clientToken"},
	ErrDepth:    {400, "JSON contains too many levels of nesting; maximum is 6"},
	ErrNode:     {400, "State contains an invalid node"},
	ErrName:     {400, "Invalid shadow name"},
	ErrPage:     {400, "Invalid page"},
	ErrConflict: {409, "Version conflict"},
	ErrChanged:  {409, "Version conflict"},
	ErrSize:     {413, "The payload exceeds the maximum size allowed"},
	ErrEncoding: {415, "Unsupported documented encoding; supported encoding is UTF-8"},
	ErrInFlight: {429, "Too many requests in flight"},
}

// Reject gives the code and the text of a rejection. Anything that is not the
// sender's doing is a 500 that says nothing more.
func Reject(err error) (code int, message string) {
	f := fault.From(err)
	if f == nil {
		return 200, ""
	}
	if f.Definition == ErrUnknown {
		return 404, f.Detail
	}
	if w, ok := wire[f.Definition]; ok {
		return w.code, w.text
	}
	if f.Kind == fault.Invalid { // the name of the thing
		return 400, f.What
	}
	return 500, "Internal service failure"
}

// refusal carries the sender's token to the rejection.
type refusal struct {
	error
	token string
}

func (r *refusal) Unwrap() error { return r.error }

// tokenOf is the clientToken to echo when err is sent back.
func tokenOf(err error) string {
	var r *refusal
	if errors.As(err, &r) {
		return r.token
	}
	return ""
}
