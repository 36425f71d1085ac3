package device

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"hallmark/internal/durable"
	"hallmark/internal/strictjson"
)

const (
	stateFile    = "state.json"
	maxSettings  = 8 << 10 // as the service's bound of a shadow
	factsMember  = "device"
	maxStateFile = 64 << 10
)

// state is what a device remembers of its life: state.json.
type state struct {
	Boots    int            `json:"boots"`
	Settings map[string]any `json:"settings"` // as the shadow asked for
}

// loadState reads the file; a device that never ran has an empty one.
func loadState(dir string) (state, error) {
	s := state{Settings: map[string]any{}}
	raw, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, ErrState.Wrap(err, "")
	}
	var file struct {
		Boots    int             `json:"boots"`
		Settings json.RawMessage `json:"settings"`
	}
	if err := strictjson.Decode(raw, &file, strictjson.WithLimits(strictjson.Limits{Size: maxStateFile})); err != nil {
		return s, ErrState.Wrap(err, "")
	}
	s.Boots = file.Boots
	if s.Settings, err = object(file.Settings); err != nil {
		return s, ErrState.Wrap(err, "")
	}
	return s, nil
}

// save replaces the file as one step.
func (s state) save(dir string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = durable.WriteFile(filepath.Join(dir, stateFile), append(b, '\n'), 0o600)
	}
	if err != nil {
		return ErrState.Wrap(err, "")
	}
	return nil
}

// object reads a JSON object that was checked before, its numbers as they are
// written: 1e3 stays 1e3, and a large integer keeps its last digit.
func object(raw []byte) (map[string]any, error) {
	m := map[string]any{}
	if len(bytes.TrimSpace(raw)) == 0 || string(bytes.TrimSpace(raw)) == "null" {
		return m, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return m, d.Decode(&m)
}

// merge gives settings with a change applied: objects member by member, null
// removes, everything else replaces. Its arguments stay as they are.
func merge(settings, change map[string]any) map[string]any {
	out := maps.Clone(settings)
	if out == nil {
		out = map[string]any{}
	}
	for name, v := range change {
		if v == nil {
			delete(out, name)
			continue
		}
		if inner, ok := v.(map[string]any); ok {
			old, _ := out[name].(map[string]any)
			out[name] = merge(old, inner)
			continue
		}
		out[name] = v
	}
	return out
}

// apply is what a delta asks for: the settings after it, and what of it is
// reported. The member of the device's own facts is nobody's to set.
func (s state) apply(delta map[string]any) (after, reported map[string]any, err error) {
	reported = maps.Clone(delta)
	_, facts := reported[factsMember]
	delete(reported, factsMember)
	after = merge(s.Settings, reported)
	b, err := json.Marshal(after)
	if err != nil || len(b) > maxSettings {
		return nil, nil, ErrSettings.Wrap(err, "They would have %d bytes.", len(b))
	}
	if facts && len(reported) == 0 {
		return nil, nil, ErrSettings.New("Only the device itself sets %q.", factsMember)
	}
	return after, reported, nil
}
