package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/internal/durable"
)

// benchTarget is what a load generator needs to know of the service under test.
type benchTarget struct {
	Name       string `json:"name"`
	Kind       string `json:"kind"`
	CSRFormat  string `json:"csr_format"`
	URL        string `json:"url"`
	ServerName string `json:"server_name"`
	CAFile     string `json:"ca_file"`
	ClientCert string `json:"client_cert"`
	ClientKey  string `json:"client_key"`
	VerifyCA   string `json:"verify_ca"`
	PIDFile    string `json:"pid_file"`
}

// benchResult is the line that bench issue prints. Times are milliseconds.
type benchResult struct {
	Clients      int     `json:"clients"`
	HSM          string  `json:"hsm"`
	Database     string  `json:"database"`
	Seconds      float64 `json:"seconds"`
	Certificates int     `json:"certificates"`
	PerSecond    float64 `json:"certificates_per_second"`
	P50          float64 `json:"p50_ms"`
	P99          float64 `json:"p99_ms"`
	ServerCPU    float64 `json:"server_cpu_us_per_certificate"`
	Errors       int     `json:"errors"`
	FirstError   string  `json:"first_error,omitempty"`
}

type benchRun struct {
	stage
	clients  int
	duration time.Duration
	serve    bool
}

func init() { commands = append(commands, newBenchCmd) }

func newBenchCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure the real thing on this machine"}
	b := &benchRun{stage: stage{g: g, freePorts: true}}
	issue := &cobra.Command{
		Use: "issue", Short: "Issuance over HTTPS with mutual TLS and durable commits", Args: cobra.NoArgs,
		Long: `A service process with a CA key, a database and an open order of ten million units
is started, and stations ask it for certificates over kept connections, each for a
new unit with a new key. Nothing is left out: authorisation, the signed order,
reservation, signature, verification, log, two durable commits.

With --serve the service only waits; DIR/bench.json then describes it to a load
generator of another process.`,
		Example: "  hallmark bench issue --clients 32 --duration 10s --hsm softhsm\n  hallmark bench issue --serve --dir /tmp/bench --hsm software",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if b.clients < 1 || b.clients > 4096 || b.duration <= 0 {
				return errUsage{errors.New("--clients is 1 to 4096 and --duration positive")}
			}
			if b.serve {
				return b.wait(cmd.Context())
			}
			return b.measure(cmd.Context())
		},
	}
	f := issue.Flags()
	f.IntVar(&b.clients, "clients", 8, "stations that ask at once")
	f.DurationVar(&b.duration, "duration", 5*time.Second, "how long to measure")
	f.StringVar(&b.hsm, "hsm", "", "softhsm, or software; default softhsm if it is installed")
	f.StringVar(&b.database, "db", "", "sqlite (default) or a postgres:// URL of an empty database")
	f.BoolVar(&b.serve, "serve", false, "only serve, and describe the service in DIR/bench.json")
	f.StringVar(&b.dir, "dir", "", "directory; default a temporary one")
	cmd.AddCommand(issue, newBenchMQTTCmd(g), newBenchCRLCmd(g), newBenchOCSPCmd(g), newBenchFilterCmd(g), newBenchSignCmd(g))
	return cmd
}

const benchOrder = "BENCH-1"

// wait serves, after steps of the caller's, until it is told to stop.
func (b *benchRun) wait(ctx context.Context, more ...func(context.Context) error) (err error) {
	if b.dir == "" {
		return errUsage{errors.New("--serve needs --dir")}
	}
	tuneGC(ctx)
	if b.database == "sqlite" {
		b.database = ""
	}
	if err := b.check(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	for _, step := range append([]func(context.Context) error{b.prepare, b.stage.serve, b.ceremony, func(ctx context.Context) error {
		return b.openOrder(ctx, adminapi.OrderRequest{Id: benchOrder, Product: "bench", Quantity: 10_000_000, Organization: "Bench", CnIsUnit: true,
			Serials: adminapi.SerialRule{Pattern: ".+"}, KeyOrigin: string(profile.OriginClaimed)})
	}, b.enrol}, more...) {
		if err := step(ctx); err != nil {
			return err
		}
	}
	pid := b.path("hallmark.pid")
	if err := os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return err
	}
	t := benchTarget{Name: "hallmark", Kind: "raw", CSRFormat: "der", URL: "https://" + b.server.publicAddr("factory") + "/factory/v1/orders/" + benchOrder + "/issue",
		ServerName: "localhost", CAFile: b.path("pki", "root.pem"), ClientCert: b.path("station", "station-a.pem"), ClientKey: b.path("station", "station-a.key"),
		VerifyCA: b.path("pki", "issuing.pem"), PIDFile: pid}
	text, err := json.MarshalIndent([]benchTarget{t}, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(b.path("bench.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// measure starts the service as another process, so that its CPU time is its own.
func (b *benchRun) measure(ctx context.Context) error {
	if b.dir == "" {
		dir, err := os.MkdirTemp("", "hallmark-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		b.dir = filepath.Join(dir, "bench")
	}
	if err := b.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	args := []string{"bench", "issue", "--serve", "--dir", b.dir, "--hsm", b.hsm}
	if b.database != "" {
		args = append(args, "--db", b.database)
	}
	cmd := b.child(ctx, "", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var log bytes.Buffer
	cmd.Stderr, cmd.WaitDelay = &log, 30*time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	target, err := b.await(ctx, ended)
	if err != nil {
		return fmt.Errorf("%w: %s", err, log.String())
	}
	r, err := b.load(ctx, target, cmd)
	cancel()
	<-ended
	if err != nil {
		return err
	}
	return json.NewEncoder(b.g.Out).Encode(r)
}

func (b *benchRun) await(ctx context.Context, ended <-chan error) (*benchTarget, error) {
	for {
		select {
		case err := <-ended:
			return nil, fmt.Errorf("the service ended before it was ready: %v", err)
		default:
		}
		text, err := os.ReadFile(filepath.Join(b.dir, "bench.json"))
		var ts []benchTarget
		if err == nil && json.Unmarshal(text, &ts) == nil && len(ts) == 1 {
			return &ts[0], nil
		}
		if !every(ctx, 50*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
}

// load asks for certificates. Requests are made beforehand in each client's own
// pace, outside the measured time of the request.
func (b *benchRun) load(ctx context.Context, t *benchTarget, server *exec.Cmd) (*benchResult, error) {
	cert, err := tls.LoadX509KeyPair(t.ClientCert, t.ClientKey)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, ServerName: t.ServerName}, MaxIdleConnsPerHost: b.clients}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: 30 * time.Second}
	res := &benchResult{Clients: b.clients, HSM: b.hsm, Database: "sqlite"}
	if b.database != "" && b.database != "sqlite" {
		res.Database = "postgres"
	}
	var mu sync.Mutex
	var times []time.Duration
	one := func(name string) (time.Duration, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return 0, err
		}
		req, err := csr.Create(key, name, "")
		if err != nil {
			return 0, err
		}
		start := time.Now()
		resp, err := client.Post(t.URL, "application/pkcs10", bytes.NewReader(req))
		if err != nil {
			return 0, err
		}
		der, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		took := time.Since(start)
		if err != nil {
			return 0, err
		}
		if resp.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("status %d: %.300s", resp.StatusCode, der)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return 0, err
		}
		if !key.PublicKey.Equal(c.PublicKey) || c.Subject.CommonName != name {
			return 0, errors.New("the certificate is another's")
		}
		return took, nil
	}
	for i := range b.clients { // connections and templates are warm before the clock starts
		if _, err := one(fmt.Sprintf("warm-%d", i)); err != nil {
			return nil, err
		}
	}
	cpu := processCPU(server.Process.Pid)
	start := time.Now()
	var wg sync.WaitGroup
	for c := range b.clients {
		wg.Go(func() {
			for i := 0; time.Since(start) < b.duration && ctx.Err() == nil; i++ {
				took, err := one(fmt.Sprintf("B%d-%d", c, i))
				mu.Lock()
				if err != nil {
					if res.Errors++; res.FirstError == "" {
						res.FirstError = err.Error()
					}
				} else {
					times = append(times, took)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	res.Seconds = time.Since(start).Seconds()
	cpu = processCPU(server.Process.Pid) - cpu
	if len(times) == 0 {
		return res, nil
	}
	slices.Sort(times)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	res.Certificates = len(times)
	res.PerSecond = float64(len(times)) / res.Seconds
	res.P50, res.P99 = ms(times[len(times)/2]), ms(times[len(times)*99/100])
	res.ServerCPU = float64(cpu.Microseconds()) / float64(len(times))
	return res, nil
}

// processCPU is the user and system time of a process (proc(5)); 0 where the
// system does not tell. Clock ticks are 10 ms on every Linux that Go runs on.
func processCPU(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}
