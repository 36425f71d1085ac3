package store_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"hallmark/broker"
	"hallmark/broker/brokertest"
	"hallmark/fleet"
	"hallmark/fleet/policy"
	"hallmark/store"
	"hallmark/store/storetest"
)

// onBothEngines runs a test on both engines.
func onBothEngines(t *testing.T, fn func(t *testing.T, url string)) {
	t.Run("sqlite", func(t *testing.T) { fn(t, filepath.Join(t.TempDir(), "h.db")) })
	t.Run("postgres", func(t *testing.T) { fn(t, storetest.Postgres(t)) })
}

// sessionState is everything that a store of the broker knows, in one order.
func sessionState(t *testing.T, s broker.Store) (out []any) {
	t.Helper()
	utc := func(m *broker.Message) {
		if !m.ExpiresAt.IsZero() {
			m.ExpiresAt = m.ExpiresAt.UTC()
		}
		if len(m.Payload) == 0 {
			m.Payload = nil
		}
		if len(m.Properties) == 0 {
			m.Properties = nil
		}
	}
	err := s.Sessions(t.Context(), func(x broker.StoredSession) error {
		slices.SortFunc(x.Subscriptions, func(a, b broker.PutSubscription) int { return strings.Compare(a.Filter, b.Filter) })
		slices.SortFunc(x.Waiting, func(a, b broker.Waiting) int { return strings.Compare(a.Publisher, b.Publisher) })
		slices.Sort(x.Received)
		if len(x.Subscriptions) == 0 {
			x.Subscriptions = nil
		}
		if len(x.Received) == 0 {
			x.Received = nil
		}
		if len(x.Will) == 0 {
			x.Will = nil
		}
		out = append(out, x)
		// In two pages, so that the position counts.
		var queue []broker.StoredMessage
		for after := int64(-1); ; {
			page, err := s.Queued(t.Context(), x.Tenant, x.Client, after, 3)
			if err != nil {
				return err
			}
			if len(page) == 0 {
				break
			}
			queue = append(queue, page...)
			after = page[len(page)-1].Position
		}
		for i := range queue {
			if len(queue[i].IDs) == 0 {
				queue[i].IDs = nil
			}
			utc(&queue[i].Message)
		}
		out = append(out, queue)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Retained(t.Context(), func(r broker.PutRetained) error {
		utc(&r.Message)
		out = append(out, r)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(out, func(a, b any) int { return strings.Compare(fmt.Sprintf("%T%+v", a, a), fmt.Sprintf("%T%+v", b, b)) })
	return out
}

// randomChange gives changes that the broker could make: a message only goes to
// sessions that exist, and positions rise.
func randomChange(r *rand.Rand, exists map[string]bool, position *int64) broker.Change {
	tenant, client := []string{"acme", "zeta"}[r.IntN(2)], fmt.Sprint("lamp", r.IntN(3))
	key := tenant + "/" + client
	at := time.UnixMilli(1_800_000_000_000 + int64(r.IntN(1000))).UTC()
	m := broker.Message{Topic: fmt.Sprint("t/ä/", r.IntN(4)), Payload: make([]byte, []int{0, 1, 700}[r.IntN(3)]), Properties: []byte{1, 1}[:r.IntN(3)], Publisher: fmt.Sprint("pub", r.IntN(2)), QoS: byte(r.IntN(3))}
	if r.IntN(2) == 0 {
		m.ExpiresAt = at
	}
	switch r.IntN(12) {
	case 0, 1:
		exists[key] = true
		return broker.PutSession{Session: broker.Session{Tenant: tenant, Client: client, Thing: client, Certificate: "c", Version: 5, Expiry: time.Duration(r.IntN(9)) * time.Second, Connected: r.IntN(2) == 0, ExpiresAt: at, SentUpTo: *position, Will: []byte(`{}`), WillAt: at}}
	case 2:
		if r.IntN(4) == 0 {
			delete(exists, key)
			return broker.EndSession{Tenant: tenant, Client: client}
		}
	case 3, 4:
		if exists[key] {
			return broker.PutSubscription{Tenant: tenant, Client: client, Filter: fmt.Sprint("f/+/", r.IntN(4)), QoS: byte(r.IntN(3)), NoLocal: r.IntN(2) == 0, AsPublished: r.IntN(2) == 0, Handling: byte(r.IntN(3)), ID: r.IntN(300_000)}
		}
	case 5:
		return broker.EndSubscription{Tenant: tenant, Client: client, Filter: fmt.Sprint("f/+/", r.IntN(4))}
	case 6, 7, 8:
		q := broker.Enqueue{Tenant: tenant, Message: m}
		for i := range 3 {
			if c := fmt.Sprint("lamp", i); exists[tenant+"/"+c] && r.IntN(3) > 0 {
				*position++
				q.To = append(q.To, broker.Recipient{Client: c, Position: *position, QoS: byte(1 + r.IntN(2)), Retain: r.IntN(2) == 0, IDs: []int{1, 268_435_455}[:r.IntN(3)]})
			}
		}
		if len(q.To) > 0 {
			return q
		}
	case 9:
		return broker.Acknowledge{Tenant: tenant, Client: client, Position: *position - int64(r.IntN(12)), Only: r.IntN(2) == 0}
	case 10:
		if r.IntN(2) == 0 {
			return broker.Release{Tenant: tenant, Client: client, Position: *position - int64(r.IntN(6))}
		}
		if exists[key] {
			return broker.Receive{Tenant: tenant, Client: client, ID: uint16(r.IntN(5) + 65530), Done: r.IntN(3) == 0}
		}
	case 11:
		if r.IntN(3) == 0 {
			return broker.EndRetained{Tenant: tenant, Topic: m.Topic}
		}
		return broker.PutRetained{Tenant: tenant, Thing: client, Certificate: "c", StoredAt: at, Message: m}
	}
	return nil
}

func TestSessions_DoWhatTheMemoryStoreDoes(t *testing.T) {
	onBothEngines(t, func(t *testing.T, url string) {
		db := opener(url)(t)
		memory := broker.NewMemory()
		r := rand.New(rand.NewPCG(7, 11))
		exists, position := map[string]bool{}, int64(1<<50)
		for round := range 12 {
			var changes []broker.Change
			for len(changes) < 1+r.IntN(60) {
				if c := randomChange(r, exists, &position); c != nil {
					changes = append(changes, c)
				}
			}
			if err := memory.Apply(t.Context(), changes); err != nil {
				t.Fatal(err)
			}
			if err := db.Apply(t.Context(), changes); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if err := db.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			want, got := sessionState(t, memory), sessionState(t, db)
			if len(got) != len(want) {
				t.Fatalf("round %d: %d values, want %d", round, len(got), len(want))
			}
			for i := range want {
				if !reflect.DeepEqual(got[i], want[i]) {
					t.Fatalf("round %d\ngot  %+v\nwant %+v", round, got[i], want[i])
				}
			}
		}
	})
}

// door lets everybody in who has a certificate of the test's authority.
type door struct{}

func (door) Authenticate(_ context.Context, s tls.ConnectionState, _ netip.AddrPort) (broker.Identity, error) {
	c := s.PeerCertificates[0]
	return broker.Identity{Tenant: c.Subject.Organization[0], Thing: fleet.ThingName(c.Subject.CommonName), Certificate: c.SerialNumber.Text(16),
		Bind: func(string, []string) broker.Authoriser { return everything{} }}, nil
}

type everything struct{}

func (everything) Allows(policy.Action, string) bool { return true }

// startBroker runs a broker on a database and gives its address.
func startBroker(t testing.TB, db *store.DB, cfg *tls.Config) (string, *broker.Broker) {
	b, err := broker.New(context.Background(), broker.Config{TLS: cfg, Authenticator: door{}, Store: db, Limits: broker.Limits{PublishRate: -1, PublishBytes: -1, ConnectRate: -1, QueueMessages: 60_000, QueueShare: 100}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go b.Serve(context.Background(), ln)
	return ln.Addr().String(), b
}

// TestSessions_Child is the service of the test below, in a process of its own.
func TestSessions_Child(t *testing.T) {
	url, dir := os.Getenv("HALLMARK_TEST_DB"), os.Getenv("HALLMARK_TEST_DIR")
	if url == "" {
		t.Skip("started by TestSessions_SurviveAKill")
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	db, err := store.Open(context.Background(), store.Config{URL: url, Seal: box(t)})
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := startBroker(t, db, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})
	fmt.Println("ADDR", addr)
	select {}
}

func pahoClient(t *testing.T, p *brokertest.PKI, addr, device string, clean bool, got func(mqtt.Client, mqtt.Message)) mqtt.Client {
	t.Helper()
	o := mqtt.NewClientOptions().AddBroker("ssl://" + addr).SetClientID(device).SetTLSConfig(p.Client(device)).SetCleanSession(clean).SetAutoReconnect(false).SetOrderMatters(true)
	if got != nil {
		o.SetDefaultPublishHandler(got)
	}
	c := mqtt.NewClient(o)
	if tok := c.Connect(); !tok.WaitTimeout(20*time.Second) || tok.Error() != nil {
		t.Fatalf("connect %s: %v", device, tok.Error())
	}
	return c
}

// TestSessions_SurviveAKill publishes QoS 1 messages for a device that is away,
// kills the service in the middle with SIGKILL, and wants every message that was
// acknowledged (clarification 19: no QoS 1 message is lost).
func TestSessions_SurviveAKill(t *testing.T) {
	onBothEngines(t, func(t *testing.T, url string) {
		p := brokertest.New()
		dir := t.TempDir()
		writeServer(t, p, dir)
		child := exec.Command(os.Args[0], "-test.run=^TestSessions_Child$", "-test.timeout=60s")
		child.Env = append(os.Environ(), "HALLMARK_TEST_DB="+url, "HALLMARK_TEST_DIR="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		defer child.Process.Kill()
		var addr string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if a, ok := strings.CutPrefix(lines.Text(), "ADDR "); ok {
				addr = a
				break
			}
		}
		if addr == "" {
			t.Fatal("the child did not start")
		}
		away := pahoClient(t, p, addr, "lamp1", false, nil)
		if tok := away.Subscribe("cmd/lamp1", 1, nil); !tok.WaitTimeout(10*time.Second) || tok.Error() != nil {
			t.Fatal(tok.Error())
		}
		away.Disconnect(100)
		keeper := pahoClient(t, p, addr, "keeper", true, nil)
		if tok := keeper.Publish("state/keeper", 1, true, "on"); !tok.WaitTimeout(10*time.Second) || tok.Error() != nil {
			t.Fatal(tok.Error())
		}

		var mu sync.Mutex
		acknowledged := map[string]bool{}
		var wg sync.WaitGroup
		for i := range 4 {
			c := pahoClient(t, p, addr, fmt.Sprint("pub", i), true, nil)
			wg.Go(func() {
				for n := 0; ; n++ {
					text := fmt.Sprint(i, "-", n)
					tok := c.Publish("cmd/lamp1", 1, false, text)
					if !tok.WaitTimeout(5*time.Second) || tok.Error() != nil || !c.IsConnectionOpen() {
						return
					}
					mu.Lock()
					acknowledged[text] = true
					enough := len(acknowledged) == 300
					mu.Unlock()
					if enough {
						child.Process.Kill()
					}
				}
			})
		}
		wg.Wait()
		child.Wait()
		mu.Lock()
		// A publisher that lost its connection right after Publish can believe itself
		// acknowledged only if the PUBACK came: paho completes the token then and no sooner.
		if len(acknowledged) < 300 {
			t.Fatalf("only %d acknowledged", len(acknowledged))
		}
		mu.Unlock()

		db := opener(url)(t)
		addr, b := startBroker(t, db, p.Server())
		defer b.Close()
		missing := make(chan struct{})
		var once sync.Once
		var order []string
		back := pahoClient(t, p, addr, "lamp1", false, func(_ mqtt.Client, m mqtt.Message) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, string(m.Payload()))
			delete(acknowledged, string(m.Payload()))
			if len(acknowledged) == 0 {
				once.Do(func() { close(missing) })
			}
		})
		select {
		case <-missing:
		case <-time.After(20 * time.Second):
			mu.Lock()
			t.Fatalf("%d acknowledged messages are lost", len(acknowledged))
		}
		kept := make(chan string, 1)
		if tok := back.Subscribe("state/+", 1, func(_ mqtt.Client, m mqtt.Message) { kept <- string(m.Payload()) }); !tok.WaitTimeout(10*time.Second) || tok.Error() != nil {
			t.Fatal(tok.Error())
		}
		if got := <-kept; got != "on" {
			t.Errorf("retained: %q", got)
		}
		back.Disconnect(100)
		// Each publisher's messages are in its order.
		mu.Lock()
		defer mu.Unlock()
		last := map[string]int{}
		for _, m := range order {
			var who, n int
			fmt.Sscanf(m, "%d-%d", &who, &n)
			k := fmt.Sprint(who)
			if have, ok := last[k]; ok && n <= have {
				t.Fatalf("message %s after %d", m, have)
			}
			last[k] = n
		}
	})
}

func writeServer(t *testing.T, p *brokertest.PKI, dir string) {
	t.Helper()
	cfg := p.Server()
	der, err := x509.MarshalPKCS8PrivateKey(cfg.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"server.pem": {Type: "CERTIFICATE", Bytes: cfg.Certificates[0].Certificate[0]},
		"server.key": {Type: "PRIVATE KEY", Bytes: der},
		"ca.pem":     {Type: "CERTIFICATE", Bytes: p.CA.Raw},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSessions_ShareCommits: messages of many publishers for sessions in the
// store are written together.
func TestSessions_ShareCommits(t *testing.T) {
	onBothEngines(t, func(t *testing.T, url string) {
		db := opener(url)(t)
		p := brokertest.New()
		addr, b := startBroker(t, db, p.Server())
		defer b.Close()
		away := pahoClient(t, p, addr, "lamp1", false, nil)
		if tok := away.Subscribe("cmd/lamp1", 1, nil); !tok.WaitTimeout(10*time.Second) || tok.Error() != nil {
			t.Fatal(tok.Error())
		}
		away.Disconnect(100)
		before := db.Stats.Commits.Load()
		var wg sync.WaitGroup
		const publishers, each = 8, 100
		for i := range publishers {
			c := pahoClient(t, p, addr, fmt.Sprint("pub", i), true, nil)
			wg.Go(func() {
				var all []mqtt.Token
				for n := range each {
					all = append(all, c.Publish("cmd/lamp1", 1, false, fmt.Sprint(n)))
				}
				for _, tok := range all {
					if !tok.WaitTimeout(20*time.Second) || tok.Error() != nil {
						t.Error(tok.Error())
						return
					}
				}
			})
		}
		wg.Wait()
		if n := db.Stats.Commits.Load() - before; n > publishers*each/8 {
			t.Errorf("%d commits for %d messages", n, publishers*each)
		} else {
			t.Logf("%d commits for %d messages", n, publishers*each)
		}
	})
}
