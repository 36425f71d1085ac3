package web

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hallmark/internal/fault"
)

// Edge is what every HTTP door does around its handlers: a request id, one log
// line, metrics, limits on time and size, a panic that stays in its request,
// and the headers that browsers heed.
type Edge struct {
	Door    string // name of the listener, for log and metrics
	Log     *slog.Logger
	Metrics *Metrics
	MaxBody int64         // octets; 0 means 1 MiB and 16 KiB for the JSON around it
	Timeout time.Duration // of a request's work; 0 means 30 s
	// LooseBelow lets other spellings through below one path, such as /topics/,
	// where a topic is percent-encoded. Whoever serves it may look at nothing but
	// the decoded path.
	LooseBelow string
	// HSTS tells browsers to use TLS only. Off for a service at localhost: the
	// header would speak for every port of it.
	HSTS bool
	Now  func() time.Time
}

const defaultMaxBody = 1<<20 + 16<<10

// Metrics counts requests.
type Metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	panics   *prometheus.CounterVec
}

// NewMetrics makes the counters; a nil registry keeps them to themselves.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hallmark_http_requests_total", Help: "Requests by door, route and status."}, []string{"door", "method", "route", "status"}),
		seconds:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "hallmark_http_request_seconds", Help: "Time to answer, by door and route.", Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 11)}, []string{"door", "route"}),
		panics:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hallmark_http_panics_total", Help: "Handlers that panicked; each is a bug to report."}, []string{"door"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.panics} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// trace is what the layers below tell the edge about a request.
type trace struct {
	id     string
	route  string
	actor  string
	action string
	fault  *fault.Fault
}

type traceKey struct{}

func traceFrom(ctx context.Context) *trace {
	t, _ := ctx.Value(traceKey{}).(*trace)
	return t
}

// RequestID is the id of the request of ctx, which log lines and problem
// documents share; "" outside a request.
func RequestID(ctx context.Context) string {
	if t := traceFrom(ctx); t != nil {
		return t.id
	}
	return ""
}

// Fail answers with a problem document and remembers the fault for the log.
func Fail(w http.ResponseWriter, r *http.Request, err error) {
	f := WriteProblem(w, r, err)
	if t := traceFrom(r.Context()); t != nil {
		t.fault = f
	}
}

// FailAs is [Fail] with another status than that of the fault's kind, for
// protocols that name one.
func FailAs(w http.ResponseWriter, r *http.Request, err error, status int) {
	f := faultOf(err)
	writeProblem(w, r, f, status)
	if t := traceFrom(r.Context()); t != nil {
		t.fault = f
	}
}

// FailIn is [Fail] for protocols that have an error form of their own, which form
// makes of the fault.
func FailIn(w http.ResponseWriter, r *http.Request, err error, form func(f *fault.Fault)) {
	f := faultOf(err)
	if t := traceFrom(r.Context()); t != nil {
		t.fault = f
	}
	form(f)
}

// SetActor tells the access log who asked.
func SetActor(ctx context.Context, actor string) {
	if t := traceFrom(ctx); t != nil {
		t.actor = actor
	}
}

// SetRoute tells log and metrics the pattern that matched: a fixed text, never
// the path, of which there are as many as a client likes.
func SetRoute(ctx context.Context, route string) {
	if t := traceFrom(ctx); t != nil {
		t.route = route
	}
}

// Wrap puts the edge around a door's handler.
func (e Edge) Wrap(next http.Handler) http.Handler {
	e = e.filled()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.serve(w, r, next) })
}

// Thin is the edge of answers that are ready before they are asked for, and that
// are asked for by every device every few hours: counters and a panic that stays in
// its request. There is no log line for each, and the handler limits what it reads.
func (e Edge) Thin(route string, next http.Handler) http.Handler {
	e = e.filled()
	seconds := e.Metrics.seconds.WithLabelValues(e.Door, route)
	good := map[string]prometheus.Counter{}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		good[method] = e.Metrics.requests.WithLabelValues(e.Door, method, route, "200")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start, sw := e.Now(), &statusWriter{ResponseWriter: w}
		defer func() {
			e.survive(sw, r, recover())
			seconds.Observe(e.Now().Sub(start).Seconds())
			if c := good[r.Method]; c != nil && (sw.status == 0 || sw.status == http.StatusOK) {
				c.Inc()
				return
			}
			e.Metrics.requests.WithLabelValues(e.Door, methodLabel(r.Method), route, strconv.Itoa(sw.status)).Inc()
		}()
		next.ServeHTTP(sw, r)
	})
}

func (e Edge) filled() Edge {
	if e.Log == nil {
		e.Log = slog.New(slog.DiscardHandler)
	}
	if e.MaxBody == 0 {
		e.MaxBody = defaultMaxBody
	}
	if e.Timeout == 0 {
		e.Timeout = 30 * time.Second
	}
	if e.Now == nil {
		e.Now = time.Now
	}
	if e.Metrics == nil {
		e.Metrics, _ = NewMetrics(nil) // without a registry nothing can fail
	}
	return e
}

// methodLabel is a method as a label: one of the client's making would be a memory leak.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodPatch:
		return method
	}
	return "other"
}

func (e *Edge) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	start := e.Now()
	var id [8]byte
	rand.Read(id[:])
	t := &trace{id: hex.EncodeToString(id[:])}
	ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), traceKey{}, t), e.Timeout)
	defer cancel()
	r = r.WithContext(ctx)
	dropForwarded(r.Header)
	sw := &statusWriter{ResponseWriter: w}
	r.Body = http.MaxBytesReader(sw, r.Body, e.MaxBody)

	h := w.Header()
	h.Set("X-Request-Id", t.id)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	if e.HSTS {
		h.Set("Strict-Transport-Security", "max-age=63072000")
	}

	defer func() { e.finish(sw, r, t, start) }()
	defer func() { e.survive(sw, r, recover()) }()
	if e.LooseBelow == "" || !strings.HasPrefix(r.URL.Path, e.LooseBelow) {
		if !onePath(r) {
			Fail(sw, r, ErrRoute.New(""))
			return
		}
		r.URL.RawPath = "" // routes match the decoded path, of which there is one spelling
	}
	next.ServeHTTP(sw, r)
}

// survive ends a request whose handler panicked with v, if not nil: the request is
// lost, the service is not (A57).
func (e *Edge) survive(w *statusWriter, r *http.Request, v any) {
	if v == nil {
		return
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v)
	}
	e.Metrics.panics.WithLabelValues(e.Door).Inc()
	e.Log.ErrorContext(r.Context(), "handler panicked", "request_id", RequestID(r.Context()), "door", e.Door, "panic", v, "stack", string(debug.Stack()))
	if w.status == 0 {
		Fail(w, r, errors.New("panic"))
	}
}

func (e *Edge) finish(sw *statusWriter, r *http.Request, t *trace, start time.Time) {
	status, took := sw.status, e.Now().Sub(start)
	if status == 0 {
		status = http.StatusOK
	}
	route := t.route
	if route == "" {
		route = r.Pattern // of http.ServeMux
	}
	if route == "" {
		route = "unknown"
	}
	method := methodLabel(r.Method)
	e.Metrics.requests.WithLabelValues(e.Door, method, route, strconv.Itoa(status)).Inc()
	e.Metrics.seconds.WithLabelValues(e.Door, route).Observe(took.Seconds())
	if t.fault != nil {
		logFault(r.Context(), e.Log, t.fault)
	}
	if !e.Log.Enabled(r.Context(), slog.LevelInfo) {
		return
	}
	attrs := []slog.Attr{
		slog.String("request_id", t.id), slog.String("door", e.Door), slog.String("method", method), slog.String("route", route), slog.String("path", r.URL.Path),
		slog.Int("status", status), slog.Int64("octets", sw.octets), slog.Float64("ms", float64(took.Microseconds())/1000), slog.String("remote", r.RemoteAddr),
	}
	if t.actor != "" {
		attrs = append(attrs, slog.String("actor", t.actor))
	}
	if t.action != "" {
		attrs = append(attrs, slog.String("action", t.action))
	}
	if t.fault != nil {
		attrs = append(attrs, slog.String("code", t.fault.Code))
	}
	e.Log.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
}

// statusWriter remembers what was answered.
type statusWriter struct {
	http.ResponseWriter
	status int
	octets int64
}

// WriteHeader remembers the first final status.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write counts.
func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.octets += int64(n)
	return n, err
}

// Unwrap lets [http.ResponseController] reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Guard sets the limits of a server against slow and large requests (A68).
func Guard(s *http.Server) {
	s.ReadHeaderTimeout = 10 * time.Second // also of the handshake, and after a power cut a whole site shakes hands at once
	s.ReadTimeout = 30 * time.Second
	s.WriteTimeout = 60 * time.Second
	s.IdleTimeout = 90 * time.Second
	s.MaxHeaderBytes = 16 << 10
}
