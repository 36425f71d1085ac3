package declare

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/access"
)

// requests keeps requests in the world's map, so that a transaction that is taken
// back takes them along.
type requests struct{ *world }

func (q requests) PutRequest(_ context.Context, r Request, was int64) error {
	had, ok := q.rows["request/"+r.Tenant+"/"+r.ID].(Request)
	if (was != 0) != ok || ok && had.Version != was {
		return ErrRequestMoved.New("")
	}
	q.rows["request/"+r.Tenant+"/"+r.ID] = r
	return nil
}

func (q requests) Request(_ context.Context, s access.Scope, id string) (Request, error) {
	r, ok := q.rows["request/"+s.Tenant+"/"+id].(Request)
	if !ok {
		return r, ErrRequestUnknown.New("")
	}
	r.Documents = slices.Clone(r.Documents)
	return r, nil
}

func (q requests) Requests(_ context.Context, s access.Scope, before string, limit int) (out []Request, err error) {
	for key, v := range q.rows {
		if r, ok := v.(Request); ok && strings.HasPrefix(key, "request/"+s.Tenant+"/") && (before == "" || r.ID < before) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Request) int { return strings.Compare(b.ID, a.ID) })
	return out[:min(limit, len(out))], nil
}

func (q requests) OpenRequests(ctx context.Context, s access.Scope) ([]Request, error) {
	all, err := q.Requests(ctx, s, "", 1000)
	return slices.DeleteFunc(all, func(r Request) bool { return r.State != RequestOpen }), err
}

// riskyKind is a box that takes two people, and the boxes that name it.
type riskyKind struct{ boxKind }

func (k riskyKind) Judge(ctx context.Context, s access.Scope, name string, was, want Spec) (Verdict, error) {
	v, err := k.boxKind.Judge(ctx, s, name, was, want)
	if want.(boxSpec).Size > 0 {
		v.Dangerous = "the size of a vault"
	}
	return v, err
}

func (b boxSpec) Needs(string) (out []Ref) {
	for _, name := range b.List {
		out = append(out, Ref{"Vault", name})
	}
	return out
}

// desk is a planner with requests, a clock, and people whose access was ended.
type desk struct {
	*world
	*Planner
	at   time.Time
	gone map[string]bool
}

func newDesk() *desk {
	d := &desk{world: newWorld(), at: time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC), gone: map[string]bool{}}
	d.Planner = New(Config{
		Kinds:  []Kind{riskyKind{boxKind{d.world, "Vault", access.PutHook}}, boxKind{d.world, "Box", access.PutThingType}, boxKind{d.world, "Note", access.CreateOrder}},
		Atomic: d.atomic, Requests: requests{d.world}, Now: func() time.Time { return d.at },
		Gone: func(_ context.Context, _ access.Scope, name string) (bool, error) { return d.gone[name], nil },
	})
	return d
}

// apply plans and applies.
func (d *desk) apply(t *testing.T, by access.Actor, text ...string) Plan {
	t.Helper()
	files := one(strings.Join(text, "---\n"))
	p, err := d.Plan(t.Context(), by, files)
	if err != nil {
		t.Fatal(err)
	}
	d.at = d.at.Add(time.Second)
	if p, err = d.Apply(t.Context(), by, files, p.Hash); err != nil {
		t.Fatal(err)
	}
	return p
}

// seen is the request as somebody sees it, with the hash they would approve.
func (d *desk) seen(t *testing.T, by access.Actor, id string) (Request, Plan) {
	t.Helper()
	r, p, refusal, err := d.Request(t.Context(), by, id)
	if err != nil || refusal != nil {
		t.Fatal(err, refusal)
	}
	return r, p
}

func (d *desk) vault(name string) (boxSpec, bool) {
	v, ok := d.rows["main/Vault/"+name].(boxSpec)
	return v, ok
}

var (
	quinn = access.Actor{Tenant: "main", Kind: access.KindPrincipal, Name: "quinn", Role: access.Platform}
	olga  = access.Actor{Tenant: "main", Kind: access.KindPrincipal, Name: "olga", Role: access.SecurityOfficer}
)

func TestS36_WhatIsDangerousTakesASecondPerson(t *testing.T) {
	d, ctx := newDesk(), t.Context()
	text := []string{doc("Vault", "v", "{size: 3, labels: {a: b}}"), doc("Vault", "dull", "{}"), doc("Box", "in-v", "{list: [v]}"), doc("Box", "in-dull", "{list: [dull]}")}
	p := d.apply(t, plat, text...)
	if len(p.Requests) != 1 || p.Requests[0].Documents != 2 || !slices.Equal(p.Requests[0].Roles, []string{"platform"}) || p.Requests[0].AskedBy != "pat" || p.Requests[0].Again {
		t.Fatalf("%+v", p.Requests)
	}
	// Two are done; what is dangerous is not, nor what names it before it is there.
	if _, there := d.vault("v"); there || d.rows["main/Box/in-v"] != nil || d.rows["main/Vault/dull"] == nil || d.rows["main/Box/in-dull"] == nil {
		t.Fatalf("%v", d.rows)
	}
	if todo, waits, _ := p.Count(); todo != 2 || waits != 2 {
		t.Errorf("%d done, %d wait", todo, waits)
	}
	for _, i := range p.Items {
		if want := map[string][3]string{"v": {"hook.put", "the size of a vault", ""}, "in-v": {"thing.type.put", "", "Vault v"}}[i.Name]; [3]string{i.Waits, i.Dangerous, i.After} != want {
			t.Errorf("%+v", i)
		}
	}
	id := p.Requests[0].ID
	r, seen := d.seen(t, quinn, id)
	if r.State != RequestOpen || r.ExpiresAt.Sub(r.AskedAt) != 7*24*time.Hour || len(r.Documents) != 2 || !strings.Contains(r.Documents[0].Text, "size: 3") {
		t.Fatalf("%+v", r)
	}
	if todo, waits, _ := seen.Count(); todo != 2 || waits != 0 || len(seen.Items[0].Changes) != 2 || seen.Items[0].Secret != "" {
		t.Errorf("%+v", seen)
	}
	// The same again, in other files, is the same request.
	again := d.apply(t, plat, text[2], text[0])
	if len(again.Requests) != 1 || again.Requests[0].ID != id || !again.Requests[0].Again {
		t.Errorf("%+v", again.Requests)
	}
	// Who may not: who asked, who lacks the right of a change, who only looks, and
	// another tenant's.
	stranger := quinn
	stranger.Tenant = "other"
	for _, c := range []struct {
		who  access.Actor
		want error
	}{{plat, access.ErrSelfApproval}, {olga, access.ErrForbidden}, {fleetOp, access.ErrForbidden}, {auditor, access.ErrForbidden}, {stranger, ErrRequestUnknown}} {
		_, mine, _, _ := d.Request(ctx, c.who, id)
		if _, _, err := d.Approve(ctx, c.who, id, mine.Hash); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.who.Name, err, c.want)
		}
	}
	// Nor with the hash of the asker's plan, nor of somebody who may not see it all.
	for _, hash := range []string{p.Hash, "", strings.Repeat("0", 64)} {
		if _, _, err := d.Approve(ctx, quinn, id, hash); !errors.Is(err, ErrStale) {
			t.Errorf("%.8s: %v", hash, err)
		}
	}
	if _, there := d.vault("v"); there {
		t.Fatal("it is in force")
	}
	r, done, err := d.Approve(ctx, quinn, id, seen.Hash)
	if err != nil || r.State != RequestApproved || r.Decision.By != "quinn" || r.AskedBy != "pat" || r.Decision.Plan != seen.Hash || !done.Applied || done.Items[0].Secret != "s-v" {
		t.Fatalf("%+v %+v %v", r, done, err)
	}
	if v, there := d.vault("v"); !there || v.Size != 3 || d.rows["main/Box/in-v"] == nil {
		t.Errorf("%v", d.rows)
	}
	if _, _, err := d.Approve(ctx, quinn, id, seen.Hash); !errors.Is(err, ErrRequestDecided) {
		t.Errorf("twice: %v", err)
	}
	if _, err := d.Reject(ctx, quinn, id, ""); !errors.Is(err, ErrRequestDecided) {
		t.Errorf("afterwards: %v", err)
	}
	if p := d.apply(t, plat, text...); len(p.Requests) != 0 {
		t.Errorf("what is there is asked for: %+v", p.Requests)
	}
}

func TestS36_AnApprovalIsOfWhatWasSeen(t *testing.T) {
	d, ctx := newDesk(), t.Context()
	d.rows["main/Vault/v"] = boxSpec{Size: 1}
	id := d.apply(t, plat, doc("Vault", "v", "{size: 3}")).Requests[0].ID
	_, seen := d.seen(t, quinn, id)
	d.rows["main/Vault/v"] = boxSpec{Size: 2} // somebody with a command of its own
	if _, _, err := d.Approve(ctx, quinn, id, seen.Hash); !errors.Is(err, ErrStale) {
		t.Fatalf("%v", err)
	}
	if v, _ := d.vault("v"); v.Size != 2 {
		t.Errorf("%+v", v)
	}
	r, seen := d.seen(t, quinn, id) // still open, with the difference of now
	if r.State != RequestOpen || seen.Items[0].Changes[0].Before != "2" {
		t.Errorf("%+v %+v", r, seen)
	}
	// A hash that was seen of one request is none of another's.
	other := d.apply(t, quinn, doc("Vault", "v", "{size: 4}")).Requests[0].ID
	if _, _, err := d.Approve(ctx, plat, other, seen.Hash); !errors.Is(err, ErrStale) {
		t.Errorf("%v", err)
	}
	// What cannot be had any more is refused whole, and says so beforehand.
	d.rows["main/Vault/v"] = boxSpec{Size: 2, In: "cellar"}
	if _, p, refusal, err := d.Request(ctx, quinn, id); err != nil || !errors.Is(refusal, ErrRefused) || len(p.Items) != 0 {
		t.Errorf("%+v %v %v", p, refusal, err)
	}
	if _, _, err := d.Approve(ctx, quinn, id, seen.Hash); !errors.Is(err, ErrRefused) {
		t.Errorf("%v", err)
	}
	// What somebody made so already leaves nothing to do.
	d.rows["main/Vault/v"] = boxSpec{Size: 3}
	_, seen = d.seen(t, quinn, id)
	if r, p, err := d.Approve(ctx, quinn, id, seen.Hash); err != nil || r.State != RequestSuperseded || len(p.Items) != 1 {
		t.Errorf("%+v %v", r, err)
	}
	// One failing document takes all of it back, and the request stays open.
	id = d.apply(t, plat, doc("Vault", "a", "{size: 1}"), doc("Vault", "b", "{size: 1}")).Requests[0].ID
	_, seen = d.seen(t, quinn, id)
	d.fail = errors.New("the disk is gone")
	if _, _, err := d.Approve(ctx, quinn, id, seen.Hash); !errors.Is(err, d.fail) || d.rows["main/Vault/a"] != nil {
		t.Errorf("%v", err)
	}
	d.fail = nil
	if r, _ = d.seen(t, quinn, id); r.State != RequestOpen {
		t.Errorf("%s", r.State)
	}
	// The asker's access was ended since: who took it over asked, perhaps.
	d.gone["pat"] = true
	if _, _, err := d.Approve(ctx, quinn, id, seen.Hash); !errors.Is(err, ErrRequestAsker) {
		t.Errorf("%v", err)
	}
}

// S36: what one lacks the right for is asked for too. It is one request, unless no
// role could approve all of it.
func TestS36_WhatTakesAnotherRoleIsAskedFor(t *testing.T) {
	d, ctx := newDesk(), t.Context()
	p := d.apply(t, fleetOp, doc("Vault", "v", "{}"), doc("Box", "b", "{}"), doc("Vault", "w", "{size: 1}"))
	if len(p.Requests) != 1 || p.Requests[0].Documents != 2 || d.rows["main/Box/b"] == nil || d.rows["main/Vault/v"] != nil {
		t.Fatalf("%+v", p)
	}
	id := p.Requests[0].ID
	_, seen := d.seen(t, plat, id)
	if _, _, err := d.Approve(ctx, plat, id, seen.Hash); err != nil || d.rows["main/Vault/w"] == nil {
		t.Fatal(err)
	}
	// Vaults are platform's, notes the manager's: nobody is both.
	p = d.apply(t, fleetOp, doc("Vault", "x", "{}"), doc("Note", "n", "{}"))
	if len(p.Requests) != 2 || !slices.Equal(p.Requests[0].Roles, []string{"platform"}) || !slices.Equal(p.Requests[1].Roles, []string{"security-officer"}) {
		t.Fatalf("%+v", p.Requests)
	}
	// The manager does not see vaults and boxes; of what there is nothing is told, and
	// what was asked for blindly is not shown either.
	d.rows["main/Vault/hidden"] = boxSpec{Size: 7}
	p = d.apply(t, cm, doc("Vault", "hidden", "{size: 9}"))
	if p.Items[0].Changes != nil || len(p.Requests) != 1 {
		t.Fatalf("%+v", p)
	}
	r, _ := d.seen(t, cm, p.Requests[0].ID)
	if r.Documents[0].Text != "" || r.Documents[0].Name != "hidden" {
		t.Errorf("%+v", r.Documents)
	}
}

func TestS36_RequestsEnd(t *testing.T) {
	d, ctx := newDesk(), t.Context()
	ask := func(by access.Actor, text ...string) string {
		t.Helper()
		p := d.apply(t, by, text...)
		if len(p.Requests) != 1 {
			t.Fatalf("%+v", p.Requests)
		}
		return p.Requests[0].ID
	}
	state := func(id string, want RequestState) {
		t.Helper()
		all, err := d.Requests(ctx, plat.Scope(), "", 100)
		if i := slices.IndexFunc(all, func(r Request) bool { return r.ID == id }); err != nil || i < 0 || all[i].State != want {
			t.Errorf("%s is not %s: %+v %v", id, want, all, err)
		}
	}
	// Another wish of the same person about the same takes its place; somebody else's
	// stands beside it.
	first := ask(plat, doc("Vault", "v", "{size: 1}"))
	second := ask(plat, doc("Vault", "v", "{size: 2}"), doc("Vault", "w", "{size: 2}"))
	third := ask(quinn, doc("Vault", "v", "{size: 3}"))
	state(first, RequestSuperseded)
	state(second, RequestOpen)
	state(third, RequestOpen)
	part := ask(plat, doc("Vault", "v", "{size: 4}")) // it is about less, so the other stays
	state(second, RequestOpen)
	// After a week nobody approves it.
	_, seen := d.seen(t, quinn, part)
	d.at = d.at.Add(RequestLife)
	state(part, RequestExpired)
	if _, _, err := d.Approve(ctx, quinn, part, seen.Hash); !errors.Is(err, ErrRequestDecided) {
		t.Errorf("%v", err)
	}
	if r, _, _, err := d.Request(ctx, quinn, part); err != nil || r.State != RequestExpired {
		t.Errorf("%+v %v", r, err)
	}
	if next := ask(plat, doc("Vault", "v", "{size: 4}")); next == part {
		t.Error("what expired is asked for no more")
	}
	if row := d.rows["request/main/"+part].(Request); row.State != RequestExpired {
		t.Errorf("%s", row.State)
	}
	// Who asked takes it back; who sees what it is about rejects it; others do not.
	id := ask(cm, doc("Vault", "x", "{size: 1}"))
	for _, c := range []struct {
		by   access.Actor
		note string
		want error
	}{{auditor, "", access.ErrForbidden}, {access.Actor{Tenant: "main", Kind: access.KindPrincipal, Name: "mia", Role: access.CMManager}, "", access.ErrForbidden}, {olga, "two\nlines", ErrRequestNote}, {olga, strings.Repeat("x", 1025), ErrRequestNote}} {
		if _, err := d.Reject(ctx, c.by, id, c.note); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.by.Name, err)
		}
	}
	if r, err := d.Reject(ctx, olga, id, "not ours"); err != nil || r.State != RequestRejected || r.Decision.Note != "not ours" || r.Decision.By != "olga" {
		t.Errorf("%+v %v", r, err)
	}
	id = ask(cm, doc("Vault", "x", "{size: 1}"))
	if r, err := d.Reject(ctx, cm, id, ""); err != nil || r.State != RequestRejected {
		t.Errorf("%+v %v", r, err)
	}
	// There is an end to what waits.
	for i := range MaxRequests {
		d.rows["request/main/z"+strings.Repeat("z", i)] = Request{RequestBody: RequestBody{Tenant: "main", ID: "z", ExpiresAt: d.at.Add(time.Hour)}, State: RequestOpen, Version: 1}
	}
	files := one(doc("Vault", "full", "{size: 1}"))
	p, err := d.Plan(ctx, plat, files)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Apply(ctx, plat, files, p.Hash); !errors.Is(err, ErrRequestLimit) {
		t.Errorf("%v", err)
	}
}
