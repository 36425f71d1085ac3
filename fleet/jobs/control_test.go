package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rollout"
	"hallmark/internal/fault"
)

func TestService_CancelsAndDeletes(t *testing.T) {
	s := newSite(t, jobs.Config{})
	ctx := t.Context()
	s.groups.set("g", things(450)...)
	spec := jobs.Spec{Targets: []string{"thinggroup/g"}, Rollout: rollout.Rate{MaximumPerMinute: 300}}
	s.create("j", spec)
	s.pass(time.Second)
	s.update("t00001", "j", jobs.InProgress)
	one := int64(1)
	if err := s.CancelExecution(ctx, "main", "j", "t00001", false, nil, nil); !errors.Is(err, jobs.ErrTransition) {
		t.Errorf("in progress: %v", err)
	}
	if err := s.CancelExecution(ctx, "main", "j", "t00001", true, &one, nil); !errors.Is(err, jobs.ErrVersion) {
		t.Errorf("version: %v", err)
	}
	must(t, s.CancelExecution(ctx, "main", "j", "t00001", true, nil, map[string]string{"why": "test"}))
	must(t, s.CancelExecution(ctx, "main", "j", "t00002", false, nil, nil))
	if err := s.CancelExecution(ctx, "main", "j", "t00002", true, nil, nil); !errors.Is(err, jobs.ErrTransition) {
		t.Errorf("cancelled already: %v", err)
	}
	s.update("t00003", "j", jobs.InProgress)
	if err := s.DeleteJob(ctx, "main", "j", false); !errors.Is(err, jobs.ErrJobState) {
		t.Errorf("delete: %v", err)
	}
	j, err := s.CancelJob(ctx, "main", "j", jobs.CancelOptions{Comment: "wrong one"})
	must(t, err)
	if j.Counts != (jobs.Counts{InProgress: 1, Canceled: 299}) || j.Status != jobs.JobCanceled || j.Active || j.Comment != "wrong one" {
		t.Errorf("%s %+v", j.Status, j.Counts)
	}
	if v, err := s.StartNext(ctx, "main", "t00005", jobs.Start{}); v != nil || err != nil {
		t.Errorf("a cancelled job was started: %v %v", v, err)
	}
	if _, err := s.CancelJob(ctx, "main", "j", jobs.CancelOptions{}); !errors.Is(err, jobs.ErrJobState) {
		t.Errorf("again: %v", err)
	}
	j, err = s.CancelJob(ctx, "main", "j", jobs.CancelOptions{Force: true})
	must(t, err)
	if j.Counts != (jobs.Counts{Canceled: 300}) {
		t.Errorf("%+v", j.Counts)
	}
	s.create("k", spec)
	s.pass(time.Second)
	s.update("t00003", "k", jobs.InProgress)
	s.tape.take("")
	must(t, s.DeleteJob(ctx, "main", "k", true))
	must(t, s.DeleteJob(ctx, "main", "j", false))
	if _, err := s.Job(ctx, "main", "k"); !errors.Is(err, jobs.ErrJobUnknown) {
		t.Errorf("deleted: %v", err)
	}
	got := s.tape.take("")
	for _, want := range []string{`$aws/things/t00003/jobs/notify {"jobs":{},`, `$aws/things/t00003/jobs/notify-next {"timestamp":`, "$aws/events/job/k/deletion_in_progress ", "$aws/events/job/k/deleted ", "$aws/events/jobExecution/k/deleted "} {
		if !slices.ContainsFunc(got, func(m string) bool { return strings.HasPrefix(m, want) }) {
			t.Errorf("nobody was told: %s", want)
		}
	}
	if list, err := s.ExecutionsOfThing(ctx, "main", "t00003", "", "", 0, 10); err != nil || len(list) > 0 {
		t.Errorf("left over: %v %v", list, err)
	}
	s.create("k", spec) // the name is free again
}

// TestService_StartsNothingOfAJobThatEnded stands between the cancellation of a
// very large job and the loop.
func TestService_StartsNothingOfAJobThatEnded(t *testing.T) {
	s := newSite(t, jobs.Config{})
	ctx := t.Context()
	s.create("a", jobs.Spec{Targets: []string{"T", "U"}})
	s.create("b", jobs.Spec{Targets: []string{"T"}})
	s.pass(time.Second)
	j := s.job("a")
	j.Status, j.Active, j.Version = jobs.JobCanceled, true, j.Version+1
	must(t, s.db.PutJob(ctx, j, j.Version-1))
	v, err := s.StartNext(ctx, "main", "T", jobs.Start{})
	if err != nil || v == nil || v.Job != "b" {
		t.Errorf("%v %v", v, err)
	}
	if _, err := s.Update(ctx, "main", "U", "a", jobs.Update{Status: jobs.InProgress}); !errors.Is(err, jobs.ErrTransition) {
		t.Errorf("%v", err)
	}
	if c := s.job("a").Counts; c != (jobs.Counts{Queued: 1, Canceled: 1}) {
		t.Errorf("%+v", c)
	}
	s.pass(time.Second)
	if c := s.job("a").Counts; c != (jobs.Counts{Canceled: 2}) {
		t.Errorf("%+v", c)
	}
}

func TestService_PutsTheDocumentTogether(t *testing.T) {
	ctx := t.Context()
	n := 0
	sign := func(_ context.Context, tenant string, thing fleet.ThingName, url string, expires time.Time) (string, error) {
		n++
		return fmt.Sprintf("%s?thing=%s&until=%d&n=%d&x=\"", url, thing, expires.Unix(), n), nil
	}
	s := newSite(t, jobs.Config{Sign: sign})
	document := `{"url":"${aws:iot:s3-presigned-url:https:\/\/s3.eu.amazonaws.com/b/${aws:iot:parameter:key}}", "n": 1.50,"text":"${aws:iot:parameter:text}${aws:iot:parameter:text}"}`
	s.create("j", jobs.Spec{Targets: []string{"T"}, Document: document, Parameters: map[string]string{"key": "f.bin", "text": "a\"},{\"b\n"}, Presign: jobs.Presign{ExpiresInSec: 60}})
	got, err := s.Document(ctx, "main", "j")
	if want := `{"url":"${aws:iot:s3-presigned-url:https:\/\/s3.eu.amazonaws.com/b/f.bin}", "n": 1.50,"text":"a\"},{\"b\na\"},{\"b\n"}`; err != nil || got != want {
		t.Errorf("for people: %s %v", got, err)
	}
	s.pass(time.Second)
	for i := 3; i < 5; i++ { // one was made to see that it can be, one for notify-next
		v, err := s.Describe(ctx, "main", "T", jobs.Next, 0, true)
		must(t, err)
		if want := fmt.Sprintf(`{"url":"https://s3.eu.amazonaws.com/b/f.bin?thing=T&until=100061&n=%d&x=\"", "n": 1.50,"text":"a\"},{\"b\na\"},{\"b\n"}`, i); string(v.Document) != want {
			t.Errorf("for the device: %s", v.Document)
		}
	}
	for name, c := range map[string]struct {
		document   string
		parameters map[string]string
		want       *fault.Definition
	}{
		"not JSON":              {`{"a":}`, nil, jobs.ErrDocument},
		"parameter without":     {`{"a":"${aws:iot:parameter:x}"}`, nil, jobs.ErrDocument},
		"does not end":          {`{"a":"${aws:iot:parameter:x"`, nil, jobs.ErrDocument},
		"unknown substitution":  {`{"a":"${aws:iot:secret:x}"}`, nil, jobs.ErrDocument},
		"unknown in a value":    {`{"a":"${aws:iot:parameter:x}"}`, map[string]string{"x": "${aws:iot:parameter:y}"}, jobs.ErrDocument},
		"plain HTTP":            {`{"a":"${aws:iot:s3-presigned-url:http://x}"}`, nil, jobs.ErrDocument},
		"too large":             {`"` + strings.Repeat("x", jobs.MaxDocument) + `"`, nil, jobs.ErrDocument},
		"too large with values": {`["${aws:iot:parameter:x}","${aws:iot:parameter:x}"]`, map[string]string{"x": strings.Repeat("x", jobs.MaxDocument/2)}, jobs.ErrDocument},
		"eleven substitutions":  {`["` + strings.Repeat("${aws:iot:parameter:x}", 11) + `"]`, map[string]string{"x": ""}, jobs.ErrDocument},
	} {
		if _, err := s.CreateJob(ctx, "main", "bad", jobs.Spec{Targets: []string{"T"}, Document: c.document, Parameters: c.parameters}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	without := newSite(t, jobs.Config{})
	if _, err := without.CreateJob(ctx, "main", "j", jobs.Spec{Targets: []string{"T"}, Document: document, Parameters: map[string]string{"key": "", "text": ""}}); !errors.Is(err, jobs.ErrArtifacts) {
		t.Errorf("no artifacts: %v", err)
	}
}

// TestCreateJob_RefusesAddressesThatNobodySigns: what a device could not be given is said
// to who makes the job, with the signer's code.
func TestCreateJob_RefusesAddressesThatNobodySigns(t *testing.T) {
	foreign := errors.New("foreign")
	s := newSite(t, jobs.Config{Sign: func(_ context.Context, _ string, _ fleet.ThingName, url string, _ time.Time) (string, error) {
		if !strings.HasPrefix(url, "https://ours/") {
			return "", foreign
		}
		return url, nil
	}})
	spec := jobs.Spec{Targets: []string{"T"}, Document: `{"url":"${aws:iot:s3-presigned-url:https://theirs/${aws:iot:parameter:key}}"}`, Parameters: map[string]string{"key": "f.bin"}}
	if _, err := s.CreateJob(t.Context(), "main", "j", spec); !errors.Is(err, foreign) {
		t.Errorf("%v", err)
	}
	if _, err := s.Job(t.Context(), "main", "j"); !errors.Is(err, jobs.ErrJobUnknown) {
		t.Errorf("it is there: %v", err)
	}
	spec.Document = strings.ReplaceAll(spec.Document, "theirs", "ours")
	s.create("j", spec)
}

func TestCreateJob_RefusesWhatCannotBe(t *testing.T) {
	s := newSite(t, jobs.Config{})
	ctx := t.Context()
	s.create("j", jobs.Spec{Targets: []string{"T"}})
	good := func() jobs.Spec { return jobs.Spec{Targets: []string{"T"}, Document: "{}"} }
	for name, c := range map[string]struct {
		id     string
		change func(*jobs.Spec)
		want   *fault.Definition
	}{
		"taken":              {"j", func(*jobs.Spec) {}, jobs.ErrJobExists},
		"no name":            {"", func(*jobs.Spec) {}, jobs.ErrJobInvalid},
		"name with a dollar": {"$next", func(*jobs.Spec) {}, jobs.ErrJobInvalid},
		"no target":          {"n", func(s *jobs.Spec) { s.Targets = nil }, jobs.ErrJobInvalid},
		"101 targets":        {"n", func(s *jobs.Spec) { s.Targets = slices.Repeat([]string{"T"}, 101) }, jobs.ErrJobInvalid},
		"target of a kind":   {"n", func(s *jobs.Spec) { s.Targets = []string{"cert/x"} }, jobs.ErrJobInvalid},
		"unknown thing":      {"n", func(s *jobs.Spec) { s.Targets = []string{"thing/nobody"} }, jobs.ErrTarget},
		"unknown group":      {"n", func(s *jobs.Spec) { s.Targets = []string{"thinggroup/none"} }, jobs.ErrTarget},
		"unknown name":       {"n", func(s *jobs.Spec) { s.Targets = []string{"nobody"} }, jobs.ErrTarget},
		"selection":          {"n", func(s *jobs.Spec) { s.Selection = "SOME" }, jobs.ErrJobInvalid},
		"timeout":            {"n", func(s *jobs.Spec) { s.Timeout.InProgressMinutes = 10081 }, jobs.ErrJobInvalid},
		"presigned for long": {"n", func(s *jobs.Spec) { s.Presign.ExpiresInSec = 3601 }, jobs.ErrJobInvalid},
		"rate":               {"n", func(s *jobs.Spec) { s.Rollout.MaximumPerMinute = 1001 }, rollout.ErrRate},
		"retry of time-outs": {"n", func(s *jobs.Spec) {
			s.Retry.Criteria = []rollout.RetryCriterion{{FailureType: rollout.TimedOut, Retries: 1}}
		}, rollout.ErrRetry},
		"schedule over": {"n", func(sp *jobs.Spec) { sp.Schedule.End = s.now }, jobs.ErrJobInvalid},
	} {
		spec := good()
		c.change(&spec)
		if _, err := s.CreateJob(ctx, "main", c.id, spec); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A thing is written as it is registered.
	s.create("spelled", jobs.Spec{Targets: []string{"loud", "arn:aws:iot:eu:1:thing/loud", "thing/loud"}})
	if got := s.job("spelled").Targets; !slices.Equal(got, []string{"thing/LOUD", "arn:aws:iot:eu:1:thing/LOUD", "thing/LOUD"}) {
		t.Errorf("%v", got)
	}
	// Another tenant may use the name, and sees nothing of this one (S24).
	if _, err := s.CreateJob(ctx, "other", "j", good()); err != nil {
		t.Error(err)
	}
	s.pass(time.Second)
	if _, err := s.Describe(ctx, "third", "T", "j", 0, false); !errors.Is(err, jobs.ErrExecution) {
		t.Errorf("%v", err)
	}
	if list, err := s.Jobs(ctx, "other", "", "", 10); err != nil || len(list) != 1 {
		t.Errorf("%v %v", list, err)
	}
}
