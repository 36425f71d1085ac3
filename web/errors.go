package web

import "hallmark/internal/fault"

// The faults of the edge.
var (
	ErrRoute       = fault.Define(fault.NotFound, "route-unknown", "There is nothing at this address.", "Check the path against the interface description; case and spelling count.")
	ErrMethod      = fault.Define(fault.Invalid, "method-not-allowed", "The address does not take this method.", "Use a method that the header Allow lists.")
	ErrBody        = fault.Define(fault.Invalid, "body-unreadable", "The body of the request cannot be read.", "Send JSON with Content-Type application/json, of at most 1 MiB.")
	ErrContract    = fault.Define(fault.Invalid, "request-invalid", "The request does not fit the interface description.", "Correct the named member or parameter.")
	ErrCursor      = fault.Define(fault.Invalid, "cursor-invalid", "The cursor is not one that this service gave for this list.", "Start again without a cursor.")
	ErrInput       = fault.Define(fault.Invalid, "input-invalid", "A value in the request cannot be used.", "Correct the named value.")
	ErrNotReady    = fault.Define(fault.Unavailable, "not-ready", "The service is not ready.", "Look at the named check; ask again shortly.")
	ErrCrossOrigin = fault.Define(fault.Forbidden, "cross-origin", "Another site's page made the browser send this.", "Open the console itself and repeat what you wanted to do.")
)
