package device

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"

	"hallmark/fleet/ota/manifest"
	"hallmark/internal/durable"
	"hallmark/internal/strictjson"
)

// firmwareDocument is a job that asks for another image, or for the way back to the
// one before.
type firmwareDocument struct {
	Operation string `json:"operation"`
	Version   int    `json:"version"`
	Campaign  string `json:"campaign"`
	Undo      bool   `json:"undo"`
	Manifest  string `json:"manifest"` // base64; all that is believed of the document
	URL       string `json:"url"`
	Stream    struct {
		Name string `json:"name"`
		File int    `json:"file"`
	} `json:"stream"`
	Healthy struct {
		Seconds int `json:"seconds"`
		Connect int `json:"connectSeconds"`
	} `json:"healthy"`
}

const (
	opFirmware     = "update-firmware"
	healthySeconds = 600 // where the service says nothing
	connectSeconds = 300
	longestTrial   = 7 * 24 * 3600
)

// readFirmware tells whether a job is one of these.
func readFirmware(raw json.RawMessage) (d firmwareDocument, ok bool) {
	err := strictjson.Decode(raw, &d, strictjson.AllowUnknownFields())
	if d.Healthy.Seconds < 1 || d.Healthy.Seconds > longestTrial {
		d.Healthy.Seconds = healthySeconds
	}
	if d.Healthy.Connect < 1 || d.Healthy.Connect > longestTrial {
		d.Healthy.Connect = connectSeconds
	}
	return d, err == nil && d.Operation == opFirmware
}

// updateFirmware does the job, from where the last life left it:
//
//  1. the manifest is verified, and says whether the image is for this device;
//  2. download: the image goes into the slot that does not run, and is checked;
//  3. trial: the device starts anew with it;
//  4. healthy: it was up, connected and well for long enough, and is the image that
//     boots from now on; or fallback: the one before runs again. The service is told.
func (r *runner) updateFirmware(ctx context.Context, s *session, e execution, d firmwareDocument) error {
	r.event(Event{Event: EventJobStarted, Job: e.Job, Details: e.Details})
	if d.Version > 1 {
		return r.finish(ctx, s, e, refuse("version %d is not known to this device", d.Version))
	}
	t := r.flashed()
	if t.Step == stepTrial && (t.Job != e.Job || t.Execution != e.Number) { // of a job that was taken back: it is decided first
		if !r.tries(t.To) {
			return r.startsAnew(ctx, s)
		}
		return r.awaitTrial(ctx, s)
	}
	mine := t.Job == e.Job && t.Execution == e.Number && t.Step != ""
	if !mine {
		if d.Undo {
			return r.undoFirmware(ctx, s, e, d, t)
		}
		var err error
		if mine, err = r.beginFirmware(ctx, s, e, d); err != nil || !mine {
			return err
		}
		t = r.flashed()
	}
	if t.Step == stepFetch {
		m, err := r.firmwareManifest(d)
		if err != nil { // it was good when the job began
			return r.giveUp(ctx, s, e, err)
		}
		if err := r.fetch(ctx, s, e, d, m); err != nil {
			return err
		}
		t = r.flashed()
		if t.Step == stepTrial {
			return r.reboots(ctx, s, e, "installed")
		}
	}
	if t.Step == stepTrial && !r.tries(t.To) { // the connection was lost before the reboot
		if t.Undo {
			return r.reboots(ctx, s, e, "undo")
		}
		return r.reboots(ctx, s, e, "installed")
	}
	if t.Step == stepTrial {
		if err := r.tell(ctx, s, e, "booted", string(t.Next.Version)); err != nil {
			return err
		}
		if err := r.awaitTrial(ctx, s); err != nil {
			return err
		}
	}
	return r.settleFirmware(ctx, s, e)
}

// firmwareManifest verifies the manifest of a job.
func (r *runner) firmwareManifest(d firmwareDocument) (*manifest.Manifest, error) {
	raw, err := base64.StdEncoding.DecodeString(d.Manifest)
	if err != nil {
		return nil, manifest.ErrManifest.Wrap(err, "")
	}
	m, _, err := r.cfg.Firmware.Trust.Verify(raw, r.now())
	return m, err
}

// beginFirmware puts a new change on disk, if the image is for this device.
func (r *runner) beginFirmware(ctx context.Context, s *session, e execution, d firmwareDocument) (bool, error) {
	m, err := r.firmwareManifest(d)
	t := r.flashed()
	have := t.Images[t.Slot]
	if err == nil {
		err = m.Fits(manifest.Device{Class: r.cfg.Firmware.Class, Hardware: r.cfg.Firmware.Hardware, Version: have.Version, Floor: t.Floor}, r.now())
	}
	if err != nil {
		r.event(Event{Event: EventRefused, Job: e.Job, Code: codeOf(err), Reason: wordsOf(err)})
		return false, r.finish(ctx, s, e, outcome{status: rejected, details: map[string]string{"code": codeOf(err), "message": short(wordsOf(err)), "version": string(have.Version)}})
	}
	if have.Version.Compare(m.Version) == 0 {
		return false, r.finish(ctx, s, e, outcome{status: succeeded, details: map[string]string{"step": stepHealthy, "version": string(m.Version)}})
	}
	if err := r.cfg.step("firmware-begin"); err != nil {
		return false, err
	}
	to := other(t.Slot)
	next := slotImage{Version: m.Version, Floor: m.Floor, Digest: m.DigestHex()}
	return true, r.reflash(func(t *flash) {
		delete(t.Images, to) // what was there cannot be gone back to any more
		t.Job, t.Execution, t.Campaign, t.Undo, t.Step, t.From, t.To, t.Next = e.Job, e.Number, d.Campaign, false, stepFetch, t.Slot, to, next
		t.Boots, t.Fetches, t.Healthy, t.Connect, t.Code, t.Detail = 0, 0, d.Healthy.Seconds, d.Healthy.Connect, "", ""
	})
}

// undoFirmware answers an undo: back to the image before, if this device changed for
// the campaign, still has that image, and may go so far back.
func (r *runner) undoFirmware(ctx context.Context, s *session, e execution, d firmwareDocument, t flash) error {
	have := t.Images[t.Slot]
	if t.Campaign != d.Campaign || t.Undo || t.Code != "" || t.Slot != t.To || t.Step == stepFetch {
		if t.Campaign == d.Campaign && t.Step == stepFetch {
			if err := r.reflash(func(t *flash) { t.Step, t.Code = stepDone, "undone" }); err != nil {
				return err
			}
		}
		return r.finish(ctx, s, e, outcome{status: succeeded, details: map[string]string{"step": "undone", "version": string(have.Version)}})
	}
	before, ok := t.Images[t.From]
	if !ok || before.Version.Compare(t.Floor) < 0 {
		return r.finish(ctx, s, e, outcome{status: failed, details: map[string]string{"step": "undo", "code": codeWayBack, "message": "There is no image before, or it is below the floor.", "version": string(have.Version)}})
	}
	err := r.reflash(func(t *flash) {
		t.Job, t.Execution, t.Undo, t.Step, t.From, t.To, t.Next = e.Job, e.Number, true, stepTrial, t.To, t.From, before
		t.Boots, t.Healthy, t.Connect, t.Code, t.Detail = 0, d.Healthy.Seconds, d.Healthy.Connect, "", ""
	})
	if err != nil {
		return err
	}
	return r.reboots(ctx, s, e, "undo")
}

// tries tells whether a slot's image runs.
func (r *runner) tries(slot string) bool {
	r.slots.mu.Lock()
	defer r.slots.mu.Unlock()
	return r.slots.running == slot
}

// tell reports a step that is not the last.
func (r *runner) tell(ctx context.Context, s *session, e execution, step, version string) error {
	if err := r.update(ctx, s, e, inProgress, map[string]string{"step": step, "version": version}); err != nil {
		return r.discard(e, err) // a trial goes on although nobody waits for it
	}
	return nil
}

// reboots starts the device anew, into the image that is on trial now.
func (r *runner) reboots(ctx context.Context, s *session, e execution, step string) error {
	if err := r.cfg.step("firmware-installed"); err != nil {
		return err
	}
	// The connection may have been replaced while the image came.
	if now := r.session.Load(); now != nil {
		s = now
	}
	if err := r.tell(ctx, s, e, step, string(r.flashed().Next.Version)); err != nil {
		return err
	}
	return r.startsAnew(ctx, s)
}

// startsAnew is the reboot itself, of which the service was told where it wants to know.
func (r *runner) startsAnew(ctx context.Context, s *session) error {
	if err := r.cfg.step("firmware-reboot"); err != nil {
		return err
	}
	if now := r.session.Load(); now != nil {
		s = now
	}
	select {
	case r.reboot <- struct{}{}:
		r.session.CompareAndSwap(s, nil)
	case <-s.conn.Done():
		r.due.Store(true) // there is nothing to end: it boots before the next connection
	case <-ctx.Done():
	}
	return errTurn
}

// awaitTrial waits until an image on trial is decided about, or the connection ends:
// the next one goes on.
func (r *runner) awaitTrial(ctx context.Context, s *session) error {
	for {
		decided := r.slots.changed
		switch r.flashed().Step {
		case stepTrial:
		case stepFallback:
			decided = nil // the device starts anew, and says so with the image before
		default:
			return nil
		}
		select {
		case <-decided:
		case <-s.conn.Done():
			return errTurn
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// settleFirmware tells the service how the change ended.
func (r *runner) settleFirmware(ctx context.Context, s *session, e execution) error {
	t := r.flashed()
	out := outcome{status: succeeded, details: map[string]string{"step": stepHealthy, "version": string(t.Images[t.Slot].Version)}}
	switch {
	case t.Code != "":
		out.status = failed
		out.details["step"], out.details["code"], out.details["message"] = stepFallback, t.Code, t.Detail
	case t.Undo:
		out.details["step"] = "undone"
	}
	if err := r.cfg.step("firmware-report"); err != nil {
		return err
	}
	if err := r.ended(ctx, s, e, out); err != nil {
		return err
	}
	return r.reflash(func(t *flash) { t.Step = stepDone })
}

// giveUp ends a change that did not get as far as a trial.
func (r *runner) giveUp(ctx context.Context, s *session, e execution, cause error) error {
	if err := r.reflash(func(t *flash) { t.Step, t.Code, t.Detail = stepFallback, codeOf(cause), short(wordsOf(cause)) }); err != nil {
		return err
	}
	r.event(Event{Event: EventFallback, Job: e.Job, Code: codeOf(cause), Reason: wordsOf(cause)})
	return r.settleFirmware(ctx, s, e)
}

// install checks what was fetched, and makes it the image of its slot that is tried
// next.
func (r *runner) install(m *manifest.Manifest, part, to string) error {
	f, err := os.Open(part)
	if err != nil {
		return ErrFirmware.Wrap(err, "")
	}
	err = m.CheckImage(f)
	if err == nil {
		err = f.Sync()
	}
	f.Close()
	if err != nil {
		return err
	}
	if err := r.cfg.step("firmware-install"); err != nil {
		return err
	}
	if err := os.Rename(part, r.image(to)); err != nil {
		return ErrFirmware.Wrap(err, "")
	}
	if err := durable.SyncDir(r.cfg.Dir); err != nil {
		return ErrFirmware.Wrap(err, "")
	}
	return r.reflash(func(t *flash) { t.Step, t.Boots = stepTrial, 0 })
}

// fetch gets the image, in as many pieces as it takes.
func (r *runner) fetch(ctx context.Context, s *session, e execution, d firmwareDocument, m *manifest.Manifest) error {
	t := r.flashed()
	part := r.image(t.To) + ".part"
	if err := r.cfg.step("firmware-fetch"); err != nil {
		return err
	}
	err := r.download(ctx, s, e, d, m, part)
	if err == nil {
		err = r.install(m, part, t.To)
	}
	if errors.Is(err, errGone) {
		r.event(Event{Event: EventJobDiscarded, Job: e.Job, Code: "job-gone"})
		return r.reflash(func(t *flash) { t.Step, t.Code = stepDone, "job-gone" })
	}
	if !errors.Is(err, manifest.ErrImage) {
		return err
	}
	// Another image than the one that was signed: from the beginning, a few times.
	if err := os.Remove(part); err != nil && !os.IsNotExist(err) {
		return ErrFirmware.Wrap(err, "")
	}
	if t.Fetches+1 >= maxFetches {
		return r.giveUp(ctx, s, e, err)
	}
	if werr := r.reflash(func(t *flash) { t.Fetches++ }); werr != nil {
		return werr
	}
	return err
}
