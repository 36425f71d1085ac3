package broker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Fabric carries octets to other nodes of this service and from them. It proves that
// they are nodes of this service; what they say is judged here. Frames to one node
// come in order, or not at all.
type Fabric interface {
	// Listen takes what is sent to a node, one frame at a time; fn does not block.
	// reply is nil where nobody asks for an answer. When Listen returns, the node can
	// be found.
	Listen(node string, fn func(data []byte, reply func(answer []byte))) (stop func(), err error)

	// Send sends a frame that may get lost.
	Send(node string, data []byte) error

	// Ask sends a frame and calls done once, which does not block. The error wraps
	// [context.DeadlineExceeded] if the node may have got the frame; any other says
	// that it did not.
	Ask(node string, data []byte, patience time.Duration, done func(answer []byte, err error))
}

const (
	// nodeTimeout is the default of [Config.NodeTimeout].
	nodeTimeout = 10 * time.Second
	// askTime is how long another node has to answer. It is shorter than what a moved
	// session is remembered for, so that no message arrives where nobody knows it.
	askTime   = 5 * time.Second
	retryTime = 200 * time.Millisecond
	// syncTime is how long a SUBSCRIBE waits for the other nodes.
	syncTime = 5 * time.Second
)

// cluster is what a broker knows of the others. A nil cluster is a lone node.
//
// Every session has one node, in the store: see [ClusterStore]. Every node tells all
// others what it wants to hear: see interest.go. So a publisher's node knows who has
// to answer before the publisher is answered: see relay.go.
//
// Locks: cluster.mu is taken last and calls nothing.
type cluster struct {
	b       *Broker
	fabric  Fabric
	store   ClusterStore
	name    string
	timeout time.Duration
	number  atomic.Uint64 // of publishes
	hash    atomic.Uint64 // of this node, for the same
	open    atomic.Bool   // all others know this node: it may let devices in

	// adopting is held while sessions of a dead node are being read: who asks what this
	// node wants is answered after it.
	adopting sync.RWMutex

	mu       sync.Mutex
	node     string // this life's name
	stop     func() // ends listening
	peers    map[string]*peer
	version  uint64        // counts what changed of this node's interest
	progress chan struct{} // closed when a peer knows more, or is gone
}

// peer is another node.
type peer struct {
	node   string
	closed chan struct{} // it is forgotten: nothing of it is left anywhere
	wake   chan struct{}

	// Guarded by cluster.mu. What it was not told yet, and up to where it knows.
	dirty  map[interestKey]struct{}
	topics map[topicRef]struct{}
	told   bool // of everything, once
	acked  uint64
	number uint64 // of the last frame to it
	heard  uint64 // of the last frame from it

	// Of the watch alone.
	name       string
	beat       int64
	quiet      time.Duration // that the beat has not changed
	mute       atomic.Bool   // the fabric does not know it
	forgetting atomic.Bool
}

func (p *peer) gone() bool {
	select {
	case <-p.closed:
		return true
	default:
		return false
	}
}

func newCluster(b *Broker) (*cluster, error) {
	store, ok := b.cfg.Store.(ClusterStore)
	if !ok || b.cfg.Node == "" {
		return nil, ErrConfig.New("With a fabric, a name of the node and a store for several nodes are needed.")
	}
	c := &cluster{b: b, fabric: b.cfg.Fabric, store: store, name: b.cfg.Node, timeout: b.cfg.NodeTimeout, peers: map[string]*peer{}, progress: make(chan struct{})}
	if c.timeout == 0 {
		c.timeout = nodeTimeout
	}
	return c, nil
}

// self is this node's name.
func (c *cluster) self() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.node
}

// join begins a life of this node: it is known, has its sessions, knows what the
// others want, and they know what it wants.
func (c *cluster) join(ctx context.Context) error {
	var r [16]byte
	rand.Read(r[:])
	node := hex.EncodeToString(r[:])
	c.mu.Lock()
	c.node = node
	c.hash.Store(binary.BigEndian.Uint64(r[:]))
	c.mu.Unlock()
	stop, err := c.fabric.Listen(node, c.onFrame)
	if err != nil {
		return err
	}
	c.adopting.Lock() // who sees us in the store, and asks, gets all that was ours before
	list, err := c.store.Join(ctx, Member{Node: node, Name: c.name})
	if err == nil {
		c.adopt(list)
	}
	c.adopting.Unlock()
	if err != nil {
		stop()
		return err
	}
	c.mu.Lock()
	c.stop = stop
	c.mu.Unlock()
	members, err := c.store.Members(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Node != node {
			c.meet(m.Node)
		}
	}
	c.b.log.InfoContext(ctx, "node joined", "node", node, "name", c.name, "others", len(members)-1, "sessions", len(list))
	return nil
}

// ready waits until every other node was asked, or is gone.
func (c *cluster) ready(ctx context.Context) error {
	for {
		missing := 0
		for _, p := range c.others() {
			if !c.sync(p) && !p.gone() {
				missing++
			}
		}
		if missing == 0 {
			c.open.Store(true)
			return nil
		}
		if !sleep(ctx, retryTime) {
			return ErrElsewhere.Wrap(ctx.Err(), "%d other nodes are alive and do not answer.", missing)
		}
	}
}

// others gives the nodes that are not forgotten.
func (c *cluster) others() []*peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*peer, 0, len(c.peers))
	for _, p := range c.peers {
		list = append(list, p)
	}
	return list
}

// meet makes another node known, and begins to tell it what this one wants.
func (c *cluster) meet(node string) *peer {
	c.mu.Lock()
	p := c.peers[node]
	if p != nil || node == c.node || c.b.stopping.Load() {
		c.mu.Unlock()
		return p
	}
	p = &peer{node: node, closed: make(chan struct{}), wake: make(chan struct{}, 1), dirty: map[interestKey]struct{}{}, topics: map[topicRef]struct{}{}}
	c.peers[node] = p
	c.mu.Unlock()
	c.tellAll(p)
	c.b.wg.Go(func() { c.tell(p) })
	return p
}

// adopt makes sessions from the store this node's.
func (c *cluster) adopt(list []StoredSession) {
	b, now := c.b, c.b.now()
	for i := range list {
		r := b.realm(list[i].Tenant)
		r.mu.Lock()
		if r.sessions[list[i].Client] != nil {
			r.mu.Unlock()
			continue
		}
		if old := r.left[list[i].Client]; old != nil { // it had moved away from here
			c.unmark(r, list[i].Client, old)
		}
		s, changed, err := b.restoreSession(list[i], now)
		if err == nil && changed {
			s.mu.Lock()
			b.journal.later(s.row(false))
			s.mu.Unlock()
		}
		r.mu.Unlock()
	}
	b.count.adopted.Add(int64(len(list)))
}

// watch gives signs of life, and looks for those of the others.
func (c *cluster) watch() {
	b := c.b
	tick := time.NewTicker(max(c.timeout/10, 20*time.Millisecond))
	defer tick.Stop()
	var last time.Time // of a look that succeeded; nobody is dead for what was not seen
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
		}
		if b.stopping.Load() {
			return
		}
		err := b.journal.write() // every commit is a sign of life
		if errors.Is(err, ErrFenced) {
			c.rejoin()
			last = time.Time{}
			continue
		}
		var members []Member
		if err == nil {
			members, err = c.store.Members(b.ctx)
		}
		if err != nil {
			last = time.Time{}
			continue
		}
		now := time.Now()
		elapsed := time.Duration(0)
		if !last.IsZero() {
			elapsed = now.Sub(last)
		}
		last = now
		c.look(members, elapsed)
	}
}

// look compares the nodes with what was known of them.
func (c *cluster) look(members []Member, elapsed time.Duration) {
	known := map[string]bool{}
	for _, m := range members {
		known[m.Node] = true
		p := c.meet(m.Node)
		if p == nil {
			continue // ourselves
		}
		p.name = m.Name
		if m.Beat != p.beat || p.quiet == 0 {
			p.beat, p.quiet = m.Beat, 1
		} else {
			p.quiet += elapsed
		}
		if p.quiet >= c.timeout/4 {
			c.fabric.Ask(p.node, []byte{0}, askTime, func(_ []byte, err error) {
				p.mute.Store(err != nil && !errors.Is(err, context.DeadlineExceeded))
			})
		}
		// Taking a living node for dead costs its devices a reconnect, and loses
		// nothing. Who is gone from the fabric too is taken for dead sooner.
		if m.Beat == Left || p.quiet >= c.timeout || p.mute.Load() && p.quiet >= c.timeout/3 {
			c.bury(m)
		}
	}
	for _, p := range c.others() {
		if !known[p.node] && p.forgetting.CompareAndSwap(false, true) {
			c.b.wg.Go(func() { c.forget(p) })
		}
	}
}

// bury takes over what a dead node had.
func (c *cluster) bury(m Member) {
	c.adopting.Lock()
	list, fenced, err := c.store.Fence(c.b.ctx, m, c.self())
	if err == nil && fenced {
		c.adopt(list)
	}
	c.adopting.Unlock()
	switch {
	case err != nil:
		c.b.log.Warn("a node that seems dead was not fenced", "node", m.Node, "name", m.Name, "err", err)
	case fenced:
		c.b.log.Warn("a node is gone; its sessions are here now", "node", m.Node, "name", m.Name, "left", m.Beat == Left, "sessions", len(list))
		if c.b.cfg.NodeGone != nil {
			c.b.wg.Go(func() { c.b.cfg.NodeGone(m.Name) })
		}
	}
}

// forget ends what is remembered of a node that is in the store no more. Whoever
// adopted its sessions has told us about them when it answers.
func (c *cluster) forget(p *peer) {
	for _, q := range c.others() {
		if q != p && !c.sync(q) && !q.gone() {
			p.forgetting.Store(false) // again at the next look
			return
		}
	}
	c.drop(p)
}

func (c *cluster) drop(p *peer) {
	c.mu.Lock()
	if c.peers[p.node] == p {
		delete(c.peers, p.node)
		close(p.closed)
	}
	c.moved()
	c.mu.Unlock()
	for _, r := range c.b.realmsOf("") {
		r.far.forget(p)
		r.mu.Lock()
		for key, s := range r.left {
			if s.movedTo == p.node {
				// Who adopted it is known here, and soon everywhere. Until then it is better
				// to refuse than to say that nobody wants a message.
				c.unmarkLater(r, key, s)
			}
		}
		r.mu.Unlock()
	}
}

// moved wakes who waits for the others to know something. c.mu is held.
func (c *cluster) moved() {
	close(c.progress)
	c.progress = make(chan struct{})
}

// rejoin is for a node that was taken for dead: others have its sessions. Its
// devices are disconnected and come back as if it had been restarted.
func (c *cluster) rejoin() {
	b := c.b
	b.log.Error("this node was taken for dead; it begins again", "node", c.self())
	b.connsMu.Lock()
	var conns []*conn
	for x := range b.conns {
		conns = append(conns, x)
	}
	b.connsMu.Unlock()
	c.open.Store(false)
	for _, x := range conns {
		x.keepWill()
		x.shut(end(codeUnavailable, ServerError, "node fenced"))
	}
	for _, x := range conns {
		<-x.done
	}
	for _, r := range b.realmsOf("") {
		r.mu.Lock()
		for _, s := range r.sessions {
			if s.owner == nil {
				c.release(r, s, "")
			}
		}
		for key, s := range r.left {
			c.unmark(r, key, s)
		}
		r.mu.Unlock()
	}
	c.mu.Lock()
	stop := c.stop
	c.mu.Unlock()
	if stop != nil {
		stop()
	}
	for _, p := range c.others() {
		c.drop(p)
	}
	for !b.stopping.Load() {
		err := c.join(b.ctx)
		if err == nil {
			break
		}
		b.log.Error("node not joined; trying again", "err", err)
		if !sleep(b.ctx, time.Second) {
			return
		}
	}
	if err := b.restoreRetained(b.ctx); err != nil {
		b.log.Error("retained messages not read again", "err", err)
	}
	b.wg.Go(func() { c.ready(b.ctx) })
}

// keepWill leaves the will of a session in the store to who has it now.
func (c *conn) keepWill() {
	if s := c.session; s != nil && s.lasting.Load() {
		c.noWill.Store(true)
	}
}

// leave ends this node's life in order: others take its sessions at once.
func (c *cluster) leave() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.b.ctx), askTime)
	defer cancel()
	if err := c.store.Leave(ctx, c.self()); err != nil {
		c.b.log.Warn("node did not say that it stops", "err", err)
	}
	c.mu.Lock()
	stop := c.stop
	c.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// onFrame takes what other nodes send. It does not block: what has to wait gets a
// goroutine.
func (c *cluster) onFrame(data []byte, reply func([]byte)) {
	if len(data) == 0 {
		return
	}
	if reply == nil {
		reply = func([]byte) {}
	}
	kind, data := data[0], data[1:]
	var err error
	switch kind {
	case 0: // a sign of life
		reply(nil)
	case kindMessage:
		var f messageFrame
		if err = unpack(data, &f); err == nil && f.sane() {
			c.onMessage(&f, reply)
		}
	case kindInterest:
		var f interestFrame
		if err = unpack(data, &f); err == nil {
			c.onInterest(&f, reply)
		}
	case kindSync:
		var f syncFrame
		if err = unpack(data, &f); err == nil {
			go c.onSync(&f, reply)
		}
	case kindClaim:
		var f claimFrame
		if err = unpack(data, &f); err == nil {
			go c.onClaim(&f, reply)
		}
	case kindArrived:
		var f arrivedFrame
		if err = unpack(data, &f); err == nil {
			c.onArrived(&f)
		}
	}
	if err != nil {
		c.b.log.Warn("frame of another node not understood", "kind", kind, "err", err)
	}
}
