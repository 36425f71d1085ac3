package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/broker"
	"hallmark/crl"
	"hallmark/fabric"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/ota"
	"hallmark/fleet/policy"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
	"hallmark/internal/fault"
)

// fleetRuntime is what devices live on after first boot: the broker, and what answers
// its reserved topics.
type fleetRuntime struct {
	log       *slog.Logger
	door      *bootstrap.Door
	registry  *registry.Registry
	broker    *broker.Broker
	shadows   *shadow.Service
	jobs      *jobs.Service
	presence  *presence.Service
	campaigns *campaign.Service
	ota       *ota.Service
	fabric    *fabric.Fabric
	node      string // its name among those of one database
	claims    *bootstrap.Claims
	privacy   PrivacyConfig
	relaxed   []string // tenants whose devices choose their client identifiers
	shared    *sharing
	lapses    lapses
	left      lapses // of them, those that campaigns have not been told of

	mu        sync.Mutex
	withdrawn []crl.Change // that the broker has not heard of
	wake      chan struct{}
}

// openRuntime makes the runtime; it listens nowhere yet. The services publish
// through the broker, and the broker answers through the services: whichever is
// made first finds the other when the first device is there.
func (s *Server) openRuntime(ctx context.Context) (err error) {
	out := &publisher{}
	r := &fleetRuntime{log: s.log, registry: s.reged, privacy: s.cfg.Privacy, relaxed: s.cfg.Fleet.AnyClient, shared: newSharing(s.log, s.now), wake: make(chan struct{}, 1)}
	if r.node, err = s.nodeName(); err != nil {
		return err
	}
	if r.fabric, err = s.openFabric(ctx); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			r.fabric.Close()
		}
	}()
	r.shadows = shadow.New(shadow.Config{Store: s.db, Publisher: out, Log: s.log, Now: s.now})
	if err = s.openFirmware(r); err != nil {
		return err
	}
	work := jobs.Config{Store: s.db, Publisher: out, Targets: s.reged, Changed: r.heard, Log: s.log, Now: s.now}
	if s.cfg.Fleet.Firmware.Trust != "" { // else nobody could sign an address that a job asks for
		work.Sign = r.ota.Sign
	}
	r.jobs = jobs.New(work)
	r.presence = presence.New(presence.Config{Store: s.db, Publisher: out, Node: r.node, Yield: s.line.Busy, Log: s.log, Now: s.now})
	door := bootstrap.DoorConfig{Gate: s.gate, Registry: s.reged, Grants: s.db, Publisher: out, Imported: s.imports, Log: s.log, Now: s.now}
	if s.cfg.Fleet.JITP {
		door.Planner = s.planner
	}
	r.door = bootstrap.NewDoor(door)
	if r.claims, err = bootstrap.NewClaims(bootstrap.ClaimsConfig{Issuer: s.ca, Planner: s.planner, Templates: s.db, Registry: s.reged, Records: s.db, Grants: s.db, Revoker: s.crl,
		TokenKey: s.box.MAC("claim-token"), ServerKeys: s.cfg.Fleet.ServerKeys, Log: s.log, Now: s.now}); err != nil {
		return err
	}
	limits, err := s.cfg.MQTT.limits()
	if err != nil {
		return err
	}
	conf := broker.Config{
		TLS: s.mqttTLS(), Authenticator: r, Limits: limits, Store: s.db, Events: events{r.presence, r.shared}, Yield: s.line.Busy, Log: s.log, Now: s.now,
		Topics: slices.Concat(r.shadows.Topics(), r.jobs.Topics(), r.claims.Topics(), r.ota.Topics(), s.boot.Topics()),
	}
	r.join(s, &conf)
	if r.broker, err = broker.New(ctx, conf); err != nil {
		return err
	}
	out.set(r.broker)
	s.openCampaigns(r)
	if err = r.presence.Start(ctx); err != nil {
		return err
	}
	s.fleet = r
	s.set.OnChange(r.withdraw)
	r.lapses.init()
	r.left.init()
	s.db.OnRegistryChange(r.lapses.note)
	return nil
}

// publisher is the broker once it is there.
type publisher struct {
	mu sync.RWMutex
	to fleet.Publisher
}

func (p *publisher) set(to fleet.Publisher) {
	p.mu.Lock()
	p.to = to
	p.mu.Unlock()
}

// Publish implements [fleet.Publisher].
func (p *publisher) Publish(ctx context.Context, m fleet.Message) error {
	p.mu.RLock()
	to := p.to
	p.mu.RUnlock()
	if to == nil {
		return errors.New("the broker has not started")
	}
	return to.Publish(ctx, m)
}

// Authenticate implements [broker.Authenticator]: the certificate says who it is,
// and what it may do follows every later change of its policies.
func (r *fleetRuntime) Authenticate(ctx context.Context, state tls.ConnectionState, remote netip.AddrPort) (broker.Identity, error) {
	a, err := r.door.Admit(ctx, &state)
	if err != nil {
		return broker.Identity{}, err
	}
	var foreign *x509.Certificate
	if a.Authority == "" {
		foreign = a.Certificate
	}
	return broker.Identity{
		Foreign: foreign,
		Tenant:  a.Tenant, Thing: a.Thing, Things: a.Things, Certificate: a.CertificateID, Authority: a.Authority, Serial: a.Serial, NotAfter: a.NotAfter, Claim: a.Claim,
		AnyClient: slices.Contains(r.relaxed, a.Tenant),
		Bind: func(client string, attributes []string) broker.Authoriser {
			// The connection's own context ends with CONNECT, and a will is due later.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			b, err := r.registry.Bind(ctx, registry.Connection{
				Tenant: a.Tenant, Certificate: a.Certificate, ClientID: client, SourceIP: remote.Addr().Unmap(), DomainName: state.ServerName,
				Persistent: slices.Contains(attributes, broker.PersistentConnect), LastWill: slices.Contains(attributes, broker.LastWill),
			})
			if err != nil {
				r.log.WarnContext(ctx, "what a device may do was not found out, so it may do nothing", "client", client, "error", err)
				return nil
			}
			return authoriser{b}
		},
		Recheck: func(ctx context.Context) error { return r.door.Recheck(ctx, &a) },
	}, nil
}

// authoriser is a binding as the broker asks it.
type authoriser struct{ *registry.Binding }

// Allows implements [broker.Authoriser].
func (a authoriser) Allows(action policy.Action, resource string) bool {
	return a.AllowsAction(action, resource)
}

// events tells presence what the broker saw, and whoever looks for copied keys.
type events struct {
	to     *presence.Service
	shared *sharing
}

func (e events) hear(kind presence.Kind, ev broker.Event) {
	if ev.Claim {
		return // a claim certificate is many devices, and none of them yet
	}
	switch kind {
	case presence.Connected:
		e.shared.connected(&ev)
	case presence.Disconnected:
		e.shared.disconnected(&ev)
	}
	e.to.Hear(presence.Event{Sender: ev.Sender, Kind: kind, Time: ev.Time, Session: ev.Session, Version: ev.Version, Address: ev.Address,
		Reason: string(ev.Reason), ClientInitiated: ev.ClientInitiated, Topics: ev.Topics})
}

// Connected and its like implement [broker.Events].
func (e events) Connected(ev broker.Event)     { e.hear(presence.Connected, ev) }
func (e events) Disconnected(ev broker.Event)  { e.hear(presence.Disconnected, ev) }
func (e events) ConnectFailed(ev broker.Event) { e.hear(presence.ConnectFailed, ev) }
func (e events) Subscribed(ev broker.Event)    { e.hear(presence.Subscribed, ev) }
func (e events) Unsubscribed(ev broker.Event)  { e.hear(presence.Unsubscribed, ev) }

// withdraw hears of every revocation of any node, in the order of the log. It
// must not wait for the broker.
func (r *fleetRuntime) withdraw(c crl.Change) {
	if !c.Revoked && !c.Blocked {
		return
	}
	r.mu.Lock()
	r.withdrawn = append(r.withdrawn, c)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// drop ends the sessions of what was withdrawn: within a second the device is
// off, and what it left behind is purged (S19, S25). Who is only on hold comes
// back to its messages after the release.
func (r *fleetRuntime) drop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		r.mu.Lock()
		list := r.withdrawn
		r.withdrawn = nil
		r.mu.Unlock()
		for i := range list {
			if err := r.dropOne(ctx, &list[i]); err != nil && ctx.Err() == nil {
				r.log.ErrorContext(ctx, "what a withdrawn device left behind was not purged", "holder", list[i].Holder, "error", err)
			}
		}
	}
}

func (r *fleetRuntime) dropOne(ctx context.Context, c *crl.Change) error {
	scope, cause := access.Scope{Tenant: c.Tenant}, broker.Withdrawn
	if c.Reason == crl.CertificateHold {
		cause = broker.Asked
	}
	var errs []error
	drop := func(sel broker.Selection) {
		_, err := r.broker.Drop(ctx, sel, cause, true)
		errs = append(errs, err)
	}
	if c.Blocked {
		things, err := r.registry.ByHolder(ctx, scope, c.Holder)
		for i := range things {
			drop(broker.Selection{Tenant: c.Tenant, Thing: things[i].Name})
		}
		return errors.Join(append(errs, err)...)
	}
	drop(broker.Selection{Authority: c.Authority, Serial: c.Serial.String()})
	p, err := r.registry.Principal(ctx, scope, c.Authority, c.Serial)
	if err != nil {
		if fault.KindOf(err) == fault.NotFound {
			err = nil // a certificate that never was a device's
		}
		return errors.Join(append(errs, err)...)
	}
	drop(broker.Selection{Tenant: c.Tenant, Certificate: p.Certificate}) // what it left while it was away, too
	return errors.Join(errs...)
}

// mqttTLS is the devices' door in the words of MQTT clients.
func (s *Server) mqttTLS() *tls.Config {
	c := s.deviceTLS()
	c.NextProtos = broker.ALPN
	return c
}

// serveMQTT opens the door for MQTT.
func (s *Server) serveMQTT(ctx context.Context) error {
	l, err := net.Listen("tcp", s.cfg.Listen.MQTT)
	if err != nil {
		return fmt.Errorf("the mqtt door cannot listen on %s: %w", s.cfg.Listen.MQTT, err)
	}
	s.doors["mqtt"] = &door{name: "mqtt", listener: l}
	s.wg.Go(func() {
		if err := s.fleet.broker.Serve(ctx, l); err != nil && !errors.Is(err, net.ErrClosed) && ctx.Err() == nil {
			s.log.Error("a door failed", "door", "mqtt", "error", err)
		}
	})
	return nil
}

// run starts what the runtime does by itself.
func (r *fleetRuntime) run(ctx context.Context, wg *sync.WaitGroup) {
	wg.Go(func() { r.presence.Run(ctx) })
	wg.Go(func() { r.jobs.Run(ctx) })
	wg.Go(func() { r.campaigns.Run(ctx) })
	wg.Go(func() { r.drop(ctx) })
	wg.Go(func() { r.endLapsed(ctx) })
	wg.Go(func() { r.lookAtLeft(ctx) })
	wg.Go(func() {
		for every(ctx, time.Second) {
			for more := true; more && ctx.Err() == nil; {
				var err error
				if more, err = r.registry.Build(ctx); err != nil && ctx.Err() == nil {
					r.log.ErrorContext(ctx, "a dynamic group does not know its members yet", "error", err)
				}
			}
		}
	})
	wg.Go(func() {
		for every(ctx, time.Hour) {
			r.retain(ctx)
		}
	})
	wg.Go(func() {
		for every(ctx, time.Minute) {
			if n, err := r.claims.Sweep(ctx); err != nil {
				r.log.ErrorContext(ctx, "unclaimed certificates were not withdrawn", "error", err)
			} else if n > 0 {
				r.log.InfoContext(ctx, "unclaimed certificates withdrawn", "certificates", n)
			}
		}
	})
}

// retain removes what was kept about devices long enough (S43).
func (r *fleetRuntime) retain(ctx context.Context) {
	states, err := r.presence.Retain(ctx, time.Duration(r.privacy.Presence))
	shadows, serr := r.shadows.Retain(ctx, time.Duration(r.privacy.Orphans), time.Duration(r.privacy.Shadows))
	if err = errors.Join(err, serr); err != nil && ctx.Err() == nil {
		r.log.ErrorContext(ctx, "what was kept long enough is still there", "error", err)
	}
	if states+shadows > 0 {
		r.log.InfoContext(ctx, "kept long enough and removed", "presence", states, "shadows", shadows)
	}
}

// register tells the metrics what the broker counts.
func (r *fleetRuntime) register(count func(name, help string, f func() int64), gauge func(name, help string, f func() float64)) {
	b := r.broker
	gauge("mqtt_connections", "Devices that are connected.", func() float64 { return float64(b.Stats().Connections) })
	gauge("mqtt_sessions", "Sessions, connected or waiting.", func() float64 { return float64(b.Stats().Sessions) })
	count("mqtt_messages_in_total", "Messages from devices.", func() int64 { return b.Stats().PublishedIn })
	count("mqtt_messages_out_total", "Messages to devices.", func() int64 { return b.Stats().PublishedOut })
	count("mqtt_refused_total", "Publishes and subscriptions that a policy refused.", func() int64 { st := b.Stats(); return st.RefusedPublish + st.RefusedSubscribe })
	count("mqtt_dropped_total", "QoS 0 messages for devices that were too slow.", func() int64 { return b.Stats().DroppedQoS0 })
	count("mqtt_slow_disconnects_total", "Subscribers that were too slow for QoS 1.", func() int64 { return b.Stats().SlowDisconnects })
	count("mqtt_requests_failed_total", "Requests to reserved topics that failed inside.", func() int64 { return b.Stats().RequestsFailed })
	count("mqtt_shared_certificates_total", "Alarms about one certificate on two connections: a key may have been copied.", r.shared.total.Load)
	count("claims_foreign_total", "Requests with a claim certificate from outside its networks.", r.claims.Foreign.Load)
	count("fabric_messages_out_total", "Messages that went to other nodes.", func() int64 { return b.Stats().RelayedOut })
	count("fabric_messages_in_total", "Messages that came from other nodes.", func() int64 { return b.Stats().RelayedIn })
	count("fabric_refused_total", "QoS 1 messages refused since another node did not answer.", func() int64 { return b.Stats().RelayFailures })
	count("fabric_sessions_moved_total", "Sessions that came from another node with their device.", func() int64 { return b.Stats().MovedIn })
	count("fabric_sessions_adopted_total", "Sessions taken over from nodes that are gone.", func() int64 { return b.Stats().Adopted })
	count("fabric_frames_forged_total", "Frames that no node of this service sealed.", r.fabric.Stats.Refused.Load)
	gauge("fabric_up", "1 while the NATS server is connected.", func() float64 {
		if r.fabric.Up() {
			return 1
		}
		return 0
	})
	count("presence_events_dropped_total", "Lifecycle events that were not published.", r.presence.Dropped.Load)
}
