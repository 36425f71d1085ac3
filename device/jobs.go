package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"hallmark/device/mqtt"
	"hallmark/internal/fault"
)

// execution is a job for this device, as the service describes it.
type execution struct {
	Job      string            `json:"jobId"`
	Number   int64             `json:"executionNumber"`
	Version  int64             `json:"versionNumber"`
	Status   string            `json:"status"`
	Details  map[string]string `json:"statusDetails"`
	Document json.RawMessage   `json:"jobDocument"`
}

// work does jobs, one at a time, until the context ends. It is apart from the
// connections: a job goes on while one is lost, and reports over the next.
func (r *runner) work(ctx context.Context) {
	defer close(r.idle)
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-time.After(r.untilRenewal()):
		}
		last := ""
		for ctx.Err() == nil {
			s := r.session.Load()
			if s == nil {
				break // the next connection asks again
			}
			did, err := "", r.renewing(ctx, s)
			if err == nil {
				did, err = r.next(ctx, s, last)
			}
			if errors.Is(err, errTurn) { // the next connection goes on
				r.session.CompareAndSwap(s, nil)
				break
			}
			if err != nil && ctx.Err() == nil {
				r.event(Event{Event: EventRefused, Code: codeOf(err), Reason: wordsOf(err)})
				if s.conn.Err() == nil { // the service is there and has a bad moment
					time.AfterFunc(laterBy(err, r.cfg.Backoff.Wait(6)), func() { nudge(r.wake) })
				}
			}
			if last = did; err != nil || did == "" {
				break
			}
		}
	}
}

// next starts the next job, or takes up the one that was begun, and does it. It
// says which that was. One that comes twice in a row is not done for ever: it
// waits, as after an error.
func (r *runner) next(ctx context.Context, s *session, last string) (did string, err error) {
	raw, err := s.request(ctx, "jobs/start-next", nil)
	if err != nil {
		return "", err
	}
	var a struct {
		Execution execution `json:"execution"`
	}
	if err := readMessage(raw, &a); err != nil {
		return "", mqtt.ErrProtocol.Wrap(err, "The answer to start-next cannot be read.")
	}
	e := a.Execution
	if e.Job == "" {
		return "", errors.Join(r.forget(), r.forgetTrust())
	}
	// The identifier becomes part of a topic and must not be several levels of it.
	if len(e.Job) > 64 || strings.ContainsFunc(e.Job, func(c rune) bool {
		return c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	}) {
		return "", mqtt.ErrProtocol.New("A job has an identifier that is none.")
	}
	if did = fmt.Sprintf("%s %d", e.Job, e.Number); did == last {
		return "", mqtt.ErrProtocol.New("The service gives job %s again after it ended.", e.Job)
	}
	return did, r.perform(ctx, s, e)
}

// perform does one job:
//
//  1. what is known of it from before decides: report the result, go on after a
//     reboot, begin again, or say that it was cut off;
//  2. plan: a document that is not for this device is rejected;
//  3. on disk that it begins, and tell the service, which may have cancelled it;
//  4. do it;
//  5. on disk how it ended, and report that.
func (r *runner) perform(ctx context.Context, s *session, e execution) error {
	if d, ok := readRotate(e.Document); ok {
		return r.rotate(ctx, s, e, d)
	}
	if d, ok := readFirmware(e.Document); ok && r.cfg.Firmware != nil {
		return r.updateFirmware(ctx, s, e, d)
	}
	if d, ok := readTrust(e.Document); ok {
		return r.retrust(ctx, s, e, d)
	}
	// 1.
	j, err := loadJournal(r.cfg.Dir)
	if err != nil {
		return err
	}
	if j != nil && (j.Job != e.Job || j.Execution != e.Number) {
		j = nil // of a job that the service took back
	}
	r.event(Event{Event: EventJobStarted, Job: e.Job, Details: e.Details})
	begun := e.Details["phase"] != ""
	if j != nil {
		begun = true
		switch {
		case j.Phase == phaseFinished:
			return r.finish(ctx, s, e, outcome{status: j.Status, details: j.Details})
		case j.Phase == phaseRebooting && j.Boot < int(r.boots.Load()):
			return r.finish(ctx, s, e, outcome{status: succeeded, details: map[string]string{"phase": "rebooted"}})
		}
	}
	// 2.
	op, no, ok := plan(e.Document, r.cfg.Allow, 5*time.Second)
	switch {
	case !ok:
		r.event(Event{Event: EventRefused, Job: e.Job, Code: "job-rejected", Reason: no.details["reason"]})
		return r.finish(ctx, s, e, no)
	case begun && !op.restartable:
		return r.finish(ctx, s, e, outcome{status: failed, details: map[string]string{"reason": "the device stopped while it ran"}})
	}
	// 3.
	if err := (&journal{Job: e.Job, Execution: e.Number, Phase: phaseRunning}).save(r.cfg.Dir); err != nil {
		return err
	}
	if err := r.update(ctx, s, e, inProgress, map[string]string{"phase": phaseRunning}); err != nil {
		return r.discard(e, err)
	}
	// 4. Stopping is not failing: the job gets its grace.
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(r.cfg.Grace, cancel) })
	out := op.do(running)
	stop()
	interrupted := running.Err() != nil
	cancel()
	if interrupted {
		return nil // the journal says "running": the next start tells
	}
	if out.reboot {
		return r.restart(ctx, s, e)
	}
	// 5.
	return r.finish(ctx, s, e, out)
}

// finish keeps a result until the service has it.
func (r *runner) finish(ctx context.Context, s *session, e execution, out outcome) error {
	if err := (&journal{Job: e.Job, Execution: e.Number, Phase: phaseFinished, Status: out.status, Details: out.details}).save(r.cfg.Dir); err != nil {
		return err
	}
	// The connection may have been replaced while the job ran.
	if now := r.session.Load(); now != nil {
		s = now
	}
	if err := r.update(ctx, s, e, out.status, out.details); err != nil {
		return r.discard(e, err)
	}
	if err := clearJournal(r.cfg.Dir); err != nil {
		return err
	}
	r.event(Event{Event: EventJobFinished, Job: e.Job, Status: out.status, Details: out.details})
	return nil
}

// restart simulates a reboot: on disk and with the service that one is due, then
// the connection ends and the device starts anew.
func (r *runner) restart(ctx context.Context, s *session, e execution) error {
	boot := int(r.boots.Load())
	if err := (&journal{Job: e.Job, Execution: e.Number, Phase: phaseRebooting, Boot: boot}).save(r.cfg.Dir); err != nil {
		return err
	}
	if now := r.session.Load(); now != nil {
		s = now
	}
	if err := r.update(ctx, s, e, inProgress, map[string]string{"phase": phaseRebooting}); err != nil {
		return r.discard(e, err)
	}
	select {
	case r.reboot <- struct{}{}:
		r.session.CompareAndSwap(s, nil)
	case <-s.conn.Done():
	case <-ctx.Done():
	}
	return nil
}

// update reports a status. It is not cut off by the agent's stop: the
// connection waits for it.
func (r *runner) update(ctx context.Context, s *session, e execution, status string, details map[string]string) error {
	body := map[string]any{"status": status, "executionNumber": e.Number}
	if len(details) > 0 {
		body["statusDetails"] = details
	}
	_, err := s.request(context.WithoutCancel(ctx), "jobs/"+e.Job+"/update", body)
	return err
}

// ended reports how a change to the device itself ended, which is kept elsewhere than
// in the journal. A report that the service does not want any more is as good as one
// that it took.
func (r *runner) ended(ctx context.Context, s *session, e execution, out outcome) error {
	if err := r.update(ctx, s, e, out.status, out.details); err != nil {
		return r.discard(e, err)
	}
	r.event(Event{Event: EventJobFinished, Job: e.Job, Status: out.status, Details: out.details})
	return nil
}

// discard looks at a report that failed. What the service does not want any
// more (cancelled, timed out, gone) is forgotten; anything else is tried again.
func (r *runner) discard(e execution, err error) error {
	if !errors.Is(err, mqtt.ErrRejected) {
		return err
	}
	code, _ := fault.From(err).Members["code"].(string)
	switch code {
	case "InvalidStateTransition", "ResourceNotFound", "TerminalStateReached", "VersionMismatch":
		r.event(Event{Event: EventJobDiscarded, Job: e.Job, Code: code, Reason: wordsOf(err)})
		return clearJournal(r.cfg.Dir)
	}
	return err
}
