package jobs

import (
	"errors"

	"hallmark/internal/fault"
)

// The faults of jobs. [Reject] gives their code for devices.
var (
	ErrJobInvalid    = fault.Define(fault.Invalid, "job-invalid", "The job is not possible.", "Correct what the detail names.")
	ErrDocument      = fault.Define(fault.Invalid, "job-document-invalid", "The job document cannot be used.", "Send JSON of at most 32 KB with at most 10 substitutions, and a value for each parameter that it names.")
	ErrArtifacts     = fault.Define(fault.Unavailable, "job-artifacts-unavailable", "The job document wants presigned URLs, and this service has no artifacts.", "Put complete URLs into the document, or configure artifacts.")
	ErrJobExists     = fault.Define(fault.Conflict, "job-exists", "A job of that name exists already.", "Choose another name.")
	ErrJobUnknown    = fault.Define(fault.NotFound, "job-unknown", "There is no such job.", "List the jobs.")
	ErrJobState      = fault.Define(fault.Conflict, "job-state", "The job's state does not allow this.", "Look at the job; force may be needed.")
	ErrJobChanged    = fault.Define(fault.Conflict, "job-changed", "The job was changed by somebody else at the same time.", "Send the request again.")
	ErrTarget        = fault.Define(fault.NotFound, "job-target-unknown", "There is no such target.", "Use thing/NAME or thinggroup/NAME of a thing or group that exists.")
	ErrTargets       = fault.Define(fault.Internal, "job-targets-broken", "The things of a target cannot be listed.", "Look at the group and report this.")
	ErrExecution     = fault.Define(fault.NotFound, "job-execution-unknown", "There is no such job execution.", "Ask for the pending executions.")
	ErrTransition    = fault.Define(fault.Conflict, "job-execution-state", "The state of the job execution does not allow this.", "Look at the state in the answer.")
	ErrVersion       = fault.Define(fault.Conflict, "job-execution-version", "The job execution has another version than the request expects.", "Look at the version in the answer and decide again.")
	ErrChanged       = fault.Define(fault.Conflict, "job-execution-changed", "The job execution was changed by somebody else at the same time.", "Send the request again.")
	ErrRequest       = fault.Define(fault.Invalid, "job-request-invalid", "The request about a job execution is not right.", "Correct what the detail names.")
	ErrRequestJSON   = fault.Define(fault.Invalid, "job-request-json", "The request about a job execution is not JSON.", "Send one JSON object in UTF-8, or nothing.")
	ErrRequestTopic  = fault.Define(fault.Invalid, "job-request-topic", "There is no such operation on jobs.", "Use get, start-next, JOB/get or JOB/update.")
	ErrRequestThings = fault.Define(fault.Invalid, "job-list-invalid", "The list cannot be made.", "Ask for at most 250 and send the cursor of the page before unchanged.")
)

// codes are the faults in the words of the wire.
var codes = map[*fault.Definition]string{
	ErrRequestTopic: "InvalidTopic",
	ErrRequestJSON:  "InvalidJson",
	ErrRequest:      "InvalidRequest",
	ErrTransition:   "InvalidStateTransition",
	ErrExecution:    "ResourceNotFound",
	ErrJobUnknown:   "ResourceNotFound",
	ErrVersion:      "VersionMismatch",
	ErrChanged:      "RequestThrottled",
}

const stateMember = "executionState"

// Reject gives the code, a sentence, and for an InvalidStateTransition and a
// VersionMismatch the state that the execution is in.
func Reject(err error) (code, message string, state *ExecutionState) {
	f := fault.From(err)
	if f == nil {
		return "", "", nil
	}
	code, ok := codes[f.Definition]
	if !ok {
		switch f.Kind {
		case fault.Invalid: // the name of the thing
			code = "InvalidRequest"
		case fault.Exhausted:
			code = "RequestThrottled"
		default:
			return "InternalError", "Something went wrong inside the service.", nil
		}
	}
	message = f.What
	if f.Detail != "" {
		message = f.Detail
	}
	if s, ok := f.Members[stateMember].(ExecutionState); ok {
		state = &s
	}
	return code, message, state
}

// refusal carries the sender's token to the rejection.
type refusal struct {
	error
	token string
}

func (r *refusal) Unwrap() error { return r.error }

func tokenOf(err error) string {
	var r *refusal
	if errors.As(err, &r) {
		return r.token
	}
	return ""
}
