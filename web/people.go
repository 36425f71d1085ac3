package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"hallmark/access"
	"hallmark/internal/strictjson"
)

// PeopleConfig makes the people's door.
type PeopleConfig struct {
	Backend Backend // every part is needed
	Access  *access.Authenticator
	// Trail takes an entry for every action that changes something (A75).
	Trail   access.TrailWriter
	Cursors Cursors
	// Console is mounted at /console/; nil leaves it out.
	Console http.Handler
	Log     *slog.Logger
	Metrics *Metrics
	HSTS    bool
	Now     func() time.Time
}

// people serves the administration API.
type people struct {
	PeopleConfig
	contract *contract
}

// NewPeople makes the handler of the people's door. It refuses to start with a
// route that has no grant or no operation in the contract (A65).
func NewPeople(cfg PeopleConfig) (http.Handler, error) {
	doc, err := loadContract()
	if err != nil {
		return nil, err
	}
	if cfg.Access == nil || cfg.Trail == nil || cfg.Cursors.box == nil {
		return nil, errors.New("web: the people's door needs an authenticator, a trail and cursors")
	}
	for parts, i := reflect.ValueOf(cfg.Backend), 0; i < parts.NumField(); i++ {
		if parts.Field(i).IsNil() {
			return nil, fmt.Errorf("web: the people's door needs %s", parts.Type().Field(i).Name)
		}
	}
	p := &people{PeopleConfig: cfg, contract: doc}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	e := echo.New()
	e.HTTPErrorHandler = func(err error, c echo.Context) {
		if !c.Response().Committed {
			Fail(c.Response(), c.Request(), fromEcho(err))
		}
	}
	if err := p.mount(e, routes); err != nil {
		return nil, err
	}
	if cfg.Console != nil {
		e.Any("/console/*", echo.WrapHandler(cfg.Console))
		e.GET("/", func(c echo.Context) error { return c.Redirect(http.StatusSeeOther, "/console/") })
	}
	edge := Edge{Door: "people", Log: cfg.Log, Metrics: cfg.Metrics, HSTS: cfg.HSTS, Now: cfg.Now}
	return edge.Wrap(e), nil
}

// fromEcho gives the router's own refusals a code.
func fromEcho(err error) error {
	var h *echo.HTTPError
	if !errors.As(err, &h) {
		return err
	}
	switch h.Code {
	case http.StatusNotFound:
		return ErrRoute.New("")
	case http.StatusMethodNotAllowed:
		return ErrMethod.New("")
	}
	return err
}

// mount registers the table.
func (p *people) mount(e *echo.Echo, table []Route) error {
	for _, r := range table {
		op := p.contract.find(r.Method, r.Pattern)
		if op == nil || op.Tag != "admin" {
			return fmt.Errorf("web: %s %s is not in the interface description", r.Method, r.Pattern)
		}
		if !access.Granted(r.Action) {
			return fmt.Errorf("web: %s %s has the action %q, which is granted to nobody", r.Method, r.Pattern, r.Action)
		}
		status, err := strconv.Atoi(op.Status)
		if err != nil {
			return fmt.Errorf("web: %s has no success status", op.ID)
		}
		e.Add(r.Method, strings.NewReplacer("{", ":", "}", "").Replace(r.Pattern), func(c echo.Context) error {
			if r.Action == access.OpenBreakGlass { // by who has the key, not by who has a token
				return p.serveAnybody(c, &r, op)
			}
			return p.serve(c, &r, op, status)
		})
	}
	return nil
}

// serve is the way of every request: who, may they, what do they ask, do it.
func (p *people) serve(ec echo.Context, r *Route, op *operation, status int) error {
	req := ec.Request()
	ctx := req.Context()
	SetRoute(ctx, r.Pattern)
	traceFrom(ctx).action = string(r.Action)
	principal, err := p.authenticate(req)
	if err != nil {
		return err
	}
	actor := principal.Actor()
	SetActor(ctx, actor.String())
	c := &call{Context: ec, principal: principal, actor: actor, scope: actor.Scope(), operation: op, people: p}
	var answer any
	do := func(ctx context.Context) (err error) {
		if err := access.Require(actor, r.Action); err != nil {
			return err
		}
		if c.query, err = op.checkQuery(req); err != nil {
			return err
		}
		for name, param := range op.Path {
			if err := param.Schema.checkParameter(ec.Param(name), name); err != nil {
				return err
			}
		}
		ec.SetRequest(req.WithContext(ctx))
		answer, err = r.handle(p, c)
		return err
	}
	ctx = access.WithActor(ctx, actor)
	if access.ChangesState(r.Action) {
		err = p.recorded(ctx, req, principal, r, do)
	} else {
		err = do(ctx)
	}
	if err != nil {
		return err
	}
	ec.Response().Header().Set("Cache-Control", "no-store")
	return ec.JSON(status, answer)
}

func (p *people) authenticate(r *http.Request) (access.Principal, error) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return access.Principal{}, access.ErrNoToken.New("")
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return access.Principal{}, access.ErrNoToken.New("")
	}
	return p.Access.Authenticate(r.Context(), strings.TrimSpace(token), RemoteAddr(r))
}

// RemoteAddr is the address of the connection; no header can change it (A62).
func RemoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// call is one request to one route.
type call struct {
	echo.Context
	people    *people
	principal access.Principal
	actor     access.Actor
	scope     access.Scope
	query     url.Values
	operation *operation
}

// body reads the request's JSON: strictly (A67), held to the contract, then into T.
func body[T any](c *call) (v T, err error) {
	req := c.Request()
	if media, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return v, ErrBody.New("Its type is not application/json.")
	}
	data, err := io.ReadAll(req.Body)
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return v, err
		}
		return v, ErrBody.Wrap(err, "")
	}
	doc, err := strictjson.Generic(data)
	if err != nil {
		return v, err
	}
	c.noteBody(data, doc)
	if err := c.people.contract.check(c.operation.Body, doc, "body"); err != nil {
		return v, err
	}
	return v, strictjson.Decode(data, &v)
}

const defaultLimit = 100

// page reads cursor and limit.
func (c *call) page() (p Page, err error) {
	p.Limit = defaultLimit
	if text := c.query.Get("limit"); text != "" {
		p.Limit, _ = strconv.Atoi(text) // the contract checked it
	}
	p.After, err = c.people.Cursors.Read(c.scope.Tenant, c.Request().URL.Path, c.query, c.query.Get("cursor"))
	return p, err
}

// next is the cursor of the next page.
func (c *call) next(position string) string {
	return c.people.Cursors.Make(c.scope.Tenant, c.Request().URL.Path, c.query, position)
}

// list makes an empty list [] and not null.
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
