package registry_test

import (
	"context"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/provisioner/template"
	"hallmark/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

var main = access.Scope{Tenant: access.DefaultTenant}

func open(t *testing.T) (*catest.Fixture, *registry.Registry) {
	f := catest.New(t)
	return f, registry.New(registry.Config{Store: f.DB, Alone: f.DB.Alone()})
}

func serialOf(c *x509.Certificate) ca.Serial {
	s, _ := ca.SerialFromInt(c.SerialNumber)
	return s
}

// put registers a thing with a certificate of its holder.
func put(t *testing.T, f *catest.Fixture, r *registry.Registry, thing registry.Thing) (registry.Thing, ca.Serial) {
	t.Helper()
	c, _ := f.Issue(t, profile.LDevID, thing.Holder, "A", profile.Names{})
	out, _, err := r.Register(context.Background(), registry.Registration{Thing: thing}, registry.Attachment{Authority: catest.Device, Serial: serialOf(c), Status: fleet.Active})
	if err != nil {
		t.Fatal(err)
	}
	return out, serialOf(c)
}

func thing(name, holder string, attributes ...string) registry.Thing {
	th := registry.Thing{Tenant: access.DefaultTenant, Name: fleet.ThingName(name), Holder: holder, RegisteredBy: catest.Device, Attributes: map[string]string{}}
	for i := 0; i < len(attributes); i += 2 {
		th.Attributes[attributes[i]] = attributes[i+1]
	}
	return th
}

func TestRegister_ChangesOnlyWhatTheTemplateAllows(t *testing.T) {
	f, r := open(t)
	ctx := t.Context()
	base := thing("press-1", "SN-1", "site", "A", "line", "1")
	base.Type, base.Groups = "press", []string{"all"}
	first, serial := put(t, f, r, base)
	if first.Version != 1 {
		t.Errorf("version %d", first.Version)
	}
	at := registry.Attachment{Authority: catest.Device, Serial: serial, Status: fleet.Active}
	again, _, err := r.Register(ctx, registry.Registration{Thing: base}, at)
	if err != nil || again.Version != 1 || !again.UpdatedAt.Equal(first.UpdatedAt) {
		t.Errorf("registering twice changed the thing: %+v %v", again, err)
	}
	next := thing("press-1", "SN-1", "site", "B", "area", "9")
	next.Type, next.Groups = "oven", []string{"new"}
	for name, c := range map[string]struct {
		o    template.ThingOverrides
		want error
	}{
		"attributes": {template.ThingOverrides{Type: template.Replace, Groups: template.Replace, Attributes: template.Fail}, registry.ErrThingConflict},
		"type":       {template.ThingOverrides{Attributes: template.Replace, Groups: template.Replace}, registry.ErrThingConflict},
		"groups":     {template.ThingOverrides{Attributes: template.Replace, Type: template.Replace}, registry.ErrThingConflict},
	} {
		if _, _, err := r.Register(ctx, registry.Registration{Thing: next, Overrides: c.o}, at); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := r.Get(ctx, main, "press-1"); err != nil || got.Attributes["site"] != "A" || got.Version != 1 {
		t.Errorf("a refused change left something: %+v %v", got, err)
	}
	merged, _, err := r.Register(ctx, registry.Registration{Thing: next, Overrides: template.ThingOverrides{Attributes: template.Merge, Type: template.DoNothing, Groups: template.Merge}}, at)
	if err != nil || merged.Version != 2 || fmt.Sprint(merged.Attributes) != "map[area:9 line:1 site:B]" || merged.Type != "press" || fmt.Sprint(merged.Groups) != "[all new]" {
		t.Errorf("%+v %v", merged, err)
	}
	replaced, _, err := r.Register(ctx, registry.Registration{Thing: next, Overrides: template.ThingOverrides{Attributes: template.Replace, Type: template.Replace, Groups: template.Replace}}, at)
	if err != nil || fmt.Sprint(replaced.Attributes) != "map[area:9 site:B]" || replaced.Type != "oven" || fmt.Sprint(replaced.Groups) != "[new]" {
		t.Errorf("%+v %v", replaced, err)
	}
	if got, err := r.Get(ctx, main, "press-1"); err != nil || fmt.Sprint(got) != fmt.Sprint(replaced) && got.Version != replaced.Version {
		t.Errorf("%+v %v", got, err)
	}
}

// S22: one of many devices gets a name, however they race for it.
func TestS22_OneOfManyDevicesGetsTheThing(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { oneOfMany(t, "") })
	t.Run("postgres", func(t *testing.T) { oneOfMany(t, storetest.Postgres(t)) })
}

func oneOfMany(t *testing.T, url string) {
	f := catest.Open(t, catest.Config{URL: url})
	r := registry.New(registry.Config{Store: f.DB, Alone: f.DB.Alone()})
	const n = 12
	serials := make([]ca.Serial, n)
	for i := range serials {
		c, _ := f.Issue(t, profile.LDevID, fmt.Sprintf("SN-%d", i), "A", profile.Names{})
		serials[i] = serialOf(c)
	}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			name := []string{"press", "Press"}[i%2]
			_, _, errs[i] = r.Register(context.Background(), registry.Registration{Thing: thing(name, fmt.Sprintf("SN-%d", i))}, registry.Attachment{Authority: catest.Device, Serial: serials[i], Status: fleet.Active})
		})
	}
	wg.Wait()
	won := 0
	for i, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, registry.ErrThingTaken) && !errors.Is(err, registry.ErrThingCase):
			t.Errorf("device %d: %v", i, err)
		}
	}
	if won != 1 {
		t.Errorf("%d devices got the thing", won)
	}
}

func TestRegister_KeepsThingsOfOtherAuthorities(t *testing.T) {
	f, r := open(t)
	put(t, f, r, thing("press", "SN-1"))
	other := thing("press", "SN-1")
	other.RegisteredBy = "device-2"
	if err := r.Check(t.Context(), registry.Registration{Thing: other}); !errors.Is(err, registry.ErrThingElsewhere) {
		t.Error(err)
	}
	if err := r.Check(t.Context(), registry.Registration{Thing: thing("no/name", "SN-1")}); !errors.Is(err, fleet.ErrThingName) {
		t.Error(err)
	}
}

func TestSetStatus_FollowsTheWiresTable(t *testing.T) {
	f, r := open(t)
	_, serial := put(t, f, r, thing("press", "SN-1"))
	set := func(to fleet.PrincipalStatus) error { return r.SetStatus(t.Context(), main, catest.Device, serial, to) }
	for i, c := range []struct {
		to   fleet.PrincipalStatus
		want error
	}{
		{fleet.Inactive, nil}, {fleet.Inactive, nil}, {fleet.PendingActivation, registry.ErrPrincipalStatus}, {fleet.Active, nil}, {fleet.Revoked, nil}, {fleet.Active, registry.ErrPrincipalStatus}, {fleet.Inactive, registry.ErrPrincipalStatus},
	} {
		if err := set(c.to); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("step %d to %s: %v", i, c.to, err)
		}
	}
}

func TestList_FindsByAttributePrefixInPages(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { findByPrefix(t, "") })
	t.Run("postgres", func(t *testing.T) { findByPrefix(t, storetest.Postgres(t)) })
}

func findByPrefix(t *testing.T, url string) {
	f := catest.Open(t, catest.Config{URL: url})
	r := registry.New(registry.Config{Store: f.DB, Alone: f.DB.Alone()})
	for i, v := range []string{"hall-1/a", "hall-1/b", "hall-2", "Hall-1", "hall-10", "hall-1%", "hall_1", "hall-1/é"} {
		put(t, f, r, thing(fmt.Sprintf("t-%d", i), fmt.Sprintf("SN-%d", i), "site", v, "n", "same"))
	}
	find := func(q registry.Query) (out []string) {
		t.Helper()
		for {
			p, err := r.List(t.Context(), main, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, th := range p.Things {
				if q.Attribute == "" {
					out = append(out, string(th.Name))
				} else {
					out = append(out, th.Attributes[q.Attribute])
				}
			}
			if q.Cursor = p.Next; q.Cursor == "" {
				return out
			}
		}
	}
	for _, limit := range []int{0, 1, 2, 3} {
		for _, c := range []struct {
			q    registry.Query
			want string
		}{
			{registry.Query{Attribute: "site", Prefix: "hall-1"}, "hall-1%,hall-1/a,hall-1/b,hall-1/é,hall-10"},
			{registry.Query{Attribute: "site", Prefix: "hall-1/"}, "hall-1/a,hall-1/b,hall-1/é"},
			{registry.Query{Attribute: "site", Prefix: "Hall"}, "Hall-1"},
			{registry.Query{Attribute: "site", From: "hall-2", To: "hall_2"}, "hall-2,hall_1"},
			{registry.Query{Attribute: "nothing", Prefix: "hall"}, ""},
			{registry.Query{Prefix: "T-"}, "t-0,t-1,t-2,t-3,t-4,t-5,t-6,t-7"},
			{registry.Query{Attribute: "n", Prefix: "same"}, "same,same,same,same,same,same,same,same"},
		} {
			c.q.Limit = limit
			if got := strings.Join(find(c.q), ","); got != c.want {
				t.Errorf("%+v: got %s, want %s", c.q, got, c.want)
			}
		}
	}
	for _, q := range []registry.Query{{From: "a"}, {Attribute: "site", Prefix: "a", To: "b"}, {Cursor: "!"}, {Cursor: "YWJj"}} {
		if _, err := r.List(t.Context(), main, q); !errors.Is(err, registry.ErrQuery) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// A second tenant's scope finds nothing, by any look-up.
func TestRegistry_TenantsAreApart(t *testing.T) {
	f, r := open(t)
	_, serial := put(t, f, r, thing("press", "SN-1", "site", "A"))
	other := access.Scope{Tenant: "other"}
	ctx := t.Context()
	if _, err := r.Get(ctx, other, "press"); fault.KindOf(err) != fault.NotFound {
		t.Error(err)
	}
	if _, err := r.Principal(ctx, other, catest.Device, serial); fault.KindOf(err) != fault.NotFound {
		t.Error(err)
	}
	if l, err := r.ByHolder(ctx, other, "SN-1"); err != nil || len(l) != 0 {
		t.Error(l, err)
	}
	if l, err := r.ByHolder(ctx, main, "sn-1"); err != nil || len(l) != 1 {
		t.Error(l, err)
	}
	if l, err := r.Principals(ctx, other, "press"); err != nil || len(l) != 0 {
		t.Error(l, err)
	}
	for _, q := range []registry.Query{{}, {Attribute: "site"}} {
		if p, err := r.List(ctx, other, q); err != nil || len(p.Things) != 0 {
			t.Error(p, err)
		}
	}
	if err := r.SetStatus(ctx, other, catest.Device, serial, fleet.Inactive); fault.KindOf(err) != fault.NotFound {
		t.Error(err)
	}
	// The same name is free there.
	th := thing("press", "SN-9")
	th.Tenant = "other"
	if err := r.Check(ctx, registry.Registration{Thing: th}); err != nil {
		t.Error(err)
	}
}

// What a database writer changes or removes, fsck names (S32).
func TestS32_FsckNamesWhatAnotherWriterDid(t *testing.T) {
	for name, c := range map[string]struct{ sql, want string }{
		"attribute altered": {`UPDATE thing_attributes SET value = 'Z' WHERE thing = 'press-1'`, "row-tampered: things main/press-1"},
		"attribute removed": {`DELETE FROM thing_attributes WHERE thing = 'press-1'`, "row-tampered: things main/press-1"},
		"holder swapped":    {`UPDATE things SET holder = 'sn-2' WHERE folded = 'press-1'`, "row-tampered: things main/press-1"},
		"configuration":     {`UPDATE things SET configuration = '{"endpoint":"evil"}' WHERE folded = 'press-2'`, "row-tampered: things main/press-2"},
		"thing removed":     {`DELETE FROM things WHERE folded = 'press-1'`, "thing-missing: thing_principals"},
		"principal moved":   {`UPDATE thing_principals SET thing = 'press-2' WHERE thing = 'press-1'`, "row-tampered: thing_principals main/"},
		"principal removed": {`DELETE FROM thing_principals WHERE thing = 'press-1'`, "ldevid-unattached: certificates"},
		"status altered":    {`UPDATE device_certificates SET status = 'INACTIVE' WHERE holder = 'sn-1'`, "row-tampered: device_certificates main/"},
		"certificate gone":  {`DELETE FROM certificates WHERE reservation IN (SELECT id FROM reservations WHERE holder = 'sn-1' AND profile = 'ldevid')`, "certificate-missing: device_certificates"},
		"birth gone":        {`DELETE FROM identities WHERE holder = 'sn-1' AND profile = 'idevid'`, "holder-missing: things main/press-1"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.db")
			f := catest.Open(t, catest.Config{URL: file})
			r := registry.New(registry.Config{Store: f.DB, Alone: f.DB.Alone()})
			for _, n := range []string{"1", "2"} {
				f.IssueIDevID(t, "SN-"+n)
				put(t, f, r, thing("press-"+n, "SN-"+n, "site", "A"))
			}
			before := findings(t, f, r)
			db, err := sql.Open("sqlite", file)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec(c.sql); err != nil {
				t.Fatal(err)
			}
			if got := findings(t, f, r); !strings.Contains(got, c.want) || strings.Contains(before, c.want) {
				t.Errorf("fsck says %q before, %q after", before, got)
			}
		})
	}
}

// findings is what the registry's check and the one of sealed rows say.
func findings(t *testing.T, f *catest.Fixture, r *registry.Registry) string {
	t.Helper()
	found, err := r.Fsck(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range found {
		if f.Check != "registration-missing" { // these things were registered by hand
			out = append(out, f.String())
		}
	}
	if err := f.DB.BrokenRows(t.Context(), func(object string, err error) { out = append(out, "row-tampered: "+object+": "+err.Error()) }); err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, "\n")
}
