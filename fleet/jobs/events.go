package jobs

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"

	"hallmark/access"
	"hallmark/fleet"
)

// announce tells devices and back-ends what a committed change means for them.
// Whoever misses it finds the truth by asking, so that a failure is logged only.
func (s *Service) announce(ctx context.Context, c *change) {
	ctx = context.WithoutCancel(ctx) // also if the sender is gone meanwhile
	list := make([]told, 0, len(c.order))
	for _, k := range c.order {
		if t := c.things[k]; t.moved || t.other {
			list = append(list, told{k, t})
		}
	}
	s.tellAll(ctx, list, c.now.Unix())
	for _, e := range c.ended {
		s.executionEvent(ctx, &e, strings.ToLower(string(e.Status)), c.now.Unix())
	}
	for _, e := range c.gone {
		if e.Status != Waiting {
			s.executionEvent(ctx, &e, "deleted", c.now.Unix())
		}
	}
	for _, e := range c.events {
		s.jobEvent(ctx, &e.job, e.operation, c.now.Unix())
	}
}

// told is a device that is to be told something.
type told struct {
	key thingKey
	of  *touched
}

// tellAll tells many devices. Each message waits until it is as safe as the device's
// session is, which is a commit; so several go at the same time and share it.
func (s *Service) tellAll(ctx context.Context, list []told, now int64) {
	if len(list) == 1 {
		s.tell(ctx, list[0].key, list[0].of, now)
		return
	}
	var wg sync.WaitGroup
	turns := make(chan struct{}, tellers)
	for _, d := range list {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			s.tell(ctx, d.key, d.of, now)
		})
	}
	wg.Wait()
}

// Remind tells things again what they have to do next, as if it had just become so: a
// message can be lost between the commit and the device. Who has nothing to do is told
// nothing.
func (s *Service) Remind(ctx context.Context, scope access.Scope, things []fleet.ThingName) {
	list := make([]told, len(things))
	for i, t := range things {
		list[i] = told{thingKey{scope.Tenant, t.Fold()}, &touched{name: t, other: true, again: true}}
	}
	s.tellAll(ctx, list, s.clock().Unix())
}

// tell tells one device. What it says was read after the commit and nobody else
// speaks to the device meanwhile, so that of several changes at the same time
// the last word is the truth.
func (s *Service) tell(ctx context.Context, k thingKey, t *touched, now int64) {
	voice := &s.voices[maphash.Comparable(s.seed, k)%uint64(len(s.voices))]
	voice.Lock()
	defer voice.Unlock()
	pending, err := s.store.PendingExecutions(ctx, access.Scope{Tenant: k.tenant}, t.name, maxNotified)
	if err != nil {
		s.log.ErrorContext(ctx, "jobs: device not told", "tenant", k.tenant, "thing", t.name, "error", err)
		return
	}
	topic := "$aws/things/" + string(t.name) + "/jobs/"
	if t.moved {
		s.publish(ctx, k.tenant, topic+"notify", notifyOf(pending, now))
	}
	if !t.other || t.again && len(pending) == 0 {
		return
	}
	m := nextMessage{Timestamp: now}
	if len(pending) > 0 {
		e := &pending[0]
		j, err := s.store.Job(ctx, access.Scope{Tenant: k.tenant}, e.Job)
		var document json.RawMessage
		if err == nil {
			document, err = s.render(ctx, &j, e.Thing)
		}
		if err != nil {
			s.log.ErrorContext(ctx, "jobs: document could not be made", "tenant", k.tenant, "job", e.Job, "thing", e.Thing, "error", err)
			return
		}
		v := wireOf(e)
		v.Thing, v.Document = "", document
		m.Execution = &v
	}
	s.publish(ctx, k.tenant, topic+"notify-next", m)
}

func (s *Service) publish(ctx context.Context, tenant, topic string, v any) {
	b, err := encode(v)
	if err == nil {
		err = s.publisher.Publish(ctx, fleet.Message{Tenant: tenant, Topic: topic, Payload: b, QoS: 1})
	}
	if err != nil {
		s.log.WarnContext(ctx, "jobs: message not published", "tenant", tenant, "topic", topic, "error", err)
	}
}

type executionEvent struct {
	EventType string            `json:"eventType"`
	EventID   string            `json:"eventId"`
	Timestamp int64             `json:"timestamp"`
	Operation string            `json:"operation"`
	JobID     string            `json:"jobId"`
	ThingARN  string            `json:"thingArn"`
	Status    Status            `json:"status"`
	Details   map[string]string `json:"statusDetails,omitempty"`
}

func (s *Service) executionEvent(ctx context.Context, e *Execution, operation string, now int64) {
	if !s.events(ctx, e.Tenant, "JOB_EXECUTION") {
		return
	}
	s.publish(ctx, e.Tenant, "$aws/events/jobExecution/"+e.Job+"/"+operation, executionEvent{"JOB_EXECUTION", eventID(), now, operation, e.Job, s.arn(e.Tenant, aThing+string(e.Thing)), e.Status, e.Details})
}

// ProcessDetails are a job's counts on the wire.
type ProcessDetails struct {
	ProcessingTargets []string `json:"processingTargets,omitempty"`
	Canceled          int64    `json:"numberOfCanceledThings"`
	Succeeded         int64    `json:"numberOfSucceededThings"`
	Failed            int64    `json:"numberOfFailedThings"`
	Rejected          int64    `json:"numberOfRejectedThings"`
	Queued            int64    `json:"numberOfQueuedThings"`
	InProgress        int64    `json:"numberOfInProgressThings"`
	Removed           int64    `json:"numberOfRemovedThings"`
	TimedOut          int64    `json:"numberOfTimedOutThings"`
}

// ProcessDetails gives the job's counts on the wire.
func (s *Service) ProcessDetails(j *Job) ProcessDetails {
	c := &j.Counts
	p := ProcessDetails{Canceled: c.Canceled, Succeeded: c.Succeeded, Failed: c.Failed, Rejected: c.Rejected, Queued: c.Queued, InProgress: c.InProgress, Removed: c.Removed, TimedOut: c.TimedOut}
	if j.Status == JobInProgress && !j.Enumerated {
		p.ProcessingTargets = s.targetARNs(j)
	}
	return p
}

func (s *Service) targetARNs(j *Job) []string {
	out := []string{}
	for _, text := range j.Targets {
		t, err := parseTarget(text)
		switch {
		case err != nil || strings.HasPrefix(text, "arn:"):
			out = append(out, text)
		default:
			out = append(out, s.arn(j.Tenant, t.kind+t.name))
		}
	}
	return out
}

type jobMessage struct {
	EventType   string         `json:"eventType"`
	EventID     string         `json:"eventId"`
	Timestamp   int64          `json:"timestamp"`
	Operation   string         `json:"operation"`
	JobID       string         `json:"jobId"`
	Status      JobStatus      `json:"status"`
	Selection   Selection      `json:"targetSelection"`
	Targets     []string       `json:"targets"`
	Description string         `json:"description"`
	CreatedAt   int64          `json:"createdAt"`
	UpdatedAt   int64          `json:"lastUpdatedAt"`
	CompletedAt int64          `json:"completedAt,omitempty"`
	Comment     string         `json:"comment,omitempty"`
	Details     ProcessDetails `json:"jobProcessDetails"`
}

func (s *Service) jobEvent(ctx context.Context, j *Job, operation string, now int64) {
	if !s.events(ctx, j.Tenant, "JOB") {
		return
	}
	m := jobMessage{EventType: "JOB", EventID: eventID(), Timestamp: now, Operation: operation, JobID: j.ID, Status: j.Status, Selection: j.Selection, Targets: s.targetARNs(j),
		Description: j.Description, CreatedAt: j.CreatedAt.Unix(), UpdatedAt: j.UpdatedAt.Unix(), Comment: j.Comment, Details: s.ProcessDetails(j)}
	if !j.CompletedAt.IsZero() {
		m.CompletedAt = j.CompletedAt.Unix()
	}
	s.publish(ctx, j.Tenant, "$aws/events/job/"+j.ID+"/"+operation, m)
}

// eventID is a random UUID (RFC 9562, Section 5.4).
func eventID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
