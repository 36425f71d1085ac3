package declare

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"

	"hallmark/access"
	"hallmark/internal/fault"
	"hallmark/internal/lane"
)

// Kind is one kind of object. Its methods join the transaction of their context.
type Kind interface {
	// Name is what documents say after kind.
	Name() string
	// Sees is the right without which nobody learns what there is.
	Sees() access.Action
	// Decode reads a spec strictly and completes it; it looks at nothing else.
	Decode(raw []byte) (Spec, error)
	// Read is what is there, nil if nothing is.
	Read(ctx context.Context, s access.Scope, name string) (Spec, error)
	// List gives the names of what is exported, a page at a time.
	List(ctx context.Context, s access.Scope, after string, limit int) (names []string, next string, err error)
	// Judge says what a change takes, or refuses what cannot be had. It is asked
	// about what does not change too, for its remarks.
	Judge(ctx context.Context, s access.Scope, name string, was, want Spec) (Verdict, error)
	// Put makes it so, by the rules of the kind's own route.
	Put(ctx context.Context, by access.Actor, name string, was, want Spec) (Outcome, error)
}

// Verdict is what a change takes.
type Verdict struct {
	Rights []access.Action
	Notes  []string // what else will happen, for people
	Next   []string // commands of other people that it waits for afterwards
}

// Outcome is what became of a change beside the change.
type Outcome struct {
	Secret string // made for it, told once
}

// public is a spec with parts that only serve its creation, such as a proof: they
// are not compared.
type public interface{ Public() Spec }

// nested is a spec of an object that lies below another one of its kind.
type nested interface{ Above() string }

// What becomes of an object.
const (
	Create    = "create"
	Update    = "change"
	Unchanged = "unchanged"
)

// Item is one document of a plan.
type Item struct {
	Kind    string   `json:"kind"`
	Name    string   `json:"name"`
	File    string   `json:"file"`
	Line    int      `json:"line"`
	Action  string   `json:"action"`
	Changes []Change `json:"changes,omitempty"`
	Notes   []string `json:"notes,omitempty"`
	Next    []string `json:"next,omitempty"`
	// Waits is the right that the actor lacks: the item is left to somebody who has
	// one of the roles.
	Waits  string   `json:"waits,omitempty"`
	Roles  []string `json:"roles,omitempty"`
	Secret string   `json:"secret,omitempty"`
}

// Todo tells whether the plan does something about it.
func (i *Item) Todo() bool { return i.Action != Unchanged && i.Waits == "" }

// Plan is what documents come to.
type Plan struct {
	Hash    string `json:"hash"`
	Items   []Item `json:"items"`
	Applied bool   `json:"applied"`
}

// Count is how many items are to be done, wait for others, and are as wanted.
func (p *Plan) Count() (todo, waiting, unchanged int) {
	for i := range p.Items {
		switch it := &p.Items[i]; {
		case it.Waits != "":
			waiting++
		case it.Action == Unchanged:
			unchanged++
		default:
			todo++
		}
	}
	return todo, waiting, unchanged
}

// Config makes a Planner.
type Config struct {
	Kinds  []Kind // in the order in which they are put: what is named before what names it
	Atomic func(ctx context.Context, fn func(ctx context.Context) error) error
	Log    *slog.Logger
}

// Planner makes plans and applies them. It is safe for concurrent use.
type Planner struct {
	cfg Config
	log *slog.Logger
}

// New makes a Planner.
func New(cfg Config) *Planner {
	p := &Planner{cfg: cfg, log: cfg.Log}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	return p
}

// Kinds lists the names of the kinds.
func (p *Planner) Kinds() (out []string) {
	for _, k := range p.cfg.Kinds {
		out = append(out, k.Name())
	}
	return out
}

// step is an item with what it is about.
type step struct {
	doc       *Document
	was, want Spec
}

// errTrial takes a trial's transaction back.
var errTrial = errors.New("declare: taken back")

// Plan says what the documents change, and tries it. The try takes the writer like
// a change does, so it goes behind everybody else's.
func (p *Planner) Plan(ctx context.Context, by access.Actor, files []File) (Plan, error) {
	docs, err := p.read(files)
	if err != nil {
		return Plan{}, err
	}
	plan, _, err := p.survey(ctx, by, docs)
	if err != nil {
		return Plan{}, err
	}
	if todo, _, _ := plan.Count(); todo == 0 {
		return plan, nil
	}
	err = p.cfg.Atomic(lane.With(ctx, lane.Status), func(ctx context.Context) error {
		var steps []step
		if plan, steps, err = p.survey(ctx, by, docs); err != nil {
			return err
		}
		if err := p.put(ctx, by, &plan, steps); err != nil {
			return err
		}
		return errTrial
	})
	if !errors.Is(err, errTrial) {
		return Plan{}, err
	}
	for i := range plan.Items {
		plan.Items[i].Secret = "" // of the try
	}
	return plan, nil
}

// Apply does what a plan of the same documents with that hash said, all of it or
// nothing.
func (p *Planner) Apply(ctx context.Context, by access.Actor, files []File, hash string) (plan Plan, err error) {
	docs, err := p.read(files)
	if err != nil {
		return Plan{}, err
	}
	err = p.cfg.Atomic(lane.With(ctx, lane.Status), func(ctx context.Context) error {
		var steps []step
		if plan, steps, err = p.survey(ctx, by, docs); err != nil {
			return err
		}
		if plan.Hash != hash {
			return ErrStale.New("")
		}
		return p.put(ctx, by, &plan, steps)
	})
	if err != nil {
		return Plan{}, err
	}
	plan.Applied = true
	for i := range plan.Items {
		if it := &plan.Items[i]; it.Todo() {
			p.log.InfoContext(ctx, "document applied", "kind", it.Kind, "name", it.Name, "action", it.Action, "plan", hash, "by", by.String())
		}
	}
	return plan, nil
}

// read parses the files and brings the documents into the order of their kinds,
// what is above before what is below.
func (p *Planner) read(files []File) ([]Document, error) {
	docs, err := Parse(files, p.cfg.Kinds)
	if err != nil {
		return nil, err
	}
	rank := map[string]int{}
	for i, k := range p.cfg.Kinds {
		rank[k.Name()] = i
	}
	above := map[string]string{}
	for _, d := range docs {
		if n, ok := d.Spec.(nested); ok {
			above[d.Kind.Name()+"\x00"+d.Name] = n.Above()
		}
	}
	depth := func(d *Document) (n int) {
		for name := above[d.Kind.Name()+"\x00"+d.Name]; name != "" && n <= len(docs); name = above[d.Kind.Name()+"\x00"+name] {
			n++
		}
		return n
	}
	slices.SortStableFunc(docs, func(a, b Document) int {
		if r := rank[a.Kind.Name()] - rank[b.Kind.Name()]; r != 0 {
			return r
		}
		if r := depth(&a) - depth(&b); r != 0 {
			return r
		}
		return strings.Compare(a.Name, b.Name)
	})
	return docs, nil
}

// survey compares every document with what is there.
func (p *Planner) survey(ctx context.Context, by access.Actor, docs []Document) (Plan, []step, error) {
	plan, steps := Plan{Items: make([]Item, len(docs))}, make([]step, len(docs))
	var found []Finding
	type line struct {
		Item
		Before, After any
	}
	lines := make([]line, len(docs))
	for i := range docs {
		d, it := &docs[i], &plan.Items[i]
		*it = Item{Kind: d.Kind.Name(), Name: d.Name, File: d.File, Line: d.Line, Action: Update}
		steps[i] = step{doc: d, want: d.Spec}
		after, err := tree(d.Spec)
		if err != nil {
			return plan, nil, err
		}
		if !access.Can(by, d.Kind.Sees()) {
			it.wait(d.Kind.Sees())
			lines[i] = line{Item: *it, After: after}
			continue
		}
		was, err := d.Kind.Read(ctx, by.Scope(), d.Name)
		if err != nil {
			if !told(err) {
				return plan, nil, err
			}
			found = append(found, d.finding(err))
			continue
		}
		steps[i].was = was
		before, err := tree(was)
		if err != nil {
			return plan, nil, err
		}
		compared := after
		if h, ok := d.Spec.(public); ok {
			if compared, err = tree(h.Public()); err != nil {
				return plan, nil, err
			}
		}
		switch {
		case was == nil:
			it.Action = Create
		case same(before, compared):
			it.Action = Unchanged
		}
		it.Changes = difference(before, compared)
		v, err := d.Kind.Judge(ctx, by.Scope(), d.Name, was, d.Spec)
		if err != nil {
			if !told(err) {
				return plan, nil, err
			}
			found = append(found, d.finding(err))
			continue
		}
		it.Notes, it.Next = v.Notes, v.Next
		for _, right := range v.Rights {
			if it.Action != Unchanged && it.Waits == "" && !access.Can(by, right) {
				it.wait(right)
			}
		}
		lines[i] = line{Item: *it, Before: before, After: after}
	}
	if len(found) > 0 {
		return plan, nil, refused(found, waiting(&plan))
	}
	for i := range lines { // where a document stands in which file changes nothing
		lines[i].File, lines[i].Line = "", 0
	}
	raw, err := json.Marshal([]any{"hallmark plan v1", by.Tenant, lines})
	if err != nil {
		return plan, nil, err
	}
	sum := sha256.Sum256(raw)
	plan.Hash = hex.EncodeToString(sum[:])
	return plan, steps, nil
}

func (i *Item) wait(right access.Action) {
	i.Waits, i.Roles = string(right), nil
	for _, r := range access.Roles() {
		if slices.Contains(access.Actions(r), right) {
			i.Roles = append(i.Roles, string(r))
		}
	}
}

// waiting names what somebody else has to apply, which may be what is missing.
func waiting(p *Plan) string {
	var names []string
	for i := range p.Items {
		if it := &p.Items[i]; it.Waits != "" && len(names) < 8 {
			names = append(names, it.Kind+" "+it.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "These wait for somebody with another role, and may be what is missing: " + strings.Join(names, ", ") + "."
}

// told tells whether an error is about the document and not about us.
func told(err error) bool {
	switch fault.KindOf(err) {
	case fault.Invalid, fault.Forbidden, fault.NotFound, fault.Conflict, fault.Exhausted:
		return true
	}
	return false
}

// put makes every change and collects what is refused.
func (p *Planner) put(ctx context.Context, by access.Actor, plan *Plan, steps []step) error {
	var found []Finding
	for i := range steps {
		s, it := &steps[i], &plan.Items[i]
		if !it.Todo() {
			continue
		}
		out, err := s.doc.Kind.Put(ctx, by, it.Name, s.was, s.want)
		if err != nil {
			if !told(err) {
				return err
			}
			found = append(found, s.doc.finding(err))
			continue
		}
		it.Secret = out.Secret
	}
	if len(found) > 0 {
		return refused(found, waiting(plan))
	}
	return nil
}

// Written is an exported document.
type Written struct{ Kind, Name, Text string }

// Export writes the documents of one kind, a page at a time.
func (p *Planner) Export(ctx context.Context, by access.Actor, kind, after string, limit int) (out []Written, next string, err error) {
	i := slices.IndexFunc(p.cfg.Kinds, func(k Kind) bool { return k.Name() == kind })
	if i < 0 {
		return nil, "", ErrKind.New("%.40q is none of %s.", kind, strings.Join(p.Kinds(), ", "))
	}
	k := p.cfg.Kinds[i]
	if err := access.Require(by, k.Sees()); err != nil {
		return nil, "", err
	}
	names, next, err := k.List(ctx, by.Scope(), after, limit)
	for _, name := range names {
		s, err := k.Read(ctx, by.Scope(), name)
		if err != nil {
			return nil, "", err
		}
		if s == nil {
			continue // it went since
		}
		text, err := Write(k, name, s)
		if err != nil {
			return nil, "", err
		}
		out = append(out, Written{kind, name, text})
	}
	return out, next, err
}
