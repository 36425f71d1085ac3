package device

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"hallmark/internal/durable"
	"hallmark/internal/strictjson"
)

const journalFile = "job.json"

// The phases of a job on the device.
const (
	phaseRunning   = "running"   // it was begun; nothing is known of its end
	phaseRebooting = "rebooting" // it goes on after the next boot
	phaseFinished  = "finished"  // its result waits to be reported
)

// journal is the job in work: job.json. It is on disk before the job does
// anything, and the result is before it is reported, so a job is done at most
// once and its result is not lost, whenever the device stops.
type journal struct {
	Job       string            `json:"job"`
	Execution int64             `json:"execution"`
	Phase     string            `json:"phase"`
	Boot      int               `json:"boot,omitempty"` // in which the reboot was asked for
	Status    string            `json:"status,omitempty"`
	Details   map[string]string `json:"details,omitempty"`
}

// loadJournal reads the job in work. A file that cannot be read is none: the
// device must not do a job again because of it, and does not (see resume).
func loadJournal(dir string) (*journal, error) {
	raw, err := os.ReadFile(filepath.Join(dir, journalFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ErrState.Wrap(err, "")
	}
	var j journal
	if err := strictjson.Decode(raw, &j); err != nil {
		return nil, nil
	}
	return &j, nil
}

func (j *journal) save(dir string) error {
	b, err := json.Marshal(j)
	if err == nil {
		err = durable.WriteFile(filepath.Join(dir, journalFile), append(b, '\n'), 0o600)
	}
	if err != nil {
		return ErrState.Wrap(err, "")
	}
	return nil
}

// clearJournal forgets a job whose result the service has.
func clearJournal(dir string) error {
	err := os.Remove(filepath.Join(dir, journalFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ErrState.Wrap(err, "")
	}
	return durable.SyncDir(dir)
}
