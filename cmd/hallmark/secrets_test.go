package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hallmark/api/adminapi"
	"hallmark/hsm/hsmtest"
	"hallmark/hsm/softhsm"
	"hallmark/station/uplink"
)

// canary is a secret that can be told from everything else, and the files that
// are made to hold it.
type canary struct {
	what, text string
	homes      []string
}

// shapes are the ways in which a careless program writes a secret down.
func (c canary) shapes() map[string][]byte {
	b := []byte(c.text)
	return map[string][]byte{
		"as it is": b, "in hexadecimal": []byte(hex.EncodeToString(b)), "in upper case hexadecimal": []byte(strings.ToUpper(hex.EncodeToString(b))),
		// Without the ends, which depend on what stands around it.
		"in base64": []byte(base64.RawStdEncoding.EncodeToString(b[:len(b)/3*3])), "URL-encoded": []byte(strings.ReplaceAll(c.text, "_", "%5F")),
	}
}

func (c canary) in(text []byte) (how string, found bool) {
	for how, s := range c.shapes() {
		if bytes.Contains(text, s) {
			return how, true
		}
	}
	return "", false
}

// TestA26_SecretsStayWhereTheyBelong runs an installation whose secrets are
// canaries, at the debug level and with requests that fail in the middle of
// handling a secret, and looks for them everywhere.
func TestA26_SecretsStayWhereTheyBelong(t *testing.T) {
	if err := softhsm.Available(); err != nil {
		hsmtest.Missing(t, err.Error())
	}
	canaries := []canary{
		{"PIN", "Kanarie-pin-7731", []string{"keys/canary.pin"}},
		{"passphrase", "Kanarie-Passwort-8842", []string{"keys/canary.pass"}},
	}
	s, setup := newSiteWith(t, anyName(100), func(s *site) error {
		module, conf, err := softhsm.Init(s.path("keys", "canary"), "canary", canaries[0].text)
		if err != nil {
			return err
		}
		for _, c := range canaries {
			if err := os.WriteFile(s.path(c.homes[0]), []byte(c.text+"\n"), 0o600); err != nil {
				return err
			}
		}
		s.env = []string{"SOFTHSM2_CONF=" + conf}
		s.keyURI = func(name string) string {
			if name == "device-1" {
				return "pkcs11:token=canary;object=" + name + "?module-path=" + module + "&pin-source=file:" + s.path("keys", "canary.pin")
			}
			return "file:" + s.path("keys", name+".pem") + "?passphrase-source=file:" + s.path("keys", "canary.pass")
		}
		text, err := os.ReadFile(s.path("hallmark.yaml"))
		if err != nil {
			return err
		}
		return os.WriteFile(s.path("hallmark.yaml"), bytes.Replace(text, []byte("log_level: warn"), []byte("one_person: true\nlog_level: debug"), 1), 0o644)
	})
	s.halt()
	p := s.service("hallmark.yaml", "state")
	a := newAssault(t, s)
	add := func(what, text string, homes ...string) { canaries = append(canaries, canary{what, text, homes}) }
	add("first principal's token", a.tokens["platform"], "state/admin.token")
	add("ann's token", a.tokens["ann"], "people/ann.token")
	add("bob's token", a.tokens["bob"], "people/bob.token", "admin.token")

	// Every answer but the one that has to show the secret.
	var bodies bytes.Buffer
	ask := func(w wire) verdict {
		v := a.must(w)
		fmt.Fprintf(&bodies, "%s %s: %s\n", w.method, w.path, v.body)
		return v
	}
	const js = "application/json"
	ann, platform := s.api("ann"), adminOf(t, s, a.tokens["platform"])
	code, err := ann.CreateStationCodeWithResponse(t.Context(), adminapi.StationCodeRequest{Station: "station-2", Site: "demo-site"})
	if err != nil || code.JSON201 == nil {
		t.Fatalf("%v %s", err, code.Body)
	}
	secret := code.JSON201.Code
	add("enrolment code", secret)
	raw, _, err := uplink.ParseCode(secret)
	if err != nil {
		t.Fatal(err)
	}
	add("octets of the code", string(raw[:]))
	hook, err := platform.PutHookWithResponse(t.Context(), "owner", adminapi.HookRequest{Url: "https://127.0.0.1:1/", Allow: []string{"127.0.0.0/8"}})
	if err != nil || hook.JSON200 == nil || hook.JSON200.Secret == "" {
		t.Fatalf("%v %s", err, hook.Body)
	}
	add("hook's secret", hook.JSON200.Secret)
	if b, err := base64.StdEncoding.DecodeString(hook.JSON200.Secret); err == nil {
		add("octets of the hook's secret", string(b))
	}
	add("PIN in a request", "Kanarie-uri-9953")
	add("password of a stranger", "hmk_Kanarie-fremd-1164-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")

	// Failures with a secret at hand.
	u := newUnit(t, "SECRET-1")
	enrol := func(body string) {
		ask(wire{door: "enrol", method: "POST", path: "/enrol/v1/station", media: js, body: []byte(body)})
	}
	enrol(fmt.Sprintf(`{"station":"station-3","code":%q,"csr":%s}`, secret, toJSON(t, u.csr)))
	enrol(fmt.Sprintf(`{"station":"station-2","code":%q,"csr":"AAAA"}`, secret))
	enrol(fmt.Sprintf(`{"station":"station-2","code":[%q],"csr":"AAAA"}`, secret))
	enrol(fmt.Sprintf(`{"station":"station-2","csr":"AAAA","code":%q`, secret))
	enrol(fmt.Sprintf(`{%q:"station-2"}`, secret[:30]))
	for _, token := range []string{canaries[len(canaries)-1].text, a.tokens["bob"] + "x", " " + a.tokens["bob"]} {
		a.tokens["stranger"] = token
		ask(wire{door: "people", person: "stranger", method: "GET", path: "/api/v1/me"})
	}
	delete(a.tokens, "stranger")
	for _, uri := range []string{"pkcs11:token=canary;object=x?pin-value=Kanarie-uri-9953", "pkcs11:token=canary;object=x?pin-value=Kanarie-uri-9953&pin-source=file:x", "pkcs11:token=canary;pin-value=Kanarie-uri-9953", "file:/nowhere?pin-value=Kanarie-uri-9953", "Kanarie"} {
		if v := ask(wire{door: "people", person: "platform", method: "POST", path: "/api/v1/authorities", media: js, body: toJSON(t, map[string]any{"name": "x", "duty": "device", "common_name": "X", "key_uri": uri})}); v.status < 400 {
			t.Errorf("a key URI with a PIN: %s", v)
		}
	}
	reg, err := platform.PutRegistrationWithResponse(t.Context(), "device-1", adminapi.RegistrationRequest{Template: "demo", Enabled: true, Hook: "owner"})
	if err != nil || reg.JSON200 == nil {
		t.Fatalf("%v %s", err, reg.Body)
	}
	a.as(s.issue(u))
	if v := ask(wire{door: "device", method: "POST", path: "/bootstrap/v1/register", media: js, body: toJSON(t, map[string]any{"csr": newUnit(t, "").csr})}); v.status < 400 {
		t.Errorf("a hook that does not answer: %s", v)
	}
	for _, path := range []string{"/api/v1/me", "/api/v1/hooks", "/api/v1/authorities", "/api/v1/principals", "/api/v1/stations", "/api/v1/summary"} {
		if v := ask(wire{door: "people", person: "platform", method: "GET", path: path}); v.status != http.StatusOK {
			t.Errorf("%s: %s", path, v)
		}
	}

	// And a station in a process of its own, whose code comes on standard input.
	station := s.child(t.Context(), secret+"\n", "station", "enrol", "--server", "https://"+s.door("enrol"), "--code", "-", "--station", "station-2", "--dir", s.path("station2"), "--json")
	said, err := station.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	s.commits(t, newUnit(t, "SECRET-2"))

	places := map[string][]byte{"the answers": bodies.Bytes(), "the log of the set-up": []byte(setup.String()), "the station's output": said}
	for name, url := range map[string]string{"metrics": "/metrics", "the profile's command line": "/debug/pprof/cmdline", "the profile of goroutines": "/debug/pprof/goroutine?debug=2"} {
		r, err := http.Get("http://" + s.door("metrics") + url)
		if err != nil {
			t.Fatal(err)
		}
		places[name], err = io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
		if err != nil {
			t.Fatal(err)
		}
		places["the service's "+file] = b
	}
	s.search(t, canaries, "while it runs")
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	places["the service's log"] = bytes.Clone(p.said.Bytes())
	if bytes.Count(places["the service's log"], []byte(`"msg":"request"`)) < 20 {
		t.Error("the log is too short to prove anything")
	}
	for place, text := range places {
		for _, c := range canaries {
			if how, found := c.in(text); found {
				at := bytes.Index(text, c.shapes()[how])
				t.Errorf("%s is in %s, %s: %q", c.what, place, how, text[max(0, at-150):min(len(text), at+10)])
			}
		}
	}
	s.search(t, canaries, "after its end")
	s.clean()
}

// search looks for the canaries in every file of the site.
func (s *site) search(t *testing.T, canaries []canary, when string) {
	t.Helper()
	files, home := 0, map[string]bool{}
	err := filepath.WalkDir(s.dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files++
		rel, _ := filepath.Rel(s.dir, name)
		for _, c := range canaries {
			how, found := c.in(text)
			if !found {
				continue
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			home[c.what] = true
			if !slices.Contains(c.homes, rel) {
				t.Errorf("%s: %s is in %s, %s", when, c.what, rel, how)
			} else if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: %s with %s has mode %v", when, rel, c.what, info.Mode())
			}
		}
		// Keys of the service are sealed; only a station without a token has one in clear.
		if strings.HasPrefix(rel, "state") && bytes.Contains(text, []byte("PRIVATE KEY-----")) {
			t.Errorf("%s: %s holds a private key", when, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range canaries { // or the search is blind
		if len(c.homes) > 0 && !home[c.what] {
			t.Errorf("%s: %s is not even in %s", when, c.what, c.homes)
		}
	}
	if files < 20 {
		t.Errorf("only %d files were searched", files)
	}
}

func adminOf(t testing.TB, s *site, token string) *adminapi.ClientWithResponses {
	t.Helper()
	c, err := adminClient("https://"+s.door("people"), token, s.path("state", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
