package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/internal/fsck"
)

// trail is on one site what people do: it is in the trail, the log's checkpoint signs
// it, an export is proven offline; then nobody can sign in, and two shares repair it
// (S42). In between, what other services take for tokens is refused as a station code
// and as a password (A64).
func (s *site) trail(t *testing.T) {
	into := func(v any, args ...string) {
		t.Helper()
		out, errOut, exit := s.cli(args...)
		if exit != exitOK {
			t.Fatalf("%v: %d %s%s", args, exit, out, errOut)
		}
		if v != nil {
			if err := json.Unmarshal([]byte(out), v); err != nil {
				t.Fatalf("%v: %v: %s", args, err, out)
			}
		}
	}
	fails := func(code string, args ...string) {
		t.Helper()
		if out, errOut, exit := s.cli(args...); exit != exitFault || !strings.Contains(out+errOut, code) {
			t.Errorf("%v: %d %s%s, want %s", args, exit, out, errOut, code)
		}
	}
	serial := s.issueAnswer(newUnit(t, "SN-1")).Serial
	other := s.issueAnswer(newUnit(t, "SN-2")).Serial
	into(nil, "cert", "revoke", other, "--reason", "superseded")
	fails("action-forbidden", "principal", "create", "eve", "--role", "auditor")
	as := func(token string, f func()) {
		t.Setenv("HALLMARK_TOKEN", token)
		defer os.Unsetenv("HALLMARK_TOKEN")
		f()
	}
	as(access.NewToken().Reveal(), func() { fails("token-refused", "order", "list") })

	entries := func(args ...string) (out []access.TrailEntry) {
		t.Helper()
		var rows []adminapi.TrailRow
		into(&rows, append([]string{"audit", "list", "--limit", "500"}, args...)...)
		for _, r := range rows {
			e, _, err := access.TrailRow{Seq: r.Seq, Entry: r.Entry}.Read()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, e)
		}
		return out
	}
	has := func(what string, f func(e *access.TrailEntry) bool) {
		t.Helper()
		if all := entries(); !slices.ContainsFunc(all, func(e access.TrailEntry) bool { return f(&e) }) {
			t.Errorf("%s is not in the trail of %d entries", what, len(all))
		}
	}
	has("the first principal", func(e *access.TrailEntry) bool {
		return e.Actor == "service:start" && e.Action == access.CreatePrincipal && e.About["role"] == "platform"
	})
	has("the key of an authority", func(e *access.TrailEntry) bool {
		return e.Action == access.CreateAuthority && e.Outcome == access.TrailBegun && e.Token != ""
	})
	has("a redeemed code", func(e *access.TrailEntry) bool {
		return e.Action == access.RedeemStationCode && e.Outcome == access.TrailDone && strings.HasPrefix(e.Actor, "station:")
	})
	has("an approval", func(e *access.TrailEntry) bool {
		return e.Action == access.ApproveOrder && e.Outcome == access.TrailDone
	})
	has("a revocation", func(e *access.TrailEntry) bool {
		return e.Action == access.RevokeCertificate && e.About["reason"] == "superseded" && strings.Contains(e.On, other) && e.From == "127.0.0.1" && e.Request != ""
	})
	has("a refusal", func(e *access.TrailEntry) bool {
		return e.Action == access.CreatePrincipal && e.Outcome == access.TrailRefused && e.Code == "action-forbidden" && e.Actor == "principal:bob"
	})
	has("a refused sign-in", func(e *access.TrailEntry) bool { return e.Action == access.SignIn && e.Code == "token-refused" })
	for _, e := range entries() {
		if e.Action == "certificate.issue" || strings.HasPrefix(e.On, "GET ") {
			t.Errorf("the trail has %+v", e)
		}
	}

	// The head of the trail is signed within seconds, published, and proves an export.
	deadline := time.Now().Add(time.Minute)
	for {
		out, errOut, exit := s.cli("audit", "verify")
		var rep trailReport
		if exit != exitOK || json.Unmarshal([]byte(out), &rep) != nil || !rep.Clean {
			t.Fatalf("audit verify: %d %s%s", exit, out, errOut)
		}
		if note, err := os.ReadFile(s.path("published", "checkpoint")); err == nil && rep.Signed == rep.Entries && strings.Contains(string(note), "\ntrail ") {
			if h, err := trailOf(note); err == nil && h.Seq == rep.Entries {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the published checkpoint does not have the trail: %s", out)
		}
		time.Sleep(200 * time.Millisecond)
	}
	var log adminapi.LogState
	into(&log, "log", "show")
	into(nil, "audit", "export", "--out", s.path("trail.jsonl"))
	offline := []string{"audit", "verify", s.path("trail.jsonl"), "--checkpoint", s.path("published", "checkpoint"), "--log-key", log.VerifierKey}
	into(nil, offline...)
	lines := strings.SplitAfter(string(must(os.ReadFile(s.path("trail.jsonl")))), "\n")
	lines = lines[:len(lines)-1]
	write := func(lines ...string) {
		if err := os.WriteFile(s.path("trail.jsonl"), []byte(strings.Join(lines, "")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		lines []string
		first int64
	}{"cut": {lines[:len(lines)-3], int64(len(lines)) - 2}, "altered": {append(append(slices.Clone(lines[:4]), strings.Replace(lines[4], "principal", "principaL", 1)), lines[5:]...), 5}} {
		write(c.lines...)
		out, _, exit := s.cli(offline...)
		var rep trailReport
		if json.Unmarshal([]byte(out), &rep); exit != exitFault || rep.Entry != c.first {
			t.Errorf("%s: %d %s", name, exit, out)
		}
	}
	write(lines...)
	into(nil, offline...)

	t.Run("JWTs", func(t *testing.T) { s.noJWTs(t) })
	t.Run("break-glass", func(t *testing.T) {
		fails("break-glass-shares", "breakglass", "open", "--share", s.path("share-a"), "--share", s.path("share-a"), "--reason", "drill", "--drill")
		into(nil, "breakglass", "open", "--share", s.path("share-a"), "--share", s.path("share-b"), "--reason", "drill", "--drill")
		var session adminapi.BreakGlassSession
		as("lost", func() {
			into(&session, "breakglass", "open", "--share", s.path("share-b"), "--share", s.path("share-a"), "--reason", "all tokens are lost")
		})
		var token adminapi.PrincipalToken
		as(session.Token, func() {
			fails("action-forbidden", "order", "list")
			fails("action-forbidden", "principal", "create", "eve", "--role", "platform")
			fails("action-forbidden", "principal", "disable", "bob")
			fails("action-forbidden", "audit", "list")
			into(nil, "cert", "revoke", serial, "--reason", "certificateHold")
			into(&token, "breakglass", "repair", "bob")
		})
		fails("token-refused", "order", "list")
		if err := os.WriteFile(s.path("admin.token"), []byte(token.Token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		api, err := (&globals{Dir: s.dir}).admin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sum, err := api.GetSummaryWithResponse(t.Context())
		if err != nil || sum.JSON200 == nil || !slices.ContainsFunc(sum.JSON200.Checks, func(c adminapi.HealthCheck) bool { return c.Name == "break-glass" && c.Status == "failing" }) {
			t.Errorf("nobody complains: %v %+v", err, sum)
		}
		as(session.Token, func() {
			into(nil, "breakglass", "close")
			fails("break-glass-over", "cert", "revoke", serial, "--reason", "superseded")
		})
		fails("break-glass-spent", "breakglass", "open", "--share", s.path("share-a"), "--share", s.path("share-b"), "--reason", "again")
		opened := 0
		for _, e := range entries("--action", string(access.OpenBreakGlass)) {
			if e.Outcome == access.TrailDone {
				opened++
			}
		}
		if opened != 2 {
			t.Errorf("%d openings in the trail", opened)
		}
	})
}

// cutTrail is a service whose trail lost its end: neither fsck nor a start takes it.
func (s *site) cutTrail(t *testing.T) {
	file := s.path("state", "hallmark.db")
	was := saveFiles(t, s.path("state"))
	w := intrude(t, file)
	w.exec(`DELETE FROM trail WHERE seq > (SELECT MAX(seq) - 2 FROM trail)`)
	w.db.Close()
	rep, err := checkEverything(t.Context(), s.cfg, time.Now())
	if err != nil || !slices.ContainsFunc(rep.Findings, func(f fsck.Finding) bool { return f.Check == "trail" && strings.Contains(f.Detail, "Entry ") }) {
		t.Errorf("fsck: %v %+v", err, rep)
	}
	if err := s.serve(t.Context()); err == nil || !strings.Contains(err.Error(), "Entry ") {
		t.Errorf("a service starts on a trail that lost its end: %v", err)
	}
	s.server = nil
	was.restore(t)
}

// noJWTs shows the enrolment door what other services take for tokens.
func (s *site) noJWTs(t *testing.T) {
	head, body := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)), base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"st-1","role":"platform"}`))
	client := s.client(nil, 1)
	for i, token := range []string{head + "." + body + ".", head + "." + body + ".AAAA", "../../dev/null", access.NewToken().Reveal()} {
		for _, ask := range []struct {
			path, media, body string
			want              []int
		}{
			// What is not written like a code is told to be mistyped; a code that is nobody's is 401.
			{"/enrol/v1/station", "application/json", fmt.Sprintf(`{"station":"st-1","code":%q,"csr":"AAAA"}`, token), []int{400, 401}},
			{"/.well-known/est/simpleenroll", "application/pkcs10", "AAAA", []int{401}},
		} {
			r, err := http.NewRequest("POST", "https://"+s.door("enrol")+ask.path, strings.NewReader(ask.body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", ask.media)
			r.SetBasicAuth("LMP-000001", token)
			a, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(a.Body)
			a.Body.Close()
			if !slices.Contains(ask.want, a.StatusCode) || ask.media == "application/json" && !strings.Contains(string(text), `"code":`) {
				t.Errorf("token %d at %s: %d %s", i, ask.path, a.StatusCode, text)
			}
		}
	}
}
