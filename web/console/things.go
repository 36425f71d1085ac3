package console

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/internal/fault"
	"hallmark/web"
)

// How much of its lists the page of one thing shows; the rest has pages of its own.
const (
	someShadows    = 5
	someExecutions = 10
)

// silence is a choice of the list of things: those that nobody heard for so long.
type silence struct {
	Value, Title string
	length       time.Duration
}

var silences = []silence{
	{"1h", "an hour", time.Hour}, {"24h", "a day", 24 * time.Hour}, {"7d", "a week", 7 * 24 * time.Hour}, {"30d", "30 days", 30 * 24 * time.Hour},
}

// things has the four ways to find things that the API has.
func (c *console) things(v *view) (string, error) {
	v.Title = "Things"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	in := v.r.URL.Query()
	query, attribute, value, silent := strings.TrimSpace(in.Get("q")), strings.TrimSpace(in.Get("attribute")), strings.TrimSpace(in.Get("value")), in.Get("silent")
	ways := 0
	for _, text := range []string{query, attribute + value, silent} {
		if text != "" {
			ways++
		}
	}
	var items []adminapi.Thing
	var next string
	ctx := v.r.Context()
	switch i := slices.IndexFunc(silences, func(s silence) bool { return s.Value == silent }); {
	case ways > 1:
		err = web.ErrInput.New("Search by a query, by an attribute or by silence, one of them.")
	case attribute == "" && value != "":
		err = web.ErrInput.New("A value needs the name of its attribute.")
	case silent != "" && i < 0:
		err = web.ErrInput.New("There is no such choice of silence.")
	case query != "":
		items, next, err = c.Backend.Things.SearchThings(ctx, v.scope, query, p)
	case silent != "":
		items, next, err = c.Backend.Things.SilentThings(ctx, v.scope, silences[i].length, p)
	default:
		items, next, err = c.Backend.Registry.Things(ctx, v.scope, attribute, value, p)
	}
	problem, err := v.refused(err)
	v.Data = map[string]any{
		"Items": items, "Next": c.nextLink(v, next), "Query": query, "Attribute": attribute, "Value": value, "Silent": silent, "Silences": silences,
		"Filtered": ways > 0, "Problem": problem, "See": v.sees(),
	}
	return "things", err
}

// refused keeps a fault of what the reader typed for the page that has the form,
// so that it is corrected where it was made. What is wrong with the page's own
// address, such as its cursor, is no such fault.
func (v *view) refused(err error) (*fault.Fault, error) {
	if err == nil || errors.Is(err, web.ErrCursor) || fault.KindOf(err) != fault.Invalid {
		return nil, err
	}
	f := fault.From(err)
	v.status = web.Status(f)
	return f, nil
}

// thing is everything about one thing.
func (c *console) thing(v *view) (string, error) {
	ctx := v.r.Context()
	t, err := c.Backend.Registry.Thing(ctx, v.scope, v.r.PathValue("thing"))
	if err != nil {
		return "", err
	}
	v.Title = t.Name
	see := v.sees()
	data := map[string]any{"Thing": t, "See": see}
	if see.Timeline {
		rows, err := c.events(v, t.Name, "", someEvents+1)
		if err != nil {
			return "", err
		}
		data["MoreEvents"] = len(rows) > someEvents
		data["Events"] = map[string]any{"Items": rows[:min(len(rows), someEvents)], "See": see}
	}
	if see.Policies {
		if data["Policies"], err = c.Backend.Policies.AttachedPolicies(ctx, v.scope, web.AttachedQuery{Thing: t.Name}); err != nil {
			return "", err
		}
	}
	if see.Shadows {
		page, err := c.Backend.Shadows.Shadows(ctx, v.scope, t.Name, web.Page{Limit: someShadows})
		if err != nil {
			return "", err
		}
		if data["Shadows"], err = c.shadowsNamed(v, t.Name, page); err != nil {
			return "", err
		}
		data["MoreShadows"] = page.Next != ""
	}
	if see.Jobs {
		var next string
		if data["Executions"], next, err = c.Backend.Jobs.ThingJobs(ctx, v.scope, t.Name, "", web.Page{Limit: someExecutions}); err != nil {
			return "", err
		}
		data["MoreExecutions"] = next != ""
	}
	v.Data = data
	return "thing", nil
}

// shadowView is a shadow with its sections as text.
type shadowView struct {
	Name                               string
	Version                            int64
	Desired, Reported, Delta, Metadata string
}

func viewShadow(s *adminapi.Shadow) (out shadowView) {
	out = shadowView{Name: s.Name, Version: s.Version}
	var state struct{ Desired, Reported, Delta json.RawMessage }
	if err := json.Unmarshal(s.State, &state); err != nil {
		out.Reported = string(s.State)
		return out
	}
	out.Desired, out.Reported, out.Delta = string(state.Desired), string(state.Reported), string(state.Delta)
	if len(s.Metadata) > 2 { // more than {}
		out.Metadata = string(s.Metadata)
	}
	return out
}

// shadowsNamed reads the shadows of a page of names. One that was deleted since
// is left out.
func (c *console) shadowsNamed(v *view, thing string, page adminapi.ShadowPage) (out []shadowView, err error) {
	names := page.Items
	if page.Classic {
		names = append([]string{""}, names...)
	}
	for _, name := range names {
		s, err := c.Backend.Shadows.Shadow(v.r.Context(), v.scope, thing, name)
		switch {
		case fault.KindOf(err) == fault.NotFound && err != nil:
			continue
		case err != nil:
			return nil, err
		}
		out = append(out, viewShadow(&s))
	}
	return out, nil
}

// shadows lists the shadows of a thing by name.
func (c *console) shadows(v *view) (string, error) {
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	page, err := c.Backend.Shadows.Shadows(v.r.Context(), v.scope, v.r.PathValue("thing"), p)
	if err != nil {
		return "", err
	}
	name := v.r.PathValue("thing")
	v.Title = "Shadows of " + name
	v.Data = map[string]any{"Thing": name, "Classic": page.Classic && p.After == "", "Items": page.Items, "Next": c.nextLink(v, page.Next), "See": v.sees()}
	return "shadows", nil
}

// shadow is one shadow; the name "" is the classic one.
func (c *console) shadow(v *view) (string, error) {
	s, err := c.Backend.Shadows.Shadow(v.r.Context(), v.scope, v.r.PathValue("thing"), v.r.URL.Query().Get("name"))
	if err != nil {
		return "", err
	}
	v.Title = "Shadow of " + s.Thing
	v.Data = map[string]any{"Thing": s.Thing, "Shadow": viewShadow(&s), "See": v.sees()}
	return "shadow", nil
}

func (c *console) types(v *view) (string, error) {
	v.Title = "Thing types"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	items, next, err := c.Backend.ThingTypes.ThingTypes(v.r.Context(), v.scope, p)
	v.Data = map[string]any{"Items": items, "Next": c.nextLink(v, next)}
	return "types", err
}

func (c *console) thingType(v *view) (string, error) {
	t, err := c.Backend.ThingTypes.ThingType(v.r.Context(), v.scope, v.r.PathValue("type"))
	if err != nil {
		return "", err
	}
	v.Title = "Thing type " + t.Name
	v.Data = map[string]any{"Type": t, "SeesThings": v.can(access.ReadThings)}
	return "type", nil
}
