package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"hallmark/device"
	"hallmark/device/simulate"
	"hallmark/internal/fault"
)

var errSimulateNotConnected = fault.Define(fault.Unavailable, "simulate-not-connected", "Not all simulated devices ended connected.", "Look at the errors by code in the result.")

var errSimulateAgents = fault.Define(fault.Conflict, "simulate-agents", "Simulated devices were without a certificate that works, or lost messages.", "Look at the agents in the result: it names the first of them.")

// deviceSimulate is the flags of the simulator.
type deviceSimulate struct {
	cfg      simulate.Config
	count    int
	devices  string
	bundle   string
	chain    string
	url      string
	protocol string
	qos      int
	stages   []int
	idle     bool
	agents   bool
	faults   string
	share    float64
	probe    float64
}

func newDeviceSimulateCmd(g *globals) *cobra.Command {
	r := &deviceSimulate{}
	c := &cobra.Command{
		Use: "simulate", Short: "Be a fleet: thousands of devices in one process", Args: cobra.NoArgs,
		Long: `The simulator connects devices, each with its own certificate, in stages of 10, 25,
50 and 100 per cent, lets them publish dt/THING/telemetry, and tells how the
service bears it: live on the terminal, and as a result at the end.

Devices come from a directory that has one below it for each (after their first
boots; with --url, those that never booted do so first), or from one PEM file with
a certificate, its chain and a key for each.

With --agents each device is the reference agent with its own directory: it obeys
jobs, and so changes its keys when a campaign asks, and keeps what it publishes until
that is acknowledged. --faults spoils some of them at a step of that (power, disk,
clock, network), and --probe tries all the time what the devices hold.

It exits with 1 if not all devices were connected at the end, if a probe was refused,
or if a message of an agent was never acknowledged.`,
		Example: `  hallmark device simulate --dir demo -n 10 --rate 1 --duration 10s
  hallmark device simulate --bundle devices.pem --chain inter.crt --ca-file root.crt --endpoint localhost:8883 -n 5000 --rate 0.2 --qos 1 --duration 1m --json
  hallmark device simulate --dir demo -n 1000 --idle --reconnect-all --duration 30s
  hallmark device simulate --dir demo -n 500 --agents --url https://localhost:9443 --probe 50 --faults all --fault-share 0.2`,
		RunE: func(cmd *cobra.Command, _ []string) error { return r.run(cmd.Context(), g) },
	}
	f := c.Flags()
	f.IntVarP(&r.count, "count", "n", 0, "devices to simulate; 0 is all there are")
	f.StringVar(&r.devices, "devices", "", "directory of devices; default devices/ in the service's directory")
	f.StringVar(&r.bundle, "bundle", "", "PEM file of devices: certificate, chain and key for each")
	f.StringVar(&r.chain, "chain", "", "PEM file with issuing authorities to add to each chain of the bundle")
	f.StringVar(&r.cfg.Endpoint, "endpoint", "", "the broker, HOST:PORT; default the mqtt endpoint in the service's directory")
	f.StringVar(&r.cfg.ServerName, "server-name", "", "name in the broker's certificate; default the endpoint's host")
	f.StringVar(&r.url, "url", "", "URL of the device listener: register devices that never booted")
	f.StringVar(&r.protocol, "protocol", "3.1.1", "version of MQTT: 3.1.1 or 5")
	f.Float64Var(&r.cfg.Rate, "rate", 0.1, "messages a second of each device")
	f.IntVar(&r.qos, "qos", 1, "of the messages: 0 or 1")
	f.IntVar(&r.cfg.Payload, "payload", 256, "bytes of each message")
	f.DurationVar(&r.cfg.Shadow, "shadow", 0, "each device reports its state so often; 0 is never")
	f.BoolVar(&r.idle, "idle", false, "connect and keep alive, publish nothing")
	f.IntSliceVar(&r.stages, "stages", []int{10, 25, 50, 100}, "per cent of the fleet to connect, in turn")
	f.DurationVar(&r.cfg.Hold, "hold", 0, "pause at each stage")
	f.IntVar(&r.cfg.Dials, "dials", 64, "connects at once")
	f.DurationVar(&r.cfg.Patience, "patience", 5*time.Minute, "for one stage to be connected")
	f.DurationVar(&r.cfg.Timeout, "timeout", 30*time.Second, "of one connect")
	f.DurationVar(&r.cfg.KeepAlive, "keep-alive", 5*time.Minute, "MQTT keep-alive")
	f.DurationVar(&r.cfg.Duration, "duration", 0, "of the run after the last stage; 0 is until it is interrupted")
	f.BoolVar(&r.cfg.Reconnect, "reconnect-all", false, "after the run, drop all connections and connect again at once")
	f.BoolVar(&r.agents, "agents", false, "devices are reference agents that obey jobs; they need directories")
	f.StringVar(&r.faults, "faults", "", "with --agents: power-cut, disk-full, clock-ahead, clock-behind, network-cut, separated by commas, or all")
	f.Float64Var(&r.share, "fault-share", 0.1, "part of the devices that gets one of the faults, at a random step of a change of keys")
	f.Float64Var(&r.probe, "probe", 0, "with --agents and --url: times a second that a device's certificate is tried")
	f.DurationVar(&r.cfg.Backoff.Max, "max-backoff", 30*time.Second, "longest wait of a device between two connects")
	return c
}

func (r *deviceSimulate) run(ctx context.Context, g *globals) (err error) {
	cfg := &r.cfg
	known := deviceEndpointsOf(g.Dir)
	if cfg.Endpoint == "" {
		cfg.Endpoint = known.MQTT
	}
	if cfg.Endpoint = endpointOf(cfg.Endpoint); cfg.Endpoint == "" {
		return device.ErrEndpoint.New("")
	}
	if cfg.Version, err = mqttVersion(r.protocol); err != nil {
		return err
	}
	switch {
	case r.qos != 0 && r.qos != 1:
		return errUsage{fmt.Errorf("--qos %d is neither 0 nor 1", r.qos)}
	case r.count < 0 || cfg.Rate < 0 || math.IsNaN(cfg.Rate) || math.IsInf(cfg.Rate, 0):
		return errUsage{fmt.Errorf("-n and --rate are not negative")}
	case r.bundle != "" && r.devices != "":
		return errUsage{fmt.Errorf("--bundle and --devices exclude each other")}
	}
	cfg.QoS, cfg.Stages = byte(r.qos), r.stages
	if r.idle {
		cfg.Rate, cfg.Shadow = 0, 0
	}
	if r.agents {
		a := &simulate.Agents{Server: r.url, Probe: r.probe}
		if r.faults != "" {
			kinds, err := simulate.ParseFaults(r.faults)
			if err != nil {
				return err
			}
			a.Fault = simulate.RandomFaults(kinds, r.share)
		}
		cfg.Agents = a
	} else if r.faults != "" || r.probe != 0 {
		return errUsage{fmt.Errorf("--faults and --probe need --agents")}
	}
	if r.devices == "" && r.bundle == "" && g.Dir != "" {
		r.devices = filepath.Join(g.Dir, "devices")
	}
	if err := r.load(ctx, g); err != nil {
		return err
	}
	if r.count > len(cfg.Devices) {
		return simulate.ErrDevices.New("%d are wanted, %d are there.", r.count, len(cfg.Devices))
	}
	if out, ok := g.Err.(*os.File); ok && terminal(g.Err) {
		cfg.Progress = func(f simulate.Figures) { fmt.Fprintf(out, "\r\x1b[K%s", figuresLine(f)) }
		defer fmt.Fprint(out, "\r\x1b[K")
	} else if !g.JSON {
		seconds := 0
		cfg.Progress = func(f simulate.Figures) {
			if seconds++; seconds%5 == 0 {
				fmt.Fprintln(g.Err, figuresLine(f))
			}
		}
	}
	out, err := simulate.Run(ctx, *cfg)
	if err != nil {
		return err
	}
	if err := g.print(out, func(w io.Writer) { printSimulation(w, out) }); err != nil {
		return err
	}
	if a := out.Agents; a != nil && a.Locked+a.Unsent > 0 {
		return errSimulateAgents.New("%d probes were refused, and %d messages never acknowledged.", a.Locked, a.Unsent)
	}
	if !out.OK {
		return errSimulateNotConnected.New("%d of %d.", out.Connected, out.Devices)
	}
	return nil
}

// load reads the devices and the roots.
func (r *deviceSimulate) load(ctx context.Context, g *globals) (err error) {
	cfg := &r.cfg
	if r.bundle != "" {
		if cfg.Roots, err = agentRoots(g.CAFile, filepath.Dir(r.bundle)); err != nil {
			return err
		}
		var extra [][]byte
		if r.chain != "" {
			raw, err := os.ReadFile(r.chain)
			if err != nil {
				return simulate.ErrBundle.Wrap(err, "")
			}
			for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
				if _, err := x509.ParseCertificate(block.Bytes); err != nil {
					return simulate.ErrBundle.Wrap(err, "The chain.")
				}
				extra = append(extra, block.Bytes)
			}
		}
		file, err := os.Open(r.bundle)
		if err != nil {
			return simulate.ErrDevices.Wrap(err, "")
		}
		defer file.Close()
		cfg.Devices, err = simulate.LoadBundle(file, r.count, extra)
		return err
	}
	if r.devices == "" {
		return simulate.ErrDevices.New("")
	}
	var without []string
	if cfg.Devices, without, err = simulate.LoadDir(r.devices, r.count); err != nil {
		return err
	}
	roots := g.CAFile
	if roots == "" && g.Dir != "" {
		if name := filepath.Join(g.Dir, "pki", "root.pem"); readable(name) {
			roots = name
		}
	}
	any := r.devices
	if entries, err := os.ReadDir(r.devices); err == nil && len(entries) > 0 {
		any = filepath.Join(r.devices, entries[0].Name())
	}
	if cfg.Roots, err = agentRoots(roots, any); err != nil {
		return err
	}
	if r.url != "" && len(without) > 0 && (r.count == 0 || len(cfg.Devices) < r.count) {
		if r.count > 0 {
			without = without[:min(len(without), r.count-len(cfg.Devices))]
		}
		if err := bootAll(ctx, g, without, device.Config{Server: r.url, Roots: cfg.Roots}, cfg.Dials); err != nil {
			return err
		}
		cfg.Devices, without, err = simulate.LoadDir(r.devices, r.count)
	}
	if err == nil && len(cfg.Devices) == 0 {
		return simulate.ErrDevices.New("%d never booted; give --url to do that.", len(without))
	}
	return err
}

func readable(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// bootAll registers devices that never booted, several at once.
func bootAll(ctx context.Context, g *globals, homes []string, cfg device.Config, parallel int) error {
	cfg.Now = g.Now
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	places := make(chan struct{}, max(parallel, 1))
	for _, home := range homes {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			one := cfg
			one.Dir = home
			if _, err := device.FirstBoot(ctx, one); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = err
				}
			}
		})
	}
	wg.Wait()
	return first
}

// figuresLine is the live line.
func figuresLine(f simulate.Figures) string {
	return fmt.Sprintf("%s %-5s connected %d/%d  %.0f connects/s (p50 %.0f ms, p99 %.0f ms)  %.0f publishes/s (ack p50 %.1f ms, p99 %.1f ms)  errors %s",
		f.Elapsed.Round(time.Second), f.Phase, f.Connected, f.Devices, f.Connects, f.Connect.P50, f.Connect.P99, f.Publishes, f.Ack.P50, f.Ack.P99, errorsLine(f.Errors))
}

// errorsLine lists counts by code, the most frequent first.
func errorsLine(errs map[string]uint64) string {
	if len(errs) == 0 {
		return "none"
	}
	codes := make([]string, 0, len(errs))
	for c := range errs {
		codes = append(codes, c)
	}
	sort.Slice(codes, func(i, j int) bool {
		if errs[codes[i]] != errs[codes[j]] {
			return errs[codes[i]] > errs[codes[j]]
		}
		return codes[i] < codes[j]
	})
	var parts []string
	for _, c := range codes {
		parts = append(parts, fmt.Sprintf("%s %d", visible(c), errs[c]))
	}
	return strings.Join(parts, ", ")
}

func printSimulation(w io.Writer, r simulate.Result) {
	fmt.Fprintf(w, "%d of %d devices connected after %.1f s.\n\n", r.Connected, r.Devices, r.Seconds)
	row := func(name string, s simulate.Stage) {
		fmt.Fprintf(w, "  %-6s %6d devices in %6.1f s  %6.0f connects/s  p50 %6.1f ms  p99 %6.1f ms  %d failures\n", name, s.Reached, s.Seconds, s.PerSec, s.Connect.P50, s.Connect.P99, s.Failures)
	}
	for _, s := range r.Stages {
		row(fmt.Sprintf("%d%%", s.Percent), s)
	}
	if r.Storm != nil {
		row("storm", *r.Storm)
	}
	fmt.Fprintf(w, "\n  connects   %d (%d with a resumed TLS session), %d connections lost\n", r.Connects, r.Resumed, r.Lost)
	fmt.Fprintf(w, "  publishes  %d (%.0f a second in the run), %d skipped; ack p50 %.1f ms, p99 %.1f ms\n", r.Publishes, r.PerSec, r.Skipped, r.Ack.P50, r.Ack.P99)
	if r.Shadows > 0 {
		fmt.Fprintf(w, "  shadows    %d updates\n", r.Shadows)
	}
	if a := r.Agents; a != nil {
		fmt.Fprintf(w, "  jobs       %s\n  agents     %d fallbacks, %d registrations; faults %s; %d messages without acknowledgement\n", errorsLine(a.Jobs), a.Fallbacks, a.Registers, errorsLine(a.Faults), a.Unsent)
		fmt.Fprintf(w, "  probe      %d, %d refused, %d unanswered\n", a.Probes, a.Locked, a.Missed)
		for _, line := range a.Refused {
			fmt.Fprintf(w, "             refused: %s\n", visible(line))
		}
	}
	fmt.Fprintf(w, "  memory     %.0f KB a device in this process\n  errors     %s\n", r.KBDevice, errorsLine(r.Errors))
}
