package witness

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"hallmark/internal/fault"
)

// Handler serves add-checkpoint (C2SP tlog-witness). What a log signed speaks
// for itself, so callers are not asked who they are.
func (w *Witness) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxRequest))
		if err != nil {
			w.refuse(rw, r, ErrRequest.Wrap(err, "It is too large or was cut off."))
			return
		}
		old, proof, signed, err := parseRequest(body)
		if err != nil {
			w.refuse(rw, r, err)
			return
		}
		line, err := w.AddCheckpoint(r.Context(), old, proof, signed)
		if err != nil {
			w.refuse(rw, r, err)
			return
		}
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		rw.Header().Set("Cache-Control", "no-store")
		rw.Write(line)
	})
	return mux
}

// refuse answers with the statuses of C2SP tlog-witness.
func (w *Witness) refuse(rw http.ResponseWriter, r *http.Request, err error) {
	f := fault.From(err)
	h := rw.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	var size sizeError
	if errors.As(err, &size) {
		h.Set("Content-Type", sizeType)
		rw.WriteHeader(http.StatusConflict)
		rw.Write([]byte(strconv.FormatInt(size.size, 10) + "\n"))
		return
	}
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrOrigin):
		status = http.StatusNotFound
	case errors.Is(err, ErrKey):
		status = http.StatusForbidden
	case errors.Is(err, ErrProof):
		status = http.StatusUnprocessableEntity
	case errors.Is(err, ErrRequest):
		status = http.StatusBadRequest
	default:
		w.cfg.Log.ErrorContext(r.Context(), "checkpoint not witnessed", "error", err)
	}
	http.Error(rw, f.Code+": "+f.What+" "+f.Detail, status)
}
