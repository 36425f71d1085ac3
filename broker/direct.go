package broker

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fleet"
	"hallmark/fleet/policy"
)

// Publication is a message that a device sends without an MQTT connection.
type Publication struct {
	Topic           string
	Payload         []byte
	QoS             byte // 0 or 1
	Retain          bool
	ContentType     string
	ResponseTopic   string
	CorrelationData []byte
	UTF8            bool // the payload claims to be text
	User            [][2]string
	Expiry          time.Duration // 0 = none
}

// PublishFor publishes for a device that proved itself elsewhere, as HTTPS does, by
// the rules for its MQTT connections. A message for a reserved topic is handled
// before PublishFor returns; direct answers have nobody to go to.
func (b *Broker) PublishFor(ctx context.Context, id *Identity, may Authoriser, p Publication) error {
	l := &b.lim
	switch {
	case b.stopping.Load():
		return ErrClosed.New("")
	case !utf8.ValidString(p.Topic) || !l.checkTopic(p.Topic) || p.QoS > 1 || strings.ContainsAny(p.ResponseTopic, "+#"):
		return ErrTopic.New("")
	case len(p.Payload) > l.PayloadSize:
		return ErrQuota.New("The payload has %d octets; %d are allowed.", len(p.Payload), l.PayloadSize)
	case p.UTF8 && !utf8.Valid(p.Payload):
		return ErrTopic.New("The payload is not the UTF-8 that it claims to be.")
	case may == nil || !may.Allows(policy.Publish, p.Topic) || p.Retain && !may.Allows(policy.RetainPublish, p.Topic):
		b.count.refusedPublish.Add(1)
		return ErrForbidden.New("")
	case strings.HasPrefix(p.Topic, "$") && (p.Retain || !b.isReserved(p.Topic)):
		return ErrTopic.New("")
	}
	b.count.publishedIn.Add(1)
	b.count.bytesIn.Add(int64(len(p.Payload)))
	if strings.HasPrefix(p.Topic, "$") {
		return b.askFor(ctx, id, &p)
	}
	props := packets.Properties{ContentType: p.ContentType, ResponseTopic: p.ResponseTopic, CorrelationData: p.CorrelationData, PayloadFormatFlag: p.UTF8}
	if p.UTF8 {
		props.PayloadFormat = 1
	}
	for _, u := range p.User {
		props.User = append(props.User, packets.UserProperty{Key: u[0], Val: u[1]})
	}
	m := &message{topic: p.Topic, payload: slices.Clone(p.Payload), props: passedOn(&props), origin: id.sessionKey(string(id.Thing)), qos: p.QoS, retain: p.Retain}
	if p.Expiry > 0 {
		m.expires = b.now().Add(min(p.Expiry, l.MessageExpiry)).UnixMilli()
	}
	return b.publishAndWait(ctx, b.realm(id.Tenant), m, id)
}

func (b *Broker) askFor(ctx context.Context, id *Identity, p *Publication) error {
	b.count.requests.Add(1)
	select {
	case b.workers <- struct{}{}:
		defer func() { <-b.workers }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, b.lim.RequestTimeout)
	defer cancel()
	err := call(ctx, b.handler(p.Topic), fleet.Request{
		Sender: id.sender(""), Topic: p.Topic, Levels: strings.Split(p.Topic, "/"), Payload: slices.Clone(p.Payload),
		Reply: func(string, []byte) {},
	})
	if err != nil {
		b.count.requestsFailed.Add(1)
	}
	return err
}

// publishAndWait publishes and waits until the message is as safe as its QoS says.
func (b *Broker) publishAndWait(ctx context.Context, r *realm, m *message, from *Identity) error {
	result := make(chan byte, 1)
	var k kicks
	b.publish(r, m, from, &k, completion(func(code byte) { result <- code }))
	k.flush()
	select {
	case code := <-result:
		switch {
		case code < 0x80:
			return nil
		case code == codeQuota:
			return ErrQuota.New("")
		}
		return ErrNotDurable.New("")
	case <-ctx.Done():
		return ctx.Err()
	}
}
