package console

import (
	"context"
	"slices"
	"strings"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

const (
	// treeSize is how many groups are shown as a tree. More are a list in pages,
	// which is searched by name.
	treeSize = 500
	// groupDepth is how deep the registry lets groups be. A ring of groups, which
	// nobody can make, ends there too.
	groupDepth = 7
)

// node is a group in the tree.
type node struct {
	adminapi.ThingGroup
	Depth int // from 0
}

// tree orders static groups: each with the groups below it after it. A group
// whose parent is not there is at the top.
func tree(items []adminapi.ThingGroup) (out []node) {
	below, known := map[string][]int{}, map[string]bool{}
	for _, g := range items {
		known[strings.ToLower(g.Name)] = true
	}
	for i, g := range items {
		parent := strings.ToLower(g.Parent)
		if !known[parent] {
			parent = ""
		}
		below[parent] = append(below[parent], i)
	}
	placed := make([]bool, len(items))
	var add func(i, depth int)
	add = func(i, depth int) {
		if placed[i] {
			return
		}
		placed[i] = true
		out = append(out, node{items[i], min(depth, groupDepth-1)})
		for _, k := range below[strings.ToLower(items[i].Name)] {
			add(k, depth+1)
		}
	}
	for _, i := range below[""] {
		add(i, 0)
	}
	for i := range items { // of a ring
		add(i, 0)
	}
	return out
}

// allGroups reads the groups of a kind, unless there are more than a tree shows.
func (c *console) allGroups(ctx context.Context, s access.Scope, k web.GroupKind) (items []adminapi.ThingGroup, all bool, err error) {
	for after := ""; ; {
		some, next, err := c.Backend.Groups.Groups(ctx, s, k, web.GroupQuery{}, web.Page{After: after, Limit: treeSize - len(items)})
		if err != nil {
			return nil, false, err
		}
		items = append(items, some...)
		if next == "" {
			return items, true, nil
		}
		if len(items) >= treeSize {
			return nil, false, nil
		}
		after = next
	}
}

func groupKind(text string) (k web.GroupKind, path string) {
	if text == string(web.BillingGroups) {
		return web.BillingGroups, "/console/billing-groups/"
	}
	return web.ThingGroups, "/console/groups/"
}

// groups shows the tree of static groups and the dynamic ones, or what a search
// finds in pages.
func (c *console) groups(v *view) (string, error) {
	v.Title = "Groups"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	in, ctx := v.r.URL.Query(), v.r.Context()
	kind, path := groupKind(in.Get("kind"))
	q := web.GroupQuery{Parent: in.Get("parent"), Prefix: strings.TrimSpace(in.Get("q"))}
	data := map[string]any{"Kind": string(kind), "Billing": kind == web.BillingGroups, "Path": path, "Query": q.Prefix, "Parent": q.Parent, "Filtered": q != web.GroupQuery{}}
	v.Data = data
	if q == (web.GroupQuery{}) && p.After == "" {
		items, all, err := c.allGroups(ctx, v.scope, kind)
		if err != nil {
			return "", err
		}
		if all {
			isDynamic := func(g adminapi.ThingGroup) bool { return g.Query != "" }
			data["Tree"] = tree(slices.DeleteFunc(slices.Clone(items), isDynamic))
			data["Dynamic"] = slices.DeleteFunc(items, func(g adminapi.ThingGroup) bool { return !isDynamic(g) })
			return "groups", nil
		}
	}
	items, next, err := c.Backend.Groups.Groups(ctx, v.scope, kind, q, p)
	problem, err := v.refused(err)
	data["Items"], data["Next"], data["List"], data["Problem"] = items, c.nextLink(v, next), true, problem
	return "groups", err
}

// group makes the page of one group of a kind.
func group(kind web.GroupKind) func(c *console, v *view) (string, error) {
	return func(c *console, v *view) (string, error) {
		ctx := v.r.Context()
		g, err := c.Backend.Groups.Group(ctx, v.scope, kind, v.r.PathValue("group"))
		if err != nil {
			return "", err
		}
		v.Title = "Group " + g.Name
		p, err := c.paging(v)
		if err != nil {
			return "", err
		}
		above, err := c.above(ctx, v.scope, kind, g.Parent)
		if err != nil {
			return "", err
		}
		see := v.sees()
		nested := v.r.URL.Query().Get("nested") == "yes"
		_, path := groupKind(string(kind))
		data := map[string]any{"Group": g, "Above": above, "Nested": nested, "Billing": kind == web.BillingGroups, "Path": path, "See": see}
		if kind == web.ThingGroups && g.Query == "" {
			var more string
			if data["Below"], more, err = c.Backend.Groups.Groups(ctx, v.scope, kind, web.GroupQuery{Parent: g.Name}, web.Page{Limit: pageSize}); err != nil {
				return "", err
			}
			data["MoreBelow"] = more != ""
			if see.Policies {
				if data["Policies"], err = c.Backend.Policies.AttachedPolicies(ctx, v.scope, web.AttachedQuery{Group: g.Name, Inherited: true}); err != nil {
					return "", err
				}
			}
		}
		members, next, err := c.Backend.Groups.GroupThings(ctx, v.scope, kind, g.Name, nested, p)
		data["Members"], data["Next"] = members, c.nextLink(v, next)
		v.Data = data
		return "group", err
	}
}

// above is the way from the top down to a group.
func (c *console) above(ctx context.Context, s access.Scope, kind web.GroupKind, parent string) (out []string, err error) {
	for parent != "" && len(out) < groupDepth {
		g, err := c.Backend.Groups.Group(ctx, s, kind, parent)
		if err != nil {
			return nil, err
		}
		out = append(out, g.Name)
		parent = g.Parent
	}
	slices.Reverse(out)
	return out, nil
}
