package jobs

import (
	"bytes"
	"context"
	"errors"

	"hallmark/fleet"
	"hallmark/internal/fault"
)

// Topics is the row that the broker mounts. It takes everything below a thing's
// jobs, so that a topic that does not exist is answered too.
func (s *Service) Topics() []fleet.Topic {
	return []fleet.Topic{{Filter: "$aws/things/+/jobs/#", Handle: s.handle}}
}

// handle answers one request, to the connection that asked and to nobody else.
// Who may ask was decided by the topic's policy.
func (s *Service) handle(ctx context.Context, r fleet.Request) error {
	answer, err := s.answer(ctx, r)
	if err == nil {
		b, err := encode(answer)
		if err != nil {
			return err
		}
		r.Reply(r.Topic+"/accepted", b)
		return nil
	}
	no := rejection{Token: tokenOf(err), Timestamp: s.clock().Unix()}
	no.Code, no.Message, no.State = Reject(err)
	b, encodeErr := encode(no)
	if encodeErr != nil {
		return errors.Join(err, encodeErr)
	}
	r.Reply(r.Topic+"/rejected", b)
	if kind := fault.KindOf(err); kind == fault.Internal || kind == fault.Unavailable {
		return err
	}
	return nil
}

func (s *Service) answer(ctx context.Context, r fleet.Request) (any, error) {
	f, err := readFields(bytes.TrimSpace(r.Payload))
	if err != nil {
		return nil, err
	}
	token, err := f.token()
	if err != nil {
		return nil, err
	}
	answer, err := s.operation(ctx, r, f, token)
	if err != nil {
		return nil, &refusal{err, token}
	}
	return answer, nil
}

func (s *Service) operation(ctx context.Context, r fleet.Request, f fields, token string) (any, error) {
	now := s.clock().Unix()
	if len(r.Levels) < 5 || len(r.Levels) > 6 {
		return nil, ErrRequestTopic.New("")
	}
	thing := fleet.ThingName(r.Levels[2])
	if len(r.Levels) == 5 {
		switch r.Levels[4] {
		case "get":
			inProgress, queued, err := s.Pending(ctx, r.Tenant, thing)
			return pendingAnswer{summariesOf(inProgress), summariesOf(queued), now, token}, err
		case "start-next":
			in, err := f.start()
			if err != nil {
				return nil, err
			}
			v, err := s.StartNext(ctx, r.Tenant, thing, in)
			return executionAnswer{v.mqtt(), now, token}, err
		}
		return nil, ErrRequestTopic.New("")
	}
	job := r.Levels[4]
	switch r.Levels[5] {
	case "get":
		document, err := f.flag("includeJobDocument", true)
		if err != nil {
			return nil, err
		}
		number, err := f.attempt()
		if err != nil {
			return nil, err
		}
		v, err := s.Describe(ctx, r.Tenant, thing, job, number, document)
		return executionAnswer{v.mqtt(), now, token}, err
	case "update":
		in, err := f.update()
		if err != nil {
			return nil, err
		}
		u, err := s.Update(ctx, r.Tenant, thing, job, in)
		if err != nil {
			return nil, err
		}
		a := updateAnswer{State: u.State, Timestamp: now, Token: token}
		if u.Document != nil {
			a.Document = u.Document
		}
		return a, nil
	}
	return nil, ErrRequestTopic.New("")
}
