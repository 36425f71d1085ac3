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
	"time"

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
	// Dangerous says what of it takes a second person (S36), "" if one suffices.
	Dangerous string
	Notes     []string // what else will happen, for people
	Next      []string // commands of other people that it waits for afterwards
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

// Ref names the object of a document.
type Ref struct{ Kind, Name string }

// needy is a spec that names other objects, which have to be there first.
type needy interface{ Needs(name string) []Ref }

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
	// Waits is the right that somebody else has to have who approves this, in one of
	// the roles: the actor lacks it, or it is dangerous, or it comes after an item that
	// is.
	Waits     string   `json:"waits,omitempty"`
	Roles     []string `json:"roles,omitempty"`
	Dangerous string   `json:"dangerous,omitempty"`
	After     string   `json:"after,omitempty"`
	Secret    string   `json:"secret,omitempty"`
}

// Todo tells whether the plan does something about it.
func (i *Item) Todo() bool { return i.Action != Unchanged && i.Waits == "" }

// Plan is what documents come to.
type Plan struct {
	Hash    string `json:"hash"`
	Items   []Item `json:"items"`
	Applied bool   `json:"applied"`
	// Requests is where what waits was asked for.
	Requests []Asked `json:"requests,omitempty"`
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
	// Requests keeps what waits for a second person; without it that stays undone.
	Requests RequestStore
	// Gone tells whether a principal's access was ended; nil if nobody's ever is.
	Gone func(ctx context.Context, s access.Scope, name string) (bool, error)
	Log  *slog.Logger
	Now  func() time.Time
}

// Planner makes plans and applies them. It is safe for concurrent use.
type Planner struct {
	cfg Config
	log *slog.Logger
	now func() time.Time
}

// New makes a Planner.
func New(cfg Config) *Planner {
	p := &Planner{cfg: cfg, log: cfg.Log, now: cfg.Now}
	if p.now == nil {
		p.now = time.Now
	}
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
	rights    []access.Action // all that the change takes
	may       bool            // it changes something, and the actor has them
	put       bool            // it is to be done
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
	return p.try(ctx, by, docs, "")
}

// try surveys the documents of a plan, or of a request, and makes every change that
// the actor has the rights for, to take it back.
func (p *Planner) try(ctx context.Context, by access.Actor, docs []Document, request string) (Plan, error) {
	plan, steps, err := p.survey(ctx, by, docs, request)
	if err != nil {
		return Plan{}, err
	}
	if !slices.ContainsFunc(steps, func(s step) bool { return s.may }) {
		return plan, nil
	}
	err = p.cfg.Atomic(lane.With(ctx, lane.Status), func(ctx context.Context) error {
		var steps []step
		if plan, steps, err = p.survey(ctx, by, docs, request); err != nil {
			return err
		}
		for i := range steps { // what waits for a second person is tried too
			steps[i].put = steps[i].may
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
// nothing. What waits is asked for in the same transaction.
func (p *Planner) Apply(ctx context.Context, by access.Actor, files []File, hash string) (plan Plan, err error) {
	docs, err := p.read(files)
	if err != nil {
		return Plan{}, err
	}
	for try := 0; ; try++ {
		err = p.cfg.Atomic(lane.With(ctx, lane.Status), func(ctx context.Context) error {
			var steps []step
			if plan, steps, err = p.survey(ctx, by, docs, ""); err != nil {
				return err
			}
			if plan.Hash != hash {
				return ErrStale.New("")
			}
			if err := p.put(ctx, by, &plan, steps); err != nil {
				return err
			}
			return p.ask(ctx, by, &plan, steps)
		})
		if !errors.Is(err, ErrRequestMoved) || try == 2 { // of two who ask for the same at once the later one finds it
			break
		}
	}
	if err != nil {
		return Plan{}, err
	}
	plan.Applied = true
	p.applied(ctx, by, &plan)
	for _, r := range plan.Requests {
		p.log.InfoContext(ctx, "approval asked for", "request", r.ID, "documents", r.Documents, "again", r.Again, "by", by.String())
	}
	return plan, nil
}

// applied logs what was done.
func (p *Planner) applied(ctx context.Context, by access.Actor, plan *Plan, more ...any) {
	for i := range plan.Items {
		if it := &plan.Items[i]; it.Todo() {
			p.log.InfoContext(ctx, "document applied", append([]any{"kind", it.Kind, "name", it.Name, "action", it.Action, "plan", plan.Hash, "by", by.String()}, more...)...)
		}
	}
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

// survey compares every document with what is there. Those of a request are looked
// at for their approval: that they are dangerous is why they were asked for.
func (p *Planner) survey(ctx context.Context, by access.Actor, docs []Document, request string) (Plan, []step, error) {
	plan, steps := Plan{Items: make([]Item, len(docs))}, make([]step, len(docs))
	var found []Finding
	type line struct {
		Item
		Before, After any
	}
	lines := make([]line, len(docs))
	for i := range docs {
		d, it, st := &docs[i], &plan.Items[i], &steps[i]
		*it = Item{Kind: d.Kind.Name(), Name: d.Name, File: d.File, Line: d.Line, Action: Update}
		*st = step{doc: d, want: d.Spec, rights: []access.Action{d.Kind.Sees()}}
		after, err := tree(d.Spec)
		if err != nil {
			return plan, nil, err
		}
		lines[i].After = after
		if !access.Can(by, d.Kind.Sees()) {
			it.wait(d.Kind.Sees())
			// What it would take is judged as if there were nothing: nobody learns from it
			// what there is.
			if v, err := d.Kind.Judge(ctx, by.Scope(), d.Name, nil, d.Spec); err == nil {
				st.rights = append(st.rights, v.Rights...)
			}
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
		st.was = was
		before, err := tree(was)
		if err != nil {
			return plan, nil, err
		}
		lines[i].Before = before
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
		st.rights = append(st.rights, v.Rights...)
		if it.Action == Unchanged {
			continue
		}
		st.may = true
		for _, right := range v.Rights {
			if !access.Can(by, right) {
				st.may = false
				if it.Waits == "" {
					it.wait(right)
				}
			}
		}
		if it.Dangerous = v.Dangerous; v.Dangerous != "" && it.Waits == "" && request == "" {
			it.wait(st.rights[len(st.rights)-1])
		}
	}
	if len(found) > 0 {
		return plan, nil, refused(found, waiting(&plan))
	}
	if request == "" {
		hold(&plan, steps)
	}
	for i := range steps {
		steps[i].put = plan.Items[i].Todo()
		lines[i].Item = plan.Items[i]
		lines[i].File, lines[i].Line = "", 0 // where a document stands in which file changes nothing
	}
	label := []any{"hallmark plan v1", by.Tenant, lines}
	if request != "" {
		label = []any{"hallmark approval v1", by.Tenant, request, lines}
	}
	raw, err := json.Marshal(label)
	if err != nil {
		return plan, nil, err
	}
	sum := sha256.Sum256(raw)
	plan.Hash = hex.EncodeToString(sum[:])
	return plan, steps, nil
}

// hold lets what names an object that is not there yet wait together with it.
func hold(plan *Plan, steps []step) {
	missing := map[Ref]bool{}
	for i := range steps { // what is named comes before what names it
		it := &plan.Items[i]
		if n, ok := steps[i].want.(needy); ok && it.Todo() {
			for _, r := range n.Needs(it.Name) {
				if missing[r] && it.Waits == "" {
					it.After = r.Kind + " " + r.Name
					it.wait(steps[i].rights[len(steps[i].rights)-1])
				}
			}
		}
		if it.Waits != "" && it.Action == Create {
			missing[Ref{it.Kind, it.Name}] = true
		}
	}
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
		if !s.put {
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
