package web

import (
	"strconv"

	"github.com/labstack/echo/v4"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Break-glass (S42). The first two routes ask for no token, since they are for when
// nobody has one that works: who opens signs with the break-glass key.

func (p *people) breakGlassNonce(*call) (any, error) {
	nonce, err := p.Access.BreakGlassNonce()
	return adminapi.BreakGlassNonce{Nonce: nonce}, err
}

func (p *people) openBreakGlass(c *call) (any, error) {
	r, err := body[adminapi.BreakGlassOpening](c)
	if err != nil {
		return nil, err
	}
	s, t, err := p.Access.OpenBreakGlass(c.Request().Context(), access.BreakGlassOpening{KeyID: r.KeyId, Nonce: r.Nonce, Tenant: r.Tenant, Reason: r.Reason, Drill: r.Drill, Signature: r.Signature}, RemoteAddr(c.Request()))
	if err != nil {
		return nil, err
	}
	v := breakGlassView(&s)
	v.Token = t.Reveal()
	return v, nil
}

func breakGlassView(s *access.BreakGlassSession) adminapi.BreakGlassSession {
	return adminapi.BreakGlassSession{Id: s.ID, Tenant: s.Tenant, KeyId: s.KeyID, OpenedAt: s.OpenedAt, ExpiresAt: s.ExpiresAt, ClosedAt: s.ClosedAt, Drill: s.Drill, Reason: s.Reason, From: s.From}
}

func (p *people) getBreakGlass(c *call) (any, error) {
	s, err := p.Access.BreakGlass(c.Request().Context())
	if err != nil {
		return nil, err
	}
	v := adminapi.BreakGlass{KeyId: s.KeyID, Spent: s.Spent, Open: s.Open, DrilledAt: s.Drilled, Sessions: []adminapi.BreakGlassSession{}}
	for i := range s.Sessions {
		if s.Sessions[i].Tenant == c.scope.Tenant {
			v.Sessions = append(v.Sessions, breakGlassView(&s.Sessions[i]))
		}
	}
	return v, nil
}

func (p *people) closeBreakGlass(c *call) (any, error) {
	ctx := c.Request().Context()
	if err := p.Access.CloseBreakGlass(ctx, c.actor); err != nil {
		return nil, err
	}
	return adminapi.BreakGlassClosed{Id: c.actor.Name}, nil
}

func (p *people) repairSignIn(c *call) (any, error) {
	who, token, err := p.Access.RepairSignIn(c.Request().Context(), c.actor, c.Param("name"))
	if err != nil {
		return nil, err
	}
	return adminapi.PrincipalToken{Principal: principalView(who), Token: token.Reveal()}, nil
}

// serveAnybody is the way of a request that comes without a token.
func (p *people) serveAnybody(ec echo.Context, r *Route, op *operation) (err error) {
	req := ec.Request()
	SetRoute(req.Context(), r.Pattern)
	c := &call{Context: ec, operation: op, people: p}
	if c.query, err = op.checkQuery(req); err != nil {
		return err
	}
	answer, err := r.handle(p, c)
	if err != nil {
		return err
	}
	status, err := strconv.Atoi(op.Status)
	if err != nil {
		return err
	}
	ec.Response().Header().Set("Cache-Control", "no-store")
	return ec.JSON(status, answer)
}
