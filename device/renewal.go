package device

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"net/http"
	"strconv"
	"time"

	"hallmark/internal/fault"
)

// window is when the service wants a certificate renewed.
type window struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// renewAt is when a device renews a certificate by itself: at a point of the
// service's window, else between 50 % and 67 % of its life. The point is that of the
// certificate, so a device that starts anew keeps it, and a fleet that was made in
// one hour does not renew in one.
func renewAt(leaf *x509.Certificate, w *window) time.Time {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	from, to := leaf.NotBefore.Add(life/2), leaf.NotBefore.Add(life/100*67)
	// A window that would let it expire is not obeyed.
	if w != nil && w.Start.Before(w.End) && w.End.Before(leaf.NotAfter) {
		from, to = w.Start, w.End
	}
	sum := sha256.Sum256(leaf.Raw)
	at := float64(binary.BigEndian.Uint64(sum[:8])>>11) / (1 << 53)
	return from.Add(time.Duration(at * float64(to.Sub(from))))
}

// untilRenewal is how long nothing is to be done about the certificate. It is
// never long: clocks are set, and devices sleep.
func (r *runner) untilRenewal() time.Duration {
	r.eventMu.Lock()
	leaf, w := r.leaf, r.window
	r.eventMu.Unlock()
	t := r.turning()
	if leaf == nil || r.session.Load() == nil || t == nil && r.cfg.NoRenewal || t != nil && (t.Job != "" || t.Step != stepIssue) {
		return time.Hour
	}
	at := time.UnixMilli(r.notBefore.Load())
	if due := renewAt(leaf, w); t == nil && at.Before(due) {
		at = due
	}
	return min(max(at.Sub(r.now()), 0), time.Hour)
}

// Bounds of what the service says about when to ask for the window again.
const (
	askSoonest = time.Minute
	askLatest  = 24 * time.Hour
)

// askWindow asks the device door for the window of the certificate in use, again and
// again: a service that wants a certificate renewed sooner is heard within a day.
func (r *runner) askWindow(ctx context.Context) {
	wait := Random(askSoonest) // a fleet that starts at one moment does not ask at one
	if r.cfg.askAfter > 0 {
		wait = r.cfg.askAfter
	}
	for pause(ctx, wait) {
		wait = askLatest/2 + Random(askLatest/2)
		leaf, w, again, err := r.fetchWindow(ctx)
		if err != nil { // it renews by the window that it has
			if d := fault.From(err).RetryAfter; d > 0 {
				wait = min(max(d, askSoonest), askLatest)
			}
			continue
		}
		if again > 0 {
			wait = min(max(again, askSoonest), askLatest)
		}
		wait += Random(wait / 10)
		r.eventMu.Lock()
		if r.leaf == leaf { // else it is that of a certificate before
			r.window = w
		}
		r.eventMu.Unlock()
		nudge(r.wake)
	}
}

// fetchWindow asks once, with the certificate of the newest connection.
func (r *runner) fetchWindow(ctx context.Context) (leaf *x509.Certificate, w *window, again time.Duration, err error) {
	r.eventMu.Lock()
	leaf, slot := r.leaf, r.slot
	r.eventMu.Unlock()
	if leaf == nil {
		return nil, nil, askSoonest, nil
	}
	// Roots and address as they are by now, not as they were configured.
	a, err := newAgent(r.base())
	if err != nil {
		return nil, nil, 0, err
	}
	// Without the directory's lock, which a change of keys may hold: it is only read.
	used := (&home{dir: r.cfg.Dir, keys: keyring{ctx, r.cfg.Keys, r.cfg.KeyURI}}).load(slot)
	if used == nil || !used.Leaf.Equal(leaf) {
		return nil, nil, askSoonest, nil // it is being changed
	}
	conn, err := a.dial(ctx, used)
	if err != nil {
		return nil, nil, 0, err
	}
	defer conn.Close()
	client, err := a.client(conn)
	if err != nil {
		return nil, nil, 0, err
	}
	got, err := client.RenewalWindowWithResponse(ctx)
	if err != nil {
		return nil, nil, 0, ErrServer.Wrap(err, "")
	}
	if got.StatusCode() != http.StatusOK || got.JSON200 == nil {
		return nil, nil, 0, refused(got.HTTPResponse, got.Body)
	}
	if n, err := strconv.ParseUint(got.HTTPResponse.Header.Get("Retry-After"), 10, 24); err == nil {
		again = time.Duration(n) * time.Second
	}
	return leaf, &window{got.JSON200.Start, got.JSON200.End}, again, nil
}

// renewing begins a change of keys when the certificate is due, and goes on with
// one that the device began by itself; a job's is brought by its job. What goes
// wrong is tried again later, and keeps no job waiting.
func (r *runner) renewing(ctx context.Context, s *session) error {
	err := r.renew(ctx, s)
	if err == nil || errors.Is(err, errTurn) || ctx.Err() != nil {
		return err
	}
	r.event(Event{Event: EventRefused, Code: codeOf(err), Reason: wordsOf(err)})
	r.notBefore.Store(r.now().Add(laterBy(err, r.cfg.Backoff.Wait(6))).UnixMilli())
	return nil
}

func (r *runner) renew(ctx context.Context, s *session) error {
	if t := r.turning(); (t == nil || t.Job == "" && t.Step == stepIssue) && r.untilRenewal() > 0 {
		return nil
	} else if t == nil {
		if err := r.selfRotate(); err != nil {
			return err
		}
	}
	t := r.turning()
	if t == nil || t.Job != "" {
		return nil
	}
	if t.Step == stepIssue {
		if err := r.certify(ctx, s, t, "", nil); err != nil {
			return err
		}
		if t = r.turning(); t == nil {
			return nil
		}
	}
	switch t.Step {
	case stepTrial:
		nudge(r.turn)
		return errTurn
	case stepFallback: // not at once again
		rest := max(r.current().NotAfter.Sub(r.now())/10, time.Hour)
		r.notBefore.Store(r.now().Add(rest/2 + Random(rest)/2).UnixMilli())
	default:
		r.event(Event{Event: EventRegistered, Serial: r.serial, Slot: s.slot})
	}
	return r.change(func(t *rotation) { t.Step = stepDone })
}

// selfRotate begins a change of keys without a job.
func (r *runner) selfRotate() error {
	h, err := r.open()
	if err != nil {
		return err
	}
	defer h.close()
	used, err := h.active()
	if err != nil || used == nil {
		return err
	}
	r.rotationMu.Lock()
	defer r.rotationMu.Unlock()
	return r.beginRotation(h, used, rotation{Attempts: trialTries, Seconds: trialSeconds})
}
