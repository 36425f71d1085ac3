package fault

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Kind is the class of a fault. Edges translate kinds, never single codes.
type Kind uint8

// The eight kinds.
const (
	Internal        Kind = iota // our mistake; the zero value, so that an unset kind never looks harmless
	Invalid                     // the request is wrong and stays wrong
	Unauthenticated             // who is asking is not known
	Forbidden                   // who is asking may not do this
	NotFound                    // there is no such thing in the caller's scope
	Conflict                    // the state of the thing does not allow it
	Exhausted                   // a quota, rate or budget is used up
	Unavailable                 // something we need is down; try again later
)

var kindNames = [...]string{"internal", "invalid", "unauthenticated", "forbidden", "not-found", "conflict", "exhausted", "unavailable"}

// String is the kind's name in lower case.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "internal"
}

// Definition is one fault that a package can report. Definitions are made once,
// at package level, by [Define].
type Definition struct {
	Kind Kind
	Code string // stable, lower case with hyphens, unique in the program
	What string // one sentence: what happened
	Next string // one sentence: what to do now

	expected bool
}

// Expected marks a fault that somebody's decision makes, and not a failure: whoever
// asks has to hear of it, and nobody has to look into the log for it. It returns d.
func (d *Definition) Expected() *Definition {
	d.expected = true
	return d
}

// IsExpected tells whether a fault is as somebody decided.
func (d *Definition) IsExpected() bool { return d.expected }

var (
	mu       sync.Mutex
	defined  = map[string]*Definition{}
	internal = Define(Internal, "internal", "Something went wrong inside the service.", "Report the request id to the people who run it.")
)

// Define registers a fault. A code that exists already is a programming error.
func Define(kind Kind, code, what, next string) *Definition {
	mu.Lock()
	defer mu.Unlock()
	if _, ok := defined[code]; ok {
		panic("fault: code defined twice: " + code)
	}
	d := &Definition{Kind: kind, Code: code, What: what, Next: next}
	defined[code] = d
	return d
}

// All lists every definition of the program, ordered by code.
func All() []*Definition {
	mu.Lock()
	defer mu.Unlock()
	return slices.SortedFunc(maps.Values(defined), func(a, b *Definition) int {
		if a.Code < b.Code {
			return -1
		}
		return 1
	})
}

// Error makes a Definition usable as the target of [errors.Is].
func (d *Definition) Error() string { return d.Code + ": " + d.What }

// New is this fault about one request. The detail says what is particular
// about it and is shown to the caller: no secrets, no internals.
func (d *Definition) New(detail string, args ...any) *Fault {
	if len(args) > 0 {
		detail = fmt.Sprintf(detail, args...)
	}
	return &Fault{Definition: d, Detail: detail}
}

// Wrap is [Definition.New] with a cause, which only the log sees.
func (d *Definition) Wrap(cause error, detail string, args ...any) *Fault {
	f := d.New(detail, args...)
	f.Cause = cause
	return f
}

// Fault is a definition that happened.
type Fault struct {
	*Definition
	Detail     string         // about this request; may be empty
	Members    map[string]any // extra facts for machines, named as in the problem document
	RetryAfter time.Duration  // when it makes sense to ask again; 0 = not said
	Cause      error          // for the log
}

// Error joins code, sentence, detail and cause: the form for logs.
func (f *Fault) Error() string {
	s := f.Code + ": " + f.What
	if f.Detail != "" {
		s += " " + f.Detail
	}
	if f.Cause != nil {
		s += ": " + f.Cause.Error()
	}
	return s
}

// Is makes errors.Is(err, ErrX) true for a fault made from ErrX.
func (f *Fault) Is(target error) bool {
	d, ok := target.(*Definition)
	return ok && d == f.Definition
}

// Unwrap gives the cause.
func (f *Fault) Unwrap() error { return f.Cause }

// With adds a named fact and returns f.
func (f *Fault) With(name string, value any) *Fault {
	if f.Members == nil {
		f.Members = map[string]any{}
	}
	f.Members[name] = value
	return f
}

// After says when to try again and returns f.
func (f *Fault) After(d time.Duration) *Fault {
	f.RetryAfter = d
	return f
}

// From finds the fault in err. An error that carries none becomes Internal,
// with err as its cause, so that nothing unknown is ever shown to a caller.
func From(err error) *Fault {
	if err == nil {
		return nil
	}
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	var d *Definition
	if errors.As(err, &d) {
		return &Fault{Definition: d, Cause: err}
	}
	return &Fault{Definition: internal, Cause: err}
}

// none is no kind at all: what a nil error has.
const none Kind = 255

// KindOf is the kind of the fault in err. A nil error is of no kind, so that a
// comparison with any of the eight is false.
func KindOf(err error) Kind {
	if err == nil {
		return none
	}
	return From(err).Kind
}
