package crl

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
)

// BlastQuery says which certificates an incident is about. What is empty does
// not narrow it.
type BlastQuery struct {
	Station   string    `json:"station,omitempty"`
	Order     string    `json:"order,omitempty"`
	Operator  string    `json:"operator,omitempty"`
	Authority string    `json:"authority,omitempty"`
	Tool      string    `json:"tool,omitempty"`
	Key       string    `json:"key,omitempty"` // SHA-256 of a public key, lower-case hex
	From      time.Time `json:"from,omitzero"` // of the request, inclusive
	To        time.Time `json:"to,omitzero"`   // exclusive
}

// BlastStage is a step of a plan.
type BlastStage string

// The stages. Hold is one person's decision, since it can be taken back; the others
// need a second person each (S36). Rotate gives the devices that are connected new
// certificates and holds the rest of the plan; it is for plans that were made with
// [BlastRotation], whose stage hold leaves those devices alone.
const (
	StageHold    BlastStage = "hold"
	StageRotate  BlastStage = "rotate"
	StageRevoke  BlastStage = "revoke"
	StageRelease BlastStage = "release"
)

// BlastState is where a plan is.
type BlastState string

// The states.
const (
	BlastReady   BlastState = "ready"   // waits for a stage to be started
	BlastRunning BlastState = "running" // the service works on the stage
	BlastPaused  BlastState = "paused"  // in the middle of the stage
	BlastDone    BlastState = "done"    // revoked
	BlastAborted BlastState = "aborted" // given up or released; what was done stays, holds can be released
)

// BlastCounts is what a plan covers, for whoever decides.
type BlastCounts struct {
	Certificates int64 `json:"certificates"` // with reservations that have none
	Devices      int64 `json:"devices"`
	Inherited    int64 `json:"inherited"` // operational certificates of devices whose birth certificate is covered (S16)
	Unissued     int64 `json:"unissued"`  // reserved serial numbers without a certificate
	Expired      int64 `json:"expired"`
	Revoked      int64 `json:"revoked"`    // already
	Held         int64 `json:"held"`       // already
	Live         int64 `json:"live"`       // devices that are connected now, or asked over HTTPS a short while ago
	InStock      int64 `json:"in_stock"`   // devices that never had an operational certificate
	SpareSlot    int64 `json:"spare_slot"` // devices in the field that could take a second operational certificate
}

// BlastBody is what never changes about a plan. Approvals are about its octets.
type BlastBody struct {
	ID        string     `json:"id"`
	Tenant    string     `json:"tenant"`
	Query     BlastQuery `json:"query"`
	Reason    Reason     `json:"reason"`
	Note      string     `json:"note"`
	Reenrol   bool       `json:"reenrol"` // the devices may get new certificates; else they are blocked (S16)
	PerSecond int        `json:"per_second"`
	// Rotate is how devices get new certificates before theirs are revoked; nil: they
	// do not.
	Rotate      *BlastRotation `json:"rotate,omitempty"`
	CreatedBy   string         `json:"created_by"`
	CreatedAt   time.Time      `json:"created_at"`
	Counts      BlastCounts    `json:"counts"`
	Authorities []string       `json:"authorities"` // that the members name by index
	Last        int64          `json:"last"`        // id of the newest reservation that was looked at
	Members     string         `json:"members"`     // SHA-256 over all of them in order, hex
}

// BlastRotation is how the stage rotate goes.
type BlastRotation struct {
	Timeout int64 `json:"timeout"` // seconds that a device gets, once it was told
	Soak    int64 `json:"soak"`    // seconds between the proof of a new certificate and the end of the old one
}

// BlastApproval is a second person's agreement to one stage.
type BlastApproval struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// BlastReport is what a stage did.
type BlastReport struct {
	Stage     BlastStage `json:"stage"`
	StartedBy string     `json:"started_by"`
	StartedAt time.Time  `json:"started_at"`
	EndedAt   time.Time  `json:"ended_at,omitzero"`
	Done      int64      `json:"done"`    // members that were looked at
	Changed   int64      `json:"changed"` // that this stage changed
	Already   int64      `json:"already"` // that were so, or in a stronger state
	Late      int64      `json:"late"`    // certificates changed that covered devices got after the plan was made
	Blocked   int64      `json:"blocked"` // devices that get no certificate any more
	Failed    int64      `json:"failed"`  // members whose rows cannot be trusted; the log names them

	// Of the stage rotate.
	Waiting int64 `json:"waiting,omitempty"` // devices that are being rotated
	Rotated int64 `json:"rotated,omitempty"` // devices that live on a new certificate
	Held    int64 `json:"held,omitempty"`    // certificates of the others
	Settled bool  `json:"settled,omitempty"` // no device is being rotated any more
	Swept   int64 `json:"swept,omitempty"`   // members that were looked at after that
}

// BlastProgress is how far a plan came.
type BlastProgress struct {
	Stage     BlastStage                   `json:"stage,omitempty"` // of a running or paused plan
	Approvals map[BlastStage]BlastApproval `json:"approvals"`
	Reports   []BlastReport                `json:"reports"`
	NextAt    time.Time                    `json:"next_at,omitzero"` // before it nothing is done: the rate
	Problem   string                       `json:"problem,omitempty"`
	ChangedAt time.Time                    `json:"changed_at"`
}

// BlastPlan is a plan to revoke many certificates.
type BlastPlan struct {
	BlastBody
	Body     []byte // the octets of BlastBody
	State    BlastState
	Progress BlastProgress
	Version  int64
}

// over tells whether the plan was given up. One that begins to release its holds is:
// whoever agreed to a stage of it before did not agree to revoke after a false alarm.
func (p *BlastPlan) over() bool {
	return p.State == BlastAborted || slices.ContainsFunc(p.Progress.Reports, func(r BlastReport) bool { return r.Stage == StageRelease })
}

// report is that of the stage under way.
func (p *BlastPlan) report() *BlastReport { return &p.Progress.Reports[len(p.Progress.Reports)-1] }

// Hash is what whoever approves a stage agrees to.
func (p *BlastPlan) Hash(s BlastStage) [32]byte {
	return sha256.Sum256(slices.Concat([]byte("hallmark revocation plan v1\x00"+string(s)+"\x00"), p.Body))
}

// BlastMember is one certificate of a plan.
type BlastMember struct {
	ID        int64 // of its reservation
	Authority string
	Serial    ca.Serial
	Direct    bool // matches the query; else it inherits (S16)

	// For the counts; not kept.
	Holder   string
	Profile  string
	NotAfter time.Time
	Issued   bool
	Revoked  bool
	Reason   Reason
}

// BlastStore persists plans. Contract: as of [Store]. Rows carry a MAC, and
// every plan is read with its tenant.
type BlastStore interface {
	Store
	// BlastSelect gives what a query matches and what inherits from it, in no order,
	// a member more than once if it matches twice. It reads a snapshot.
	BlastSelect(ctx context.Context, tenant string, q BlastQuery, each func(BlastMember) error) error
	// BlastLive gives the holders that are connected at a time, or were heard of over
	// HTTPS a short while before.
	BlastLive(ctx context.Context, tenant string, now time.Time) (map[string]bool, error)
	// BlastLate gives operational certificates of a holder made after a reservation.
	BlastLate(ctx context.Context, tenant, holder string, after int64) ([]Story, error)
	// CreateBlast writes a new plan with its members.
	CreateBlast(ctx context.Context, p BlastPlan, members []BlastMember) error
	// PutBlast changes state and progress if the version is still was.
	PutBlast(ctx context.Context, p BlastPlan, was int64) error
	Blast(ctx context.Context, s access.Scope, id string) (BlastPlan, error)
	// Blasts lists plans, newest id first, before an id.
	Blasts(ctx context.Context, s access.Scope, before string, limit int) ([]BlastPlan, error)
	// BlastMembers gives members from an index on.
	BlastMembers(ctx context.Context, p *BlastPlan, from int64, limit int) ([]BlastMember, error)
	// RunningBlasts names the plans that are at work, of all tenants.
	RunningBlasts(ctx context.Context) (keys [][2]string, err error)
}

// BlastConfig makes a [Blast].
type BlastConfig struct {
	Store   BlastStore
	Service *Service
	// Rotator is there to give devices new certificates; without it no plan rotates.
	Rotator Rotator
	// Yield tells that the line works now: steps are smaller then.
	Yield func() bool
	Log   *slog.Logger
	Now   func() time.Time
}

// Blast plans and runs revocation in bulk. A plan is a dry run that is kept: a
// second person approves its hash, and the service then works through exactly
// its members, in transactions of a few each that also keep how far it came.
type Blast struct {
	cfg  BlastConfig
	log  *slog.Logger
	now  func() time.Time
	kick chan struct{}
	open openPlans
}

// NewBlast makes a Blast.
func NewBlast(cfg BlastConfig) *Blast {
	b := &Blast{cfg: cfg, kick: make(chan struct{}, 1)}
	b.log, b.now = defaults(cfg.Log, cfg.Now)
	return b
}

const (
	maxBlast     = 5_000_000 // members of one plan
	defaultBlast = 500       // certificates a second
	fastestBlast = 10_000
)

// BlastRequest asks for a plan.
type BlastRequest struct {
	Query     BlastQuery
	Reason    Reason
	Note      string
	Reenrol   bool
	PerSecond int            // 0 means 500
	Rotate    *BlastRotation // the devices may get new certificates then, too
}

// check completes and refuses.
func (r *BlastRequest) check() error {
	q := &r.Query
	for _, f := range []struct{ name, v string }{{"station", q.Station}, {"order", q.Order}, {"operator", q.Operator}, {"authority", q.Authority}, {"tool", q.Tool}} {
		if len(f.v) > 256 || strings.ContainsFunc(f.v, func(c rune) bool { return c < 0x20 || c == 0x7f }) {
			return ErrBlastQuery.New("The field %s is too long or has control characters.", f.name)
		}
	}
	q.Key = strings.ToLower(q.Key)
	if b, err := hex.DecodeString(q.Key); q.Key != "" && (err != nil || len(b) != sha256.Size) {
		return ErrBlastQuery.New("The key is the SHA-256 of a public key, 64 hexadecimal digits.")
	}
	q.From, q.To = q.From.UTC().Truncate(time.Millisecond), q.To.UTC().Truncate(time.Millisecond)
	if (*q == BlastQuery{From: q.From, To: q.To}) {
		return ErrBlastQuery.New("Times alone would be about everybody.")
	}
	if !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
		return ErrBlastQuery.New("The window ends before it begins.")
	}
	if !r.Reason.Valid() || r.Reason == CertificateHold {
		return ErrReason.New("A plan revokes for a permanent reason; its hold stage holds.")
	}
	if o := r.Rotate; o != nil {
		if o.Timeout == 0 {
			o.Timeout = 3600
		}
		if o.Timeout < 1 || o.Timeout > 30*24*3600 || o.Soak < 0 || o.Soak > 30*24*3600 {
			return ErrBlastQuery.New("A rotation gives a device 1 second to 30 days, and soaks for at most as long.")
		}
		r.Reenrol = true
	}
	if r.Reenrol && r.Reason == KeyCompromise {
		return ErrBlastQuery.New("After keyCompromise the devices are blocked.")
	}
	if r.PerSecond == 0 {
		r.PerSecond = defaultBlast
	}
	if r.PerSecond < 1 || r.PerSecond > fastestBlast {
		return ErrBlastQuery.New("A rate of %d a second is not 1 to %d.", r.PerSecond, fastestBlast)
	}
	r.Note = note(r.Note)
	return nil
}

// Plan finds what a request covers and keeps it, unless dry. Nothing is revoked.
func (b *Blast) Plan(ctx context.Context, by access.Actor, r BlastRequest, dry bool) (BlastPlan, error) {
	if err := access.Require(by, access.PlanRevocation); err != nil {
		return BlastPlan{}, err
	}
	if err := r.check(); err != nil {
		return BlastPlan{}, err
	}
	if r.Rotate != nil && b.cfg.Rotator == nil {
		return BlastPlan{}, ErrBlastStage.New("This service has no rotation.")
	}
	now := b.now().UTC().Truncate(time.Millisecond)
	p := BlastPlan{State: BlastReady, Version: 1, BlastBody: BlastBody{ID: newBlastID(now), Tenant: by.Tenant, Query: r.Query, Reason: r.Reason, Note: r.Note,
		Reenrol: r.Reenrol, PerSecond: r.PerSecond, Rotate: r.Rotate, CreatedBy: by.Name, CreatedAt: now}, Progress: BlastProgress{Approvals: map[BlastStage]BlastApproval{}, Reports: []BlastReport{}, ChangedAt: now}}
	live, err := b.cfg.Store.BlastLive(ctx, by.Tenant, now)
	if err != nil {
		return BlastPlan{}, err
	}
	members, err := b.selected(ctx, &p)
	if err != nil {
		return BlastPlan{}, err
	}
	if len(members) == 0 {
		return BlastPlan{}, ErrBlastEmpty.New("")
	}
	p.Counts = countBlast(members, live, now)
	p.Members = hashMembers(members)
	p.Last = members[len(members)-1].ID
	if p.Body, err = json.Marshal(&p.BlastBody); err != nil {
		return BlastPlan{}, err
	}
	if dry {
		return p, nil
	}
	if err := b.cfg.Store.CreateBlast(ctx, p, members); err != nil {
		return BlastPlan{}, err
	}
	b.log.WarnContext(ctx, "revocation in bulk planned", "plan", p.ID, "by", by.String(), "certificates", p.Counts.Certificates, "devices", p.Counts.Devices, "reason", p.Reason.String(), "members", p.Members)
	return p, nil
}

// selected reads the members, sorted by reservation, and names their authorities.
func (b *Blast) selected(ctx context.Context, p *BlastPlan) ([]BlastMember, error) {
	var members []BlastMember
	err := b.cfg.Store.BlastSelect(ctx, p.Tenant, p.Query, func(m BlastMember) error {
		if len(members) >= maxBlast {
			return ErrBlastLarge.New("More than %d.", maxBlast)
		}
		members = append(members, m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(members, func(a, b BlastMember) int {
		switch {
		case a.ID != b.ID:
			return int(min(max(a.ID-b.ID, -1), 1))
		case a.Direct == b.Direct:
			return 0
		case a.Direct:
			return -1
		}
		return 1
	})
	members = slices.CompactFunc(members, func(a, b BlastMember) bool { return a.ID == b.ID })
	for i := range members {
		if !slices.Contains(p.Authorities, members[i].Authority) {
			p.Authorities = append(p.Authorities, members[i].Authority)
		}
	}
	return members, nil
}

// countBlast adds up.
func countBlast(members []BlastMember, live map[string]bool, now time.Time) (c BlastCounts) {
	type device struct {
		field bool
		slots int
	}
	devices := make(map[string]device, len(members))
	c.Certificates = int64(len(members))
	for i := range members {
		m := &members[i]
		d := devices[m.Holder]
		expired := !m.NotAfter.After(now)
		switch {
		case !m.Issued:
			c.Unissued++
		case expired:
			c.Expired++
		}
		switch {
		case m.Revoked && m.Reason == CertificateHold:
			c.Held++
		case m.Revoked:
			c.Revoked++
		}
		if !m.Direct {
			c.Inherited++
		}
		if m.Profile == string(profile.LDevID) && m.Issued {
			d.field = true
			if !expired && !m.Revoked {
				d.slots++
			}
		}
		devices[m.Holder] = d
	}
	c.Devices = int64(len(devices))
	for holder, d := range devices {
		switch {
		case !d.field:
			c.InStock++
		case d.slots < len(ca.TwoSlots):
			c.SpareSlot++
		}
		if live[holder] {
			c.Live++
		}
	}
	return c
}

// hashMembers is over reservation, authority and serial number of each.
func hashMembers(members []BlastMember) string {
	h := sha256.New()
	var b []byte
	for i := range members {
		m := &members[i]
		b = binary.BigEndian.AppendUint64(b[:0], uint64(m.ID))
		b = append(append(b, m.Authority...), 0)
		b = append(b, m.Serial[:]...)
		if m.Direct {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// newBlastID rises with time, so that the newest plan is the last by name.
func newBlastID(now time.Time) string {
	var r [3]byte
	rand.Read(r[:])
	return now.Format("20060102-150405") + "-" + hex.EncodeToString(r[:])
}

// Get finds a plan.
func (b *Blast) Get(ctx context.Context, s access.Scope, id string) (BlastPlan, error) {
	return b.cfg.Store.Blast(ctx, s, id)
}

// List gives plans, newest first.
func (b *Blast) List(ctx context.Context, s access.Scope, before string, limit int) ([]BlastPlan, error) {
	return b.cfg.Store.Blasts(ctx, s, before, limit)
}

// BlastEntry is a member as it is now.
type BlastEntry struct {
	BlastMember
	Index int64
	Story Story
}

// Entries lists members of a plan from an index on with what became of them.
func (b *Blast) Entries(ctx context.Context, s access.Scope, id string, from int64, limit int) ([]BlastEntry, error) {
	p, err := b.cfg.Store.Blast(ctx, s, id)
	if err != nil {
		return nil, err
	}
	members, err := b.cfg.Store.BlastMembers(ctx, &p, from, limit)
	if err != nil {
		return nil, err
	}
	out := make([]BlastEntry, 0, len(members))
	for i, m := range members {
		story, err := b.cfg.Store.Story(ctx, p.Tenant, m.Authority, m.Serial)
		if err != nil {
			return nil, err
		}
		out = append(out, BlastEntry{m, from + int64(i), story})
	}
	return out, nil
}

// change decides about a plan and writes it. The condition on the version lets
// one of two people win. What decide writes, it writes in the transaction of its context.
func (b *Blast) change(ctx context.Context, s access.Scope, id string, decide func(ctx context.Context, p *BlastPlan, now time.Time) error) (out BlastPlan, err error) {
	err = b.cfg.Store.Atomic(ctx, func(ctx context.Context) error {
		p, err := b.cfg.Store.Blast(ctx, s, id)
		if err != nil {
			return err
		}
		now := b.now().UTC().Truncate(time.Millisecond)
		if err := decide(ctx, &p, now); err != nil {
			return err
		}
		was := p.Version
		p.Version, p.Progress.ChangedAt = was+1, now
		out = p
		return b.cfg.Store.PutBlast(ctx, p, was)
	})
	if err != nil {
		return BlastPlan{}, err
	}
	return out, nil
}

// Approve records that by agrees to a stage of a plan with this hash. Whoever
// made the plan cannot.
func (b *Blast) Approve(ctx context.Context, by access.Actor, id string, stage BlastStage, hash string) (BlastPlan, error) {
	if stage != StageRotate && stage != StageRevoke && stage != StageRelease {
		return BlastPlan{}, ErrBlastStage.New("The stages rotate, revoke and release are approved; %q is not.", stage)
	}
	p, err := b.change(ctx, by.Scope(), id, func(_ context.Context, p *BlastPlan, now time.Time) error {
		want := p.Hash(stage)
		if !strings.EqualFold(hash, hex.EncodeToString(want[:])) {
			return ErrBlastOther.New("")
		}
		a, err := access.Approve(by, access.ApproveRevocation, want, p.CreatedBy, now)
		if err != nil {
			return err
		}
		if p.State == BlastDone || p.over() && stage != StageRelease {
			return ErrBlastStage.New("It is %s.", p.State)
		}
		if stage == StageRotate && p.Rotate == nil {
			return ErrBlastStage.New("The plan was made without rotation.")
		}
		if _, done := p.Progress.Approvals[stage]; done {
			return ErrBlastStage.New("The stage %s is approved already.", stage)
		}
		if p.Progress.Approvals == nil {
			p.Progress.Approvals = map[BlastStage]BlastApproval{}
		}
		p.Progress.Approvals[stage] = BlastApproval{a.Approver(), a.At()}
		return nil
	})
	if err == nil {
		b.log.WarnContext(ctx, "revocation in bulk approved", "plan", id, "stage", string(stage), "by", by.String(), "hash", hash)
	}
	return p, err
}

// Start begins a stage; [Blast.Run] does the work.
func (b *Blast) Start(ctx context.Context, by access.Actor, id string, stage BlastStage) (BlastPlan, error) {
	if err := access.Require(by, access.RunRevocation); err != nil {
		return BlastPlan{}, err
	}
	if stage == StageRotate {
		p, err := b.cfg.Store.Blast(ctx, by.Scope(), id)
		if err == nil {
			err = b.rotates(ctx, &p)
		}
		if err != nil {
			return BlastPlan{}, err
		}
	}
	p, err := b.change(ctx, by.Scope(), id, func(_ context.Context, p *BlastPlan, now time.Time) error {
		switch stage {
		case StageHold, StageRotate, StageRevoke, StageRelease:
		default:
			return ErrBlastStage.New("There is no stage %q.", stage)
		}
		if p.State != BlastReady && !(p.State == BlastAborted && stage == StageRelease) {
			return ErrBlastStage.New("It is %s.", p.State)
		}
		if p.over() && stage != StageRelease {
			return ErrBlastStage.New("Its holds were released.")
		}
		if stage != StageHold {
			// The approver is not the creator: Approve saw to it, and the row is sealed.
			if a, ok := p.Progress.Approvals[stage]; !ok || a.By == p.CreatedBy {
				return ErrBlastApproval.New("The stage is %s.", stage)
			}
		}
		p.State, p.Progress.Stage, p.Progress.Problem = BlastRunning, stage, ""
		p.Progress.Reports = append(p.Progress.Reports, BlastReport{Stage: stage, StartedBy: by.Name, StartedAt: now})
		return nil
	})
	if err == nil {
		b.log.WarnContext(ctx, "revocation in bulk started", "plan", id, "stage", string(stage), "by", by.String())
		b.wake()
	}
	return p, err
}

// Pause stops a running plan in the middle of its stage, and Resume goes on.
func (b *Blast) Pause(ctx context.Context, by access.Actor, id string) (BlastPlan, error) {
	return b.move(ctx, by, id, []BlastState{BlastRunning}, BlastPaused)
}

// Resume goes on where a plan was paused.
func (b *Blast) Resume(ctx context.Context, by access.Actor, id string) (BlastPlan, error) {
	p, err := b.move(ctx, by, id, []BlastState{BlastPaused}, BlastRunning)
	if err == nil {
		b.wake()
	}
	return p, err
}

// Abort gives a plan up. What it did stays: revocation is permanent; holds can
// be released by the stage release, for which approvals of before do not count.
func (b *Blast) Abort(ctx context.Context, by access.Actor, id string) (BlastPlan, error) {
	return b.move(ctx, by, id, []BlastState{BlastReady, BlastRunning, BlastPaused}, BlastAborted)
}

func (b *Blast) move(ctx context.Context, by access.Actor, id string, from []BlastState, to BlastState) (BlastPlan, error) {
	if err := access.Require(by, access.RunRevocation); err != nil {
		return BlastPlan{}, err
	}
	p, err := b.change(ctx, by.Scope(), id, func(_ context.Context, p *BlastPlan, now time.Time) error {
		if !slices.Contains(from, p.State) {
			return ErrBlastStage.New("It is %s.", p.State)
		}
		p.State = to
		if to == BlastRunning {
			p.Progress.Problem = ""
		}
		if to == BlastAborted {
			p.Progress.Approvals = map[BlastStage]BlastApproval{}
			if p.Progress.Stage != "" {
				p.report().EndedAt = now
				p.Progress.Stage = ""
			}
		}
		return nil
	})
	if err == nil {
		b.log.WarnContext(ctx, "revocation in bulk moved", "plan", id, "state", string(to), "by", by.String())
	}
	return p, err
}

func (b *Blast) wake() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// text is what the permanent record says of a plan's work.
func (p *BlastPlan) text() string { return note(p.mark() + p.Note) }

// mark begins the note of every row that a plan wrote, so that a release takes
// back the plan's holds and nobody else's.
func (p *BlastPlan) mark() string { return "plan " + p.ID + ": " }
