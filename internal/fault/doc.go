// Package fault is what can go wrong, in words that stay the same.
//
// A package lists its faults once, in its errors.go, with [Define]. Each has a
// [Kind], which every edge translates once (an HTTP status, an exit code), and
// a code, which never changes once released: callers and runbooks key on it.
// A fault tells its reader what happened and what to do next; the cause is for
// the log alone. Anything that is not a fault is Internal at the edge, with
// nothing but a request id shown.
//
// Start reading at [Definition.New].
package fault
