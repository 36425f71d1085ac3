package web

import "net/http"

// Refusing serves mux, and says in our words what it has no pattern for: no such
// address, or, with the methods that there are, not this method (RFC 9110, Section
// 15.5.6). The mux must have no pattern for everything.
func Refusing(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		said := &statusOnly{header: http.Header{}}
		refuse.ServeHTTP(said, r)
		if said.status != http.StatusMethodNotAllowed {
			Fail(w, r, ErrRoute.New(""))
			return
		}
		w.Header()["Allow"] = said.header["Allow"]
		Fail(w, r, ErrMethod.New(""))
	})
}

// statusOnly is told an answer and sends none.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) WriteHeader(status int)      { s.status = status }
func (s *statusOnly) Write(b []byte) (int, error) { return len(b), nil }
