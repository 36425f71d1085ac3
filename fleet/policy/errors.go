package policy

import (
	"fmt"

	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
)

// What can be wrong with a policy document. Each fault but ErrTooLong and
// ErrValue carries the member path. Text that is no strict JSON is refused with
// the faults of internal/strictjson.
var (
	ErrTooLong   = fault.Define(fault.Invalid, "policy-too-long", "The policy document is too long.", "Shorten it to 2048 characters, white space not counted, or split it into several policies.")
	ErrStructure = fault.Define(fault.Invalid, "policy-structure-invalid", "The policy document is not built as policies are.", "Correct the document at the path named.")
	ErrVersion   = fault.Define(fault.Invalid, "policy-version-unsupported", "The policy language of the document is not known.", "Write \"Version\": \"2012-10-17\".")
	ErrAction    = fault.Define(fault.Invalid, "policy-action-unknown", "The policy names an action that does not exist.", "Use the actions of devices, such as iot:Connect or iot:Publish; names are case sensitive.")
	ErrResource  = fault.Define(fault.Invalid, "policy-resource-invalid", "The policy names a resource that no action has.", "Write *, or arn:aws:iot:REGION:ACCOUNT: followed by client/, topic/, topicfilter/, thing/ or rolealias/ and a name.")
	ErrVariable  = fault.Define(fault.Invalid, "policy-variable-invalid", "The policy uses a variable that does not exist.", "Correct the name between ${ and }; write ${$}{ for the characters themselves.")
	ErrCondition = fault.Define(fault.Invalid, "policy-condition-invalid", "A condition of the policy cannot be evaluated.", "Correct the operator, the key or the value at the path named.")
)

// ErrValue refuses a value that would widen a policy (S21).
var ErrValue = fault.Define(fault.Invalid, "policy-value-unsafe", "A value would widen a policy.", "Use at most 1024 characters without * $ + ? #")

// at is fault d about the place path.
func at(d *fault.Definition, path strictjson.Path, format string, args ...any) *fault.Fault {
	where := "The document"
	if path != "" {
		where = string(path)
	}
	return d.New("%s: %s.", where, fmt.Sprintf(format, args...)).With("path", string(path))
}

// perhaps ends a sentence with the name that was likely meant.
func perhaps(name string, candidates []string) string {
	if near := strictjson.Nearest(name, candidates); near != "" {
		return fmt.Sprintf(", perhaps %q was meant", near)
	}
	return ""
}
