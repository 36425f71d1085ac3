package shadow

import (
	"context"
	"errors"

	"hallmark/fleet"
	"hallmark/internal/fault"
)

// Topics are the rows that the broker mounts: get, update and delete of the
// classic and of named shadows.
func (s *Service) Topics() []fleet.Topic {
	var out []fleet.Topic
	for _, prefix := range []string{"$aws/things/+/shadow/", "$aws/things/+/shadow/name/+/"} {
		for _, operation := range []string{"get", "update", "delete"} {
			out = append(out, fleet.Topic{Filter: prefix + operation, Handle: s.handle})
		}
	}
	return out
}

// handle answers one request. Who may ask was decided by the topic's policy.
func (s *Service) handle(ctx context.Context, r fleet.Request) error {
	k, operation, ok := keyOf(r.Tenant, r.Levels)
	if !ok || !k.sane() {
		return nil // no place to send a refusal to
	}
	var err error
	switch operation {
	case "update":
		_, err = s.Update(ctx, k, r.Payload)
	case "get":
		err = s.handleGet(ctx, k, r.Payload)
	case "delete":
		err = s.handleDelete(ctx, k, r.Payload)
	}
	if err == nil || errors.Is(err, ErrUndelivered) {
		return err
	}
	code, text := Reject(err)
	no := rejected{Code: code, Message: text, Token: tokenOf(err)}
	if code != 404 {
		no.Timestamp = s.now().Unix()
	}
	b, encodeErr := encode(no)
	if encodeErr != nil {
		return encodeErr
	}
	if sent := s.publisher.Publish(ctx, fleet.Message{Tenant: k.Tenant, Topic: k.prefix() + "/" + operation + "/rejected", Payload: b, QoS: 1}); sent != nil {
		return errors.Join(err, sent)
	}
	if kind := fault.KindOf(err); code == 500 || kind == fault.Internal || kind == fault.Unavailable {
		return err
	}
	return nil
}

func (s *Service) handleGet(ctx context.Context, k Key, payload []byte) error {
	token, err := parseToken(payload)
	if err != nil {
		return err
	}
	d, err := s.enter(k)
	if err != nil {
		return &refusal{err, token}
	}
	defer s.leave(k, d)
	answer, err := s.get(ctx, k, token)
	if err != nil {
		return &refusal{err, token}
	}
	return undelivered(s.publisher.Publish(ctx, fleet.Message{Tenant: k.Tenant, Topic: k.prefix() + "/get/accepted", Payload: answer, QoS: 1}))
}

func (s *Service) handleDelete(ctx context.Context, k Key, payload []byte) error {
	token, err := parseToken(payload)
	if errors.Is(err, ErrToken) {
		return err
	}
	// Whatever else it says does not matter.
	if _, err = s.delete(ctx, k, token); err != nil && !errors.Is(err, ErrUndelivered) {
		return &refusal{err, token}
	}
	return err
}
