package web

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"hallmark/internal/fault"
)

// statuses translates the kinds of faults, once, for every HTTP door.
var statuses = map[fault.Kind]int{
	fault.Internal:        http.StatusInternalServerError,
	fault.Invalid:         http.StatusBadRequest,
	fault.Unauthenticated: http.StatusUnauthorized,
	fault.Forbidden:       http.StatusForbidden,
	fault.NotFound:        http.StatusNotFound,
	fault.Conflict:        http.StatusConflict,
	fault.Exhausted:       http.StatusTooManyRequests,
	fault.Unavailable:     http.StatusServiceUnavailable,
}

// Status is the HTTP status of a fault.
func Status(f *fault.Fault) int {
	if f.Definition == ErrMethod {
		return http.StatusMethodNotAllowed
	}
	return statuses[f.Kind]
}

// WriteProblem answers with the problem document of an error (RFC 9457) and
// returns its fault. It does not log: whoever serves the request does, once.
func WriteProblem(w http.ResponseWriter, r *http.Request, err error) *fault.Fault {
	f := faultOf(err)
	writeProblem(w, r, f, Status(f))
	return f
}

func writeProblem(w http.ResponseWriter, r *http.Request, f *fault.Fault, status int) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	switch status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="hallmark"`) // RFC 9110, Section 11.6.1: MUST
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		wait := f.RetryAfter
		if wait <= 0 && status == http.StatusServiceUnavailable {
			wait = 5 * time.Second
		}
		if wait > 0 {
			h.Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
		}
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		doc := Problem(f, RequestID(r.Context()))
		doc["status"] = status
		json.NewEncoder(w).Encode(doc)
	}
}

// Problem is the document of a fault. An internal one shows its request id and
// nothing that is particular.
func Problem(f *fault.Fault, requestID string) map[string]any {
	doc := map[string]any{}
	if f.Kind != fault.Internal {
		for name, value := range f.Members {
			doc[name] = value
		}
		if f.Detail != "" {
			doc["detail"] = f.Detail
		}
	}
	doc["type"] = "/problems/" + f.Code
	doc["title"] = f.What
	doc["status"] = Status(f)
	doc["code"] = f.Code
	doc["next"] = f.Next
	doc["request_id"] = requestID
	return doc
}

// faultOf is [fault.From] that also knows what the HTTP stack says.
func faultOf(err error) *fault.Fault {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return ErrBody.Wrap(err, "It is larger than %d octets.", tooLarge.Limit)
	case errors.Is(err, context.DeadlineExceeded):
		var f *fault.Fault
		if !errors.As(err, &f) {
			return ErrNotReady.Wrap(err, "The request took too long.")
		}
	}
	return fault.From(err)
}

// logFault writes an error to the log if somebody has to look at it: the rest is
// in the access log by its code.
func logFault(ctx context.Context, log *slog.Logger, f *fault.Fault) {
	if f.IsExpected() {
		log.InfoContext(ctx, "request is not served, as was decided", "request_id", RequestID(ctx), "code", f.Code)
	} else if f.Kind == fault.Internal || f.Kind == fault.Unavailable {
		log.ErrorContext(ctx, "request failed", "request_id", RequestID(ctx), "code", f.Code, "error", f.Error())
	}
}
