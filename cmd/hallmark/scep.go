package main

import (
	"bytes"
	"context"
	"crypto"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/scep"
	"hallmark/ca"
	"hallmark/provisioner"
	"hallmark/provisioner/hook"
)

// newSCEP makes the SCEP server.
func (s *Server) newSCEP(e *bootstrap.Enroller) *scep.Server {
	cfg := scep.Config{Enroller: e, Tenant: access.DefaultTenant, RA: s.scepRA, List: s.listOf, Log: s.log, Now: s.now}
	if name := s.cfg.Enrolment.SCEP.Hook; name != "" {
		cfg.Hook = storedHook{s.planner, access.Scope{Tenant: access.DefaultTenant}, name}
	}
	return scep.New(cfg)
}

// storedHook is a hook by its name; whoever changes it need not restart.
type storedHook struct {
	planner *provisioner.Planner
	scope   access.Scope
	name    string
}

func (h storedHook) Call(ctx context.Context, r hook.Request) (hook.Decision, error) {
	return h.planner.CallHook(ctx, h.scope, h.name, r)
}

// scepRA gives the keys that SCEP messages are encrypted for, with their
// certificates: the service issues and renews them itself, once for all nodes.
func (s *Server) scepRA(ctx context.Context) (out []*scep.RA, err error) {
	if !s.tls.Load().ready {
		return nil, errNoInfra.New("")
	}
	all, err := s.certs.shared(ctx, "scep-ra", raRequest(access.DefaultTenant))
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		chain, err := c.certificates()
		if err != nil {
			return nil, err
		}
		key, ok := c.key.(crypto.Decrypter)
		if !ok {
			return nil, errNoInfra.New("The key of SCEP cannot decrypt.")
		}
		out = append(out, &scep.RA{Signer: c.key, Decrypter: key, Chain: chain})
	}
	return out, nil
}

// maxListAnswer bounds what one message asks for; longer lists are fetched at their
// distribution point.
const maxListAnswer = 1 << 20

// listOf is the list that a certificate of an authority would be on.
func (s *Server) listOf(_ context.Context, issuer []byte, serial ca.Serial) ([]byte, error) {
	for _, a := range s.ca.Authorities() {
		if a.Tenant != access.DefaultTenant || !bytes.Equal(a.Cert.RawSubject, issuer) {
			continue
		}
		var out bytes.Buffer
		if err := s.lists.WriteList(&out, a.Name, a.Shard(serial), false); err != nil {
			return nil, scep.ErrList.Wrap(err, "")
		}
		if out.Len() > maxListAnswer {
			return nil, scep.ErrList.New("It is too long for a message.")
		}
		return out.Bytes(), nil
	}
	return nil, scep.ErrList.New("")
}
