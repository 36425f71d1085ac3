package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/ca/ceremony"
	"hallmark/ca/profile"
	"hallmark/device"
	"hallmark/hsm"
	"hallmark/hsm/softhsm"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
)

var (
	errDemoDir     = fault.Define(fault.Conflict, "demo-directory", "The directory is not empty and not an earlier demo's.", "Name another directory with --dir, or remove this one.")
	errDemoRefusal = fault.Define(fault.Internal, "demo-no-refusal", "The revoked device was not refused.", "Report this: revocation did not take hold.")
)

// demo walks the main job once, on real parts: ceremony, service, order,
// station, first boot, revocation.
type demo struct {
	g     *globals
	dir   string
	units int
	hsm   string
	exit  bool
	start time.Time

	cfg     *Config
	server  *Server
	keyURI  func(name string) string
	admin   map[string]*adminapi.ClientWithResponses // by person
	roots   *x509.CertPool
	rootPEM []byte
	station []string // environment of the station's process
}

// demoSummary is summary.json.
type demoSummary struct {
	Units        int      `json:"units"`
	Certificates int      `json:"certificates"` // of devices: one from the factory and one from first boot each
	Revoked      []string `json:"revoked"`
	Log          struct {
		Size         int64  `json:"size"`
		Certificates int64  `json:"certificates"` // of devices, stations and the service itself
		Root         string `json:"root"`
	} `json:"log"`
	HSM       string            `json:"hsm"`
	Order     string            `json:"order"`
	Endpoints map[string]string `json:"endpoints"`
	ElapsedMS int64             `json:"elapsed_ms"`
}

func newDemoCmd(g *globals) *cobra.Command {
	d := &demo{g: g}
	cmd := &cobra.Command{
		Use: "demo", Short: "See the whole job: root, order, station, first boot, revocation", Args: cobra.NoArgs,
		Long: `The demo does what a factory and its devices do, with real parts: an offline root
signs two issuing authorities, a service starts, an order is approved and opened,
a station in a process of its own makes simulated devices, each boots for the
first time over TLS, and one is revoked and refused. It then keeps serving.`,
		Example: "  hallmark demo\n  hallmark demo --units 100 --hsm softhsm --exit --dir /tmp/demo",
		RunE:    func(cmd *cobra.Command, _ []string) error { return d.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&d.dir, "dir", "demo", "directory for everything it makes")
	f.IntVar(&d.units, "units", 10, "devices to make")
	f.StringVar(&d.hsm, "hsm", "", "where the CA keys live: softhsm, or software (encrypted files); default softhsm if it is installed")
	f.BoolVar(&d.exit, "exit", false, "stop when everything is done; uses free ports")
	return cmd
}

func (d *demo) run(ctx context.Context) (err error) {
	d.start = time.Now()
	if d.units < 1 || d.units > 100_000 {
		return errUsage{fmt.Errorf("--units %d is not 1 to 100000", d.units)}
	}
	if d.hsm == "" {
		d.hsm = "software"
		if softhsm.Available() == nil {
			d.hsm = "softhsm"
		}
	}
	if d.hsm != "software" && d.hsm != "softhsm" {
		return errUsage{fmt.Errorf("--hsm %q is neither softhsm nor software", d.hsm)}
	}
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return err
	}
	defer func() {
		if d.server != nil {
			err = errors.Join(err, d.server.Close())
		}
	}()
	for _, step := range []struct {
		say string
		do  func(context.Context) error
	}{
		{"Directory and keys", d.prepare},
		{"Service", d.serve},
		{"Ceremony: the root signs a device CA and an infrastructure CA", d.ceremony},
		{"People, template and order", d.order},
		{"Station enrolled", d.enrol},
		{"Line", d.line},
		{"First boot of every device", d.firstBoots},
		{"One device revoked and refused", d.revoke},
	} {
		begun := time.Now()
		if !d.g.JSON {
			fmt.Fprintf(d.g.Err, "• %s\n", step.say)
		}
		if err := step.do(ctx); err != nil {
			return err
		}
		if !d.g.JSON {
			fmt.Fprintf(d.g.Err, "  done in %s\n", time.Since(begun).Round(time.Millisecond))
		}
	}
	if err := d.summary(ctx); err != nil {
		return err
	}
	if d.exit {
		return nil
	}
	if !d.g.JSON {
		fmt.Fprintln(d.g.Err, "Serving. Stop with Ctrl-C.")
	}
	<-ctx.Done()
	return nil
}

func (d *demo) path(parts ...string) string {
	return filepath.Join(append([]string{d.dir}, parts...)...)
}

// prepare makes the directory, the tokens and the configuration.
func (d *demo) prepare(context.Context) error {
	if es, err := os.ReadDir(d.dir); err == nil && len(es) > 0 {
		if _, err := os.Stat(d.path("demo.mark")); err != nil {
			return errDemoDir.New("%s.", d.dir)
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
		if !d.exit {
			return fmt.Sprintf("127.0.0.1:%d", fixed)
		}
		return "127.0.0.1:0"
	}
	public := port(8080)
	if d.exit { // the base URL holds the port, so it is chosen first
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		public = l.Addr().String()
		l.Close()
	}
	_, publicPort, _ := net.SplitHostPort(public)
	text := fmt.Sprintf(`# Made by hallmark demo. Every key is explained in docs/configuration.md.
state: state
base_url: http://localhost:%s
domain: devices.hallmark.example
listen:
  people: %s
  device: %s
  factory: %s
  enrol: %s
  public: %s
  metrics: %s
approvers:
  - name: bob
    key: people/bob.pub.pem
log_level: warn
`, publicPort, port(8443), port(9443), port(9444), port(9445), public, port(9090))
	if err := d.approverKey(); err != nil {
		return err
	}
	return os.WriteFile(d.path("hallmark.yaml"), []byte(text), 0o644)
}

// tokens makes the two tokens of the story, the root's and the line's, or the
// encrypted files that stand for them.
func (d *demo) tokens() error {
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
	d.station = []string{"SOFTHSM2_CONF=" + conf}
	d.keyURI = func(name string) string {
		token := "line"
		if name == "root" {
			token = "root"
		}
		return "pkcs11:token=" + token + ";object=" + name + "?module-path=" + module + "&pin-source=file:" + secret
	}
	return nil
}

func (d *demo) approverURI() string {
	return "file:" + d.path("people", "bob.pem") + "?passphrase-source=file:" + d.path("keys", "pin")
}

// approverKey makes bob's key, whose public half the configuration pins.
func (d *demo) approverKey() error {
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

func (d *demo) serve(ctx context.Context) error {
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
func (d *demo) as(person string) (*adminapi.ClientWithResponses, error) {
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
func (d *demo) ceremony(ctx context.Context) error {
	ring := hsm.Open(hsm.Config{})
	defer ring.Close()
	base := d.cfg.BaseURL
	offline, err := ceremony.New(ceremony.Config{Keys: ring, Development: true, Now: d.g.Now})
	if err != nil {
		return err
	}
	root, err := offline.CreateRoot(ctx, ceremony.RootRequest{Name: "root-1", BaseURL: base, KeyURI: d.keyURI("root"), Generate: true, Algorithm: hsm.P384,
		Subject: profile.Subject{Organization: "Hallmark Demo", CommonName: "Hallmark Demo Root"}})
	if err != nil {
		return err
	}
	keep := func(r *ceremony.Result, step string) error {
		return durable.WriteFile(d.path("root", step+".transcript.json"), r.TranscriptJSON, 0o644)
	}
	if err := keep(root, "1-root"); err != nil {
		return err
	}
	list, err := offline.SignRootCRL(ctx, ceremony.ListRequest{RootCert: root.CertificateDER, KeyURI: d.keyURI("root"), RootName: "root-1", BaseURL: base, First: true})
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
		signed, err := offline.SignIntermediate(ctx, ceremony.SignRequest{RootCert: root.CertificateDER, KeyURI: d.keyURI("root"), CSR: []byte(pending.Csr), Name: a.name, Duty: profile.Duty(a.duty),
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

const demoOrder = "DEMO-1"

// demoTemplate turns a birth certificate into a thing.
const demoTemplate = `{
  "Parameters": {"AWS::IoT::Certificate::SerialNumber": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
  "Resources": {
    "thing": {"Type": "AWS::IoT::Thing", "Properties": {
      "ThingName": {"Ref": "AWS::IoT::Certificate::SerialNumber"},
      "AttributePayload": {"serial": {"Ref": "AWS::IoT::Certificate::SerialNumber"}, "product": "demo-lamp"},
      "ThingGroups": ["demo"]}},
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}},
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "demo-device"}}
  },
  "DeviceConfiguration": {"endpoint": "%s", "report_interval_seconds": "300"}
}`

// order names the people, registers the device authority and opens an order that
// ann wrote and bob approved.
func (d *demo) order(ctx context.Context) error {
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
	o, err := ann.CreateOrderWithResponse(ctx, adminapi.OrderRequest{Id: demoOrder, Product: "demo-lamp", Quantity: int64(d.units), Organization: "Hallmark Demo",
		Serials: adminapi.SerialRule{Prefix: "LMP-", First: 1, Last: int64(d.units), Width: 6}, KeyOrigin: string(profile.OriginClaimed)})
	if err != nil {
		return err
	}
	draft, err := answered(o.StatusCode(), o.Body, o.JSON201)
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
	approved, err := bob.ApproveOrderWithResponse(ctx, demoOrder, env)
	if err != nil {
		return err
	}
	if _, err := answered(approved.StatusCode(), approved.Body, approved.JSON200); err != nil {
		return err
	}
	opened, err := bob.OpenOrderWithResponse(ctx, demoOrder)
	if err != nil {
		return err
	}
	_, err = answered(opened.StatusCode(), opened.Body, opened.JSON200)
	return err
}

// child runs this program as another process: a station is never inside the
// service.
func (d *demo) child(ctx context.Context, stdin string, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(append(os.Environ(), "HALLMARK_TEST_AS_PROGRAM=1"), d.station...)
	cmd.Stdin = strings.NewReader(stdin)
	return cmd
}

func (d *demo) enrol(ctx context.Context) error {
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

// bar shows progress on a terminal.
func (d *demo) bar(n int, what string) *progressbar.ProgressBar {
	w := io.Discard
	if !d.g.JSON && terminal(d.g.Err) {
		w = d.g.Err
	}
	return progressbar.NewOptions(n, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription("  "+what), progressbar.OptionShowCount(), progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish())
}

func (d *demo) line(ctx context.Context) error {
	cmd := d.child(ctx, "", "station", "run", "--dir", d.path("station"), "--order", demoOrder, "--adapter", "simulate:"+d.path("devices"), "--count", fmt.Sprint(d.units), "--nests", "4", "--operator", "demo", "--json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	bar := d.bar(d.units, "units")
	var last string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var e struct {
			State string `json:"state"`
			Unit  string `json:"unit"`
		}
		last = lines.Text()
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.State == "ok" {
			bar.Add(1)
		}
	}
	bar.Finish()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("the station did not finish: %w: %s %s", err, last, stderr.String())
	}
	return nil
}

// serials lists the devices that the line made.
func (d *demo) serials() ([]string, error) {
	es, err := os.ReadDir(d.path("devices"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range es {
		if _, err := os.Stat(d.path("devices", e.Name(), "idevid.pem")); err == nil {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

func (d *demo) bootConfig(serial string) device.Config {
	return device.Config{Dir: d.path("devices", serial), Server: "https://" + d.server.publicAddr("device"), Roots: d.roots, Now: d.g.Now}
}

func (d *demo) firstBoots(ctx context.Context) error {
	serials, err := d.serials()
	if err != nil {
		return err
	}
	if len(serials) != d.units {
		return fmt.Errorf("the line made %d of %d devices", len(serials), d.units)
	}
	bar := d.bar(len(serials), "devices")
	work := make(chan string)
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for s := range work {
				_, err := device.FirstBoot(ctx, d.bootConfig(s))
				mu.Lock()
				if err != nil && failed == nil {
					failed = fmt.Errorf("first boot of %s: %w", s, err)
				}
				mu.Unlock()
				bar.Add(1)
			}
		})
	}
	for _, s := range serials {
		work <- s
	}
	close(work)
	wg.Wait()
	bar.Finish()
	return failed
}

// revoke blocks the first device and proves that it is refused and listed.
func (d *demo) revoke(ctx context.Context) error {
	serials, err := d.serials()
	if err != nil {
		return err
	}
	victim := serials[0]
	bob, err := d.as("bob")
	if err != nil {
		return err
	}
	a, err := bob.RevokeDeviceWithResponse(ctx, victim, adminapi.DeviceRevokeRequest{Reason: "keyCompromise", Note: "the demo's example"})
	if err != nil {
		return err
	}
	done, err := answered(a.StatusCode(), a.Body, a.JSON200)
	if err != nil {
		return err
	}
	again := d.bootConfig(victim)
	again.Renew = true
	if _, err := device.FirstBoot(ctx, again); err == nil {
		return errDemoRefusal.New("Device %s.", victim)
	} else if !d.g.JSON {
		fmt.Fprintf(d.g.Err, "  %s asked again and was refused: %v\n", victim, err)
	}
	return d.awaitList(ctx, len(done.Revoked))
}

// awaitList fetches the device authority's list until it has the revoked
// certificates, as a verifier elsewhere would, and keeps it.
func (d *demo) awaitList(ctx context.Context, want int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	url := "http://" + d.server.publicAddr("public") + "/crl/device-1/0.crl"
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		der, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			return err
		}
		if l, err := x509.ParseRevocationList(der); err == nil && len(l.RevokedCertificateEntries) >= want {
			return os.WriteFile(d.path("pki", "issuing.crl"), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o644)
		}
		if !every(ctx, 50*time.Millisecond) {
			return fmt.Errorf("the list at %s does not show the revoked device", url)
		}
	}
}

func (d *demo) summary(ctx context.Context) error {
	serials, err := d.serials()
	if err != nil {
		return err
	}
	bob, err := d.as("bob")
	if err != nil {
		return err
	}
	d.server.checkpoint(ctx)
	a, err := bob.GetLogWithResponse(ctx)
	if err != nil {
		return err
	}
	state, err := answered(a.StatusCode(), a.Body, a.JSON200)
	if err != nil {
		return err
	}
	s := demoSummary{Units: len(serials), Certificates: 2 * len(serials), Revoked: serials[:1], HSM: d.hsm, Order: demoOrder, Endpoints: map[string]string{}}
	s.Log.Size, s.Log.Root = state.Size, hex.EncodeToString(state.Root)
	if s.Log.Certificates, err = d.server.db.CountCertificates(ctx); err != nil {
		return err
	}
	for from, to := range map[string]string{"people": "api", "device": "device", "factory": "factory", "enrol": "enrol", "public": "public"} {
		s.Endpoints[to] = d.server.publicAddr(from)
	}
	s.ElapsedMS = time.Since(d.start).Milliseconds()
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(d.path("summary.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	return d.g.print(s, func(w io.Writer) {
		fmt.Fprintf(w, "\n%d units, %d device certificates, %d log leaves, CA keys in %s, %s in all.\n", s.Units, s.Certificates, s.Log.Size, s.HSM, time.Duration(s.ElapsedMS)*time.Millisecond)
		fmt.Fprintf(w, "Revoked: %s\n", strings.Join(s.Revoked, ", "))
		fmt.Fprintf(w, "Everything is in %s; look at summary.json, pki and devices.\n", d.dir)
		if !d.exit {
			fmt.Fprintf(w, "\nConsole   https://%s/console/  (sign in with the token in %s)\n", s.Endpoints["api"], d.path("admin.token"))
			fmt.Fprintf(w, "Lists     http://%s/crl/device-1/0.crl\n", s.Endpoints["public"])
			fmt.Fprintf(w, "Try       hallmark order list --dir %s\n          hallmark cert list --dir %s\n          hallmark fsck --dir %s\n", d.dir, d.dir, d.dir)
		}
	})
}
