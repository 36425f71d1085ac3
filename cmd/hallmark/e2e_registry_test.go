package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/device/mqtt"
	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
	"hallmark/web"
)

func thingNames(things []adminapi.Thing) (out []string) {
	for _, t := range things {
		out = append(out, t.Name)
	}
	return out
}

func TestRegistry_ThingsTypesAndGroupsByHand(t *testing.T) {
	w := newFleetSite(t, "R-1", "R-2")
	ctx, f, main := t.Context(), w.server.fleet, access.Scope{Tenant: access.DefaultTenant}
	type thing = adminapi.Thing
	type group = adminapi.ThingGroup

	t.Run("types", func(t *testing.T) {
		if out := w.plain("thing-type", "list"); !strings.Contains(out, "hallmark thing-type create") {
			t.Errorf("an empty list: %s", out)
		}
		args := []string{"thing-type", "create", "lamp", "--searchable", "model,color", "--tag", "team=light", "--description", "lights"}
		first := said[adminapi.ThingType](w, args...)
		if again := said[adminapi.ThingType](w, args...); first.Version != 1 || again.Version != 1 || again.Tags["team"] != "light" || !slices.Equal(again.Attributes, []string{"model", "color"}) {
			t.Errorf("%+v, again %+v", first, again)
		}
		w.refusedBy("thing-type-exists", "thing-type", "create", "lamp")
		w.refusedBy("thing-type-unknown", "thing-type", "show", "LAMP")
		w.refusedBy("request-invalid", "thing-type", "create", "a b")
		w.refusedBy("request-invalid", "thing-type", "create", "x", "--searchable", "a,b,c,d")
		w.refusedBy("thing-type-in-use", "thing-type", "delete", "lamp") // not deprecated
		if d := said[adminapi.ThingType](w, "thing-type", "deprecate", "lamp"); d.DeprecatedAt.IsZero() {
			t.Errorf("%+v", d)
		}
		w.refusedBy("thing-type-deprecated", "thing", "create", "X-1", "--type", "lamp")
		said[adminapi.ThingType](w, "thing-type", "deprecate", "lamp", "--undo")
		if l := said[[]adminapi.ThingType](w, "thing-type", "list"); len(l) != 1 || !l[0].DeprecatedAt.IsZero() {
			t.Errorf("%+v", l)
		}
		w.usage("thing-type", "create", "x", "--tag", "no-value")
	})

	t.Run("things", func(t *testing.T) {
		args := []string{"thing", "create", "X-1", "--type", "lamp", "--attribute", "color=Red", "--attribute", "site=berlin=mitte"}
		x := said[thing](w, args...)
		if x = said[thing](w, args...); x.Version != 1 || x.Type != "lamp" || x.Attributes["site"] != "berlin=mitte" || !x.Connectivity.At.IsZero() {
			t.Errorf("%+v", x)
		}
		w.refusedBy("thing-exists", "thing", "create", "X-1")
		w.refusedBy("thing-case", "thing", "create", "x-1")
		w.refusedBy("thing-type-unknown", "thing", "create", "X-2", "--type", "none")
		w.refusedBy("thing-attributes-invalid", "thing", "create", "X-2", "--attribute", "a=1", "--attribute", "b=1", "--attribute", "c=1", "--attribute", "d=1")
		w.refusedBy("request-invalid", "thing", "create", "X/2")
		w.usage("thing", "create", "X-2", "--attribute", "color")
		w.usage("thing", "update", "X-1")

		x = said[thing](w, "thing", "update", "X-1", "--attribute", "color=blue", "--remove-attribute", "site", "--version", "1")
		if len(x.Attributes) != 1 || x.Attributes["color"] != "blue" || x.Version != 2 {
			t.Errorf("%+v", x)
		}
		w.refusedBy("thing-version", "thing", "update", "X-1", "--attribute", "color=green", "--version", "1")
		w.refusedBy("thing-unknown", "thing", "update", "X-9", "--no-type")
		x = said[thing](w, "thing", "update", "X-1", "--replace", "--attribute", "model=E27", "--no-type")
		if len(x.Attributes) != 1 || x.Attributes["model"] != "E27" || x.Type != "" {
			t.Errorf("%+v", x)
		}
		if out := w.plain("thing", "show", "X-1"); !strings.Contains(out, "never") || !strings.Contains(out, "model = E27") {
			t.Errorf("%s", out)
		}
		said[thing](w, "thing", "update", "X-1", "--type", "lamp")
		w.refusedBy("thing-type-in-use", "thing-type", "delete", "lamp")
	})

	t.Run("groups", func(t *testing.T) {
		for i, name := range []string{"earth", "europe", "germany", "berlin", "mitte", "street", "house"} {
			args := []string{"thing-group", "create", name}
			if i > 0 {
				args = append(args, "--parent", []string{"earth", "europe", "germany", "berlin", "mitte", "street"}[i-1])
			}
			if g := said[group](w, args...); g.Depth != i+1 || g.Status != "ACTIVE" {
				t.Errorf("%+v", g)
			}
		}
		w.refusedBy("thing-group-depth", "thing-group", "create", "flat", "--parent", "house")
		w.refusedBy("thing-group-unknown", "thing-group", "create", "x", "--parent", "nowhere")
		w.refusedBy("thing-group-exists", "thing-group", "create", "europe")
		w.refusedBy("thing-group-in-use", "thing-group", "delete", "europe")
		w.usage("thing-group", "create", "x", "--parent", "earth", "--query", "*")
		w.usage("thing-group", "add", "berlin")

		said[[]thing](w, "thing-group", "add", "berlin", "X-1", "R-1")
		if l := said[[]thing](w, "thing-group", "add", "berlin", "X-1"); !slices.Equal(l[0].Groups, []string{"berlin"}) { // again
			t.Errorf("%+v", l)
		}
		w.refusedBy("thing-unknown", "thing-group", "add", "berlin", "X-9")
		w.refusedBy("thing-group-unknown", "thing-group", "add", "Berlin", "X-1")
		for _, x := range []struct {
			args []string
			want []string
		}{{[]string{"berlin"}, []string{"R-1", "X-1"}}, {[]string{"earth"}, []string{}}, {[]string{"earth", "--nested"}, []string{"R-1", "X-1"}}, {[]string{"earth", "--nested", "--limit", "1"}, []string{"R-1"}}} {
			if l := said[[]string](w, append([]string{"thing-group", "things"}, x.args...)...); !slices.Equal(l, x.want) {
				t.Errorf("%v: %v", x.args, l)
			}
		}
		if l := said[[]group](w, "thing-group", "list", "--parent", "earth"); len(l) != 1 || l[0].Name != "europe" || l[0].Parent != "earth" {
			t.Errorf("%+v", l)
		}
		g := said[group](w, "thing-group", "update", "berlin", "--description", "the city", "--attribute", "mayor=k", "--tag", "a=b", "--version", "1")
		if g = said[group](w, "thing-group", "update", "berlin", "--no-tags"); g.Description != "the city" || g.Attributes["mayor"] != "k" || len(g.Tags) != 0 || g.Version != 3 {
			t.Errorf("%+v", g)
		}
		w.refusedBy("thing-version", "thing-group", "update", "berlin", "--description", "x", "--version", "1")
		w.refusedBy("thing-group-invalid", "thing-group", "update", "berlin", "--query", "*")
		said[[]thing](w, "thing-group", "remove", "berlin", "X-1")
		if l := said[[]string](w, "thing-group", "things", "berlin"); !slices.Equal(l, []string{"R-1"}) {
			t.Errorf("%v", l)
		}

		said[group](w, "thing-group", "create", "bulbs", "--query", "attributes.model:E*")
		w.refusedBy("thing-filter-invalid", "thing-group", "create", "odd", "--query", "attributes.model:E* AND")
		eventually(t, "a dynamic group's things", func() bool {
			return said[group](w, "thing-group", "show", "bulbs").Status == "ACTIVE" && slices.Equal(said[[]string](w, "thing-group", "things", "bulbs"), []string{"X-1"})
		})
		if x := said[thing](w, "thing", "show", "X-1"); !slices.Equal(x.DynamicGroups, []string{"bulbs"}) {
			t.Errorf("%+v", x)
		}
		w.refusedBy("thing-group-invalid", "thing-group", "add", "bulbs", "R-1")
		said[thing](w, "thing", "update", "X-1", "--attribute", "model=LED")
		if l := said[[]string](w, "thing-group", "things", "bulbs"); len(l) != 0 {
			t.Errorf("%v", l)
		}
		said[group](w, "thing-group", "update", "bulbs", "--query", "attributes.model:LED")
		eventually(t, "another query's things", func() bool { return len(said[[]string](w, "thing-group", "things", "bulbs")) == 1 })
		said[group](w, "thing-group", "delete", "bulbs")
		said[group](w, "thing-group", "delete", "house", "--version", "1")

		said[group](w, "billing-group", "create", "office", "--tag", "cost=7")
		said[group](w, "billing-group", "create", "home")
		said[[]thing](w, "billing-group", "add", "office", "X-1")
		if l := said[[]thing](w, "billing-group", "add", "home", "X-1"); l[0].BillingGroup != "home" {
			t.Errorf("%+v", l)
		}
		if l := said[[]string](w, "billing-group", "things", "office"); len(l) != 0 {
			t.Errorf("in two billing groups: %v", l)
		}
		w.refusedBy("thing-group-unknown", "billing-group", "show", "berlin")
		said[group](w, "billing-group", "update", "home", "--description", "x")
		said[group](w, "billing-group", "delete", "home")
		if x := said[thing](w, "thing", "show", "X-1"); x.BillingGroup != "" {
			t.Errorf("%+v", x)
		}
		if out := w.plain("billing-group", "list") + w.plain("thing-group", "list", "--prefix", "ber") + w.plain("thing-group", "show", "berlin"); !strings.Contains(out, "office") || !strings.Contains(out, "the city") {
			t.Errorf("%s", out)
		}
	})

	t.Run("a continuous job sees at once who comes into a group", func(t *testing.T) {
		if _, err := f.jobs.CreateJob(ctx, main.Tenant, "for-europe", jobs.Spec{Targets: []string{"thinggroup/europe"}, Selection: jobs.Continuous, Document: `{"operation":"x"}`}); err != nil {
			t.Fatal(err)
		}
		has := func(name fleet.ThingName) bool {
			_, err := w.server.db.Execution(ctx, main, "for-europe", name, 0)
			return err == nil
		}
		eventually(t, "the first look", func() bool { return has("R-1") })
		// Its next sweep is a minute away, and it looks at a group two levels above.
		said[[]thing](w, "thing-group", "add", "berlin", "X-1")
		eventually(t, "the look after the change", func() bool { return has("X-1") })
	})

	t.Run("search and silence", func(t *testing.T) {
		c, err := w.connect("R-2", "R-2", mqtt.V5, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		eventually(t, "presence", func() bool {
			return slices.Equal(thingNames(said[[]thing](w, "thing", "search", "connectivity.connected:true")), []string{"R-2"})
		})
		if out := w.plain("thing", "show", "R-2"); !strings.Contains(out, "yes, since") {
			t.Errorf("%s", out)
		}
		for query, want := range map[string][]string{
			"attributes.model:led": {"X-1"}, "thingGroupNames:earth": {"R-1", "X-1"}, "thingName:R-* AND connectivity.connected:true": {"R-2"}, "thingTypeName:lamp OR thingName:R-1": {"R-1", "X-1"},
			"certificate.status:ACTIVE": {"R-1", "R-2"}, "attributes.color:red": nil,
		} {
			if got := thingNames(said[[]thing](w, "thing", "search", query)); !slices.Equal(got, want) {
				t.Errorf("%s: %v", query, got)
			}
		}
		if out := w.plain("thing", "search", "thingName:none"); !strings.Contains(out, "No thing fits") {
			t.Errorf("%s", out)
		}
		w.refusedBy("thing-filter-invalid", "thing", "search", "color:red")
		w.usage("thing", "search", " ")
		w.usage("thing", "list", "--silent-for", "soon")
		w.usage("thing", "list", "--silent-for", "24h", "--attribute", "x")
		if l := said[[]thing](w, "thing", "list", "--silent-for", "24h"); len(l) != 0 {
			t.Errorf("%v", thingNames(l))
		}
		// R-2 is there; the others never came and are old enough, or were there once.
		eventually(t, "silence", func() bool {
			return slices.Equal(thingNames(said[[]thing](w, "thing", "list", "--silent-for", "1s")), []string{"R-1", "X-1"})
		})
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "silence after it left", func() bool {
			l := said[[]thing](w, "thing", "list", "--silent-for", "1s", "--limit", "0")
			return slices.Equal(thingNames(l), []string{"R-1", "R-2", "X-1"}) && !l[1].Connectivity.Connected && !l[1].Connectivity.At.IsZero()
		})
		a, err := w.api("bob").ListThingsWithResponse(ctx, &adminapi.ListThingsParams{Silent: optional(int64(1)), Limit: optional(2)})
		if err != nil || a.JSON200 == nil || !slices.Equal(thingNames(a.JSON200.Items), []string{"R-1", "R-2"}) || a.JSON200.Next == "" {
			t.Fatalf("%v %s", err, a.Body)
		}
		a, err = w.api("bob").ListThingsWithResponse(ctx, &adminapi.ListThingsParams{Silent: optional(int64(1)), Limit: optional(2), Cursor: &a.JSON200.Next})
		if err != nil || a.JSON200 == nil || !slices.Equal(thingNames(a.JSON200.Items), []string{"X-1"}) || a.JSON200.Next != "" {
			t.Errorf("the second page: %v %s", err, a.Body)
		}
	})

	t.Run("S22 certificates of a thing", func(t *testing.T) {
		type principals = []adminapi.ThingPrincipal
		p1 := said[principals](w, "thing", "principals", "R-1")
		if len(p1) != 1 || p1[0].Kind != "EXCLUSIVE_THING" || len(p1[0].Certificate) != 64 {
			t.Fatalf("%+v", p1)
		}
		id1, id2 := p1[0].Certificate, said[principals](w, "thing", "principals", "R-2")[0].Certificate
		w.refusedBy("thing-principal-bound", "thing", "attach", "X-1", id1)
		w.refusedBy("device-certificate-unregistered", "thing", "attach", "X-1", strings.Repeat("0", 64))
		w.refusedBy("request-invalid", "thing", "attach", "X-1", "abc")
		w.refusedBy("thing-unknown", "thing", "attach", "X-9", id1)
		w.refusedBy("thing-principal-unknown", "thing", "detach", "R-2", id1)

		said[thing](w, "thing", "detach", "R-2", id2)
		if out := w.plain("thing", "principals", "R-2"); !strings.Contains(out, "hallmark thing attach") {
			t.Errorf("%s", out)
		}
		w.refusedBy("thing-taken", "thing", "attach", "R-1", id2)
		operator := access.Actor{Tenant: main.Tenant, Kind: access.KindPrincipal, Name: "maker", Role: access.Platform}
		_, token, err := access.NewAuthenticator(access.Config{Store: w.server.db}).Create(ctx, operator, "fiona", access.FleetOperator, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		fiona, err := adminClient("https://"+w.door("people"), token.Reveal(), w.path("state", "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if a, err := fiona.AttachThingPrincipalWithResponse(ctx, "R-1", id2, adminapi.AttachRequest{TakeOver: true}); err != nil || a.StatusCode() != 403 {
			t.Errorf("who runs the fleet takes over: %v %s", err, a.Body)
		}
		if x := said[thing](w, "thing", "attach", "R-1", id2, "--take-over"); len(x.Principals) != 2 {
			t.Errorf("the officer: %+v", x)
		}
		said[thing](w, "thing", "detach", "R-1", id2)
		if x := said[thing](w, "thing", "attach", "R-2", strings.ToUpper(id2), "--exclusive"); len(x.Principals) != 1 || x.Principals[0].Kind != "EXCLUSIVE_THING" {
			t.Errorf("%+v", x)
		}
	})

	t.Run("nothing of a deleted thing is left", func(t *testing.T) {
		key := shadow.Key{Tenant: main.Tenant, Thing: "X-1"}
		if _, err := f.shadows.Update(ctx, key, []byte(`{"state":{"desired":{"on":true}}}`)); err != nil {
			t.Fatal(err)
		}
		status := func(job string) jobs.Status {
			t.Helper()
			e, err := f.jobs.ExecutionsOfThing(ctx, main.Tenant, "X-1", "", "", 0, 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range e {
				if x.Job == job {
					return x.Status
				}
			}
			return ""
		}
		w.refusedBy("thing-in-use", "thing", "delete", "R-1")
		w.refusedBy("thing-version", "thing", "delete", "X-1", "--version", "1")
		w.refusedBy("thing-unknown", "thing", "delete", "x-1") // another spelling is another name
		if st := status("for-europe"); st != jobs.Queued {
			t.Fatalf("a refused deletion ended its job: %s", st)
		}
		if x := said[thing](w, "thing", "delete", "X-1"); x.Name != "X-1" || x.Type != "lamp" {
			t.Errorf("%+v", x)
		}
		if st := status("for-europe"); st != jobs.Removed {
			t.Errorf("its execution is %s", st)
		}
		w.refusedBy("thing-unknown", "thing", "show", "X-1")
		w.refusedBy("thing-unknown", "thing", "delete", "X-1")
		said[thing](w, "thing", "create", "X-1")
		if _, err := f.shadows.Get(ctx, key); !errors.Is(err, shadow.ErrUnknown) {
			t.Errorf("the new thing has the old one's shadow: %v", err)
		}
		if x := said[thing](w, "thing", "show", "X-1"); len(x.Groups) != 0 || len(x.Attributes) != 0 || x.Version != 1 {
			t.Errorf("%+v", x)
		}
		said[adminapi.ThingType](w, "thing-type", "deprecate", "lamp")
		said[adminapi.ThingType](w, "thing-type", "delete", "lamp")

		// What a crash before the last step leaves: asking again ends it.
		if _, err := f.jobs.CreateJob(ctx, main.Tenant, "late", jobs.Spec{Targets: []string{"thing/X-1"}, Document: `{"operation":"x"}`}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the execution", func() bool { return status("late") == jobs.Queued })
		if err := f.registry.DropThing(ctx, main, "X-1", 0); err != nil {
			t.Fatal(err)
		}
		w.refusedBy("thing-unknown", "thing", "delete", "X-1")
		if st := status("late"); st != jobs.Removed {
			t.Errorf("asked again, its execution is %s", st)
		}
	})
	w.halt()
	w.clean()
}

// A65, S36: a person of another tenant sees nothing of things, types and groups,
// may have things of the same names, and changes nothing of ours.
func TestRegistry_AnotherTenantGetsNothing(t *testing.T) {
	w := newFleetSite(t, "R-1")
	ctx, main := t.Context(), access.Scope{Tenant: access.DefaultTenant}
	certificate := said[[]adminapi.ThingPrincipal](w, "thing", "principals", "R-1")[0].Certificate
	said[adminapi.ThingType](w, "thing-type", "create", "lamp")
	said[adminapi.ThingGroup](w, "thing-group", "create", "berlin")
	said[adminapi.ThingGroup](w, "billing-group", "create", "berlin")
	said[[]adminapi.Thing](w, "thing-group", "add", "berlin", "R-1")
	said[[]adminapi.Thing](w, "billing-group", "add", "berlin", "R-1")
	said[adminapi.ThingGroup](w, "thing-group", "create", "all", "--query", "*")
	state := func() string {
		t.Helper()
		th, err := w.server.reged.Get(ctx, main, "R-1")
		if err != nil {
			t.Fatal(err)
		}
		ps, err := w.server.reged.Principals(ctx, main, "R-1")
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		fmt.Fprintf(&out, "%+v %+v", th, ps)
		for _, c := range []registry.GroupClass{registry.ThingGroup, registry.BillingGroup} {
			g, err := w.server.reged.Group(ctx, main, c, "berlin")
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, " %+v", g)
		}
		typ, err := w.server.reged.ThingType(ctx, main, "lamp")
		if err != nil {
			t.Fatal(err)
		}
		return out.String() + fmt.Sprintf(" %+v", typ)
	}
	before := state()

	auth := access.NewAuthenticator(access.Config{Store: w.server.db})
	tokens := map[access.Role]string{}
	for _, role := range []access.Role{access.FleetOperator, access.SecurityOfficer} {
		_, token, err := auth.Create(ctx, access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "maker", Role: access.Platform}, "eve-"+string(role), role, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		tokens[role] = token.Reveal()
	}
	client := w.client(nil, 1)
	ask := func(role access.Role, method, path, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(context.Background(), method, "https://"+w.door("people")+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+tokens[role])
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		a, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		b, err := io.ReadAll(a.Body)
		if err != nil {
			t.Fatal(err)
		}
		return a.StatusCode, string(b)
	}
	tried := 0
	for _, r := range web.Routes() {
		mine := strings.HasPrefix(r.Pattern, "/api/v1/thing") || strings.HasPrefix(r.Pattern, "/api/v1/billing-groups")
		if !mine || strings.HasSuffix(r.Pattern, "/jobs") || strings.Contains(r.Pattern, "/shadow") {
			continue
		}
		tried++
		path := strings.NewReplacer("{thing}", "R-1", "{group}", "berlin", "{type}", "lamp", "{certificate}", certificate).Replace(r.Pattern)
		body := ""
		switch {
		case r.Method == "POST" && path == r.Pattern:
			continue // makes the stranger's own, below
		case r.Method == "POST" || r.Method == "PATCH" || r.Method == "PUT" && strings.Contains(r.Pattern, "/principals/"):
			body = `{}`
		}
		for role := range tokens {
			if !access.Can(access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "x", Role: role}, r.Action) {
				continue
			}
			status, said := ask(role, r.Method, path, body)
			if path == r.Pattern {
				if status != 200 || said != `{"items":[]}`+"\n" {
					t.Errorf("%s %s as %s: %d %s", r.Method, path, role, status, said)
				}
			} else if status != 404 || strings.Contains(said, certificate) {
				t.Errorf("%s %s as %s: %d %s", r.Method, path, role, status, said)
			}
		}
	}
	if tried < 25 {
		t.Errorf("only %d routes", tried)
	}
	for _, query := range []string{"?query=*", "?silent=1", "?query=thingName:R-1", "?attribute=product"} {
		if status, said := ask(access.FleetOperator, "GET", "/api/v1/things"+query, ""); status != 200 || said != `{"items":[]}`+"\n" {
			t.Errorf("%s: %d %s", query, status, said)
		}
	}
	// Names are a tenant's own: the stranger's R-1 is another thing, and our
	// certificate acts for it as little as our groups take it.
	for path, body := range map[string]string{"/api/v1/things": `{"name":"R-1"}`, "/api/v1/thing-groups": `{"name":"berlin"}`, "/api/v1/billing-groups": `{"name":"berlin"}`, "/api/v1/thing-types": `{"name":"lamp"}`} {
		if status, said := ask(access.FleetOperator, "POST", path, body); status != 201 {
			t.Errorf("%s: %d %s", path, status, said)
		}
	}
	if status, said := ask(access.SecurityOfficer, "PUT", "/api/v1/things/R-1/principals/"+certificate, `{"take_over":true}`); status != 404 {
		t.Errorf("our certificate for the stranger's thing: %d %s", status, said)
	}
	for _, path := range []string{"/api/v1/thing-groups/berlin/things/R-1", "/api/v1/billing-groups/berlin/things/R-1"} {
		if status, said := ask(access.FleetOperator, "PUT", path, ""); status != 200 {
			t.Errorf("%s: %d %s", path, status, said)
		}
	}
	for _, path := range []string{"/api/v1/things/R-1", "/api/v1/thing-groups/berlin", "/api/v1/billing-groups/berlin"} {
		if status, said := ask(access.FleetOperator, "DELETE", path, ""); status != 200 {
			t.Errorf("%s: %d %s", path, status, said)
		}
	}
	if after := state(); after != before {
		t.Errorf("ours changed:\n%s\n%s", before, after)
	}
	w.halt()
	w.clean()
}
