package uplink

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"hallmark/api/factoryapi"
	"hallmark/internal/fault"
)

const (
	firstPause = 200 * time.Millisecond
	longPause  = 5 * time.Second
)

// retry repeats requests while the service is away.
type retry struct {
	patience time.Duration
	log      *slog.Logger
	now      func() time.Time // of the monotonic clock; a station's wall clock may jump
	pause    func(ctx context.Context, d time.Duration) error
	answered func(date string, sent time.Time) // told of every answer, if there; sent is of the wall clock
	wall     func() time.Time
}

func newRetry(patience time.Duration, log *slog.Logger) retry {
	if patience == 0 {
		patience = 30 * time.Second
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return retry{patience: patience, log: log, now: time.Now, pause: pause, wall: time.Now}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Jitter is a random duration from d/2 to d: a panel's nests that failed
// together do not come back together.
func Jitter(d time.Duration) time.Duration {
	if d < 2 {
		return d
	}
	var b [8]byte
	rand.Read(b[:])
	half := uint64(d / 2)
	return d/2 + time.Duration(binary.BigEndian.Uint64(b[:])%half)
}

// do sends until there is an answer, a refusal, or no patience left, and reads
// the answer into out.
func (r retry) do(ctx context.Context, what string, out any, send func(ctx context.Context) (*http.Response, error)) error {
	begin, next := r.now(), firstPause
	for attempt := 1; ; attempt++ {
		err := r.once(ctx, out, send)
		if err == nil {
			return nil
		}
		f := fault.From(err)
		if ctx.Err() != nil || !worthRepeating(f) {
			return err
		}
		wait := Jitter(next)
		if f.RetryAfter > 0 {
			wait = f.RetryAfter + Jitter(next) - next/2 // not all stations in the same second
		}
		if r.now().Add(wait).Sub(begin) > r.patience {
			return err
		}
		r.log.InfoContext(ctx, "request is repeated", "what", what, "attempt", attempt, "code", f.Code, "wait", wait, "error", err)
		if r.pause(ctx, wait) != nil {
			return err
		}
		next = min(2*next, longPause)
	}
}

// worthRepeating: what is down may come back, and a rate limit that names its
// end is an invitation. Everything else is a refusal and stays one.
func worthRepeating(f *fault.Fault) bool {
	return f.Kind == fault.Unavailable || f.Kind == fault.Exhausted && f.RetryAfter > 0
}

func (r retry) once(ctx context.Context, out any, send func(ctx context.Context) (*http.Response, error)) error {
	sent := r.wall()
	resp, err := send(ctx)
	if err != nil {
		return networkFault(err)
	}
	if r.answered != nil {
		r.answered(resp.Header.Get("Date"), sent)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return networkFault(err)
	}
	if len(b) > maxAnswer {
		return ErrAnswer.New("It is longer than %d octets.", maxAnswer)
	}
	if resp.StatusCode != http.StatusOK {
		return problemFault(resp, b)
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind != "application/json" {
		return ErrAnswer.New("Its content type is %q.", kind)
	}
	return decode(b, out)
}

// networkFault tells a connection that failed from a peer that was refused.
func networkFault(err error) error {
	var f *fault.Fault
	if errors.As(err, &f) {
		return f // from VerifyConnection
	}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return ErrUntrusted.Wrap(err, "%s.", trustReason(cert.Err))
	}
	// With TLS 1.3 the server's refusal of our certificate arrives with the
	// first read; crypto/tls marks it as a remote error with the alert's text.
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" && op.Err != nil {
		alert := op.Err.Error()
		for _, word := range []string{"certificate", "unknown certificate authority", "access denied"} {
			if strings.Contains(alert, word) {
				return ErrOldStation.Wrap(err, "It said: %s.", strings.TrimPrefix(alert, "tls: "))
			}
		}
	}
	return ErrUnreached.Wrap(err, "")
}

func trustReason(err error) string {
	var (
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
	)
	switch {
	case errors.As(err, &host):
		return "Its certificate is for another name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "By this station's clock its certificate is expired or not valid yet"
	case errors.As(err, &unknown):
		return "Its certificate is not from a root that this station trusts"
	}
	return "Its certificate does not verify"
}

// Status codes of the kinds, for answers that carry no problem document.
var kindOfStatus = map[int]fault.Kind{
	http.StatusUnauthorized:       fault.Unauthenticated,
	http.StatusForbidden:          fault.Forbidden,
	http.StatusNotFound:           fault.NotFound,
	http.StatusConflict:           fault.Conflict,
	http.StatusTooManyRequests:    fault.Exhausted,
	http.StatusBadGateway:         fault.Unavailable,
	http.StatusServiceUnavailable: fault.Unavailable,
	http.StatusGatewayTimeout:     fault.Unavailable,
}

// problemFault makes a problem document (RFC 9457) the fault that it was at the
// service, with its code, next step and request id.
func problemFault(resp *http.Response, body []byte) error {
	kind, ok := kindOfStatus[resp.StatusCode]
	switch {
	case !ok && resp.StatusCode >= 500:
		kind = fault.Internal
	case !ok:
		kind = fault.Invalid
	}
	f := &fault.Fault{RetryAfter: retryAfter(resp.Header.Get("Retry-After"), resp.Header.Get("Date"))}
	var p factoryapi.Problem
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media != "application/problem+json" || json.Unmarshal(body, &p) != nil || p.Code == "" {
		// Not our service's words: a proxy, or another program at that port.
		d := ErrAnswer
		if kind == fault.Unavailable {
			d = ErrUnreached
		}
		f.Definition, f.Detail = d, "It answered with HTTP status "+strconv.Itoa(resp.StatusCode)+"."
		return f
	}
	f.Definition = &fault.Definition{Kind: kind, Code: p.Code, What: p.Title}
	if p.Next != nil {
		f.Next = *p.Next
	}
	if p.Detail != nil {
		f.Detail = *p.Detail
	}
	for name, v := range p.AdditionalProperties {
		f.With(name, v)
	}
	return f.With("request_id", p.RequestId)
}

// retryAfter reads the header (RFC 9110, Section 10.2.3): seconds, or a date,
// which is compared with the service's own clock.
func retryAfter(value, date string) time.Duration {
	if s, err := strconv.Atoi(value); err == nil && s >= 0 {
		return time.Duration(min(s, 86400)) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(date)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), 24*time.Hour)
}

// RequestID is the service's name for the request that err is the answer to.
func RequestID(err error) string {
	id, _ := fault.From(err).Members["request_id"].(string)
	return id
}
