package template

import (
	"fmt"

	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
)

// What can be wrong with a template. Each fault carries the member path.
var (
	ErrTooLarge         = fault.Define(fault.Invalid, "template-too-large", "The template body is too large.", "Shorten the template to 10 KiB.")
	ErrMalformed        = fault.Define(fault.Invalid, "template-malformed", "The template is no strict JSON.", "Correct the JSON at the place named.")
	ErrStructure        = fault.Define(fault.Invalid, "template-structure", "The template is not built as provisioning templates are.", "Correct the template at the path named.")
	ErrUnknownKey       = fault.Define(fault.Invalid, "template-unknown-key", "The template has a key that does not belong there.", "Remove the key or correct its name.")
	ErrUnknownFunction  = fault.Define(fault.Invalid, "template-unknown-function", "The template uses a function that does not exist.", "Use Ref, Fn::Join, Fn::Select, Fn::FindInMap, Fn::Split or Fn::Sub.")
	ErrUnknownReference = fault.Define(fault.Invalid, "template-unknown-reference", "The template refers to something it does not declare.", "Declare it, or correct the name.")
	ErrKind             = fault.Define(fault.Invalid, "template-kind", "The template uses something that this kind of template does not have.", "Remove it, or use another way of provisioning.")
)

// What can be wrong with an evaluation.
var (
	ErrParameterMissing = fault.Define(fault.Invalid, "template-parameter-missing", "A parameter of the template was not given and has no default.", "Send the parameter.")
	ErrParameterRefused = fault.Define(fault.Invalid, "template-parameter-refused", "A parameter may not come from there.", "Leave names that begin with AWS:: to the service.")
	ErrParameterInvalid = fault.Define(fault.Invalid, "template-parameter-invalid", "A parameter's name or value is not acceptable.", "Send valid UTF-8 without control characters, within the size limits.")
	ErrPolicyValue      = fault.Define(fault.Invalid, "template-policy-value", "A parameter would widen a policy.", "Send a value without * $ + ? # { } and control characters.")
	ErrFunctionFailed   = fault.Define(fault.Invalid, "template-function-failed", "A function of the template has no result for these parameters.", "Correct the parameters or the template.")
	ErrValueInvalid     = fault.Define(fault.Invalid, "template-value-invalid", "The template gives a value that is not acceptable there.", "Correct the parameters or the template.")
	ErrLimit            = fault.Define(fault.Invalid, "template-limit", "The template grows beyond what one evaluation may produce.", "Simplify the template or shorten the parameters.")
)

// at is fault d about the place path.
func at(d *fault.Definition, path strictjson.Path, format string, args ...any) *fault.Fault {
	where := "The template"
	if path != "" {
		where = string(path)
	}
	return d.New("%s: %s.", where, fmt.Sprintf(format, args...)).With("path", string(path))
}

// meant adds the nearest known name to a message.
func meant(name string, candidates []string) string {
	if near := strictjson.Nearest(name, candidates); near != "" && near != name {
		return ", perhaps " + strictjson.Quote(near) + " was meant"
	}
	return ""
}
