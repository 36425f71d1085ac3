package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/fleet"
)

// Config makes a Broker.
type Config struct {
	// TLS is for the connections that [Broker.Serve] accepts. It must require and
	// verify, or at least request, a client certificate; the authenticator decides.
	// NextProtos, if there are any, must contain [ALPN].
	TLS *tls.Config

	Authenticator Authenticator
	Store         Store         // nil means [NewMemory]: persistent sessions end with the process
	Topics        []fleet.Topic // the reserved topics; the first row that matches counts
	Events        Events        // may be nil
	Limits        Limits

	// Fabric reaches the other nodes of this service; nil means that there is none.
	// With it, Store must be a [ClusterStore], and Node a name of this node that is the
	// same after a restart and no other's.
	Fabric Fabric
	Node   string
	// NodeTimeout is after which time without a sign of life a node is taken for
	// dead; 0 means 10 s. A third of it is enough if the fabric does not know it either.
	NodeTimeout time.Duration
	// Yield tells that something more important than a device's return, such as the
	// factory line, needs the machine now; nil means that nothing ever does.
	Yield func() bool
	// NodeGone is called with the name of a node whose sessions this one adopted.
	NodeGone func(name string)

	Log *slog.Logger     // nil = discard
	Now func() time.Time // nil = time.Now
}

// ALPN is what devices offer: SDKs on any port exactly the first, the others by
// choice.
var ALPN = []string{"x-amzn-mqtt-ca", "mqtt"}

// Broker is one node's broker. It is safe for concurrent use.
type Broker struct {
	cfg   Config
	lim   Limits
	log   *slog.Logger
	now   func() time.Time
	tls   *tls.Config
	count counters

	ctx    context.Context // of everything the broker does by itself
	cancel context.CancelFunc
	wg     sync.WaitGroup

	realmsMu sync.RWMutex
	realms   map[string]*realm

	journal  *journal
	schedule *schedule
	cluster  *cluster // nil: this node is alone

	reserved trie[int] // index in cfg.Topics
	workers  chan struct{}
	asking   atomic.Int64

	admission admission
	slots     chan struct{} // handshakes and CONNECTs
	turns     *turns

	stopping atomic.Bool
	connsMu  sync.Mutex
	conns    map[*conn]struct{}
	sockets  map[net.Conn]struct{} // in a handshake
}

// New makes a Broker, with the sessions and retained messages that the store kept.
func New(ctx context.Context, cfg Config) (*Broker, error) {
	b := &Broker{cfg: cfg, lim: cfg.Limits.withDefaults(), log: cfg.Log, now: cfg.Now, realms: map[string]*realm{}, conns: map[*conn]struct{}{}, sockets: map[net.Conn]struct{}{}}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if b.now == nil {
		b.now = time.Now
	}
	if cfg.Authenticator == nil {
		return nil, ErrConfig.New("There is no Authenticator.")
	}
	if b.cfg.Events == nil {
		b.cfg.Events = noEvents{}
	}
	if b.cfg.Store == nil {
		b.cfg.Store = NewMemory()
	}
	if err := b.lim.check(); err != nil {
		return nil, err
	}
	for i, t := range cfg.Topics {
		if !underReserved(t.Filter) || !validFilter(t.Filter) || t.Handle == nil {
			return nil, ErrConfig.New("Reserved topic %q: a filter below $aws/ or $hallmark/things/ and a handler are needed.", t.Filter)
		}
		if b.reserved.find(t.Filter) == nil {
			*b.reserved.at(t.Filter) = i
		}
	}
	if cfg.TLS != nil {
		b.tls = cfg.TLS.Clone()
		// Small first records help browsers; devices get whole ones and fewer writes.
		b.tls.DynamicRecordSizingDisabled = true
	}
	b.ctx, b.cancel = context.WithCancel(context.WithoutCancel(ctx))
	b.workers = make(chan struct{}, b.lim.Handlers)
	b.slots = make(chan struct{}, b.lim.Handshakes)
	b.turns = newTurns(cfg.Yield)
	b.admission.pending = map[netip.Prefix]int{}
	b.journal = newJournal(b, b.cfg.Store)
	b.schedule = &schedule{wake: make(chan struct{}, 1), now: b.now, due: b.due}
	var err error
	if cfg.Fabric != nil {
		b.cluster, err = newCluster(b)
	} else {
		err = b.restore(ctx)
	}
	if err != nil {
		b.cancel()
		return nil, err
	}
	b.wg.Go(func() { b.journal.run(b.ctx) })
	b.wg.Go(func() { b.schedule.run(b.ctx) })
	if b.cluster != nil {
		if err := b.joinCluster(ctx); err != nil {
			b.Close()
			return nil, err
		}
	}
	return b, nil
}

// joinCluster comes back when all other nodes that live know this one. Only then is
// it known what is retained: a change before it would not have been heard.
func (b *Broker) joinCluster(ctx context.Context) error {
	if err := b.cluster.join(ctx); err != nil {
		return err
	}
	b.wg.Go(b.cluster.watch)
	ctx, cancel := context.WithTimeout(ctx, 3*b.cluster.timeout+2*askTime)
	defer cancel()
	if err := b.cluster.ready(ctx); err != nil {
		return err
	}
	return b.restoreRetained(ctx)
}

// Serve accepts connections until ctx ends or the listener fails. The listener's
// connections are plain (TLS is added here, after admission) or *tls.Conn.
func (b *Broker) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	var delay time.Duration
	for {
		if !sleep(ctx, b.admission.wait(b.lim.AcceptRate)) {
			return nil
		}
		// More than so many unfinished ones wait in the listen queue.
		select {
		case b.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		case <-b.ctx.Done():
			return nil
		}
		nc, err := ln.Accept()
		if err != nil {
			<-b.slots
			if ctx.Err() != nil || b.stopping.Load() || errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Out of files, or a peer that went: neither ends the service.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			b.log.WarnContext(ctx, "connection not accepted", "err", err)
			if !sleep(ctx, delay) {
				return nil
			}
			continue
		}
		delay = 0
		b.accept(nc)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// accept lets a connection in or closes it. It owns a slot.
func (b *Broker) accept(nc net.Conn) {
	b.count.accepted.Add(1)
	remote, prefix := addressOf(nc.RemoteAddr())
	switch {
	case b.lim.Connections > 0 && b.count.connections.Load()+b.count.pending.Load() >= int64(b.lim.Connections):
		b.count.refusedFull.Add(1)
	case !b.admission.enter(prefix, b.lim.PerAddress):
		b.count.refusedAddress.Add(1)
	default:
		b.count.pending.Add(1)
		var once sync.Once
		admitted := func() {
			once.Do(func() {
				b.count.pending.Add(-1)
				b.admission.leave(prefix)
				<-b.slots
			})
		}
		if !b.track(nc) {
			admitted()
			nc.Close()
			return
		}
		go b.handshake(nc, remote, admitted)
		return
	}
	<-b.slots
	nc.Close()
}

// handshake runs TLS. The connection goes on in a goroutine of its own: the stack
// that a handshake needs would else stay with it for as long as it is idle.
func (b *Broker) handshake(nc net.Conn, remote netip.AddrPort, admitted func()) {
	after := func() {
		admitted()
		b.untrack(nc)
		b.wg.Done()
	}
	t, ok := nc.(*tls.Conn)
	var turn *turnConn
	if !ok {
		if b.tls == nil {
			b.log.Error("connection without TLS refused", "address", remote.Addr())
			nc.Close()
			after()
			return
		}
		turn = &turnConn{Conn: nc, turns: b.turns}
		t = tls.Server(turn, b.tls)
	}
	ctx, cancel := context.WithTimeout(b.ctx, b.lim.HandshakeTimeout)
	err := t.HandshakeContext(ctx)
	cancel()
	if turn != nil {
		turn.finish()
	}
	if err != nil {
		b.count.handshakesFailed.Add(1)
		b.log.Debug("handshake failed", "address", remote.Addr(), "err", err)
		nc.Close()
		after()
		return
	}
	go b.run(t, remote, t.ConnectionState(), admitted, after)
}

// run begins a connection whose handshake is done. after is called at its end,
// admitted as soon as it is known who it is.
func (b *Broker) run(nc net.Conn, remote netip.AddrPort, state tls.ConnectionState, admitted, after func()) {
	c := b.newConn(nc, remote)
	b.connsMu.Lock()
	b.conns[c] = struct{}{}
	stopping := b.stopping.Load()
	b.connsMu.Unlock()
	if stopping {
		c.shut(end(codeShuttingDown, ServerDisconnect, "shutting down"))
	}
	err := c.connect(b.ctx, state)
	admitted()
	go c.serve(err, after)
}

func (b *Broker) forget(c *conn) {
	b.connsMu.Lock()
	delete(b.conns, c)
	b.connsMu.Unlock()
}

// track notes a socket so that Close ends its handshake; false if it is too late.
func (b *Broker) track(nc net.Conn) bool {
	b.connsMu.Lock()
	defer b.connsMu.Unlock()
	if b.stopping.Load() {
		return false
	}
	b.sockets[nc] = struct{}{}
	b.wg.Add(1)
	return true
}

func (b *Broker) untrack(nc net.Conn) {
	b.connsMu.Lock()
	delete(b.sockets, nc)
	b.connsMu.Unlock()
}

// Close disconnects everybody, lets what was accepted become durable, and ends.
// Wills are not published: a restart is not the devices' death. Those of
// persistent sessions follow after the restart if their device does not.
func (b *Broker) Close() error {
	b.connsMu.Lock()
	first := b.stopping.CompareAndSwap(false, true)
	var conns []*conn
	for c := range b.conns {
		conns = append(conns, c)
	}
	known := map[net.Conn]bool{}
	for _, c := range conns {
		known[c.nc] = true
		if t, ok := c.nc.(*tls.Conn); ok {
			known[t.NetConn()] = true
			if turn, ok := t.NetConn().(*turnConn); ok {
				known[turn.Conn] = true
			}
		}
	}
	for nc := range b.sockets {
		if !known[nc] {
			nc.Close()
		}
	}
	b.connsMu.Unlock()
	if !first {
		return ErrClosed.New("")
	}
	for _, c := range conns {
		c.noWill.Store(true)
		c.shut(end(codeShuttingDown, ServerDisconnect, "shutting down"))
	}
	for _, c := range conns {
		<-c.done
	}
	b.journal.close()
	if b.cluster != nil {
		b.cluster.leave()
	}
	b.cancel()
	b.wg.Wait()
	return nil
}
