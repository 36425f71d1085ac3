package device

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/device/mosquittotest"
	"hallmark/device/mqtt"
)

// cloud plays the service's part of shadow and jobs for one thing, over a broker
// that knows nothing of them.
type cloud struct {
	t     *testing.T
	thing string
	conn  *mqtt.Conn
	asks  chan mqtt.Message

	mu       sync.Mutex
	version  int64
	desired  map[string]any
	reported map[string]any
	jobs     []*cloudJob
	polls    int // questions whether there is a job
	change   chan struct{}
}

type cloudJob struct {
	ID       string            `json:"jobId"`
	Number   int64             `json:"executionNumber"`
	Version  int64             `json:"versionNumber"`
	Status   string            `json:"status"`
	Details  map[string]string `json:"statusDetails,omitempty"`
	Document json.RawMessage   `json:"jobDocument"`
	starts   int
}

func newCloud(t *testing.T, b *mosquittotest.Broker, thing string) *cloud {
	t.Helper()
	c := &cloud{t: t, thing: thing, asks: make(chan mqtt.Message, 100), desired: map[string]any{}, reported: map[string]any{}, change: make(chan struct{})}
	c.connect(b)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case m := <-c.asks:
				c.handle(m)
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
	return c
}

func (c *cloud) connect(b *mosquittotest.Broker) {
	c.t.Helper()
	conn, err := mqtt.Dial(context.Background(), mqtt.Config{Addr: b.Addr, ClientID: "cloud", TLS: mqtt.TLS(b.PKI.Device("cloud"), b.PKI.Pool(), "localhost"), OnMessage: func(m mqtt.Message) { c.asks <- m }})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(conn.Abort)
	p := "$aws/things/" + c.thing
	for _, f := range []string{p + "/shadow/get", p + "/shadow/update", p + "/jobs/+/get", p + "/jobs/start-next", p + "/jobs/+/update"} {
		if err := conn.Subscribe(context.Background(), mqtt.Subscription{Filter: f, QoS: 1}); err != nil {
			c.t.Fatal(err)
		}
	}
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
}

func (c *cloud) publish(topic string, v any) {
	b, _ := json.Marshal(v)
	c.conn.Send(mqtt.Message{Topic: topic, Payload: b, QoS: 1}, nil)
}

func (c *cloud) handle(m mqtt.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { close(c.change); c.change = make(chan struct{}) }()
	var q struct {
		ClientToken   string
		Status        string
		StatusDetails map[string]string
		State         struct{ Reported map[string]any }
	}
	if err := json.Unmarshal(m.Payload, &q); err != nil {
		c.t.Errorf("%s: %v", m.Topic, err)
		return
	}
	rest := strings.TrimPrefix(m.Topic, "$aws/things/"+c.thing+"/")
	accept := func(body map[string]any) {
		body["clientToken"], body["timestamp"] = q.ClientToken, time.Now().Unix()
		c.publish(m.Topic+"/accepted", body)
	}
	switch {
	case rest == "shadow/get":
		if c.version == 0 {
			c.publish(m.Topic+"/rejected", map[string]any{"code": 404, "message": "No shadow exists", "clientToken": q.ClientToken})
			return
		}
		state := map[string]any{"desired": c.desired, "reported": c.reported}
		if d := difference(c.desired, c.reported); len(d) > 0 {
			state["delta"] = d
		}
		accept(map[string]any{"state": state, "version": c.version})
	case rest == "shadow/update":
		c.version++
		c.reported = merge(c.reported, q.State.Reported)
		accept(map[string]any{"version": c.version, "state": map[string]any{"reported": q.State.Reported}})
		c.sendDelta()
	case rest == "jobs/$next/get":
		c.polls++
		body := map[string]any{}
		if j := c.open(); j != nil {
			body["execution"] = j
		}
		accept(body)
	case rest == "jobs/start-next":
		body := map[string]any{}
		if j := c.open(); j != nil {
			if j.Status == "QUEUED" {
				j.Status = inProgress
				j.Version++
			}
			j.starts++
			body["execution"] = j
		}
		accept(body)
	case strings.HasSuffix(rest, "/update"):
		for _, j := range c.jobs {
			if rest == "jobs/"+j.ID+"/update" {
				if j.Status != "QUEUED" && j.Status != inProgress {
					c.publish(m.Topic+"/rejected", map[string]any{"code": "InvalidStateTransition", "message": j.Status, "clientToken": q.ClientToken})
					return
				}
				j.Status, j.Version = q.Status, j.Version+1
				if q.StatusDetails != nil {
					j.Details = q.StatusDetails
				}
				accept(map[string]any{})
			}
		}
	}
}

func (c *cloud) sendDelta() {
	if d := difference(c.desired, c.reported); len(d) > 0 {
		c.publish("$aws/things/"+c.thing+"/shadow/update/delta", map[string]any{"version": c.version, "state": d, "metadata": map[string]any{}})
	}
}

// difference is what desired has and reported has not.
func difference(desired, reported map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range desired {
		if inner, ok := v.(map[string]any); ok {
			have, _ := reported[k].(map[string]any)
			if d := difference(inner, have); len(d) > 0 {
				out[k] = d
			}
		} else if !reflect.DeepEqual(v, reported[k]) {
			out[k] = v
		}
	}
	return out
}

func (c *cloud) open() *cloudJob {
	for _, j := range c.jobs {
		if j.Status == "QUEUED" || j.Status == inProgress {
			return j
		}
	}
	return nil
}

// desire changes what the shadow asks for.
func (c *cloud) desire(raw string) {
	c.t.Helper()
	var change map[string]any
	if err := json.Unmarshal([]byte(raw), &change); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	c.desired = merge(c.desired, change)
	c.sendDelta()
}

// job queues one and tells the device.
func (c *cloud) job(id, document string) *cloudJob {
	j := c.queue(id, document)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.publish("$aws/things/"+c.thing+"/jobs/notify-next", map[string]any{"timestamp": 1, "execution": c.open()})
	return j
}

// queue queues a job, and nobody hears of it.
func (c *cloud) queue(id, document string) *cloudJob {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := &cloudJob{ID: id, Number: 1, Version: 1, Status: "QUEUED", Document: json.RawMessage(document)}
	c.jobs = append(c.jobs, j)
	return j
}

// until waits until something is true of the cloud's state.
func (c *cloud) until(what string, is func() bool) {
	c.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		c.mu.Lock()
		ok, change := is(), c.change
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-change:
		case <-timeout:
			c.mu.Lock()
			defer c.mu.Unlock()
			jobs := ""
			for _, j := range c.jobs {
				jobs += fmt.Sprintf(" %+v", *j)
			}
			c.t.Fatalf("not in time: %s\nreported %v\njobs%s", what, c.reported, jobs)
		}
	}
}

// ended waits for a job's end.
func (c *cloud) ended(j *cloudJob) (status string, details map[string]string) {
	c.t.Helper()
	c.until("job "+j.ID+" ends", func() bool { return j.Status != "QUEUED" && j.Status != inProgress })
	return j.Status, j.Details
}
