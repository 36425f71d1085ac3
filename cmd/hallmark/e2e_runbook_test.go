package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/api/adminapi"
	"hallmark/api/factoryapi"
	"hallmark/ca/ceremony"
	"hallmark/ca/tlog"
	"hallmark/ca/tlog/witness"
	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
)

const runbookDir = "../../docs/runbooks"

// TestRunbooks carries every runbook out on one site: its shell blocks are what
// runs, one after the other, with the variables that its table names. Between the
// blocks the test does what happened (a token is lost, a list lapses), and looks at
// what became of it from outside. A35 A77 S2 S6 S34 S36
func TestRunbooks(t *testing.T) {
	books, err := filepath.Glob(filepath.Join(runbookDir, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{} // before the directory is changed
	for _, b := range books {
		texts[filepath.Base(b)] = string(must(os.ReadFile(b)))
	}
	w := newRunbookSite(t, texts)
	for _, step := range []struct {
		book string
		do   func(*testing.T, *runbook)
	}{
		{"compromised-station.md", w.compromisedStation},
		{"expired-root-list.md", w.expiredRootList},
		{"lost-hsm.md", w.lostHSM},
		{"compromised-intermediate.md", w.compromisedIntermediate},
		{"restore.md", w.restoreDatabase},
		{"forked-log.md", w.forkedLog},
	} {
		if !t.Run(strings.TrimSuffix(step.book, ".md"), func(t *testing.T) {
			outer := w.t
			w.t = t
			defer func() { w.t = outer }()
			b := w.open(t, step.book)
			step.do(t, b)
			if len(b.blocks) > 0 {
				t.Errorf("%d blocks of %s were not run", len(b.blocks), step.book)
			}
			delete(texts, step.book)
		}) {
			return // what follows stands on it
		}
	}
	for name := range texts {
		t.Errorf("no test carries %s out", name)
	}
}

// runbookSite is a site whose device authority has its key in two tokens.
type runbookSite struct {
	*logSite
	texts map[string]string
	a, b  *hsmtest.Remote // the tokens of device-1
	c, d  hsmtest.Token   // the new ones
	began time.Time

	mu    sync.Mutex
	calls []runbookCall
}

// runbookCall is a command of ours that a block ran.
type runbookCall struct {
	args        []string
	exit        int
	out, errOut string
}

func newRunbookSite(t *testing.T, texts map[string]string) *runbookSite {
	t.Helper()
	for _, name := range []string{"bash", "curl", "jq", "openssl"} {
		if _, err := exec.LookPath(name); err != nil {
			hsmtest.Missing(t, name+" is missing: scripts/setup.sh installs it")
		}
	}
	a, b := hsmtest.ServerLabel(t, "alpha"), hsmtest.ServerLabel(t, "beta")
	hsmtest.Import(t, "device-1", a.Token, b.Token)
	w := &runbookSite{texts: texts, a: a, b: b, c: hsmtest.SoftHSMLabel(t, "gamma"), d: hsmtest.SoftHSMLabel(t, "delta"), began: time.Now().Add(-time.Minute)}
	w.logSite = &logSite{site: newChangedSite(t, "software", "", anyName(1000), func(s *site) {
		files := s.keyURI
		s.keyURI = func(name string) string {
			if name == "device-1" {
				return a.URI(name)
			}
			return files(name)
		}
		if out, errOut, exit := s.cli("backup", "keygen", "--out", s.path("backup-key.txt")); exit != exitOK {
			t.Fatalf("%s%s", out, errOut)
		}
		key := regexp.MustCompile(`# public key: (\S+)`).FindStringSubmatch(string(must(os.ReadFile(s.path("backup-key.txt")))))[1]
		if err := os.WriteFile(s.path("elsewhere"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		s.configure("tokens:\n  groups:\n    - name: device-1\n      keys:\n        - " + a.URI("device-1") + "\n        - " + b.URI("device-1") + "\n" +
			"backup:\n  directory: backups\n  recipients: [" + key + "]\n  key_recipients: [" + key + "]\n" +
			"log:\n  publish: published\n  publish_every: 1s\n  checkpoint_files: [elsewhere]\n") // log is the last, so that more can follow
	})}
	carol, err := w.token("platform").CreatePrincipalWithResponse(t.Context(), adminapi.PrincipalRequest{Name: "carol", Role: "security-officer", Days: 1})
	if err != nil || carol.JSON201 == nil {
		t.Fatalf("%v %s", err, carol.Body)
	}
	if err := os.WriteFile(w.path("people", "carol.token"), []byte(carol.JSON201.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	w.shell(t)
	return w
}

// shell puts the programs of the runbooks on the path. hallmark runs in this
// process, since a race-detected one takes seconds to start; systemctl starts and
// stops the service of the site.
func (w *runbookSite) shell(t *testing.T) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		args := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")
		w.mu.Lock()
		defer w.mu.Unlock()
		c := runbookCall{args: args}
		switch r.URL.Path {
		case "/hallmark":
			os.Setenv("HALLMARK_TOKEN", r.Header.Get("X-Token"))
			var out, errOut bytes.Buffer
			c.exit = run(context.Background(), args, strings.NewReader("yes\n"), &out, &errOut)
			c.out, c.errOut = out.String(), errOut.String()
			os.Setenv("HALLMARK_TOKEN", "") // the test's own commands are bob's
		case "/systemctl":
			var err error
			switch strings.Join(args, " ") {
			case "stop hallmark":
				err = w.close()
				w.server = nil
			case "start hallmark":
				if err = w.serve(context.Background()); err != nil {
					w.server = nil
				}
			default:
				err = fmt.Errorf("systemctl %q is unknown here", args)
			}
			if c.args = append([]string{"systemctl"}, args...); err != nil {
				c.exit, c.errOut = 1, err.Error()
			}
		}
		w.calls = append(w.calls, c)
		dir := r.Header.Get("X-Answer")
		os.WriteFile(filepath.Join(dir, "out"), []byte(c.out), 0o600)
		os.WriteFile(filepath.Join(dir, "err"), []byte(c.errOut), 0o600)
		io.WriteString(rw, strconv.Itoa(c.exit))
	}))
	t.Cleanup(srv.Close)
	for _, name := range []string{"hallmark", "systemctl"} {
		script := `#!/bin/sh
d=$(mktemp -d) && trap 'rm -rf "$d"' EXIT
code=$(printf '%s\n' "$@" | curl -sS -H "X-Token: $HALLMARK_TOKEN" -H "X-Answer: $d" --data-binary @- ` + srv.URL + "/" + name + `) || exit 70
cat "$d/out"
cat "$d/err" >&2
exit "$code"
`
		if err := os.MkdirAll(w.path("bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(w.path("bin", name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", w.path("bin")+":"+os.Getenv("PATH"))
	t.Setenv("HALLMARK_DIR", w.dir)
	t.Setenv("HALLMARK_TOKEN", "")
	if err := os.Mkdir(w.path("desk"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(w.path("desk")) // where the commands of blocks leave files
}

// runbook is one that is being carried out.
type runbook struct {
	w      *runbookSite
	t      *testing.T
	blocks []string
	vars   string // file with the variables, which outlive a block
}

func (w *runbookSite) open(t *testing.T, name string) *runbook {
	t.Helper()
	b := &runbook{w: w, t: t, vars: filepath.Join(t.TempDir(), "vars")}
	for _, m := range snippet.FindAllStringSubmatch(w.texts[name], -1) {
		b.blocks = append(b.blocks, m[1])
	}
	if len(b.blocks) == 0 || len(b.blocks) != strings.Count(w.texts[name], "```sh\n") {
		t.Fatalf("%s has %d blocks marked for the test of %d", name, len(b.blocks), strings.Count(w.texts[name], "```sh\n"))
	}
	return b
}

// set gives variables, which the runbook has to name in its table or text.
func (b *runbook) set(vars map[string]string) {
	b.t.Helper()
	text := ""
	for k, v := range vars {
		text += k + "='" + v + "'\n"
	}
	if err := os.WriteFile(b.vars, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// root is what the steps at the root need.
func (w *runbookSite) rootVars(more map[string]string) map[string]string {
	vars := map[string]string{
		"ROOT": "root-1", "BASE_URL": w.cfg.BaseURL, "ROOT_PEM": w.path("pki", "root.pem"), "ROOT_KEY": w.keyURI("root"), "USB": w.path("root"), "CEREMONY": "--development",
		"PLATFORM": w.path("state", "admin.token"), "OFFICER": w.path("people", "bob.token"), "SECOND": w.path("people", "carol.token"), "MANAGER": w.path("people", "ann.token"),
	}
	for k, v := range more {
		vars[k] = v
	}
	return vars
}

// next runs the next n blocks. Every command has to end well but for those that
// begin with one of fails, once for each.
func (b *runbook) next(n int, fails ...string) (calls []runbookCall) {
	b.t.Helper()
	for range n {
		if len(b.blocks) == 0 {
			b.t.Fatal("the runbook has no more blocks")
		}
		block := b.blocks[0]
		b.blocks = b.blocks[1:]
		b.w.mu.Lock()
		b.w.calls = nil
		b.w.mu.Unlock()
		ctx, cancel := context.WithTimeout(b.t.Context(), 2*time.Minute)
		c := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", "source "+b.vars+"\n"+block+"\ndeclare -p | grep -vE '^declare -[a-zA-Z]*[rA]|BASH|FUNCNAME|DIRSTACK|PIPESTATUS' > "+b.vars)
		out, err := c.CombinedOutput()
		cancel()
		for _, call := range b.w.calls {
			line := strings.Join(call.args, " ")
			at := slices.IndexFunc(fails, func(f string) bool { return strings.HasPrefix(line, f) })
			switch {
			case call.exit != exitOK && at >= 0:
				fails = slices.Delete(fails, at, at+1)
			case call.exit != exitOK && !mayFail(block, call.args[0]):
				b.t.Errorf("hallmark %s: exit %d: %s%s", line, call.exit, call.out, call.errOut)
			}
		}
		calls = append(calls, b.w.calls...)
		if err != nil || b.t.Failed() {
			b.t.Fatalf("%v\n%s\n%s", err, block, out)
		}
	}
	if len(fails) > 0 {
		b.t.Fatalf("these did not fail: %q", fails)
	}
	return calls
}

// mayFail is whether a block goes on after a command failed, and says what then.
func mayFail(block, command string) bool {
	for line := range strings.Lines(block) {
		if strings.HasPrefix(line, "hallmark "+command+" ") && strings.Contains(line, " || ") {
			return true
		}
	}
	return false
}

// printed is whether a call of calls that begins so printed a text.
func printed(calls []runbookCall, begins, text string) bool {
	return slices.ContainsFunc(calls, func(c runbookCall) bool {
		return strings.HasPrefix(strings.Join(c.args, " "), begins) && strings.Contains(c.out+c.errOut, text)
	})
}

// try asks for a unit and gives the answer, whatever it is; a handshake that is
// refused is one without a status.
func (w *runbookSite) try(t *testing.T, name string) reply {
	t.Helper()
	cert := w.stationPair()
	r, err := call(t.Context(), w.client(&cert, 1), "POST", "https://"+w.door("factory")+"/factory/v1/units/issue", newUnit(t, name).request())
	if err != nil && !strings.Contains(err.Error(), "remote error: tls") {
		t.Fatal(err)
	}
	return r
}

// make makes a unit and writes its certificate where verify finds it.
func (w *runbookSite) make(t *testing.T, name string) factoryapi.IssueAnswer {
	t.Helper()
	a := w.issueAnswer(newUnit(t, name))
	putPEM(t, w.path("desk", name+".pem"), "CERTIFICATE", a.Certificate)
	return a
}

// verify is what OpenSSL says of a unit by the chains and lists of the public door.
func (w *runbookSite) verify(t *testing.T, name, issuer string) string {
	t.Helper()
	get := func(path string) []byte {
		t.Helper()
		r, err := call(t.Context(), http.DefaultClient, "GET", w.cfg.BaseURL+path, nil)
		if err != nil || r.status != http.StatusOK {
			t.Fatalf("%s: %v %s", path, err, r)
		}
		return r.body
	}
	putPEM(t, w.path("desk", "issuer.pem"), "CERTIFICATE", get("/ca/"+issuer+".cer"))
	lists := []byte{}
	for _, ca := range []string{"root-1", issuer} {
		lists = append(lists, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: get("/crl/" + ca + "/0.crl")})...)
	}
	if err := os.WriteFile("lists.pem", lists, 0o644); err != nil {
		t.Fatal(err)
	}
	out, _ := tool(t, nil, "openssl", "verify", "-CAfile", w.path("pki", "root.pem"), "-untrusted", "issuer.pem", "-crl_check_all", "-extended_crl", "-CRLfile", "lists.pem", name+".pem")
	return out
}

func (w *runbookSite) compromisedStation(t *testing.T, b *runbook) {
	made := map[string]bool{}
	for i := range 3 {
		made[w.make(t, fmt.Sprintf("ST-%d", i)).Serial] = true
	}
	w.settle("published/checkpoint")
	b.set(w.rootVars(map[string]string{"STATION": "station-1", "SITE": "demo-site", "ORDER": siteOrder, "FROM": w.began.UTC().Format(time.RFC3339), "WHY": "laptop stolen",
		"NEW_STATION": "station-2", "NEW_DIR": w.path("station-2"), "ENROL": "https://" + w.door("enrol")}))
	b.next(1)
	if r := w.try(t, "ST-STOLEN"); r.status == http.StatusOK {
		t.Fatal("a revoked station makes units")
	}
	if calls := b.next(1); !printed(calls, "revoke plan", "3") {
		t.Errorf("%+v", calls)
	}
	b.next(3)
	for serial := range made {
		c, err := w.api("bob").GetCertificateWithResponse(t.Context(), serial)
		if err != nil || c.JSON200 == nil || c.JSON200.Status != "revoked" {
			t.Errorf("%s: %v %s", serial, err, c.Body)
		}
	}
	if got := w.verify(t, "ST-0", "device-1"); !strings.Contains(got, "certificate revoked") {
		t.Errorf("OpenSSL: %s", got)
	}
	b.next(2)
	if err := os.Rename(w.path("station"), w.path("station-stolen")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.path("station-2"), w.path("station")); err != nil {
		t.Fatal(err)
	}
	w.make(t, "ST-NEW")
	if got := w.verify(t, "ST-NEW", "device-1"); !strings.Contains(got, "ST-NEW.pem: OK") {
		t.Errorf("OpenSSL: %s", got)
	}
}

// expiredRootList is A35 as people meet it: the list has lapsed.
func (w *runbookSite) expiredRootList(t *testing.T, b *runbook) {
	ring := hsm.Open(hsm.Config{})
	defer ring.Close()
	ended := time.Time{}
	for life := 3 * time.Second; ended.IsZero(); life *= 2 { // a slow machine needs a longer one
		now := must(http.Get(w.cfg.BaseURL + "/crl/root-1/0.crl"))
		newest := must(io.ReadAll(now.Body))
		now.Body.Close()
		step := must(ceremony.New(ceremony.Config{Keys: ring, Previous: w.newestTranscript(), Development: true}))
		list, err := step.SignRootCRL(t.Context(), ceremony.ListRequest{RootCert: w.rootPEM, KeyURI: w.keyURI("root"), RootName: "root-1", BaseURL: w.cfg.BaseURL, Previous: newest, Life: life})
		if err != nil || life > time.Minute {
			t.Fatal(err)
		}
		at := time.Now()
		if a, err := w.token("platform").PutRootListWithResponse(t.Context(), "root-1", adminapi.RootListRequest{List: string(list.ListPEM)}); err == nil && a.JSON200 != nil {
			ended = at.Add(life + time.Second)
		}
	}
	time.Sleep(time.Until(ended)) // until it has lapsed
	if got := w.verify(t, "ST-NEW", "device-1"); !strings.Contains(got, "CRL has expired") {
		t.Errorf("OpenSSL with the lapsed list: %s", got)
	}
	b.set(w.rootVars(nil))
	if calls := b.next(1, "ceremony crl-life"); !printed(calls, "ceremony crl-life", "Sign the next list at once") {
		t.Errorf("%+v", calls)
	}
	metrics := func() string {
		t.Helper()
		r, err := call(t.Context(), http.DefaultClient, "GET", "http://"+w.door("metrics")+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(r.body)
	}
	over := regexp.MustCompile(`(?m)^hallmark_expiry_seconds\{kind="root_list",name="root-1"\} -`)
	if text := metrics(); !over.MatchString(text) {
		t.Errorf("the metrics do not say that it is over: %s", regexp.MustCompile(`(?m)^hallmark_expiry_seconds.*$`).FindAllString(text, -1))
	}
	b.next(3)
	if got := w.verify(t, "ST-NEW", "device-1"); !strings.Contains(got, "ST-NEW.pem: OK") {
		t.Errorf("OpenSSL with the next list: %s", got)
	}
	if over.MatchString(metrics()) {
		t.Error("the metrics say that it is over")
	}
}

// lostHSM is S6: a key with a spare loses one token, then the other.
func (w *runbookSite) lostHSM(t *testing.T, b *runbook) {
	b.set(w.rootVars(map[string]string{"CA": "device-1", "KEY_A": w.a.URI("device-1"), "KEY_B": w.b.URI("device-1"),
		"NEW_CA": "device-2", "NEW_CN": "Example Device CA 2", "NEW_A": w.c.URI("device-2"), "NEW_B": w.d.URI("device-2")}))
	w.a.Kill()
	w.make(t, "HSM-1") // the spare serves
	if calls := b.next(1, "hsm health"); calls[0].exit == exitOK || !printed(calls[1:], "hsm health", "beta") {
		t.Errorf("%+v", calls)
	}
	w.b.Kill()
	eventuallyIs(t, "the loss of the last token is said", func() bool { return w.try(t, "HSM-2").code == "hsm-token-down" })
	b.next(4)
	w.make(t, "HSM-3")
	if got := w.verify(t, "HSM-3", "device-2"); !strings.Contains(got, "HSM-3.pem: OK") {
		t.Errorf("OpenSSL: %s", got)
	}
	b.next(1)
	w.a.Start() // what follows is about other things
	w.b.Start()
}

// compromisedIntermediate is S2: who is revoked issues nothing, and the root's list
// says it to everybody.
func (w *runbookSite) compromisedIntermediate(t *testing.T, b *runbook) {
	b.set(w.rootVars(map[string]string{"CA": "device-2", "NEW_CA": "device-3", "NEW_CN": "Example Device CA 3", "NEW_KEY": w.keyURI("device-3"), "WHY": "the token was stolen"}))
	b.next(1)
	if r := w.try(t, "CI-1"); r.status == http.StatusOK {
		t.Fatal("a revoked authority issues")
	}
	b.next(3)
	if got := w.verify(t, "HSM-3", "device-2"); !strings.Contains(got, "certificate revoked") {
		t.Errorf("OpenSSL: %s", got)
	}
	b.next(3)
	if r := w.try(t, "CI-2"); r.status == http.StatusOK {
		t.Fatal("one person's authority issues (S36)")
	}
	b.next(1)
	w.make(t, "CI-2")
	if got := w.verify(t, "CI-2", "device-3"); !strings.Contains(got, "CI-2.pem: OK") {
		t.Errorf("OpenSSL: %s", got)
	}
	w.settle("published/checkpoint")
	if calls := b.next(1); !printed(calls, "cert list", "HSM-3") && !printed(calls, "cert list", "hsm-3") {
		t.Errorf("%+v", calls)
	}
}

// restoreDatabase is A77 and S34 as people meet them; the backup's own test looks
// closer.
func (w *runbookSite) restoreDatabase(t *testing.T, b *runbook) {
	var made adminapi.BackupState
	w.into(&made, "backup")
	late := w.make(t, "RS-1").Serial
	known := ""
	for _, r := range w.everyRecord() {
		if r.Holder == "ci-2" || r.Holder == "CI-2" {
			known = r.Serial
		}
	}
	w.must("cert", "revoke", known, "--reason", "keyCompromise")
	w.settle("published/checkpoint")
	world := w.path("world")
	eventuallyIs(t, "the revocation is on the list", func() bool { return strings.Contains(w.verify(t, "CI-2", "device-3"), "revoked") })
	for from, to := range map[string]string{w.path("state", "public", "crl"): "crl", w.path("published"): "log"} {
		if err := os.CopyFS(filepath.Join(world, to), os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	b.set(w.rootVars(map[string]string{"BACKUP": made.File, "IDENTITY": w.path("backup-key.txt"), "LISTS": filepath.Join(world, "crl"), "TILES": filepath.Join(world, "log"), "APPROVER": w.approverURI()}))
	b.next(2)
	if err := w.serve(t.Context()); err == nil {
		t.Fatal("a restored database is served before people agreed")
	}
	w.server = nil
	b.next(1, "restore accept")
	calls := b.next(1)
	if !printed(calls, "fsck", "") || slices.ContainsFunc(calls, func(c runbookCall) bool { return c.exit != exitOK }) {
		t.Errorf("%+v", calls)
	}
	if got := w.verify(t, "CI-2", "device-3"); !strings.Contains(got, "revoked") {
		t.Errorf("what was revoked since the backup: %s", got)
	}
	if a, err := w.api("bob").GetCertificateWithResponse(t.Context(), late); err != nil || a.StatusCode() != http.StatusNotFound {
		t.Errorf("what the backup did not have: %v %s", err, a.Body)
	}
	w.make(t, "RS-2")
}

// forkedLog is S34: one database ran on two machines, and a witness saw the other.
func (w *runbookSite) forkedLog(t *testing.T, b *runbook) {
	w.settle("published/checkpoint")
	key := w.key
	var init struct {
		Key string `json:"verifier_key"`
	}
	w.into(&init, "witness", "init", "--state", w.path("witness"), "--name", "witness.example/line-3")
	name, _, signer, err := loadWitness(w.path("witness"))
	if err != nil {
		t.Fatal(err)
	}
	look, err := witness.Open(witness.Config{Name: name, Key: signer, Dir: w.path("witness"), Logs: []string{key}})
	if err != nil {
		t.Fatal(err)
	}
	defer look.Close()
	var away atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if away.Load() {
			http.Error(rw, "away", http.StatusServiceUnavailable)
			return
		}
		look.Handler().ServeHTTP(rw, r)
	}))
	defer srv.Close()
	w.configure(fmt.Sprintf("  witnesses: [{url: %q, key: %q}]\n", srv.URL, init.Key))
	w.halt()
	before := saveFiles(t, w.path("state"))
	copyDir := func(from, to string) {
		t.Helper()
		if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil { // with their modes
			t.Fatalf("%v: %s", err, out)
		}
	}
	published := w.path("published")
	first := w.path("published-before")
	copyDir(published, first)
	held := must(os.ReadFile(w.path("elsewhere")))

	// The other machine goes on, and its log is witnessed.
	w.again()
	there := w.make(t, "FK-1").Serial
	w.settle("published/checkpoint")
	eventuallyIs(t, "the witness has it", func() bool {
		n := look.Newest(w.origin)
		c, err := tlog.ParseCheckpoint(n.Note, key)
		d, derr := tlog.ParseCheckpoint(must(os.ReadFile(filepath.Join(published, "checkpoint"))), key)
		return err == nil && derr == nil && c.Size == d.Size
	})
	w.halt()
	copyDir(w.path("state"), w.path("other-state"))
	if err := os.Rename(published, w.path("other-tiles")); err != nil {
		t.Fatal(err)
	}

	// This machine comes back with the same database while nobody looks.
	before.restore(t)
	if err := os.Rename(first, published); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.path("elsewhere"), held, 0o644); err != nil {
		t.Fatal(err)
	}
	away.Store(true)
	w.again()
	here := []string{w.make(t, "FK-2").Serial, w.make(t, "FK-3").Serial, w.make(t, "FK-4").Serial}
	away.Store(false)
	eventuallyIs(t, "the witness refuses it and keeps the evidence", func() bool {
		kept, _ := filepath.Glob(w.path("witness", "evidence", "*"))
		return len(kept) > 0
	})

	b.set(w.rootVars(map[string]string{"WITNESS_STATE": w.path("witness"), "LOG_KEY": key, "OTHER_STATE": w.path("other-state"), "OTHER_TILES": w.path("other-tiles"),
		"PUBLISHED": published, "HELD": w.path("elsewhere"), "NEW_ORIGIN": "log.example.com/brand-2", "APPROVER": w.approverURI()}))
	b.next(1)
	if calls := b.next(1, "log verify"); !printed(calls, "log verify", "disagrees with a checkpoint") {
		t.Errorf("%+v", calls)
	}
	b.next(1)
	if err := w.serve(t.Context()); err == nil {
		t.Fatal("the service starts on a log that a witness refused")
	}
	w.server = nil
	b.next(2) // the copy is whole; the other machine's database takes over
	lost := strings.Fields(string(must(os.ReadFile("lost.txt"))))
	for _, serial := range here {
		if !slices.Contains(lost, serial) {
			t.Errorf("lost.txt has %v, not %s", lost, serial)
		}
	}
	if slices.Contains(lost, there) {
		t.Error("lost.txt has what the other machine made")
	}
	if a, err := w.api("bob").GetCertificateWithResponse(t.Context(), there); err != nil || a.JSON200 == nil {
		t.Errorf("what the other machine made: %v %s", err, a.Body)
	}

	// The same without the other machine's database.
	w.halt()
	for from, to := range map[string]string{w.path("state.here"): w.path("state"), published + ".forked": published} {
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(w.path("elsewhere"), must(os.ReadFile(filepath.Join(published, "checkpoint"))), 0o644); err != nil {
		t.Fatal(err)
	}
	b.next(1, "log close")
	w.configure("  origin: log.example.com/brand-2\n")
	b.next(1)
	var s adminapi.LogState
	w.into(&s, "log", "show")
	chains, _ := filepath.Glob(w.path("state", "log-chain-*.json"))
	if s.Origin != "log.example.com/brand-2" || len(chains) != 1 || !json.Valid(must(os.ReadFile(chains[0]))) {
		t.Errorf("the log is %s, chains %v", s.Origin, chains)
	}
	w.make(t, "FK-5")
}
