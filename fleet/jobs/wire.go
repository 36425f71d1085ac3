package jobs

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"hallmark/internal/strictjson"
)

// The messages, in the order of their members on the wire. Times are seconds.
type (
	summary struct {
		Job       string `json:"jobId"`
		QueuedAt  int64  `json:"queuedAt"`
		StartedAt int64  `json:"startedAt,omitempty"`
		UpdatedAt int64  `json:"lastUpdatedAt"`
		Version   int64  `json:"versionNumber"`
		Number    int64  `json:"executionNumber"`
	}
	execution struct {
		Job       string            `json:"jobId"`
		Thing     string            `json:"thingName,omitempty"`
		Document  any               `json:"jobDocument,omitempty"`
		Status    Status            `json:"status"`
		Details   map[string]string `json:"statusDetails,omitempty"`
		QueuedAt  int64             `json:"queuedAt"`
		StartedAt int64             `json:"startedAt,omitempty"`
		UpdatedAt int64             `json:"lastUpdatedAt"`
		Version   int64             `json:"versionNumber"`
		Number    int64             `json:"executionNumber"`
		Seconds   *int64            `json:"approximateSecondsBeforeTimedOut,omitempty"` // REST only
	}
	pendingAnswer struct {
		InProgress []summary `json:"inProgressJobs"`
		Queued     []summary `json:"queuedJobs"`
		Timestamp  int64     `json:"timestamp,omitempty"` // MQTT only
		Token      string    `json:"clientToken,omitempty"`
	}
	executionAnswer struct {
		Execution *execution `json:"execution,omitempty"`
		Timestamp int64      `json:"timestamp,omitempty"`
		Token     string     `json:"clientToken,omitempty"`
	}
	updateAnswer struct {
		State     *ExecutionState `json:"executionState,omitempty"`
		Document  any             `json:"jobDocument,omitempty"`
		Timestamp int64           `json:"timestamp,omitempty"`
		Token     string          `json:"clientToken,omitempty"`
	}
	rejection struct {
		Code      string          `json:"code"`
		Message   string          `json:"message"`
		Token     string          `json:"clientToken,omitempty"`
		Timestamp int64           `json:"timestamp"`
		State     *ExecutionState `json:"executionState,omitempty"`
	}
	notifyMessage struct {
		Jobs      map[Status][]summary `json:"jobs"`
		Timestamp int64                `json:"timestamp"`
	}
	nextMessage struct {
		Execution *execution `json:"execution,omitempty"`
		Timestamp int64      `json:"timestamp"`
	}
)

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func summaryOf(e *Execution) summary {
	return summary{e.Job, unix(e.QueuedAt), unix(e.StartedAt), unix(e.UpdatedAt), e.Version, e.Number}
}

func summariesOf(list []Execution) []summary {
	out := make([]summary, len(list))
	for i := range list {
		out[i] = summaryOf(&list[i])
	}
	return out
}

func wireOf(e *Execution) execution {
	return execution{Job: e.Job, Thing: string(e.Thing), Status: e.Status, Details: e.Details, QueuedAt: unix(e.QueuedAt), StartedAt: unix(e.StartedAt), UpdatedAt: unix(e.UpdatedAt), Version: e.Version, Number: e.Number}
}

func notifyOf(pending []Execution, now int64) notifyMessage {
	m := notifyMessage{map[Status][]summary{}, now}
	for i := range pending {
		e := &pending[i]
		m.Jobs[e.Status] = append(m.Jobs[e.Status], summaryOf(e))
	}
	return m
}

// mqtt is the execution on MQTT, where the document is JSON inside JSON.
func (v *View) mqtt() *execution {
	if v == nil {
		return nil
	}
	e := wireOf(&v.Execution)
	if v.Document != nil {
		e.Document = v.Document
	}
	return &e
}

// JSON is the execution on HTTPS, where the document is a text and the timer is
// shown.
func (v *View) JSON() ([]byte, error) {
	e := wireOf(&v.Execution)
	if v.Document != nil {
		e.Document = string(v.Document)
	}
	if at := v.Due(); !at.IsZero() {
		seconds := max(0, int64(at.Sub(v.now)/time.Second))
		e.Seconds = &seconds
	}
	return encode(e)
}

// PendingJSON is the answer of HTTPS to [Service.Pending].
func PendingJSON(inProgress, queued []Execution) ([]byte, error) {
	return encode(pendingAnswer{InProgress: summariesOf(inProgress), Queued: summariesOf(queued)})
}

// JSON is the answer to an update on HTTPS.
func (u *Updated) JSON() ([]byte, error) {
	a := updateAnswer{State: u.State}
	if u.Document != nil {
		a.Document = string(u.Document)
	}
	return encode(a)
}

// fields are the members of a request. A member that is null is not there.
type fields map[string]any

// readFields reads a request; nothing at all is a request without members.
func readFields(payload []byte) (fields, error) {
	if len(payload) == 0 {
		return fields{}, nil
	}
	v, err := strictjson.Generic(payload, strictjson.WithLimits(strictjson.Limits{Size: maxPayload}))
	if err != nil {
		return nil, ErrRequestJSON.Wrap(err, "")
	}
	f, ok := v.(map[string]any)
	if !ok {
		return nil, ErrRequestJSON.New("")
	}
	maps.DeleteFunc(f, func(_ string, v any) bool { return v == nil })
	return f, nil
}

func (f fields) token() (string, error) {
	v, ok := f["clientToken"]
	if !ok {
		return "", nil
	}
	s, ok := v.(string)
	if !ok || len(s) > MaxToken {
		return "", ErrRequest.New("The clientToken is a text of at most %d bytes.", MaxToken)
	}
	return s, nil
}

func (f fields) flag(name string, otherwise bool) (bool, error) {
	v, ok := f[name]
	if !ok {
		return otherwise, nil
	}
	b, ok := v.(bool)
	if !ok {
		return false, ErrRequest.New("%s is true or false.", name)
	}
	return b, nil
}

// number reads a whole number; texts says whether it may stand in quotes.
func (f fields) number(name string, low, high int64, texts bool) (*int64, error) {
	v, ok := f[name]
	if !ok {
		return nil, nil
	}
	var text string
	switch v := v.(type) {
	case json.Number:
		text = string(v)
	case string:
		if texts {
			text = v
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < low || n > high {
		return nil, ErrRequest.New("%s is not a whole number in its range.", name)
	}
	return &n, nil
}

// details reads statusDetails; nil if there are none.
func (f fields) details() (map[string]string, error) {
	v, ok := f["statusDetails"]
	if !ok {
		return nil, nil
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, ErrRequest.New("statusDetails is an object of texts.")
	}
	out := map[string]string{}
	for k, v := range object {
		s, ok := v.(string)
		if !ok {
			return nil, ErrRequest.New("statusDetails is an object of texts.")
		}
		out[k] = s
	}
	return out, nil
}

// stepMinutes reads stepTimeoutInMinutes; 0 if there is none.
func (f fields) stepMinutes() (int, error) {
	n, err := f.number("stepTimeoutInMinutes", noTimer, MaxTimer, false)
	if err != nil || n == nil {
		return 0, err
	}
	if *n == 0 {
		return 0, ErrRequest.New("stepTimeoutInMinutes is 1 to %d, or -1 for none.", MaxTimer)
	}
	return int(*n), nil
}

func (f fields) start() (in Start, err error) {
	if in.Details, err = f.details(); err == nil {
		in.StepMinutes, err = f.stepMinutes()
	}
	return in, err
}

func (f fields) update() (in Update, err error) {
	status, ok := f["status"].(string)
	if !ok {
		return in, ErrRequest.New("The status is missing.")
	}
	in.Status = Status(status)
	if in.Details, err = f.details(); err != nil {
		return in, err
	}
	if in.Expected, err = f.number("expectedVersion", 0, 1<<62, true); err != nil {
		return in, err
	}
	if in.Number, err = f.attempt(); err != nil {
		return in, err
	}
	if in.StepMinutes, err = f.stepMinutes(); err != nil {
		return in, err
	}
	if in.State, err = f.flag("includeJobExecutionState", false); err != nil {
		return in, err
	}
	in.Document, err = f.flag("includeJobDocument", false)
	return in, err
}

func (f fields) attempt() (int64, error) {
	n, err := f.number("executionNumber", 0, 1<<62, false)
	if err != nil || n == nil {
		return 0, err
	}
	return *n, nil
}

// ParseStart reads the body of a start-next request.
func ParseStart(body []byte) (Start, error) {
	f, err := readFields(body)
	if err != nil {
		return Start{}, err
	}
	return f.start()
}

// ParseUpdate reads the body of an update request.
func ParseUpdate(body []byte) (Update, error) {
	f, err := readFields(body)
	if err != nil {
		return Update{}, err
	}
	return f.update()
}

var detailKey = regexp.MustCompile(`^[a-zA-Z0-9:_-]+$`)

// checkDetails tells whether statusDetails and a step timer are possible.
func checkDetails(details map[string]string, stepMinutes int) error {
	if len(details) > MaxDetails {
		return ErrRequest.New("statusDetails has at most %d pairs.", MaxDetails)
	}
	for _, k := range slices.Sorted(maps.Keys(details)) {
		v := details[k]
		if len(k) > MaxDetailKey || !detailKey.MatchString(k) {
			return ErrRequest.New("A key of statusDetails has 1 to %d of a-z A-Z 0-9 : _ -", MaxDetailKey)
		}
		if !utf8.ValidString(v) || utf8.RuneCountInString(v) > MaxDetailValue || slices.ContainsFunc([]rune(v), unicode.IsControl) {
			return ErrRequest.New("A value of statusDetails has at most %d characters and no control characters.", MaxDetailValue)
		}
	}
	if stepMinutes < noTimer || stepMinutes > MaxTimer {
		return ErrRequest.New("stepTimeoutInMinutes is 1 to %d, or -1 for none.", MaxTimer)
	}
	return nil
}
