package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"hallmark/api/adminapi"
	"hallmark/ca/ceremony"
	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/hsm/softhsm"
	"hallmark/internal/durable"
	"hallmark/internal/freeport"
)

// stage sets a whole installation up in one directory: root, service, people,
// an open order and an enrolled station. The demo and the benchmark play on it.
type stage struct {
	g         *globals
	dir       string
	hsm       string // softhsm or software
	freePorts bool
	database  string // "" is SQLite in the directory
	more      string // the rest of fleet: in the configuration, and keys after it

	cfg     *Config
	server  *Server
	keyURI  func(name string) string
	roots   *x509.CertPool
	rootPEM []byte
	env     []string // of child processes
}

// check completes and checks what the flags say.
func (d *stage) check() (err error) {
	if d.hsm == "" {
		d.hsm = "software"
		if softhsm.Available() == nil {
			d.hsm = "softhsm"
		}
	}
	if d.hsm != "software" && d.hsm != "softhsm" {
		return errUsage{fmt.Errorf("--hsm %q is neither softhsm nor software", d.hsm)}
	}
	d.dir, err = filepath.Abs(d.dir)
	return err
}

// close ends the service, if it was started.
func (d *stage) close() error {
	if d.server == nil {
		return nil
	}
	return d.server.Close()
}

func (d *stage) path(parts ...string) string {
	return filepath.Join(append([]string{d.dir}, parts...)...)
}

// prepare makes the directory, the tokens and the configuration.
func (d *stage) prepare(context.Context) error {
	if es, err := os.ReadDir(d.dir); err == nil && len(es) > 0 {
		if _, err := os.Stat(d.path("demo.mark")); err != nil {
			return errDemoDir.New("%s.", d.dir)
		}
		if err := d.idle(); err != nil {
			return err
		}
		if err := os.RemoveAll(d.dir); err != nil {
			return err
		}
	}
	for _, p := range []string{"pki", "devices", "people", "root", "keys"} {
		if err := os.MkdirAll(d.path(p), 0o700); err != nil {
			return err
		}
	}
	if err := os.WriteFile(d.path("demo.mark"), []byte("made by hallmark demo; removed by its next run\n"), 0o644); err != nil {
		return err
	}
	if err := d.tokens(); err != nil {
		return err
	}
	port := func(fixed int) string {
		if d.freePorts {
			fixed = 0
		}
		return fmt.Sprintf("127.0.0.1:%d", fixed)
	}
	public := port(8080)
	if d.freePorts { // the base URL holds the port, so it is chosen first
		p, err := freeport.Take(1)
		if err != nil {
			return err
		}
		public = fmt.Sprintf("127.0.0.1:%d", p)
	}
	_, publicPort, _ := net.SplitHostPort(public)
	database := "hallmark.db"
	if d.database != "" {
		database = d.database
	}
	text := fmt.Sprintf(`# Made by hallmark demo. Every key is explained in docs/configuration.md.
# Serve it with: %s
state: state
database: %q
base_url: http://localhost:%s
domain: devices.hallmark.example
listen:
  people: %s
  device: %s
  mqtt: %s
  factory: %s
  enrol: %s
  public: %s
  metrics: %s
fleet:
  jitp: true
  server_keys: true
%sapprovers:
  - name: bob
    key: people/bob.pub.pem
log_level: warn
`, d.again(), database, publicPort, port(8443), port(9443), port(8883), port(9444), port(9445), public, port(9090), d.more)
	if err := d.approverKey(); err != nil {
		return err
	}
	return os.WriteFile(d.path("hallmark.yaml"), []byte(text), 0o644)
}

// idle refuses to take the directory away from a service that works in it, which
// holds the lock of the database file ([store.Open]).
func (d *stage) idle() error {
	f, err := os.OpenFile(d.path("state", "hallmark.db.lock"), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errDemoServes.Wrap(err, "%s.", d.dir)
	}
	return nil
}

// again is the command that serves the directory once more. SoftHSM finds its tokens
// by its environment alone.
func (d *stage) again() string {
	words := []string{}
	for _, e := range d.env {
		name, value, _ := strings.Cut(e, "=")
		words = append(words, name+"="+shellWord(value))
	}
	return strings.Join(append(words, "hallmark serve --config "+shellWord(d.path("hallmark.yaml"))), " ")
}

// tokens makes the two tokens of the story, the root's and the line's, or the
// encrypted files that stand for them.
func (d *stage) tokens() error {
	secret := d.path("keys", "pin")
	if err := durable.WriteFile(secret, []byte("demo-1234\n"), 0o600); err != nil {
		return err
	}
	if d.hsm == "software" {
		d.keyURI = func(name string) string {
			return "file:" + d.path("keys", name+".pem") + "?passphrase-source=file:" + secret
		}
		return nil
	}
	module, conf, err := softhsm.Init(d.path("keys", "softhsm"), "root", "demo-1234")
	if err != nil {
		return err
	}
	if _, _, err := softhsm.Init(d.path("keys", "softhsm"), "line", "demo-1234"); err != nil {
		return err
	}
	d.env = []string{"SOFTHSM2_CONF=" + conf}
	d.keyURI = func(name string) string {
		token := "line"
		if name == "root" {
			token = "root"
		}
		return "pkcs11:token=" + token + ";object=" + name + "?module-path=" + module + "&pin-source=file:" + secret
	}
	return nil
}

func (d *stage) approverURI() string {
	return "file:" + d.path("people", "bob.pem") + "?passphrase-source=file:" + d.path("keys", "pin")
}

// approverKey makes bob's key, whose public half the configuration pins.
func (d *stage) approverKey() error {
	ring := hsm.Open(hsm.Config{})
	defer ring.Close()
	key, err := ring.Generate(context.Background(), d.approverURI(), hsm.Spec{Algorithm: hsm.P256})
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return os.WriteFile(d.path("people", "bob.pub.pem"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644)
}

func (d *stage) serve(ctx context.Context) error {
	var err error
	if d.cfg, err = loadConfig(d.path("hallmark.yaml")); err != nil {
		return err
	}
	s, err := newServer(ctx, d.cfg, serverOptions{Log: newLogger(d.g.Err, d.cfg.LogLevel), Now: d.g.Now})
	if err != nil {
		return err
	}
	d.server = s
	return s.Start(ctx)
}

// as is the API as a person; platform is the first principal.
func (d *stage) as(person string) (*adminapi.ClientWithResponses, error) {
	file := d.path("people", person+".token")
	if person == "platform" {
		file = d.path("state", "admin.token")
	}
	token, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return adminClient("https://"+d.server.publicAddr("people"), strings.TrimSpace(string(token)), d.path("state", "ca.pem"))
}

// must gives the answer or the problem.
func answered[T any](status int, body []byte, v *T) (*T, error) {
	if v == nil {
		return nil, problem(status, body)
	}
	return v, nil
}

// ceremony plays both machines: the offline one with the root's token, and the
// service, between which only files travel.
func (d *stage) ceremony(ctx context.Context) error {
	ring := hsm.Open(hsm.Config{})
	defer ring.Close()
	base := d.cfg.BaseURL
	var transcript []byte // of the step before, which the next one names
	offline := func() (*ceremony.Ceremony, error) {
		return ceremony.New(ceremony.Config{Keys: ring, Previous: transcript, Development: true, Now: d.g.Now})
	}
	step, err := offline()
	if err != nil {
		return err
	}
	root, err := step.CreateRoot(ctx, ceremony.RootRequest{Name: "root-1", BaseURL: base, KeyURI: d.keyURI("root"), Generate: true, Algorithm: hsm.P384,
		Subject: profile.Subject{Organization: "Hallmark Demo", CommonName: "Hallmark Demo Root"}})
	if err != nil {
		return err
	}
	keep := func(r *ceremony.Result, name string) error {
		transcript = r.TranscriptJSON
		return durable.WriteFile(d.path("root", name+".transcript.json"), r.TranscriptJSON, 0o644)
	}
	if err := keep(root, "1-root"); err != nil {
		return err
	}
	if step, err = offline(); err != nil {
		return err
	}
	list, err := step.SignRootCRL(ctx, ceremony.ListRequest{RootCert: root.CertificateDER, KeyURI: d.keyURI("root"), RootName: "root-1", BaseURL: base, First: true})
	if err != nil {
		return err
	}
	if err := keep(list, "2-list"); err != nil {
		return err
	}
	d.rootPEM = root.CertificatePEM
	if err := errors.Join(os.WriteFile(d.path("pki", "root.pem"), root.CertificatePEM, 0o644), os.WriteFile(d.path("pki", "root.crl"), list.ListPEM, 0o644)); err != nil {
		return err
	}
	api, err := d.as("platform")
	if err != nil {
		return err
	}
	r, err := api.CreateRootWithResponse(ctx, adminapi.RootRequest{Name: "root-1", Certificate: string(root.CertificatePEM)})
	if err != nil {
		return err
	}
	if _, err := answered(r.StatusCode(), r.Body, r.JSON201); err != nil {
		return err
	}
	l, err := api.PutRootListWithResponse(ctx, "root-1", adminapi.RootListRequest{List: string(list.ListPEM)})
	if err != nil {
		return err
	}
	if _, err := answered(l.StatusCode(), l.Body, l.JSON200); err != nil {
		return err
	}
	for i, a := range []struct{ name, duty, cn, file string }{
		{"device-1", "device", "Hallmark Demo Device CA 1", "issuing.pem"},
		{"infra-1", "infrastructure", "Hallmark Demo Infrastructure CA 1", "infrastructure.pem"},
	} {
		made, err := api.CreateAuthorityWithResponse(ctx, adminapi.AuthorityRequest{Name: a.name, Duty: a.duty, CommonName: a.cn, KeyUri: d.keyURI(a.name)})
		if err != nil {
			return err
		}
		pending, err := answered(made.StatusCode(), made.Body, made.JSON201)
		if err != nil {
			return err
		}
		if step, err = offline(); err != nil {
			return err
		}
		signed, err := step.SignIntermediate(ctx, ceremony.SignRequest{RootCert: root.CertificateDER, KeyURI: d.keyURI("root"), CSR: []byte(pending.Csr), Name: a.name, Duty: profile.Duty(a.duty),
			Subject: profile.Subject{Organization: "Hallmark Demo", CommonName: a.cn}, RootName: "root-1", BaseURL: base})
		if err != nil {
			return err
		}
		if err := keep(signed, fmt.Sprintf("%d-%s", i+3, a.name)); err != nil {
			return err
		}
		in, err := api.InstallAuthorityWithResponse(ctx, a.name, adminapi.InstallRequest{Certificate: string(signed.CertificatePEM), Root: "root-1"})
		if err != nil {
			return err
		}
		if _, err := answered(in.StatusCode(), in.Body, in.JSON200); err != nil {
			return err
		}
		if err := os.WriteFile(d.path("pki", a.file), signed.CertificatePEM, 0o644); err != nil {
			return err
		}
	}
	d.roots = x509.NewCertPool()
	d.roots.AppendCertsFromPEM(d.rootPEM)
	return nil
}

// order names the people, registers the device authority and opens an order that
// ann wrote and bob approved.
func (d *stage) openOrder(ctx context.Context, o adminapi.OrderRequest) error {
	platform, err := d.as("platform")
	if err != nil {
		return err
	}
	for _, p := range []struct{ name, role string }{{"ann", "cm-manager"}, {"bob", "security-officer"}} {
		a, err := platform.CreatePrincipalWithResponse(ctx, adminapi.PrincipalRequest{Name: p.name, Role: p.role})
		if err != nil {
			return err
		}
		made, err := answered(a.StatusCode(), a.Body, a.JSON201)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(d.path("people", p.name+".token"), []byte(made.Token+"\n"), 0o600); err != nil {
			return err
		}
		if p.name == "bob" { // commands with --dir act as bob
			if err := durable.WriteFile(d.path("admin.token"), []byte(made.Token+"\n"), 0o600); err != nil {
				return err
			}
		}
	}
	if err := d.devicePolicy(ctx); err != nil {
		return err
	}
	t, err := platform.PutTemplateWithResponse(ctx, "demo", adminapi.TemplateRequest{Body: fmt.Sprintf(demoTemplate, d.server.publicAddr("device"))})
	if err != nil {
		return err
	}
	if _, err := answered(t.StatusCode(), t.Body, t.JSON200); err != nil {
		return err
	}
	reg, err := platform.PutRegistrationWithResponse(ctx, "device-1", adminapi.RegistrationRequest{Template: "demo", Enabled: true})
	if err != nil {
		return err
	}
	if _, err := answered(reg.StatusCode(), reg.Body, reg.JSON200); err != nil {
		return err
	}
	ann, err := d.as("ann")
	if err != nil {
		return err
	}
	made, err := ann.CreateOrderWithResponse(ctx, o)
	if err != nil {
		return err
	}
	draft, err := answered(made.StatusCode(), made.Body, made.JSON201)
	if err != nil {
		return err
	}
	ring := hsm.Open(hsm.Config{})
	defer ring.Close()
	env, err := signOrder(ctx, ring, d.approverURI(), draft.Body)
	if err != nil {
		return err
	}
	bob, err := d.as("bob")
	if err != nil {
		return err
	}
	approved, err := bob.ApproveOrderWithResponse(ctx, o.Id, env)
	if err != nil {
		return err
	}
	if _, err := answered(approved.StatusCode(), approved.Body, approved.JSON200); err != nil {
		return err
	}
	opened, err := bob.OpenOrderWithResponse(ctx, o.Id)
	if err != nil {
		return err
	}
	_, err = answered(opened.StatusCode(), opened.Body, opened.JSON200)
	return err
}

// child runs this program as another process: a station is never inside the
// service.
func (d *stage) child(ctx context.Context, stdin string, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(append(os.Environ(), "HALLMARK_TEST_AS_PROGRAM=1"), d.env...)
	cmd.Stdin = strings.NewReader(stdin)
	return cmd
}

func (d *stage) enrol(ctx context.Context) error {
	ann, err := d.as("ann")
	if err != nil {
		return err
	}
	a, err := ann.CreateStationCodeWithResponse(ctx, adminapi.StationCodeRequest{Station: "station-1", Site: "demo-site"})
	if err != nil {
		return err
	}
	code, err := answered(a.StatusCode(), a.Body, a.JSON201)
	if err != nil {
		return err
	}
	cmd := d.child(ctx, code.Code+"\n", "station", "enrol", "--server", "https://"+d.server.publicAddr("enrol"), "--code", "-", "--station", "station-1", "--dir", d.path("station"), "--json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if _, err := cmd.Output(); err != nil {
		return fmt.Errorf("the station could not enrol: %w: %s", err, stderr.String())
	}
	return nil
}
