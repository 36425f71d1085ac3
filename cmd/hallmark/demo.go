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
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/ca/profile"
	"hallmark/device"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
)

var (
	errDemoDir     = fault.Define(fault.Conflict, "demo-directory", "The directory is not empty and not an earlier demo's.", "Name another directory with --dir, or remove this one.")
	errDemoServes  = fault.Define(fault.Conflict, "demo-serves", "A service still works in the directory.", "Stop it first, or name another directory with --dir.")
	errDemoRefusal = fault.Define(fault.Internal, "demo-no-refusal", "The revoked device was not refused.", "Report this: revocation did not take hold.")
)

// demo walks the main job once, on real parts: ceremony, service, order,
// station, first boot, revocation.
type demo struct {
	stage
	units  int
	exit   bool
	start  time.Time
	online []string // serials of the devices that stay connected
	agents func()   // ends them
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
	Endpoints map[string]string `json:"endpoints"` // host:port
	Fleet     demoFleetSummary  `json:"fleet"`
	ElapsedMS int64             `json:"elapsed_ms"`
}

// demoFleetSummary is what a client of the fleet's runtime needs to begin.
type demoFleetSummary struct {
	Template string `json:"template"` // for fleet/claim.pem; its one parameter is SerialNumber
	// Device is the serial number, and with it the thing and the client
	// identifier, of a device that nothing is connected as; empty if the only one
	// is revoked.
	Device    string   `json:"device,omitempty"`
	Connected []string `json:"connected"`
}

func newDemoCmd(g *globals) *cobra.Command {
	d := &demo{stage: stage{g: g}}
	cmd := &cobra.Command{
		Use: "demo", Short: "See the whole job: root, order, station, first boot, revocation", Args: cobra.NoArgs,
		Long: `The demo does what a factory and its devices do, with real parts: an offline root
signs two issuing authorities, a service starts, an order is approved and opened,
a station in a process of its own makes simulated devices, each boots for the
first time over TLS, and one is revoked and refused. A few connect over MQTT and stay;
a claim certificate waits in DIR/fleet for devices that come by themselves. It
then keeps serving; DIR/summary.json, written last, says where.`,
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
	if err := d.check(); err != nil {
		return err
	}
	d.freePorts = d.freePorts || d.exit
	defer func() {
		if d.agents != nil {
			d.agents()
		}
		err = errors.Join(err, d.close())
	}()
	for _, step := range []struct {
		say string
		do  func(context.Context) error
	}{
		{"Directory and keys", d.prepare},
		{"Service", d.serve},
		{"Ceremony: the root signs a device CA and an infrastructure CA", d.ceremony},
		{"People, template and order", func(ctx context.Context) error {
			return d.openOrder(ctx, adminapi.OrderRequest{Id: demoOrder, Product: "demo-lamp", Quantity: int64(d.units), Organization: "Hallmark Demo",
				Serials: adminapi.SerialRule{Prefix: "LMP-", First: 1, Last: int64(d.units), Width: 6}, KeyOrigin: string(profile.OriginClaimed)})
		}},
		{"Fleet: the CA registered, a provisioning template and its claim certificate", d.registerFleet},
		{"Station enrolled", d.enrol},
		{"Line", d.line},
		{"First boot of every device", d.firstBoots},
		{"One device revoked and refused", d.revoke},
		{"A few devices connected", d.connect},
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
		fmt.Fprintf(d.g.Err, "Serving. Stop with Ctrl-C. To serve it again:\n  %s\n", d.again())
	}
	<-ctx.Done()
	return nil
}

const demoOrder = "DEMO-1"

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
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.State == "committed" {
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

// connect has a few devices connect and stay. The first one is revoked, and the
// last one is left for whoever tries the demo.
func (d *demo) connect(ctx context.Context) error {
	serials, err := d.serials()
	if err != nil {
		return err
	}
	d.online = serials[1:max(1, min(1+demoConnected, len(serials)-1))]
	var some []device.Config
	for _, s := range d.online {
		some = append(some, d.bootConfig(s))
	}
	d.agents, err = agents(ctx, some, d.server.publicAddr("mqtt"))
	return err
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
	for from, to := range map[string]string{"people": "api", "device": "device", "mqtt": "mqtt", "factory": "factory", "enrol": "enrol", "public": "public"} {
		s.Endpoints[to] = d.server.publicAddr(from)
	}
	s.Fleet = demoFleetSummary{Template: demoFleet, Connected: d.online}
	if len(serials) > 1 {
		s.Fleet.Device = serials[len(serials)-1]
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
			fmt.Fprintf(w, "MQTT      %s  (%d devices connected; claim certificate in %s, template %s)\n", s.Endpoints["mqtt"], len(d.online), d.path("fleet"), s.Fleet.Template)
			fmt.Fprintf(w, "Try       hallmark order list --dir %s\n          hallmark cert list --dir %s\n          hallmark fsck --dir %s\n", d.dir, d.dir, d.dir)
			if s.Fleet.Device != "" {
				fmt.Fprintf(w, "          hallmark device run %s --dir %s\n", d.path("devices", s.Fleet.Device), d.dir)
			}
		}
	})
}
