package broker

import (
	"context"
	"errors"
	"testing"

	"hallmark/fleet"
	"hallmark/fleet/policy"
)

func TestPublishFor_KeepsTheRulesOfMQTT(t *testing.T) {
	asked := make(chan fleet.Request, 1)
	f := open(t, func(c *Config) {
		c.Topics = []fleet.Topic{{Filter: "$aws/things/+/shadow/update", Handle: func(_ context.Context, r fleet.Request) error {
			r.Reply("x", nil)
			asked <- r
			return nil
		}}}
	})
	c, _ := f.connect(t, "lamp1", 5, nil)
	c.sub("dt/#", 1)
	id := &Identity{Tenant: "acme", Thing: "lamp2", Certificate: "c"}
	if err := f.PublishFor(t.Context(), id, f.rules, Publication{Topic: "dt/a", Payload: []byte("x"), QoS: 1, UTF8: true, ContentType: "text/plain", User: [][2]string{{"k", "v"}}}); err != nil {
		t.Fatal(err)
	}
	p := c.message("dt/a", "x")
	if p.FixedHeader.Qos != 1 || p.Properties.ContentType != "text/plain" || p.Properties.PayloadFormat != 1 || len(p.Properties.User) != 1 {
		t.Errorf("got %+v", p.Properties)
	}
	if err := f.PublishFor(t.Context(), id, f.rules, Publication{Topic: "$aws/things/lamp2/shadow/update", Payload: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	if r := <-asked; r.Client != "" || r.Thing != "lamp2" || r.Levels[2] != "lamp2" {
		t.Errorf("got %+v", r)
	}
	// S25: retain needs RetainPublish.
	f.rules.forbid(policy.RetainPublish, "dt/r", true)
	f.rules.forbid(policy.Publish, "dt/no", true)
	for _, s := range []struct {
		p    Publication
		want error
	}{
		{Publication{Topic: "dt/r", Retain: true}, ErrForbidden},
		{Publication{Topic: "dt/no"}, ErrForbidden},
		{Publication{Topic: "dt/+"}, ErrTopic},
		{Publication{Topic: "$SYS/x"}, ErrTopic},
		{Publication{Topic: "$aws/things/lamp2/shadow/update", Retain: true}, ErrTopic},
		{Publication{Topic: "dt/a", Payload: []byte{0xFF}, UTF8: true}, ErrTopic},
		{Publication{Topic: "dt/a", Payload: make([]byte, 200_000)}, ErrQuota},
	} {
		if err := f.PublishFor(t.Context(), id, f.rules, s.p); !errors.Is(err, s.want) {
			t.Errorf("%s: %v", s.p.Topic, err)
		}
	}
	c.quiet()
	if err := f.PublishFor(t.Context(), id, nil, Publication{Topic: "dt/a"}); !errors.Is(err, ErrForbidden) {
		t.Errorf("without policies: %v", err)
	}
}
