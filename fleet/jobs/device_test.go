package jobs_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rollout"
)

func TestService_TellsTheStoryOfAnExecution(t *testing.T) {
	s := newSite(t, jobs.Config{})
	s.want("T/jobs/get", ``, "accepted", `{"inProgressJobs":[],"queuedJobs":[],"timestamp":100000}`)
	s.want("T/jobs/start-next", ``, "accepted", `{"timestamp":100000}`)
	s.want("T/jobs/$next/get", `{"clientToken":"0:T"}`, "accepted", `{"timestamp":100000,"clientToken":"0:T"}`)
	s.want("T/jobs/none/get", `{"clientToken":"x"}`, "rejected", `{"code":"ResourceNotFound","message":"There is no such job execution.","clientToken":"x","timestamp":100000}`)

	s.create("j1", jobs.Spec{Targets: []string{"thing/T"}, Document: `{"do": 1.0, "and":["<x>"]}`})
	s.told("") // nobody hears of it before the roll-out
	s.want("T/jobs/j1/get", ``, "rejected", `{"code":"ResourceNotFound","message":"There is no such job execution.","timestamp":100000}`)
	s.pass(time.Second)
	s.told("$aws/things/T/jobs/",
		`notify {"jobs":{"QUEUED":[{"jobId":"j1","queuedAt":100001,"lastUpdatedAt":100001,"versionNumber":1,"executionNumber":1}]},"timestamp":100001}`,
		`notify-next {"execution":{"jobId":"j1","jobDocument":{"do":1.0,"and":["<x>"]},"status":"QUEUED","queuedAt":100001,"lastUpdatedAt":100001,"versionNumber":1,"executionNumber":1},"timestamp":100001}`)
	s.create("j2", jobs.Spec{Targets: []string{"arn:aws:iot:eu:1:thing/T"}})
	s.pass(time.Second)
	// The second job enters the list; the first one stays first.
	if got := s.tape.take("$aws/things/T/jobs/"); len(got) != 1 || !strings.HasPrefix(got[0], `notify {"jobs":{"QUEUED":[{"jobId":"j1",`) || !strings.Contains(got[0], `{"jobId":"j2",`) {
		t.Errorf("second job: %s", got)
	}
	s.want("T/jobs/$next/get", `{"includeJobDocument":false}`, "accepted", `{"execution":{"jobId":"j1","thingName":"T","status":"QUEUED","queuedAt":100001,"lastUpdatedAt":100001,"versionNumber":1,"executionNumber":1},"timestamp":100002}`)
	s.now = s.now.Add(time.Second)
	s.want("T/jobs/start-next", `{"clientToken":"c","statusDetails":{"step":"one"}}`, "accepted",
		`{"execution":{"jobId":"j1","thingName":"T","jobDocument":{"do":1.0,"and":["<x>"]},"status":"IN_PROGRESS","statusDetails":{"step":"one"},"queuedAt":100001,"startedAt":100003,"lastUpdatedAt":100003,"versionNumber":2,"executionNumber":1},"timestamp":100003,"clientToken":"c"}`)
	s.told("") // not on QUEUED to IN_PROGRESS
	// Again: the same, unchanged.
	if _, b := s.send("T/jobs/start-next", `{"statusDetails":{"step":"other"}}`); !strings.Contains(b, `"statusDetails":{"step":"one"}`) || !strings.Contains(b, `"versionNumber":2`) {
		t.Errorf("again: %s", b)
	}
	s.want("T/jobs/get", `{}`, "accepted", `{"inProgressJobs":[{"jobId":"j1","queuedAt":100001,"startedAt":100003,"lastUpdatedAt":100003,"versionNumber":2,"executionNumber":1}],"queuedJobs":[{"jobId":"j2","queuedAt":100002,"lastUpdatedAt":100002,"versionNumber":1,"executionNumber":1}],"timestamp":100003}`)
	// Reports: details absent stay, present replace.
	s.want("T/jobs/j1/update", `{"status":"IN_PROGRESS","expectedVersion":"2","includeJobExecutionState":true,"includeJobDocument":true,"clientToken":"u"}`, "accepted",
		`{"executionState":{"status":"IN_PROGRESS","statusDetails":{"step":"one"},"versionNumber":3},"jobDocument":{"do":1.0,"and":["<x>"]},"timestamp":100003,"clientToken":"u"}`)
	s.want("T/jobs/j1/update", `{"status":"IN_PROGRESS","expectedVersion":2,"clientToken":"u"}`, "rejected",
		`{"code":"VersionMismatch","message":"The version is 3, not 2.","clientToken":"u","timestamp":100003,"executionState":{"status":"IN_PROGRESS","statusDetails":{"step":"one"},"versionNumber":3}}`)
	s.want("T/jobs/j1/update", `{"status":"IN_PROGRESS","statusDetails":{"self_test":"ready","updatedBy":"0x1"}}`, "accepted", `{"timestamp":100003}`)
	if _, b := s.send("T/jobs/j1/get", ``); !strings.Contains(b, `"statusDetails":{"self_test":"ready","updatedBy":"0x1"}`) {
		t.Errorf("details after a restart: %s", b)
	}
	s.told("")
	// The end: the list gets shorter, the next one is first, the back-end hears.
	s.want("T/jobs/j1/update", `{"status":"SUCCEEDED","expectedVersion":4}`, "accepted", `{"timestamp":100003}`)
	got := s.tape.take("")
	if len(got) != 3 || !strings.HasPrefix(got[0], `$aws/things/T/jobs/notify {"jobs":{"QUEUED":[{"jobId":"j2"`) || !strings.HasPrefix(got[1], `$aws/things/T/jobs/notify-next {"execution":{"jobId":"j2","jobDocument":{"do":"j2"},"status":"QUEUED"`) ||
		!strings.HasPrefix(got[2], `$aws/events/jobExecution/j1/succeeded {"eventType":"JOB_EXECUTION","eventId":"`) || !strings.HasSuffix(got[2], `"timestamp":100003,"operation":"succeeded","jobId":"j1","thingArn":"arn:aws:iot::main:thing/T","status":"SUCCEEDED","statusDetails":{"self_test":"ready","updatedBy":"0x1"}}`) {
		t.Errorf("end: %s", strings.Join(got, "\n"))
	}
	s.want("T/jobs/j1/update", `{"status":"FAILED","clientToken":"late"}`, "rejected",
		`{"code":"InvalidStateTransition","message":"The execution is SUCCEEDED and cannot become FAILED.","clientToken":"late","timestamp":100003,"executionState":{"status":"SUCCEEDED","statusDetails":{"self_test":"ready","updatedBy":"0x1"},"versionNumber":5}}`)
	if k, b := s.send("T/jobs/j1/get", `{"executionNumber":1}`); k != "accepted" || !strings.Contains(b, `"status":"SUCCEEDED"`) {
		t.Errorf("a finished one is described: %s %s", k, b)
	}
	s.pass(time.Second)
	if got := s.tape.take("$aws/events/job/j1/"); len(got) != 1 || !strings.HasPrefix(got[0], `completed {"eventType":"JOB","eventId":"`) ||
		!strings.HasSuffix(got[0], `"timestamp":100004,"operation":"completed","jobId":"j1","status":"COMPLETED","targetSelection":"SNAPSHOT","targets":["arn:aws:iot::main:thing/T"],"description":"","createdAt":100000,"lastUpdatedAt":100004,"completedAt":100004,"jobProcessDetails":{"numberOfCanceledThings":0,"numberOfSucceededThings":1,"numberOfFailedThings":0,"numberOfRejectedThings":0,"numberOfQueuedThings":0,"numberOfInProgressThings":0,"numberOfRemovedThings":0,"numberOfTimedOutThings":0}}`) {
		t.Errorf("completed: %s", got)
	}
	// From QUEUED straight to an end; then nothing is left.
	s.want("T/jobs/j2/update", `{"status":"REJECTED"}`, "accepted", `{"timestamp":100004}`)
	s.told("$aws/things/T/jobs/", `notify {"jobs":{},"timestamp":100004}`, `notify-next {"timestamp":100004}`)
}

func TestService_NotifiesWhenAnotherJobBecomesFirst(t *testing.T) {
	s := newSite(t, jobs.Config{})
	s.create("a", jobs.Spec{Targets: []string{"T"}})
	s.pass(time.Second)
	s.create("b", jobs.Spec{Targets: []string{"T"}})
	s.pass(time.Second)
	s.tape.take("")
	s.update("T", "b", jobs.InProgress) // in progress goes before queued
	if got := s.tape.take("$aws/things/T/jobs/"); len(got) != 1 || !strings.HasPrefix(got[0], `notify-next {"execution":{"jobId":"b","jobDocument":{"do":"b"},"status":"IN_PROGRESS"`) {
		t.Errorf("%s", got)
	}
}

func TestHandle_RefusesWithTheCodesOfTheWire(t *testing.T) {
	s := newSite(t, jobs.Config{})
	s.create("j", jobs.Spec{Targets: []string{"T"}})
	s.pass(time.Second)
	long := strings.Repeat("x", 1025)
	many := `{"a":"","b":"","c":"","d":"","e":"","f":"","g":"","h":"","i":"","j":"","k":""}`
	for name, c := range map[string]struct{ topic, payload, code string }{
		"no operation":          {"T/jobs/stop", ``, "InvalidTopic"},
		"no operation of a job": {"T/jobs/j/stop", ``, "InvalidTopic"},
		"too deep":              {"T/jobs/j/get/x", ``, "InvalidTopic"},
		"nothing":               {"T/jobs", ``, "InvalidTopic"},
		"not JSON":              {"T/jobs/get", `{`, "InvalidJson"},
		"not UTF-8":             {"T/jobs/get", "{\"clientToken\":\"\xff\"}", "InvalidJson"},
		"a list":                {"T/jobs/j/update", `[]`, "InvalidJson"},
		"no status":             {"T/jobs/j/update", ``, "InvalidRequest"},
		"status of the service": {"T/jobs/j/update", `{"status":"CANCELED"}`, "InvalidRequest"},
		"status is a number":    {"T/jobs/j/update", `{"status":1}`, "InvalidRequest"},
		"details are a list":    {"T/jobs/j/update", `{"status":"FAILED","statusDetails":[]}`, "InvalidRequest"},
		"a detail is a number":  {"T/jobs/j/update", `{"status":"FAILED","statusDetails":{"a":1}}`, "InvalidRequest"},
		"eleven details":        {"T/jobs/j/update", `{"status":"FAILED","statusDetails":` + many + `}`, "InvalidRequest"},
		"long detail":           {"T/jobs/j/update", `{"status":"FAILED","statusDetails":{"a":"` + long + `"}}`, "InvalidRequest"},
		"long key":              {"T/jobs/j/update", `{"status":"FAILED","statusDetails":{"` + long[:129] + `":""}}`, "InvalidRequest"},
		"version is a word":     {"T/jobs/j/update", `{"status":"FAILED","expectedVersion":"one"}`, "InvalidRequest"},
		"no such version":       {"T/jobs/j/update", `{"status":"FAILED","expectedVersion":0}`, "VersionMismatch"},
		"no such attempt":       {"T/jobs/j/update", `{"status":"FAILED","executionNumber":2}`, "ResourceNotFound"},
		"no such job":           {"T/jobs/k/update", `{"status":"FAILED"}`, "ResourceNotFound"},
		"another thing":         {"U/jobs/j/update", `{"status":"FAILED"}`, "ResourceNotFound"},
		"update of next":        {"T/jobs/$next/update", `{"status":"FAILED"}`, "ResourceNotFound"},
		"step timer of 0":       {"T/jobs/start-next", `{"stepTimeoutInMinutes":0}`, "InvalidRequest"},
		"step timer too long":   {"T/jobs/start-next", `{"stepTimeoutInMinutes":10081}`, "InvalidRequest"},
		"long token":            {"T/jobs/get", `{"clientToken":"` + long[:65] + `"}`, "InvalidRequest"},
		"flag is a text":        {"T/jobs/j/get", `{"includeJobDocument":"no"}`, "InvalidRequest"},
		"name of the thing":     {"T T/jobs/get", ``, "InvalidRequest"},
	} {
		t.Run(name, func(t *testing.T) {
			kind, body := s.send(c.topic, c.payload)
			var got struct{ Code, Message string }
			if err := json.Unmarshal([]byte(body), &got); err != nil || kind != "rejected" || got.Code != c.code || got.Message == "" {
				t.Errorf("got %s %.200s", kind, body)
			}
		})
	}
	if j := s.job("j"); j.Counts.Queued != 1 {
		t.Errorf("a refused request changed something: %+v", j.Counts)
	}
}

// FuzzHandle: whatever a device sends, it gets one answer of JSON, and the
// service's own failures are not its doing.
func FuzzHandle(f *testing.F) {
	for _, s := range []string{``, `{}`, `{"status":"IN_PROGRESS","expectedVersion":"1","statusDetails":{"a":"b"},"stepTimeoutInMinutes":-1,"clientToken":"x"}`, `{"executionNumber":1e3}`, `[null]`, `{"status":"FAILED","executionNumber":99999999999999999999}`, `{"statusDetails":{"":"` + "\x7f" + `"}}`} {
		for _, op := range []string{"get", "start-next", "j/get", "j/update", "$next/get"} {
			f.Add(op, []byte(s))
		}
	}
	s := newSite(f, jobs.Config{})
	s.create("j", jobs.Spec{Targets: []string{"T"}})
	s.pass(time.Second)
	row := s.Topics()[0]
	f.Fuzz(func(t *testing.T, operation string, payload []byte) {
		topic := "$aws/things/T/jobs/" + operation
		n := 0
		err := row.Handle(t.Context(), fleet.Request{Sender: fleet.Sender{Tenant: "main"}, Topic: topic, Levels: strings.Split(topic, "/"), Payload: payload, Reply: func(at string, b []byte) {
			n++
			if !json.Valid(b) || strings.Contains(string(b), "InternalError") {
				t.Errorf("%s %s", at, b)
			}
		}})
		if err != nil || n != 1 {
			t.Errorf("%d answers, %v", n, err)
		}
	})
}

func TestService_RetriesAndTimesOut(t *testing.T) {
	s := newSite(t, jobs.Config{})
	s.create("j", jobs.Spec{Targets: []string{"T"}, Timeout: jobs.Timeout{InProgressMinutes: 10},
		Retry: rollout.Retry{Criteria: []rollout.RetryCriterion{{FailureType: rollout.Failed, Retries: 1}, {FailureType: rollout.TimedOut, Retries: 1}}}})
	s.pass(time.Second)
	start := func(step string) {
		t.Helper()
		if k, b := s.send("T/jobs/start-next", step); k != "accepted" || !strings.Contains(b, `"IN_PROGRESS"`) {
			t.Fatalf("%s %s", k, b)
		}
	}
	state := func(number int64) jobs.Status {
		t.Helper()
		v, err := s.Describe(t.Context(), "main", "T", "j", number, false)
		must(t, err)
		return v.Status
	}
	// A step timer ends the attempt before the job's timer does.
	start(`{"stepTimeoutInMinutes":5}`)
	s.pass(5*time.Minute - time.Millisecond)
	if got := state(1); got != jobs.InProgress {
		t.Fatal(got)
	}
	s.tape.take("")
	s.pass(time.Millisecond)
	if got := state(1); got != jobs.TimedOut {
		t.Fatal(got)
	}
	// The second attempt is another execution: the device is told of both.
	got := s.tape.take("")
	if len(got) != 3 || !strings.Contains(got[0], `"executionNumber":2`) || !strings.HasPrefix(got[1], "$aws/things/T/jobs/notify-next ") || !strings.HasPrefix(got[2], "$aws/events/jobExecution/j/timed_out ") {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	if c := s.job("j").Counts; c != (jobs.Counts{Queued: 1}) {
		t.Errorf("a retried failure is none: %+v", c)
	}
	s.update("T", "j", jobs.Failed)
	if got := state(0); got != jobs.Queued {
		t.Fatalf("after a failure: %s", got)
	}
	// A step cannot last longer than the whole; -1 drops only the step's timer.
	start(`{"stepTimeoutInMinutes":60}`)
	s.now = s.now.Add(9 * time.Minute)
	if k, b := s.send("T/jobs/j/update", `{"status":"IN_PROGRESS","stepTimeoutInMinutes":-1}`); k != "accepted" {
		t.Fatal(b)
	}
	v, err := s.Describe(t.Context(), "main", "T", "j", 0, false)
	must(t, err)
	if b, err := v.JSON(); err != nil || !strings.Contains(string(b), `"approximateSecondsBeforeTimedOut":60`) {
		t.Errorf("%s %v", b, err)
	}
	s.pass(time.Minute)
	if got := state(3); got != jobs.TimedOut {
		t.Fatal(got)
	}
	if j := s.job("j"); j.Status != jobs.JobCompleted || j.Counts != (jobs.Counts{TimedOut: 1}) {
		t.Errorf("%s %+v", j.Status, j.Counts)
	}
	all, err := s.ExecutionsOfThing(t.Context(), "main", "T", "", "", 0, 10)
	if err != nil || len(all) != 3 {
		t.Errorf("%v %v", all, err)
	}
}
