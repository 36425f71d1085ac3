package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
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
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ocsp"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/internal/durable"
	"hallmark/internal/seal"
	"hallmark/store"
	"hallmark/web"
)

// benchOCSP measures the status service over HTTP.
type benchOCSP struct {
	benchCRL
	certificates int
	clients      int
	duration     time.Duration
	peers        []string
	serve        bool
}

// benchOCSPTarget describes a responder to a load generator.
type benchOCSPTarget struct {
	Name    string `json:"name"`
	URL     string `json:"url"`
	Issuer  string `json:"issuer"`
	Serials string `json:"serials"`
	PIDFile string `json:"pid_file"`
	Close   bool   `json:"close,omitempty"`
}

type benchOCSPResult struct {
	Name      string  `json:"name"`
	Clients   int     `json:"clients"`
	Answers   int     `json:"answers"`
	PerSecond float64 `json:"answers_per_second"`
	P99       float64 `json:"p99_ms"`
	ServerCPU float64 `json:"server_cpu_us_per_answer"`
	Errors    int     `json:"errors"`
	Times     float64 `json:"times_peer,omitempty"` // ours, of this peer's rate
}

func newBenchOCSPCmd(g *globals) *cobra.Command {
	b := &benchOCSP{benchCRL: benchCRL{g: g, entries: 1, shards: 1}}
	cmd := &cobra.Command{
		Use: "ocsp", Short: "OCSP answers over HTTP with kept connections", Args: cobra.NoArgs,
		Long: `Certificates are issued, one in ten is revoked, and a responder in a process of its own
signs their answers beforehand. Clients then ask for them over kept connections; every
answer must be about the certificate that was asked for and verify.

Responders of others that run on this machine are measured the same way in the same
run with --peer NAME=URL, for the same requests; DIR has what they need (issuer.pem,
issuer.key, serials.txt, index.txt for openssl ocsp). --serve only prepares and serves.`,
		Example: `  hallmark bench ocsp --json
  hallmark bench ocsp --serve --dir /tmp/bench
  hallmark bench ocsp --dir /tmp/bench --peer openssl=http://127.0.0.1:9704/`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if b.certificates < 10 || b.certificates > 1_000_000 || b.clients < 1 || b.clients > 1024 || b.duration <= 0 {
				return errUsage{errors.New("-n is 10 to 1000000, --clients 1 to 1024 and --duration positive")}
			}
			if b.serve {
				if b.dir == "" {
					return errUsage{errors.New("--serve needs --dir")}
				}
				return b.wait(cmd.Context())
			}
			return b.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.IntVarP(&b.certificates, "certificates", "n", 5_000, "certificates to ask about")
	f.IntVar(&b.clients, "clients", 16, "clients that ask at once")
	f.DurationVar(&b.duration, "duration", 3*time.Second, "how long to measure each responder")
	f.StringVar(&b.dir, "dir", "", "directory; default a temporary one")
	f.StringArrayVar(&b.peers, "peer", nil, "measure another responder beside it, NAME=URL; NAME with a plus at its end closes every connection")
	f.BoolVar(&b.serve, "serve", false, "only serve, and describe the responder in DIR/ocsp.json")
	return cmd
}

func (b *benchOCSP) path(name string) string { return filepath.Join(b.dir, name) }

// prepare issues and revokes in a new directory.
func (b *benchOCSP) prepare(ctx context.Context) error {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	if _, err := seal.Create(b.path("seal.key")); err != nil {
		return err
	}
	box, err := seal.Load(b.path("seal.key"))
	if err != nil {
		return err
	}
	db, err := store.Open(ctx, store.Config{URL: b.path("bench.db"), Seal: box})
	if err != nil {
		return err
	}
	if err := errors.Join(b.makeAuthorities(ctx, db), db.Close()); err != nil {
		return err
	}
	db, authorities, err := b.open(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	serials := make([]ca.Serial, b.certificates)
	failed := make([]error, 32)
	var wg sync.WaitGroup
	for w := range failed { // many share a commit
		wg.Go(func() {
			for i := w; i < len(serials) && failed[w] == nil; i += len(failed) {
				var c *x509.Certificate
				if c, _, failed[w] = b.issue(ctx, authorities, profile.IDevID, fmt.Sprintf("unit-%d", i)); failed[w] == nil {
					serials[i], _ = ca.SerialFromInt(c.SerialNumber)
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	service := crl.New(crl.Config{Store: db})
	by := access.Actor{Tenant: access.DefaultTenant, Kind: access.KindService, Name: "bench"}
	for i := range failed {
		wg.Go(func() {
			for k := i * 10; k < len(serials) && failed[i] == nil; k += 10 * len(failed) {
				_, failed[i] = service.Revoke(ctx, by, crl.Withdrawal{Authority: benchBig, Serial: serials[k], Reason: crl.Superseded})
			}
		})
	}
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	var list, index strings.Builder
	end := time.Now().AddDate(20, 0, 0).UTC().Format("060102150405Z")
	at := time.Now().UTC().Format("060102150405Z")
	for i, s := range serials {
		fmt.Fprintf(&list, "%X\n", s[:])
		if i%10 == 0 {
			fmt.Fprintf(&index, "R\t%s\t%s,superseded\t%X\tunknown\t/CN=unit-%d\n", end, at, s[:], i)
		} else {
			fmt.Fprintf(&index, "V\t%s\t\t%X\tunknown\t/CN=unit-%d\n", end, s[:], i)
		}
	}
	a, err := authorities.Authority(benchBig)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(b.path(benchBig + ".key"))
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{"serials.txt": []byte(list.String()), "index.txt": []byte(index.String()),
		"issuer.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw}), "issuer.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		if err := os.WriteFile(b.path(name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (b *benchOCSP) issue(ctx context.Context, c *ca.CA, p profile.Name, name string) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, err
	}
	r := ca.Request{Identity: ca.Identity{Tenant: access.DefaultTenant, Holder: name, Profile: string(p)}, Authority: benchBig,
		Subject: profile.Subject{Organization: "Bench", CommonName: name, SerialNumber: name}, SPKI: spki, Key: key.Public(), Requester: ca.Requester{Actor: "service:bench"}, Tool: "bench"}
	if p == profile.IDevID {
		r.Origin = profile.OriginClaimed
	} else {
		r.Slot = "A"
	}
	out, err := c.Issue(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(out.DER)
	return cert, key, err
}

// wait serves until it is told to stop.
func (b *benchOCSP) wait(ctx context.Context) error {
	tuneGC(ctx)
	if _, err := os.Stat(b.path("serials.txt")); err != nil {
		if err := b.prepare(ctx); err != nil {
			return err
		}
	}
	db, authorities, err := b.open(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	set := crl.NewSet(crl.SetConfig{Feed: db})
	if err := set.Load(ctx); err != nil {
		return err
	}
	cert, key, err := b.issue(ctx, authorities, profile.OCSPResponder, fmt.Sprintf("ocsp-%d", os.Getpid()))
	if err != nil {
		return err
	}
	responder := crl.NewOCSP(crl.OCSPConfig{Store: db, CA: authorities, Set: set, CacheSize: 2*b.certificates + 1000, SignRate: 1_000_000,
		Responder: func(context.Context, string) (crypto.Signer, *x509.Certificate, error) { return key, cert, nil }})
	serials, err := db.NewestSerials(ctx, benchBig, b.certificates+100)
	if err != nil {
		return err
	}
	start := time.Now()
	n, err := responder.PresignSerials(ctx, benchBig, serials)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.g.Err, "%d answers signed beforehand in %s\n", n, time.Since(start).Round(time.Millisecond))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: web.PublicHandler(web.PublicConfig{OCSP: responder})}
	web.Guard(srv)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	if err := os.WriteFile(b.path("ocsp.pid"), []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return err
	}
	text, err := json.MarshalIndent([]benchOCSPTarget{{Name: "hallmark", URL: "http://" + l.Addr().String() + "/ocsp/" + benchBig, Issuer: b.path("issuer.pem"), Serials: b.path("serials.txt"), PIDFile: b.path("ocsp.pid")}}, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(b.path("ocsp.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return srv.Close()
	case err := <-ended:
		return err
	}
}

func (b *benchOCSP) run(ctx context.Context) error {
	if b.dir == "" {
		dir, err := os.MkdirTemp("", "hallmark-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		b.dir = filepath.Join(dir, "ocsp")
	}
	os.Remove(b.path("ocsp.json"))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the child dies with the thread that started it
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, self, "bench", "ocsp", "--serve", "--dir", b.dir, "-n", strconv.Itoa(b.certificates))
	cmd.Stderr = b.g.Err
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var ts []benchOCSPTarget
	for len(ts) == 0 {
		select {
		case err := <-ended:
			return fmt.Errorf("the responder ended before it was ready: %v", err)
		default:
		}
		if text, err := os.ReadFile(b.path("ocsp.json")); err == nil {
			json.Unmarshal(text, &ts)
		}
		if !every(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
	for _, p := range b.peers {
		name, url, ok := strings.Cut(p, "=")
		if !ok {
			return errUsage{fmt.Errorf("--peer %q is not NAME=URL", p)}
		}
		t := ts[0]
		t.Name, t.URL, t.PIDFile = strings.TrimSuffix(name, "+"), url, ""
		t.Close = strings.HasSuffix(name, "+")
		ts = append(ts, t)
	}
	var out []*benchOCSPResult
	for _, t := range ts {
		r, err := b.load(ctx, t)
		if err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
		out = append(out, r)
		if len(out) > 1 && r.PerSecond > 0 {
			r.Times = out[0].PerSecond / r.PerSecond
		}
	}
	cancel()
	<-ended
	return b.g.print(out, func(w io.Writer) {
		for _, r := range out {
			fmt.Fprintf(w, "%-12s %8.0f answers/s  p99 %.1f ms  %.0f µs of server CPU  %d errors", r.Name, r.PerSecond, r.P99, r.ServerCPU, r.Errors)
			if r.Times > 0 {
				fmt.Fprintf(w, "  (hallmark is %.1f times as fast)", r.Times)
			}
			fmt.Fprintln(w)
		}
	})
}

// load asks one responder. One answer in 64 is verified, and all are compared with
// what was asked for.
func (b *benchOCSP) load(ctx context.Context, t benchOCSPTarget) (*benchOCSPResult, error) {
	text, err := os.ReadFile(t.Issuer)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s has no certificate", t.Issuer)
	}
	issuer, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	list, err := os.ReadFile(t.Serials)
	if err != nil {
		return nil, err
	}
	type question struct{ serial, request []byte }
	var questions []question
	for _, s := range strings.Fields(string(list)) {
		serial, err := ca.ParseSerial(s)
		if err != nil {
			return nil, err
		}
		req, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: serial.Int()}, issuer, &ocsp.RequestOptions{Hash: crypto.SHA1})
		if err != nil {
			return nil, err
		}
		questions = append(questions, question{serial[:], req})
	}
	tr := &http.Transport{MaxIdleConnsPerHost: b.clients, DisableKeepAlives: t.Close, DisableCompression: true}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: 10 * time.Second}
	one := func(q *question, verify bool) error {
		resp, err := client.Post(t.URL, "application/ocsp-request", bytes.NewReader(q.request))
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK || !bytes.Contains(body, q.serial) {
			return fmt.Errorf("status %d, %d octets about something else", resp.StatusCode, len(body))
		}
		if verify {
			r, err := ocsp.ParseResponse(body, issuer)
			if err != nil {
				return err
			}
			if r.Status != ocsp.Good && r.Status != ocsp.Revoked {
				return errors.New("it is not known")
			}
		}
		return nil
	}
	for i := range min(len(questions), 2*b.clients) { // connections are warm before the clock starts
		if err := one(&questions[i], true); err != nil {
			return nil, err
		}
	}
	pid := 0
	if text, err := os.ReadFile(t.PIDFile); err == nil {
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	res := &benchOCSPResult{Name: t.Name, Clients: b.clients}
	times := make([][]time.Duration, b.clients)
	failures := make([]int, b.clients)
	cpu := processCPU(pid)
	start := time.Now()
	var wg sync.WaitGroup
	for c := range b.clients {
		wg.Go(func() {
			for i := c * 7919; time.Since(start) < b.duration && ctx.Err() == nil; i++ {
				began := time.Now()
				if one(&questions[i%len(questions)], i%64 == 0) != nil {
					failures[c]++
				}
				times[c] = append(times[c], time.Since(began))
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	if pid > 0 {
		cpu = processCPU(pid) - cpu
	}
	all := slices.Concat(times...)
	slices.Sort(all)
	for _, n := range failures {
		res.Errors += n
	}
	res.Answers = len(all)
	if len(all) > 0 {
		res.PerSecond, res.P99 = float64(len(all))/took.Seconds(), ms(all[len(all)*99/100])
		if pid > 0 {
			res.ServerCPU = float64(cpu.Microseconds()) / float64(len(all))
		}
	}
	return res, nil
}
