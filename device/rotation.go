package device

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
)

const rotationFile = "rotation.json"

// The steps of a change of keys, as they stand on disk.
const (
	stepIssue     = "issue"     // key B is being made or certified; A is in use
	stepTrial     = "trial"     // B is stored; the next connection is made with it
	stepConnected = "connected" // B was let in and is in use; the service is to be told
	stepFallback  = "fallback"  // B was not let in; A is in use; the service is to be told
	stepDone      = "done"      // and it was told; kept for an undo
)

// rotation is a change of keys: rotation.json. It is on disk before a step is
// taken, and each step is harmless to repeat, so it goes on wherever the device
// stopped. It is written by the jobs while its step is "issue" and once it is
// decided, and by the connections during the trial.
type rotation struct {
	Job           string    `json:"job,omitempty"` // "" = the device began by itself
	Execution     int64     `json:"execution,omitempty"`
	Campaign      string    `json:"campaign,omitempty"`
	From          string    `json:"from"` // slots
	To            string    `json:"to"`
	Undo          bool      `json:"undo,omitempty"`    // back to a certificate that was in use before
	Refused       bool      `json:"refused,omitempty"` // the key in To was refused for good: the next one is new
	Algorithm     string    `json:"algorithm"`
	Step          string    `json:"step"`
	CertificateID string    `json:"certificate_id,omitempty"` // of To
	Attempts      int       `json:"attempts"`                 // with To, at most
	Seconds       int       `json:"seconds"`                  // for all of them
	Failed        int       `json:"failed"`                   // attempts so far
	Since         time.Time `json:"since,omitzero"`           // the first one
	Code          string    `json:"code,omitempty"`           // why it fell back
}

// loadRotation reads the change of keys; nil if there is none. One that cannot be
// read is none: which pair is in use is another file, and B's key is found in its slot.
func loadRotation(dir string) (*rotation, error) {
	raw, err := os.ReadFile(filepath.Join(dir, rotationFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ErrState.Wrap(err, "")
	}
	var t rotation
	if strictjson.Decode(raw, &t) != nil || t.To != other(t.From) {
		return nil, nil
	}
	return &t, nil
}

// change writes the rotation with a change, which counts only once it is on disk.
func (r *runner) change(f func(t *rotation)) error {
	r.rotationMu.Lock()
	defer r.rotationMu.Unlock()
	return r.put(f)
}

// put is change for whoever holds the lock.
func (r *runner) put(f func(t *rotation)) error {
	var next rotation
	if r.rotation != nil {
		next = *r.rotation
	}
	f(&next)
	b, err := json.MarshalIndent(next, "", "  ")
	if err == nil {
		err = r.cfg.write(filepath.Join(r.cfg.Dir, rotationFile), append(b, '\n'), 0o600)
	}
	if err != nil {
		return ErrRotation.Wrap(err, "Its journal cannot be written.")
	}
	r.rotation = &next
	return nil
}

// turning gives a copy of the change of keys, if there is one that did not end.
func (r *runner) turning() *rotation {
	r.rotationMu.Lock()
	defer r.rotationMu.Unlock()
	if r.rotation == nil || r.rotation.Step == stepDone {
		return nil
	}
	t := *r.rotation
	return &t
}

// trial gives the change of keys whose new certificate the next connection tries.
func (r *runner) trial() *rotation {
	if t := r.turning(); t != nil && t.Step == stepTrial {
		return t
	}
	return nil
}

// promote puts the pair of a connection that works into use, if it is not yet.
// Nothing of the old one is removed.
func (r *runner) promote() error {
	r.rotationMu.Lock()
	defer r.rotationMu.Unlock()
	tried := r.rotation != nil && r.rotation.Step == stepTrial && r.rotation.To == r.slot
	if !tried && r.slot == r.active {
		return nil
	}
	if !tried && r.slot != r.instead {
		return errTurn // the change was called off while it connected
	}
	if err := r.cfg.step("rotate-promote"); err != nil {
		return err
	}
	h, err := r.open()
	if err != nil {
		return err
	}
	defer h.close()
	if err := h.activate(r.slot); err != nil {
		return ErrRotation.Wrap(err, "The new certificate cannot be put into use.")
	}
	r.active, r.instead = r.slot, ""
	if err := r.cfg.step("rotate-export"); err != nil {
		return err
	}
	if err := h.export(r.slot, nil); err != nil { // for other software; the next start does it again
		r.event(Event{Event: EventRefused, Code: codeOf(err), Reason: wordsOf(err)})
	}
	if !tried {
		return nil
	}
	if err := r.cfg.step("rotate-connected"); err != nil {
		return err
	}
	if err := r.put(func(t *rotation) { t.Step = stepConnected }); err != nil {
		r.rotation.Step = stepConnected // the next life tries B again, and finds the same
		r.event(Event{Event: EventRefused, Code: codeOf(err), Reason: wordsOf(err)})
	}
	return nil
}

// missed notes that the new certificate did not connect, and goes back to the old
// one when that was the last attempt. Where the note cannot be written, it counts
// for as long as the process lives: a device with a full disk goes back too.
func (r *runner) missed(cause error) {
	r.rotationMu.Lock()
	defer r.rotationMu.Unlock()
	if r.rotation == nil || r.rotation.Step != stepTrial {
		return
	}
	now := r.now()
	next := *r.rotation
	if reached(cause) { // else the service said nothing of the certificate
		next.Failed++
	}
	if d := now.Sub(next.Since); next.Since.IsZero() || d < 0 {
		next.Since = now // a clock that was put back begins anew
	}
	late := now.Sub(next.Since) > time.Duration(next.Seconds)*time.Second
	if next.Failed >= next.Attempts || late {
		next.Step, next.Code, next.Refused = stepFallback, codeOf(cause), next.Failed > 0 && !next.Undo
	}
	if err := r.put(func(t *rotation) { *t = next }); err != nil {
		r.rotation = &next
		r.event(Event{Event: EventRefused, Code: codeOf(err), Reason: wordsOf(err)})
	}
	if next.Step == stepFallback {
		r.event(Event{Event: EventFallback, Job: next.Job, Slot: next.From, Code: next.Code, Reason: wordsOf(cause)})
	}
}

// open opens the directory as this runner does.
func (r *runner) open() (*home, error) {
	h, err := openHome(r.cfg.Dir)
	if err != nil {
		return nil, err
	}
	h.keys, h.write = keyring{r.ctx, r.cfg.Keys, r.cfg.KeyURI}, r.cfg.write
	return h, nil
}

// other is the slot that is not in use.
func other(slot string) string { return map[string]string{"": "A", "A": "B", "B": "A"}[slot] }

// certificateID is how the service names a certificate.
func certificateID(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// laterBy is how long a fault asks to wait, or else by.
func laterBy(err error, by time.Duration) time.Duration {
	if f := fault.From(err); f.RetryAfter > 0 {
		return f.RetryAfter + Random(f.RetryAfter/4)
	}
	return by
}
