package main

import (
	"bufio"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/fleet/registry"
	"hallmark/hsm/hsmtest"
)

// shopPolicy lets devices talk to each other, which the demo's policy does not.
const shopPolicy = `{"Version":"2012-10-17","Statement":[
  {"Effect":"Allow","Action":["iot:Publish","iot:Receive","iot:RetainPublish"],"Resource":"arn:aws:iot:*:*:topic/shop/*"},
  {"Effect":"Allow","Action":"iot:Subscribe","Resource":["arn:aws:iot:*:*:topicfilter/shop/*","arn:aws:iot:*:*:topicfilter/$share/*/shop/*"]}]}`

// newShop is a service as a process of its own, and devices that may talk to
// each other below shop/.
func newShop(t *testing.T, names ...string) (*site, *process) {
	t.Helper()
	if _, err := exec.LookPath("mosquitto_sub"); err != nil {
		hsmtest.Missing(t, err.Error()+": scripts/setup.sh installs it")
	}
	began := time.Now()
	w := newFleetSite(t, names...)
	defer func() { t.Logf("set up in %s", time.Since(began).Round(time.Millisecond)) }()
	main, reg := access.Scope{Tenant: access.DefaultTenant}, w.server.reged
	if _, err := reg.CreatePolicy(t.Context(), registry.Policy{Tenant: main.Tenant, Name: "shop", Document: shopPolicy}); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		id := registry.CertificateID(readCert(t, w.path("devices", n, "ldevid.pem")).Raw)
		if err := reg.AttachPolicy(t.Context(), main, registry.CertificateTarget(id), "shop"); err != nil {
			t.Fatal(err)
		}
	}
	w.halt()
	return w, w.service("hallmark.yaml", "state")
}

// mosquitto is a program of mosquitto's as a device.
func (s *site) mosquitto(program, name, version string, args ...string) *exec.Cmd {
	s.t.Helper()
	host, port, err := net.SplitHostPort(s.door("mqtt"))
	if err != nil {
		s.t.Fatal(err)
	}
	return exec.CommandContext(s.t.Context(), program, append([]string{"-h", host, "-p", port, "-V", version, "-i", name, "--cafile", s.path("pki", "root.pem"),
		"--cert", s.path("devices", name, "ldevid.pem"), "--key", s.path("devices", name, "ldevid.key")}, args...)...)
}

// say publishes with mosquitto_pub.
func (s *site) say(name, version string, args ...string) {
	s.t.Helper()
	if out, err := s.mosquitto("mosquitto_pub", name, version, args...).CombinedOutput(); err != nil {
		s.t.Fatalf("mosquitto_pub %v: %v %s", args, err, out)
	}
}

// ear is a mosquitto_sub that runs. Each message is a line "TOPIC QOS RETAIN PAYLOAD".
type ear struct {
	t     *testing.T
	cmd   *exec.Cmd
	ready chan struct{}
	done  chan struct{}
	mu    sync.Mutex
	got   []string
	said  []string // everything else
}

// listen starts mosquitto_sub and returns when its subscriptions are made.
func (s *site) listen(t *testing.T, name, version string, args ...string) *ear {
	t.Helper()
	// Its own words would wait in a pipe until there are many.
	cmd := s.mosquitto("mosquitto_sub", name, version, append([]string{"-d", "-F", "MESSAGE %t %q %r %p"}, args...)...)
	line, err := exec.LookPath("stdbuf")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path, cmd.Args = line, append([]string{"stdbuf", "-oL"}, cmd.Args...)
	e := &ear{t: t, cmd: cmd, ready: make(chan struct{}), done: make(chan struct{})}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(e.done)
		var once sync.Once
		for lines := bufio.NewScanner(out); lines.Scan(); {
			text, message := strings.CutPrefix(lines.Text(), "MESSAGE ")
			e.mu.Lock()
			if message {
				e.got = append(e.got, text)
			} else {
				e.said = append(e.said, text)
			}
			e.mu.Unlock()
			if strings.HasPrefix(text, "Subscribed (mid") {
				once.Do(func() { close(e.ready) })
			}
		}
		cmd.Wait()
	}()
	t.Cleanup(e.kill)
	made, some := e.ready, slices.Contains(args, "-C") // as many messages as it was told, then it ends
	if some || slices.Contains(args, "-E") {           // when its subscriptions are made
		made = e.done
	}
	select {
	case <-made:
	case <-e.done:
	case <-time.After(30 * time.Second):
		t.Fatalf("mosquitto_sub did not subscribe: %s", e.words())
	}
	if words := e.words(); !some && !strings.Contains(words, "Subscribed (mid") {
		t.Fatalf("mosquitto_sub has no subscription: %s", words)
	}
	return e
}

func (e *ear) words() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.said, "\n")
}

func (e *ear) heard() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.got)
}

// kill ends it without a DISCONNECT.
func (e *ear) kill() {
	e.cmd.Process.Kill()
	<-e.done
}

// hears waits until as many messages came, and compares them.
func (e *ear) hears(want ...string) {
	e.t.Helper()
	for end := time.Now().Add(20 * time.Second); len(e.heard()) < len(want) && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	if got := e.heard(); !slices.Equal(got, want) {
		e.t.Errorf("heard %q, want %q: %s", got, want, e.words())
	}
}

// TestMosquitto_LivesOnTheService: a client that is neither ours nor the SDK's,
// over mutual TLS, on both versions, against the service as a process of its own.
func TestMosquitto_LivesOnTheService(t *testing.T) {
	w, p := newShop(t, "A-1", "B-1", "C-1", "D-1", "A-2", "B-2", "C-2", "D-2")
	for i, version := range []string{"311", "mqttv5"} {
		t.Run(version, func(t *testing.T) {
			n := fmt.Sprint(i + 1)
			w.mosquittoTalk(t, version, "shop/"+version+"/", "A-"+n, "B-"+n, "C-"+n, "D-"+n)
		})
	}
	t.Run("what persists survives SIGTERM and kill -9", func(t *testing.T) {
		old, recent := []string{"-c", "-q", "1"}, []string{"-c", "-q", "1", "-x", "600"}
		away := func() {
			t.Helper()
			w.listen(t, "A-1", "311", append(old, "-t", "shop/p/#", "-E")...)
			w.listen(t, "A-2", "mqttv5", append(recent, "-t", "shop/p/#", "-E")...)
		}
		back := func(want ...string) {
			t.Helper()
			n := fmt.Sprint(len(want))
			w.listen(t, "A-1", "311", append(old, "-t", "shop/p/#", "-C", n)...).hears(want...)
			w.listen(t, "A-2", "mqttv5", append(recent, "-t", "shop/p/#", "-C", n)...).hears(want...)
		}
		for _, end := range []string{"SIGTERM", "kill -9"} {
			away()
			for _, m := range []string{"one", "two", "three"} {
				w.say("D-2", "mqttv5", "-t", "shop/p/x", "-q", "1", "-m", end+" "+m)
			}
			w.say("D-1", "311", "-t", "shop/kept", "-q", "1", "-r", "-m", end)
			if end == "SIGTERM" {
				if err := p.stop(); err != nil {
					t.Fatal(err)
				}
			} else {
				p.kill()
			}
			p = w.service("hallmark.yaml", "state")
			back("shop/p/x 1 0 "+end+" one", "shop/p/x 1 0 "+end+" two", "shop/p/x 1 0 "+end+" three")
			w.listen(t, "C-1", "311", "-t", "shop/kept", "-q", "1", "-C", "1").hears("shop/kept 1 1 " + end)
		}
	})
	if err := p.stop(); err != nil {
		t.Errorf("the service: %v", err)
	}
	w.clean()
}

// mosquittoTalk is what four devices do below a topic. Two of them publish: a
// client that connects more than ten times in a moment has to wait.
func (s *site) mosquittoTalk(t *testing.T, version, top, a, b, c, d string) {
	// QoS 0 and 1, with wildcards of both kinds: each message once, in order, and
	// not what no filter names.
	ear := s.listen(t, a, version, "-q", "1", "-t", top+"+/state", "-t", top+"all/#")
	s.say(b, version, "-q", "0", "-t", top+"lamp/state", "-m", "on")
	s.say(b, version, "-q", "1", "-t", top+"lamp/state", "-m", "off")
	s.say(b, version, "-q", "1", "-t", top+"lamp/other", "-m", "not asked for")
	s.say(b, version, "-q", "1", "-t", top+"lamp/state/deep", "-m", "not asked for")
	s.say(b, version, "-q", "1", "-t", top+"all/a/b/c", "-m", "deep")
	ear.hears(top+"lamp/state 0 0 on", top+"lamp/state 1 0 off", top+"all/a/b/c 1 0 deep")
	ear.kill()

	// Retained: there for who comes later, marked, until it is cleared.
	for _, k := range []string{"a", "b"} {
		s.say(d, version, "-q", "1", "-r", "-t", top+"kept/"+k, "-m", "kept")
	}
	late := s.listen(t, c, version, "-q", "1", "-t", top+"kept/a")
	late.hears(top + "kept/a 1 1 kept")
	s.say(d, version, "-q", "1", "-r", "-n", "-t", top+"kept/a")
	late.hears(top+"kept/a 1 1 kept", top+"kept/a 1 0 ")
	late.kill()
	late = s.listen(t, c, version, "-q", "1", "-t", top+"kept/#")
	late.hears(top + "kept/b 1 1 kept")
	s.say(d, version, "-q", "1", "-t", top+"kept/last", "-m", "live")
	late.hears(top+"kept/b 1 1 kept", top+"kept/last 1 0 live")
	late.kill()

	// A will: sent when the device dies, not when it leaves.
	watch := s.listen(t, a, version, "-q", "1", "-t", top+"will/#")
	will := []string{"--will-topic", top + "will/" + b, "--will-payload", "gone", "--will-qos", "1", "-t", top + "nothing"}
	s.listen(t, b, version, append(will, "-E")...) // says goodbye
	s.listen(t, b, version, will...).kill()
	watch.hears(top + "will/" + b + " 1 0 gone")
	watch.kill()

	// A shared subscription: each message to one of its members.
	one, two := s.listen(t, a, version, "-q", "1", "-t", "$share/crew/"+top+"work/#"), s.listen(t, c, version, "-q", "1", "-t", "$share/crew/"+top+"work/#")
	lines := s.mosquitto("mosquitto_pub", b, version, "-q", "1", "-t", top+"work/x", "-l")
	var in, want []string
	for i := range 24 {
		in, want = append(in, fmt.Sprint(i)), append(want, fmt.Sprintf("%swork/x 1 0 %d", top, i))
	}
	lines.Stdin = strings.NewReader(strings.Join(in, "\n") + "\n")
	if out, err := lines.CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_pub: %v %s", err, out)
	}
	eventually(t, "all work", func() bool { return len(one.heard())+len(two.heard()) >= len(want) })
	got := slices.Concat(one.heard(), two.heard())
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || len(one.heard()) == 0 || len(two.heard()) == 0 {
		t.Errorf("one got %q, the other %q", one.heard(), two.heard())
	}
	one.kill()
	two.kill()
}
