package web

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"hallmark/internal/fault"
)

// Check is one thing that the service needs to be ready.
type Check struct {
	Name string
	Do   func(ctx context.Context) error
}

// PublicConfig makes the plain door. What is nil is not mounted.
type PublicConfig struct {
	CRL   http.Handler // /crl/
	OCSP  http.Handler // /ocsp/
	Certs http.Handler // /ca/
	Log   http.Handler // /log/
	// Messages are protocols whose messages prove themselves, by their pattern.
	Messages map[string]http.Handler
	// Ready is what readyz asks.
	Ready   []Check
	Logger  *slog.Logger
	Metrics *Metrics
	Now     func() time.Time
}

// PublicHandler makes the handler of the plain door. Everything on it is public
// or carries its own signature, so there is nobody to authenticate.
func PublicHandler(cfg PublicConfig) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { ready(w, r, cfg.Ready) })
	for prefix, h := range map[string]http.Handler{"/crl/": cfg.CRL, "/ca/": cfg.Certs, "/log/": cfg.Log} {
		if h != nil {
			mux.Handle("GET "+prefix, h)
		}
	}
	for pattern, h := range cfg.Messages {
		mux.Handle(pattern, h)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { Fail(w, r, ErrRoute.New("")) })
	edge := Edge{Door: "public", Log: cfg.Logger, Metrics: cfg.Metrics, Now: cfg.Now, MaxBody: 64 << 10}
	plain := edge.Wrap(mux)
	if cfg.OCSP == nil {
		return plain
	}
	// A GET carries base64 in its path (RFC 6960, Appendix A.1), where slashes
	// come double and encoded; ServeMux would redirect them.
	ocsp := edge.Thin("/ocsp/", cfg.OCSP)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.URL.Path) > 6 && r.URL.Path[:6] == "/ocsp/" {
			ocsp.ServeHTTP(w, r)
			return
		}
		plain.ServeHTTP(w, r)
	})
}

// ready says which check fails by its code: who polls it is not known, so
// nothing else is told.
func ready(w http.ResponseWriter, r *http.Request, checks []Check) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	status, out := http.StatusOK, map[string]string{}
	for _, c := range checks {
		out[c.Name] = "ok"
		if err := c.Do(ctx); err != nil {
			status, out[c.Name] = http.StatusServiceUnavailable, fault.From(err).Code
			if t := traceFrom(r.Context()); t != nil {
				t.fault = fault.From(err)
			}
		}
	}
	if status != http.StatusOK {
		w.Header().Set("Retry-After", "5")
	}
	answer(w, status, out)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
