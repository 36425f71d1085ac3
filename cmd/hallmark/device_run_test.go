package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"hallmark/bootstrap/bootstraptest"
	"hallmark/broker/brokertest"
	"hallmark/ca/catest"
	"hallmark/device"
	"hallmark/device/mosquittotest"
	"hallmark/device/simulate"
	"hallmark/internal/fault"
)

// deviceDo runs "hallmark device …" and gives what it said.
func deviceDo(ctx context.Context, args ...string) (string, string, error) {
	var out, errOut bytes.Buffer
	g := &globals{Out: &out, Err: &errOut, In: strings.NewReader(""), Now: time.Now}
	root := newRootCmd(g)
	parent, _, err := root.Find([]string{"device"})
	if err != nil || parent == root {
		parent = &cobra.Command{Use: "device"}
		root.AddCommand(parent)
	}
	for _, c := range []*cobra.Command{newDeviceRunCmd(g), newDeviceSimulateCmd(g)} {
		if found, _, err := parent.Find([]string{c.Name()}); err != nil || found == parent {
			parent.AddCommand(c)
		}
	}
	root.SetArgs(append([]string{"device"}, args...))
	root.SetOut(&out)
	root.SetErr(&errOut)
	err = root.ExecuteContext(ctx)
	return out.String(), errOut.String(), err
}

// From the factory's directory to the broker, with one command.
func TestDeviceRun_RegistersAndConnects(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	b := mosquittotest.Start(t, d.Root, d.Device)
	c, key := d.IssueIDevID(t, "SN-1")
	dir, service := t.TempDir(), t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	summary, _ := json.Marshal(map[string]any{"endpoints": map[string]string{"mqtt": b.Addr, "device": strings.TrimPrefix(d.URL, "https://")}})
	for name, raw := range map[string][]byte{
		filepath.Join(dir, "idevid.pem"): catest.PEM(c, d.Device), filepath.Join(dir, "root.pem"): catest.PEM(d.Root, b.PKI.CA), filepath.Join(service, "summary.json"): summary,
		filepath.Join(dir, "idevid.key"): pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"run", dir, "--dir", service, "--ca-file", filepath.Join(dir, "root.pem"), "--server-name", "localhost", "--timeout", "500ms", "--max-backoff", "100ms", "--duration", "4s"}
	out, _, err := deviceDo(t.Context(), append(args, "--json")...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	kinds := map[string]bool{}
	for line := range strings.Lines(out) {
		var e device.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		kinds[e.Event] = true
		if e.Event == device.EventRegistered && e.Thing != "thing-SN-1" {
			t.Errorf("%+v", e)
		}
	}
	// Nobody answers for a shadow behind this broker; the connection stays.
	if kinds[device.EventDisconnected] {
		t.Errorf("it left a broker that is well:\n%s", out)
	}
	for _, k := range []string{device.EventRegistered, device.EventConnected, device.EventRefused, device.EventStopped} {
		if !kinds[k] {
			t.Errorf("no event %s in\n%s", k, out)
		}
	}
	if out, _, err := deviceDo(t.Context(), args...); err != nil || !strings.Contains(out, "connected     thing-SN-1  endpoint="+b.Addr) {
		t.Errorf("%v\n%s", err, out)
	}
	b.Stop()
	if _, _, err := deviceDo(t.Context(), append(args, "--tries", "1")...); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("%v", err)
	}
}

// The file of the running service counts before the summary that a demo left when it
// began, in the directory that is named and in the state directory under it.
func TestDeviceRun_FindsTheServiceWhereItIsNow(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	now := deviceEndpoints{MQTT: "localhost:2", Device: "https://localhost:4"}
	for name, text := range map[string]string{
		filepath.Join(dir, "summary.json"):     `{"endpoints": {"mqtt": "mqtts://localhost:1", "device": "https://localhost:3"}}`,
		filepath.Join(state, "endpoints.json"): `{"people": "https://localhost:5", "doors": {"mqtt": "localhost:2", "device": "localhost:4"}}`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{dir, state} {
		if got := deviceEndpointsOf(d); got != now {
			t.Errorf("%s: %+v", d, got)
		}
	}
	if err := os.Remove(filepath.Join(state, "endpoints.json")); err != nil {
		t.Fatal(err)
	}
	if got := deviceEndpointsOf(dir); got.MQTT != "localhost:1" || got.Device != "https://localhost:3" {
		t.Errorf("of the summary alone: %+v", got)
	}
	if got := deviceEndpointsOf(state); got != (deviceEndpoints{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestDeviceRun_RefusesABadCommandLine(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), catest.PEM(brokertest.New().CA), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[error][]string{
		device.ErrEndpoint:  {"run", dir},
		errAgentRoots:       {"run", t.TempDir(), "--endpoint", "localhost"},
		device.ErrAllowList: {"run", dir, "--endpoint", "localhost", "--allow", filepath.Join(dir, "none.json")},
		device.ErrIdentity:  {"run", dir, "--endpoint", "localhost"},
	} {
		if _, _, err := deviceDo(t.Context(), args...); !errors.Is(err, want) {
			t.Errorf("%v: %v", args, err)
		}
	}
	var usage errUsage
	for _, args := range [][]string{{"run", dir, "--protocol", "6"}, {"run", dir, "--parameter", "x"}, {"run", dir, "--no-such"}, {"simulate", "--endpoint", "x", "--qos", "2"}, {"simulate", "--endpoint", "x", "--bundle", "a", "--devices", "b"}} {
		if _, _, err := deviceDo(t.Context(), args...); !errors.As(err, &usage) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestDeviceSimulate_BundleOfDevices(t *testing.T) {
	b := mosquittotest.Start(t)
	dir := t.TempDir()
	var bundle bytes.Buffer
	for _, name := range []string{"d1", "d2", "d3"} {
		c := b.PKI.Device(name)
		key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		pem.Encode(&bundle, &pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
		pem.Encode(&bundle, &pem.Block{Type: "PRIVATE KEY", Bytes: key})
	}
	for name, raw := range map[string][]byte{"devices.pem": bundle.Bytes(), "root.pem": catest.PEM(b.PKI.CA)} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"simulate", "--bundle", filepath.Join(dir, "devices.pem"), "--chain", filepath.Join(dir, "root.pem"), "--endpoint", b.Addr, "--server-name", "localhost", "--rate", "10", "--duration", "1s", "--reconnect-all"}
	out, _, err := deviceDo(t.Context(), append(args, "--json")...)
	var r simulate.Result
	if err != nil || json.Unmarshal([]byte(out), &r) != nil || !r.OK || r.Connected != 3 || r.Storm == nil || r.Publishes == 0 {
		t.Errorf("%v\n%s", err, out)
	}
	if out, _, err := deviceDo(t.Context(), append(args, "-n", "2", "--idle", "--protocol", "5")...); err != nil || !strings.Contains(out, "2 of 2 devices connected") || !strings.Contains(out, "publishes  0 ") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, _, err := deviceDo(t.Context(), append(args, "-n", "4")...); !errors.Is(err, simulate.ErrDevices) {
		t.Errorf("%v", err)
	}
	b.Stop()
	if out, _, err := deviceDo(t.Context(), append(args, "--patience", "200ms", "--json")...); !errors.Is(err, errSimulateNotConnected) || !strings.Contains(out, "dial-port-closed") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Devices that never booted register first, if they are told where.
func TestDeviceSimulate_BootsWhoNeverDid(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	b := mosquittotest.Start(t, d.Root, d.Device)
	service := t.TempDir()
	for _, unit := range []string{"SN-1", "SN-2"} {
		c, key := d.IssueIDevID(t, unit)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		home := filepath.Join(service, "devices", unit)
		if err := os.MkdirAll(home, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, raw := range map[string][]byte{"idevid.pem": catest.PEM(c, d.Device), "idevid.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "root.pem": catest.PEM(d.Root, b.PKI.CA)} {
			if err := os.WriteFile(filepath.Join(home, name), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	roots := filepath.Join(service, "devices", "SN-1", "root.pem")
	args := []string{"simulate", "--dir", service, "--endpoint", b.Addr, "--server-name", "localhost", "--ca-file", roots, "--idle", "--duration", "100ms"}
	if _, _, err := deviceDo(t.Context(), args...); !errors.Is(err, simulate.ErrDevices) {
		t.Errorf("%v", err)
	}
	if out, _, err := deviceDo(t.Context(), append(args, "--url", d.URL)...); err != nil || !strings.Contains(out, "2 of 2 devices connected") {
		t.Errorf("%v\n%s", err, out)
	}
}
