package declare

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/internal/lane"
)

// What is asked for waits this long for a second person, and of so many requests
// at a time: nobody looks at more.
const (
	RequestLife = 7 * 24 * time.Hour
	MaxRequests = 200
	maxNote     = 1024
)

// RequestState says what became of a request.
type RequestState string

// The states. A request that is not open never becomes it again.
const (
	RequestOpen       RequestState = "open"
	RequestApproved   RequestState = "approved"
	RequestRejected   RequestState = "rejected"
	RequestExpired    RequestState = "expired"
	RequestSuperseded RequestState = "superseded" // by a later one, or there is nothing left to do
)

// RequestStates lists them.
var RequestStates = []RequestState{RequestOpen, RequestApproved, RequestRejected, RequestExpired, RequestSuperseded}

// Wanted is a document that waits, as [Write] writes it.
type Wanted struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	Text string `json:"text"`
}

// RequestBody is what was asked for. It never changes.
type RequestBody struct {
	Tenant    string    `json:"tenant"`
	ID        string    `json:"id"`
	Hash      string    `json:"hash"` // of the documents
	Documents []Wanted  `json:"documents"`
	AskedBy   string    `json:"askedBy"`
	AskedAt   time.Time `json:"askedAt"`
	ExpiresAt time.Time `json:"expiresAt"`
}

// Decision is what became of it.
type Decision struct {
	By   string    `json:"by,omitempty"`
	At   time.Time `json:"at,omitzero"`
	Plan string    `json:"plan,omitempty"` // hash of what the approver saw
	Note string    `json:"note,omitempty"`
}

// Request is a stored approval request (S36): documents that one person may not
// put in force alone.
type Request struct {
	RequestBody
	Body     []byte // the octets of RequestBody
	State    RequestState
	Decision Decision
	Version  int64
}

// StateAt is the state at a time: nobody has to come by for a request to expire.
func (r *Request) StateAt(now time.Time) RequestState {
	if r.State == RequestOpen && !now.Before(r.ExpiresAt) {
		return RequestExpired
	}
	return r.State
}

// subject is what an approval is about.
func (r *Request) subject() (out [32]byte) {
	b, _ := hex.DecodeString(r.Hash)
	copy(out[:], b)
	return out
}

// RequestStore persists requests. Contract: rows are protected against other
// writers (S32); look-ups see one tenant (ErrRequestUnknown); of one set of
// documents one request is open at a time. PutRequest with was 0 makes a row, else
// it changes the state and decision of that version; whoever is late gets
// ErrRequestMoved. All join the transaction of their context.
type RequestStore interface {
	PutRequest(ctx context.Context, r Request, was int64) error
	Request(ctx context.Context, s access.Scope, id string) (Request, error)
	// Requests gives them newest first, those before an id; "" for the newest.
	Requests(ctx context.Context, s access.Scope, before string, limit int) ([]Request, error)
	OpenRequests(ctx context.Context, s access.Scope) ([]Request, error)
}

// Asked is a request that an applied plan led to.
type Asked struct {
	ID        string    `json:"id"`
	Documents int       `json:"documents"`
	Roles     []string  `json:"roles"` // each may approve all of it
	AskedBy   string    `json:"askedBy"`
	ExpiresAt time.Time `json:"expiresAt"`
	Again     bool      `json:"again,omitempty"` // it was open already
}

// deciders are the roles that could approve a change which takes these rights.
func deciders(rights []access.Action) (out []string) {
	for _, r := range access.Roles() {
		may := access.Actions(r)
		if slices.Contains(may, access.DecideApproval) && !slices.ContainsFunc(rights, func(a access.Action) bool { return !slices.Contains(may, a) }) {
			out = append(out, string(r))
		}
	}
	return out
}

// bundle is documents that one person could approve together.
type bundle struct {
	roles []string
	docs  []*Document
}

// bundles parts what waits: into one, unless no role has the rights for all of it,
// since then nobody could ever approve it.
func bundles(plan *Plan, steps []step) (out []bundle) {
next:
	for i := range steps {
		if plan.Items[i].Waits == "" {
			continue
		}
		roles := deciders(steps[i].rights)
		for b := range out {
			both := slices.DeleteFunc(slices.Clone(out[b].roles), func(r string) bool { return !slices.Contains(roles, r) })
			if len(both) > 0 {
				out[b].roles, out[b].docs = both, append(out[b].docs, steps[i].doc)
				continue next
			}
		}
		out = append(out, bundle{roles, []*Document{steps[i].doc}})
	}
	return out
}

// wanted writes the documents of a bundle, and their hash.
func wanted(tenant string, docs []*Document) (out []Wanted, hash string, err error) {
	for _, d := range docs {
		text, err := Write(d.Kind, d.Name, d.Spec)
		if err != nil {
			return nil, "", err
		}
		out = append(out, Wanted{d.Kind.Name(), d.Name, text})
	}
	raw, err := json.Marshal([]any{"hallmark approval request v1", tenant, out})
	sum := sha256.Sum256(raw)
	return out, hex.EncodeToString(sum[:]), err
}

// ask stores what waits, in the transaction of what does not.
func (p *Planner) ask(ctx context.Context, by access.Actor, plan *Plan, steps []step) error {
	groups := bundles(plan, steps)
	if len(groups) == 0 || p.cfg.Requests == nil {
		return nil
	}
	now := p.now().UTC().Truncate(time.Millisecond)
	open, err := p.cfg.Requests.OpenRequests(ctx, by.Scope())
	if err != nil {
		return err
	}
	end := func(r *Request, state RequestState, note string) error {
		was := r.Version
		r.State, r.Decision, r.Version = state, Decision{At: now, Note: note}, was+1
		return p.cfg.Requests.PutRequest(ctx, *r, was)
	}
	for i := range open {
		if open[i].StateAt(now) == RequestExpired {
			if err := end(&open[i], RequestExpired, ""); err != nil {
				return err
			}
		}
	}
	open = slices.DeleteFunc(open, func(r Request) bool { return r.State != RequestOpen })
	for _, g := range groups {
		docs, hash, err := wanted(by.Tenant, g.docs)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(open, func(r Request) bool { return r.Hash == hash }); i >= 0 {
			plan.Requests = append(plan.Requests, Asked{open[i].ID, len(docs), g.roles, open[i].AskedBy, open[i].ExpiresAt, true})
			continue
		}
		r := Request{State: RequestOpen, Version: 1, RequestBody: RequestBody{Tenant: by.Tenant, ID: newRequestID(now), Hash: hash, Documents: docs, AskedBy: by.Name, AskedAt: now, ExpiresAt: now.Add(RequestLife)}}
		for i := range open {
			if open[i].AskedBy == by.Name && open[i].State == RequestOpen && within(open[i].Documents, docs) {
				if err := end(&open[i], RequestSuperseded, "replaced by "+r.ID); err != nil {
					return err
				}
			}
		}
		open = slices.DeleteFunc(open, func(r Request) bool { return r.State != RequestOpen })
		if len(open) >= MaxRequests {
			return ErrRequestLimit.New("%d requests are open.", len(open))
		}
		if r.Body, err = json.Marshal(&r.RequestBody); err != nil {
			return err
		}
		if err := p.cfg.Requests.PutRequest(ctx, r, 0); err != nil {
			return err
		}
		access.RecordFrom(ctx).Note(func(e *access.TrailEntry) { e.Approval = r.ID })
		open = append(open, r)
		plan.Requests = append(plan.Requests, Asked{r.ID, len(docs), g.roles, r.AskedBy, r.ExpiresAt, false})
	}
	return nil
}

// within tells whether all objects of the one are among those of the other.
func within(a, b []Wanted) bool {
	return !slices.ContainsFunc(a, func(w Wanted) bool {
		return !slices.ContainsFunc(b, func(v Wanted) bool { return v.Kind == w.Kind && v.Name == w.Name })
	})
}

// newRequestID rises with time, so that the newest request is the last by name.
func newRequestID(now time.Time) string {
	var r [4]byte
	rand.Read(r[:])
	return now.Format("20060102-150405") + "-" + hex.EncodeToString(r[:])
}

// files are a request's documents as they came.
func (r *Request) files() (out []File) {
	for _, w := range r.Documents {
		out = append(out, File{w.Kind + " " + w.Name, w.Text})
	}
	return out
}

// Requests lists what was asked for, newest first.
func (p *Planner) Requests(ctx context.Context, s access.Scope, before string, limit int) ([]Request, error) {
	rows, err := p.cfg.Requests.Requests(ctx, s, before, limit)
	for i := range rows {
		rows[i].State = rows[i].StateAt(p.now())
	}
	return rows, err
}

// Request is one request. While it is open it comes with what it would change now,
// as far as the actor may see that; the plan's hash is what an approval names. If
// the documents cannot be applied any more, the plan is empty and refusal says why.
func (p *Planner) Request(ctx context.Context, by access.Actor, id string) (r Request, plan Plan, refusal error, err error) {
	if r, err = p.cfg.Requests.Request(ctx, by.Scope(), id); err != nil {
		return r, plan, nil, err
	}
	if r.State = r.StateAt(p.now()); r.State == RequestOpen {
		docs, err := p.read(r.files())
		if err == nil {
			plan, err = p.try(ctx, by, docs, r.ID)
		}
		if err != nil {
			if !told(err) {
				return r, plan, nil, err
			}
			plan, refusal = Plan{}, err
		}
	}
	// Who may not see what there is does not see what it shall become.
	for i := range r.Documents {
		if w := &r.Documents[i]; !p.sees(by, w.Kind) {
			w.Text = ""
		}
	}
	return r, plan, refusal, nil
}

func (p *Planner) sees(by access.Actor, kind string) bool {
	return slices.ContainsFunc(p.cfg.Kinds, func(k Kind) bool { return k.Name() == kind && access.Can(by, k.Sees()) })
}

// undecided finds a request that can still be decided.
func (p *Planner) undecided(ctx context.Context, by access.Actor, id string, now time.Time) (Request, error) {
	r, err := p.cfg.Requests.Request(ctx, by.Scope(), id)
	if err == nil && r.StateAt(now) != RequestOpen {
		err = ErrRequestDecided.New("It is %s.", r.StateAt(now))
	}
	return r, err
}

// Approve puts the documents of a request in force, all of them or none, as the
// approver's act. The approver is somebody else than who asked, has the right of
// every change, and saw the plan with this hash; if what is there differs from
// that by now, nothing is done.
func (p *Planner) Approve(ctx context.Context, by access.Actor, id, hash string) (r Request, plan Plan, err error) {
	err = p.cfg.Atomic(lane.With(ctx, lane.Status), func(ctx context.Context) error {
		now := p.now().UTC().Truncate(time.Millisecond)
		if r, err = p.undecided(ctx, by, id, now); err != nil {
			return err
		}
		if _, err := access.Approve(by, access.DecideApproval, r.subject(), r.AskedBy, now); err != nil {
			return err
		}
		// Somebody whose access was taken away since may have been taken over before.
		if p.cfg.Gone != nil {
			if gone, err := p.cfg.Gone(ctx, by.Scope(), r.AskedBy); err != nil || gone {
				if err == nil {
					err = ErrRequestAsker.New("%s asked for it.", r.AskedBy)
				}
				return err
			}
		}
		docs, err := p.read(r.files())
		if err != nil {
			return err
		}
		var steps []step
		if plan, steps, err = p.survey(ctx, by, docs, r.ID); err != nil {
			return err
		}
		for i := range steps {
			if plan.Items[i].Action == Unchanged {
				continue
			}
			for _, right := range steps[i].rights {
				if _, err := access.Approve(by, right, r.subject(), r.AskedBy, now); err != nil {
					return err
				}
			}
		}
		if plan.Hash != hash {
			return ErrStale.New("")
		}
		if err := p.put(ctx, by, &plan, steps); err != nil {
			return err
		}
		was := r.Version
		r.State, r.Decision, r.Version = RequestApproved, Decision{By: by.Name, At: now, Plan: hash}, was+1
		if todo, _, _ := plan.Count(); todo == 0 {
			r.State, r.Decision.Note = RequestSuperseded, "there was nothing left to do"
		}
		return p.cfg.Requests.PutRequest(ctx, r, was)
	})
	if err != nil {
		return Request{}, Plan{}, err
	}
	plan.Applied = true
	p.log.InfoContext(ctx, "approval request decided", "request", r.ID, "state", string(r.State), "asked_by", r.AskedBy, "by", by.String())
	p.applied(ctx, by, &plan, "request", r.ID, "asked_by", r.AskedBy)
	return r, plan, nil
}

// Reject ends a request. Whoever asked takes it back in this way; of the others
// those may do it who may see what it is about.
func (p *Planner) Reject(ctx context.Context, by access.Actor, id, note string) (r Request, err error) {
	if len(note) > maxNote || strings.ContainsFunc(note, func(c rune) bool { return c < ' ' }) {
		return r, ErrRequestNote.New("")
	}
	if err := access.Require(by, access.DecideApproval); err != nil {
		return r, err
	}
	err = p.cfg.Atomic(lane.With(ctx, lane.Status), func(ctx context.Context) error {
		now := p.now().UTC().Truncate(time.Millisecond)
		if r, err = p.undecided(ctx, by, id, now); err != nil {
			return err
		}
		for _, k := range p.cfg.Kinds {
			about := slices.ContainsFunc(r.Documents, func(w Wanted) bool { return w.Kind == k.Name() })
			if r.AskedBy != by.Name && about {
				if err := access.Require(by, k.Sees()); err != nil {
					return err
				}
			}
		}
		was := r.Version
		r.State, r.Decision, r.Version = RequestRejected, Decision{By: by.Name, At: now, Note: note}, was+1
		return p.cfg.Requests.PutRequest(ctx, r, was)
	})
	if err != nil {
		return Request{}, err
	}
	p.log.InfoContext(ctx, "approval request decided", "request", r.ID, "state", string(r.State), "asked_by", r.AskedBy, "by", by.String())
	for i := range r.Documents {
		if w := &r.Documents[i]; !p.sees(by, w.Kind) {
			w.Text = ""
		}
	}
	return r, nil
}
