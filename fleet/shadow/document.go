package shadow

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Document is the content of one shadow.
type Document struct {
	Desired, Reported         map[string]any // empty: the section does not exist
	desiredMeta, reportedMeta map[string]any
}

// apply gives the document after an update.
func (d Document) apply(r *request, now int64) Document {
	if r.clear {
		return Document{}
	}
	if r.desired.given {
		if r.desired.patch == nil {
			d.Desired, d.desiredMeta = nil, nil
		} else {
			d.Desired, d.desiredMeta = merge(d.Desired, d.desiredMeta, r.desired.patch, now)
		}
	}
	if r.reported.given {
		if r.reported.patch == nil {
			d.Reported, d.reportedMeta = nil, nil
		} else {
			d.Reported, d.reportedMeta = merge(d.Reported, d.reportedMeta, r.reported.patch, now)
		}
	}
	return d
}

// Delta is the part of Desired that Reported lacks or has otherwise; nil if
// there is none.
func (d Document) Delta() map[string]any {
	state, _ := diff(d.Desired, d.desiredMeta, d.Reported)
	return state
}

// size is what counts against the limit: both sections as JSON.
func (d Document) size() (n int, err error) {
	for _, s := range []map[string]any{d.Desired, d.Reported} {
		if len(s) > 0 {
			b, err := encode(s)
			if err != nil {
				return 0, err
			}
			n += len(b)
		}
	}
	return n, nil
}

// stored is a document in the database. Metadata leaves are bare numbers there:
// {"timestamp":1} could as well be an object with a member of that name.
type stored struct {
	Desired      map[string]any `json:"desired,omitempty"`
	Reported     map[string]any `json:"reported,omitempty"`
	DesiredMeta  map[string]any `json:"desiredMeta,omitempty"`
	ReportedMeta map[string]any `json:"reportedMeta,omitempty"`
}

func (d Document) marshal() ([]byte, error) {
	return encode(stored{d.Desired, d.Reported, d.desiredMeta, d.reportedMeta})
}

// UnmarshalDocument reads the stored form and checks that state and metadata
// fit together.
func UnmarshalDocument(b []byte) (Document, error) {
	var s stored
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&s); err != nil {
		return Document{}, ErrDocument.Wrap(err, "")
	}
	for _, m := range []map[string]any{s.DesiredMeta, s.ReportedMeta} {
		if _, err := seconds(m); err != nil {
			return Document{}, ErrDocument.Wrap(err, "")
		}
	}
	if !mirrors(s.Desired, s.DesiredMeta) || !mirrors(s.Reported, s.ReportedMeta) {
		return Document{}, ErrDocument.New("State and metadata differ in shape.")
	}
	return Document{s.Desired, s.Reported, s.DesiredMeta, s.ReportedMeta}, nil
}

// seconds turns the numbers of stored metadata into what merge makes.
func seconds(v any) (any, error) {
	switch v := v.(type) {
	case json.Number:
		return strconv.ParseInt(string(v), 10, 64)
	case map[string]any:
		for k, e := range v {
			n, err := seconds(e)
			if err != nil {
				return nil, err
			}
			v[k] = n
		}
		return v, nil
	case []any:
		for i, e := range v {
			n, err := seconds(e)
			if err != nil {
				return nil, err
			}
			v[i] = n
		}
		return v, nil
	}
	return nil, fmt.Errorf("shadow: metadata holds a %T", v)
}

// mirrors tells whether metadata has the shape of the state.
func mirrors(state, meta any) bool {
	switch s := state.(type) {
	case map[string]any:
		m, ok := meta.(map[string]any)
		if !ok || len(s) != len(m) {
			return false
		}
		for k, v := range s {
			if below, ok := m[k]; !ok || !mirrors(v, below) {
				return false
			}
		}
		return true
	case []any:
		m, ok := meta.([]any)
		return ok && slices.EqualFunc(s, m, mirrors)
	case nil:
		return false
	}
	_, ok := meta.(int64)
	return ok
}

// The messages, in the order of their members on the wire.
type (
	stateOf struct {
		Desired  any `json:"desired,omitempty"`
		Reported any `json:"reported,omitempty"`
		Delta    any `json:"delta,omitempty"`
	}
	message struct {
		State     any    `json:"state,omitempty"`
		Metadata  any    `json:"metadata,omitempty"`
		Version   int64  `json:"version"`
		Timestamp int64  `json:"timestamp"`
		Token     string `json:"clientToken,omitempty"`
	}
	side struct {
		State    stateOf `json:"state"`
		Metadata stateOf `json:"metadata"`
		Version  int64   `json:"version"`
	}
	documents struct {
		Previous  *side  `json:"previous,omitempty"`
		Current   side   `json:"current"`
		Timestamp int64  `json:"timestamp"`
		Token     string `json:"clientToken,omitempty"`
	}
	deleted struct {
		Version   int64  `json:"version"`
		Timestamp int64  `json:"timestamp"`
		Token     string `json:"clientToken,omitempty"`
	}
	rejected struct {
		Code      int    `json:"code"`
		Message   string `json:"message"`
		Timestamp int64  `json:"timestamp,omitempty"`
		Token     string `json:"clientToken,omitempty"`
	}
)

// orAbsent makes an empty section one that the JSON does not show.
func orAbsent(m map[string]any) any {
	if len(m) == 0 {
		return nil
	}
	return m
}

func (d Document) state(delta bool) stateOf {
	s := stateOf{Desired: orAbsent(d.Desired), Reported: orAbsent(d.Reported)}
	if delta {
		s.Delta = orAbsent(d.Delta())
	}
	return s
}

func (d Document) metadata() stateOf {
	return stateOf{Desired: timestamps(d.desiredMeta), Reported: timestamps(d.reportedMeta)}
}

func (d Document) side(version int64) side { return side{d.state(false), d.metadata(), version} }

// timestamps is metadata on the wire, nil if there is none.
func timestamps(meta map[string]any) any {
	if len(meta) == 0 {
		return nil
	}
	return timestamp(meta)
}

func timestamp(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = timestamp(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = timestamp(e)
		}
		return out
	}
	return map[string]any{"timestamp": v}
}

// accepted is the answer to an update: the state as it was sent, with its nulls.
func (r *request) accepted(version int64, now time.Time) message {
	m := message{Version: version, Timestamp: now.Unix(), Token: r.token, Metadata: map[string]any{}}
	if r.clear {
		m.State = json.RawMessage("null")
		return m
	}
	state, meta := map[string]any{}, map[string]any{}
	for name, s := range map[string]section{"desired": r.desired, "reported": r.reported} {
		if !s.given {
			continue
		}
		if s.patch == nil {
			state[name] = nil
			continue
		}
		state[name] = s.patch
		meta[name] = timestamp(stampSent(s.patch, now.Unix()))
	}
	m.State, m.Metadata = state, meta
	return m
}

// encode writes JSON without the escapes that only web pages need.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
