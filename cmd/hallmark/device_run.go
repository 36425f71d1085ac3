package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/device"
	"hallmark/device/mqtt"
	"hallmark/fleet/ota/manifest"
	"hallmark/hsm"
)

// deviceEndpoints is what the commands of the device side read of a service's
// directory.
type deviceEndpoints struct {
	MQTT   string // host:port
	Device string // https://host:port
}

// deviceEndpointsOf finds where a service listens: in the file that a running one leaves
// in its state directory, and, for what is not there, in the summary of a demo, which
// does not follow a change of ports. Nothing is missing yet if there is neither.
func deviceEndpointsOf(dir string) (e deviceEndpoints) {
	if dir == "" {
		return e
	}
	for _, state := range []string{dir, filepath.Join(dir, "state")} {
		var f endpointFile
		b, err := os.ReadFile(filepath.Join(state, "endpoints.json"))
		if err != nil || json.Unmarshal(b, &f) != nil {
			continue
		}
		if e.MQTT == "" {
			e.MQTT = f.Doors["mqtt"]
		}
		if e.Device == "" && f.Doors["device"] != "" {
			e.Device = "https://" + f.Doors["device"]
		}
	}
	s := summaryEndpoints(dir)
	if e.MQTT == "" {
		e.MQTT = s.MQTT
	}
	if e.Device == "" {
		e.Device = s.Device
	}
	return e
}

// summaryEndpoints reads D/summary.json.
func summaryEndpoints(dir string) (e deviceEndpoints) {
	b, err := os.ReadFile(filepath.Join(dir, "summary.json"))
	if err != nil {
		return e
	}
	var s struct {
		Endpoints map[string]string `json:"endpoints"`
	}
	if json.Unmarshal(b, &s) != nil {
		return e
	}
	for _, scheme := range []string{"mqtts://", "ssl://", "tls://", ""} {
		if rest, ok := strings.CutPrefix(s.Endpoints["mqtt"], scheme); ok {
			e.MQTT = rest
			break
		}
	}
	if e.Device = s.Endpoints["device"]; e.Device != "" && !strings.Contains(e.Device, "://") {
		e.Device = "https://" + e.Device
	}
	return e
}

// mqttVersion reads --protocol.
func mqttVersion(s string) (byte, error) {
	switch s {
	case "3.1.1", "3", "4":
		return mqtt.V311, nil
	case "5":
		return mqtt.V5, nil
	}
	return 0, errUsage{fmt.Errorf("--protocol %q is neither 3.1.1 nor 5", s)}
}

// endpointOf adds the port of MQTT over TLS to a host that has none.
func endpointOf(s string) string {
	if _, _, err := net.SplitHostPort(s); err != nil && s != "" {
		return net.JoinHostPort(strings.Trim(s, "[]"), "8883")
	}
	return s
}

// deviceRun is the flags of the agent.
type deviceRun struct {
	cfg        device.RunConfig
	parameters []string
	allow      string
	protocol   string
	module     string
	duration   time.Duration
	trust      string // of firmware
	signers    int
	firmware   device.Firmware
	check      string // of an image on trial
}

func newDeviceRunCmd(g *globals) *cobra.Command {
	r := &deviceRun{}
	c := &cobra.Command{
		Use: "run DIRECTORY", Short: "Be a device: register, connect, keep the shadow, do jobs", Args: cobra.ExactArgs(1),
		Long: `The reference agent lives a device's life. Without an operational certificate it
registers first, over HTTPS. Then it connects to the broker as its thing, takes
what its shadow asks for into state.json and reports it, and does jobs:

  {"operation": "echo", "message": "hello"}
  {"operation": "reboot-simulated"}
  {"operation": "command", "command": ["/usr/bin/touch", "/run/marker"]}
  {"operation": "rotate-certificate", "version": 1, "campaign": "spring"}

The last one changes the key: the new certificate is proven by a connection before
the old one is left, and where it is refused the old one stays. The agent does the
same by itself when the certificate is due, unless --no-renewal is given.

A command must stand in the allow list word for word; anything else is rejected.
  {"commands": [{"command": ["/usr/bin/touch", "/run/marker"], "seconds": 10, "restartable": true}]}

It connects again after a loss, at random intervals that grow, and ends with
SIGINT or SIGTERM: a job gets --grace to end first, and is resumed by the next run.`,
		Example: `  hallmark device run devices/SN-0001 --dir demo
  hallmark device run devices/SN-0001 --endpoint broker.example:8883 --url https://service.example:9443 --ca-file root.pem
  hallmark device run devices/SN-0001 --dir demo --allow commands.json --json
  hallmark device run devices/SN-0001 --dir demo --key-uri 'pkcs11:token=device;object=ldevid?pin-source=file:/etc/device/pin'`,
		RunE: func(cmd *cobra.Command, args []string) error { return r.run(cmd.Context(), g, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&r.cfg.Endpoint, "endpoint", "", "the broker, HOST:PORT; default the mqtt endpoint in the service's directory")
	f.StringVar(&r.cfg.ServerName, "server-name", "", "name in the broker's certificate; default the endpoint's host")
	f.StringVar(&r.cfg.Server, "url", "", "URL of the service's device listener for the first boot; default that of the service's directory")
	f.StringArrayVar(&r.parameters, "parameter", nil, "NAME=VALUE for the registration template; may be repeated")
	f.StringVar(&r.protocol, "protocol", "3.1.1", "version of MQTT: 3.1.1 or 5")
	f.StringVar(&r.allow, "allow", "", "JSON file with the commands that jobs may run; without it, none")
	f.StringVar(&r.cfg.KeyURI, "key-uri", "", "make new keys in this PKCS #11 token, not in files")
	f.StringVar(&r.module, "module", "", "PKCS #11 module for URIs that name none")
	f.DurationVar(&r.cfg.KeepAlive, "keep-alive", 5*time.Minute, "MQTT keep-alive")
	f.DurationVar(&r.cfg.Timeout, "timeout", 30*time.Second, "of one exchange with the service")
	f.DurationVar(&r.cfg.Grace, "grace", 10*time.Second, "that a job gets when the agent stops")
	f.DurationVar(&r.cfg.Backoff.Max, "max-backoff", 2*time.Minute, "longest wait between two connections")
	f.IntVar(&r.cfg.Tries, "tries", 0, "failures in a row after which it gives up; 0 is never")
	f.StringVar(&r.cfg.Renewal, "renew-over", "", "ask for a new certificate over mqtt (then https), https or est; default mqtt")
	f.BoolVar(&r.cfg.NoRenewal, "no-renewal", false, "change keys only when a job asks for it, never by itself")
	f.StringVar(&r.trust, "firmware-trust", "", "PEM file with the keys or roots whose firmware it takes, into simulated slots; without it, none")
	f.IntVar(&r.signers, "firmware-signatures", 1, "how many of them must have signed")
	f.StringVar(&r.firmware.Class, "firmware-class", "", "its product class")
	f.StringVar(&r.firmware.Hardware, "firmware-hardware", "", "its hardware")
	f.StringVar((*string)(&r.firmware.Version), "firmware-version", "1", "version that the factory installed")
	f.StringVar(&r.check, "firmware-check", "", "program that says by its exit code whether an image on trial is well; it gets the version and the file")
	f.DurationVar(&r.duration, "duration", 0, "stop after this time; 0 is never")
	return c
}

// takeFirmware lets jobs change the firmware.
func (r *deviceRun) takeFirmware() error {
	text, err := os.ReadFile(r.trust)
	if err != nil {
		return err
	}
	f := r.firmware
	if f.Trust, err = manifest.ParseTrust(text, r.signers); err != nil {
		return err
	}
	if _, err := manifest.ParseVersion(string(f.Version)); err != nil {
		return err
	}
	if f.Class == "" || f.Hardware == "" {
		return errUsage{errors.New("--firmware-class and --firmware-hardware are needed with --firmware-trust")}
	}
	if r.check != "" {
		f.Health = func(ctx context.Context, v manifest.Version, image string) error {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			out, err := exec.CommandContext(ctx, r.check, string(v), image).CombinedOutput()
			if err != nil && ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				return fmt.Errorf("%w: %.200s", err, strings.TrimSpace(string(out)))
			}
			return nil
		}
	}
	r.cfg.Firmware = &f
	return nil
}

func (r *deviceRun) run(ctx context.Context, g *globals, dir string) (err error) {
	cfg := &r.cfg
	cfg.Dir, cfg.Now = dir, g.Now
	cfg.Parameters = nil
	for _, p := range r.parameters {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return errUsage{fmt.Errorf("--parameter %q is not NAME=VALUE", p)}
		}
		if cfg.Parameters == nil {
			cfg.Parameters = map[string]string{}
		}
		cfg.Parameters[name] = value
	}
	switch cfg.Renewal {
	case "mqtt":
		cfg.Renewal = ""
	case "", "https", "est":
	default:
		return errUsage{fmt.Errorf("--renew-over %q is not mqtt, https or est", cfg.Renewal)}
	}
	if cfg.Version, err = mqttVersion(r.protocol); err != nil {
		return err
	}
	known := deviceEndpointsOf(g.Dir)
	if cfg.Endpoint == "" {
		cfg.Endpoint = known.MQTT
	}
	if cfg.Server == "" {
		cfg.Server = known.Device
	}
	cfg.Endpoint = endpointOf(cfg.Endpoint)
	if r.allow != "" {
		if cfg.Allow, err = device.LoadAllowList(r.allow); err != nil {
			return err
		}
	}
	if r.trust != "" {
		if err := r.takeFirmware(); err != nil {
			return err
		}
	}
	if cfg.Roots, err = agentRoots(g.CAFile, dir); err != nil {
		return err
	}
	ring := hsm.Open(hsm.Config{Module: r.module})
	defer ring.Close()
	cfg.Keys = ring
	cfg.Log = slog.New(slog.DiscardHandler) // the events are the log
	cfg.Event = func(e device.Event) { printDeviceEvent(g, e) }
	if r.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.duration)
		defer cancel()
	}
	return device.Run(ctx, *cfg)
}

// printDeviceEvent writes one line: JSON for programs, words for people.
func printDeviceEvent(g *globals, e device.Event) {
	if g.JSON {
		json.NewEncoder(g.Out).Encode(e)
		return
	}
	line := fmt.Sprintf("%s  %-13s", e.Time.Local().Format("15:04:05"), e.Event)
	add := func(name, value string) {
		if value != "" {
			line += "  " + name + "=" + visible(value)
		}
	}
	line += " " + visible(e.Thing)
	add("endpoint", e.Endpoint)
	add("serial", e.Serial)
	add("slot", e.Slot)
	if e.Event == device.EventConnected {
		line += fmt.Sprintf("  session-kept=%s  tls-resumed=%s", yesNo(e.Session), yesNo(e.Resumed))
	}
	if e.Boots > 0 {
		line += fmt.Sprintf("  boots=%d", e.Boots)
	}
	add("job", e.Job)
	add("status", e.Status)
	if len(e.Settings) > 0 {
		b, _ := json.Marshal(e.Settings)
		add("settings", string(b))
	}
	if len(e.Details) > 0 {
		b, _ := json.Marshal(e.Details)
		add("details", string(b))
	}
	add("code", e.Code)
	add("retry-in", e.RetryIn)
	if e.Reason != "" {
		line += "  " + visible(e.Reason)
	}
	io.WriteString(g.Out, line+"\n")
}
