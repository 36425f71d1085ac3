package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hallmark/hsm"
	"hallmark/station"
	"hallmark/station/adapter"
	"hallmark/station/spool"
	"hallmark/station/uplink"
)

func newStationCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "station",
		Short: "The software beside the production line",
		Long: `A station gives devices their birth certificates: it enrols once with a one-time
string, then works on orders. It can be killed at any point; started again, it
finishes what it had begun.`,
		Example: `  hallmark station enrol --server https://pki.example:9445 --code HMK1-... --station st-1 --dir st-1
  hallmark station run --order O-1 --adapter simulate:devices --dir st-1 --count 10`,
	}
	cmd.AddCommand(newStationEnrolCmd(g), newStationRunCmd(g), newStationStatusCmd(g), newStationRenewCmd(g), newStationAbandonCmd(g), newStationReceiptsCmd(g))
	return cmd
}

// moduleFlag is for a key URI without a module-path: where the module lies is the
// machine's matter, and the same for every key in it.
func moduleFlag(cmd *cobra.Command, module *string) {
	cmd.Flags().StringVar(module, "module", os.Getenv("HALLMARK_PKCS11_MODULE"), "PKCS #11 module, where the key's URI has no module-path (HALLMARK_PKCS11_MODULE)")
}

// stationLog is the log of a station's command: warnings, or all of it.
func stationLog(g *globals, verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(g.Err, &slog.HandlerOptions{Level: level}))
}

const exportableWarning = "warning: the station's key is a plain file that can be copied without a trace; use a token (--key pkcs11:...) for production\n"

func newStationEnrolCmd(g *globals) *cobra.Command {
	var server, code, id, dir, key, module, factory string
	cmd := &cobra.Command{
		Use:   "enrol --server URL --code STRING --station ID --dir DIRECTORY",
		Short: "Enrol this station with its one-time string",
		Long: `The string is made by "hallmark station-code create", is good for one station and
one hour, and names the root that the server must prove to belong to: the code is
sent to nobody else. "--code -" reads it from standard input, which keeps it out
of the list of processes. Repeat the command if it was interrupted.

A pkcs11: key needs its module each time that it is opened: as module-path in the
URI, by --module of each command, or in HALLMARK_PKCS11_MODULE.`,
		Example: `  hallmark station enrol --server https://pki.example:9445 --code - --station st-1 --dir st-1 < code.txt
  hallmark station enrol --server https://pki.example:9445 --code HMK1-... --station st-1 --dir st-1 \
      --key 'pkcs11:token=st-1;object=station?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/hallmark/pin'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if code == "-" {
				line, err := bufio.NewReader(io.LimitReader(g.In, 4096)).ReadString('\n')
				if err != nil && !errors.Is(err, io.EOF) {
					return err
				}
				code = line
			}
			ring := hsm.Open(hsm.Config{Module: module, Log: stationLog(g, false)})
			defer ring.Close()
			i, err := station.Enrol(cmd.Context(), station.EnrolConfig{Dir: dir, Server: server, Code: code, Station: id,
				Factory: factory, Key: key, Keyring: ring, Log: stationLog(g, false), Now: g.Now})
			if err != nil {
				return err
			}
			if i.Exportable {
				fmt.Fprint(g.Err, exportableWarning)
			}
			return g.print(identityView(i, g.Now()), func(w io.Writer) {
				fmt.Fprintf(w, "Station %s of site %s is enrolled.\n", i.Station, i.Site)
				printIdentity(w, i)
				fmt.Fprintf(w, "  next         hallmark station run --dir %s --order ORDER --adapter ADAPTER\n", dir)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&server, "server", "", "URL of the enrolment listener (port 9445)")
	f.StringVar(&code, "code", "", "the enrolment string, or - for standard input")
	f.StringVar(&id, "station", "", "the station's name, as the string was made for")
	f.StringVar(&dir, "dir", "", "the station's own directory")
	keyURIFlag(cmd, &key, "key", "URI of the station's key (pkcs11:, piv:, file:); default is a plain file in the directory")
	moduleFlag(cmd, &module)
	f.StringVar(&factory, "factory", "", "URL of the factory listener; default is what the service says, else port 9444 of the same host")
	requiredFlags(cmd, "server", "code", "station", "dir")
	return cmd
}

// requiredFlags marks flags as required.
func requiredFlags(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
}

type stationIdentityView struct {
	Station    string    `json:"station"`
	Site       string    `json:"site"`
	Tenant     string    `json:"tenant"`
	Server     string    `json:"server"`
	Key        string    `json:"key"`
	Exportable bool      `json:"exportable"`
	Serial     string    `json:"serial"`
	NotAfter   time.Time `json:"not_after"`
	RenewalDue time.Time `json:"renewal_due"`
	Expired    bool      `json:"expired"`

	Journal *spool.Overview   `json:"journal,omitempty"`
	Open    []stationOpenUnit `json:"open,omitempty"`
}

type stationOpenUnit struct {
	Order string    `json:"order"`
	Unit  string    `json:"unit,omitempty"`
	Job   string    `json:"job"`
	State string    `json:"state"`
	Began time.Time `json:"began"`
}

func identityView(i *station.Identity, now time.Time) stationIdentityView {
	c := i.Certificate()
	return stationIdentityView{Station: i.Station, Site: i.Site, Tenant: i.Tenant, Server: i.Server, Key: i.Key(), Exportable: i.Exportable,
		Serial: c.SerialNumber.Text(16), NotAfter: c.NotAfter, RenewalDue: i.RenewalDue(), Expired: now.After(c.NotAfter)}
}

func printIdentity(w io.Writer, i *station.Identity) {
	exportable := ""
	if i.Exportable {
		exportable = " (exportable)"
	}
	fmt.Fprintf(w, "  service      %s\n  key          %s%s\n  certificate  %s, until %s, renewed from %s\n", i.Server, i.Key(), exportable,
		i.Certificate().SerialNumber.Text(16), i.Certificate().NotAfter.Format(time.DateOnly), i.RenewalDue().Format(time.DateOnly))
}

func newStationStatusCmd(g *globals) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:     "status --dir DIRECTORY",
		Short:   "Show the station's certificate and what its journal holds",
		Example: "  hallmark station status --dir st-1",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			i, err := station.Load(dir, nil)
			if err != nil {
				return err
			}
			o, err := spool.Inspect(filepath.Join(dir, station.SpoolDir))
			if err != nil {
				return err
			}
			v := identityView(i, g.Now())
			v.Journal = &o
			for _, u := range o.Open {
				v.Open = append(v.Open, stationOpenUnit{Order: u.Order, Unit: u.Unit, Job: u.Job, State: string(u.State), Began: u.Began})
			}
			return g.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "Station %s, site %s\n", i.Station, i.Site)
				printIdentity(w, i)
				if v.Expired {
					fmt.Fprintf(w, "  EXPIRED      enrol again with a new string, in a new directory\n")
				}
				fmt.Fprintf(w, "  journal      %d records, %d units committed, %d failed, %d not finished\n", o.Records,
					o.Count[spool.Committed], o.Count[spool.Failed], len(v.Open))
				for _, u := range v.Open {
					name := u.Unit
					if name == "" {
						name = u.Job
					}
					fmt.Fprintf(w, "    %-24s order %s, %s since %s\n", name, u.Order, u.State, u.Began.Local().Format(time.DateTime))
				}
				if len(v.Open) > 0 {
					fmt.Fprintln(w, "  next         hallmark station run finishes them first; hallmark station abandon gives up a scrapped one")
				}
			})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the station's own directory")
	requiredFlags(cmd, "dir")
	return cmd
}

func newStationRenewCmd(g *globals) *cobra.Command {
	var dir, key, module string
	cmd := &cobra.Command{
		Use:   "renew --dir DIRECTORY",
		Short: "Renew the station's certificate with a new key",
		Long: `A running station renews by itself when two thirds of the certificate's life are
over; this does it now. The key before stays in the other slot until the next renewal.`,
		Example: "  hallmark station renew --dir st-1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ring := hsm.Open(hsm.Config{Module: module, Log: stationLog(g, false)})
			defer ring.Close()
			i, err := station.Load(dir, ring)
			if err != nil {
				return err
			}
			// A running station holds the journal, and must not find another
			// key in its directory than the one it works with.
			journal, err := spool.Open(filepath.Join(dir, station.SpoolDir))
			if err != nil {
				return err
			}
			defer journal.Close()
			c, err := i.Client(cmd.Context(), uplink.Config{Log: stationLog(g, false), Now: g.Now})
			if err != nil {
				return err
			}
			defer c.Close()
			if err := i.Renew(cmd.Context(), c, key, g.Now); err != nil {
				return err
			}
			if i.Exportable {
				fmt.Fprint(g.Err, exportableWarning)
			}
			return g.print(identityView(i, g.Now()), func(w io.Writer) {
				fmt.Fprintf(w, "Station %s has a new certificate.\n", i.Station)
				printIdentity(w, i)
			})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the station's own directory")
	keyURIFlag(cmd, &key, "key", "URI of the new key; default is named after the present one")
	moduleFlag(cmd, &module)
	requiredFlags(cmd, "dir")
	return cmd
}

// stationRun is the flags of hallmark station run.
type stationRun struct {
	order, adapter, dir, serials, operator, module string
	count, nests, stopAfter                        int
	budget, step, patience                         time.Duration
	verbose                                        bool
}

func newStationRunCmd(g *globals) *cobra.Command {
	var r stationRun
	cmd := &cobra.Command{
		Use:   "run --dir DIRECTORY --order ORDER --adapter ADAPTER",
		Short: "Give units their certificates",
		Long: `Units come from --serials, one serial a line, or the service allocates --count of
them; without either, only what an earlier run left is finished. That is always
done first. A unit passes when its line says ok, and only then: PENDING ones are
finished by starting again, FAILED ones by scanning them again. What is left of an
earlier run and not in its nest stays PENDING and stops nobody; a scrapped unit is
given up with hallmark station abandon.

Adapters:
  command:PROGRAM ARGUMENTS         a program that reaches the device; it speaks JSON lines
  simulate:DIRECTORY[?OPTIONS]      devices that are directories; algorithm=p256|p384|rsa2048|ed25519,
                                    fail=absent,key-fault,key-dead,install,read-back,signature,other-key,
                                    slow=200ms, only=UNIT

The first SIGTERM or Ctrl-C finishes the units in the nests; a second one stops at
once, and the journal knows where to go on. Exit code 1: not every unit of this run
passed; the last verdict of a unit counts.`,
		Example: `  hallmark station run --dir st-1 --order O-1 --adapter simulate:devices --count 10 --nests 4
  hallmark station run --dir st-1 --order O-1 --adapter 'command:/opt/line/reach.py --port COM3' --serials -
  hallmark station run --dir st-1 --order O-1 --adapter simulate:devices --serials today.txt --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.serials != "" && r.count > 0 {
				return errUsage{errors.New("give either --serials or --count")}
			}
			if r.count < 0 || r.nests < 1 || r.stopAfter < 0 {
				return errUsage{errors.New("--count and --stop-after are not negative, --nests is at least 1")}
			}
			return r.run(cmd.Context(), g)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.dir, "dir", "", "the station's own directory")
	f.StringVar(&r.order, "order", "", "the production order to work on")
	f.StringVar(&r.adapter, "adapter", "", "how to reach the device: command:... or simulate:...")
	f.StringVar(&r.serials, "serials", "", "file with one serial a line, - for standard input")
	f.IntVar(&r.count, "count", 0, "units to begin whose serials the service allocates; resumed ones are not counted")
	f.IntVar(&r.nests, "nests", 1, "units to work on at once")
	f.StringVar(&r.operator, "operator", "", "who works here; recorded as asserted")
	f.IntVar(&r.stopAfter, "stop-after", 10, "stop when this many units in a row did not pass; 0 never stops")
	moduleFlag(cmd, &r.module)
	f.DurationVar(&r.budget, "budget", time.Second, "time for a certificate above which the summary turns yellow")
	f.DurationVar(&r.step, "device-timeout", 30*time.Second, "time for one thing that a device is asked to do")
	f.DurationVar(&r.patience, "patience", 30*time.Second, "how long a request is repeated while the service is away")
	f.BoolVarP(&r.verbose, "verbose", "v", false, "log what the adapter says and what is repeated")
	requiredFlags(cmd, "dir", "order", "adapter")
	return cmd
}

func (r *stationRun) run(parent context.Context, g *globals) error {
	// The program's context ends with the first signal, but then the units in
	// the nests are to be finished; the second one ends ctx.
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	defer cancel()
	log := stationLog(g, r.verbose)

	ring := hsm.Open(hsm.Config{Module: r.module, Log: log})
	defer ring.Close()
	i, err := station.Load(r.dir, ring)
	if err != nil {
		return err
	}
	source, total, done, err := r.source(g)
	if err != nil {
		return err
	}
	defer done()
	journal, err := spool.OpenConfig(spool.Config{Dir: filepath.Join(r.dir, station.SpoolDir), Log: log, Now: g.Now})
	if err != nil {
		return err
	}
	defer journal.Close()
	client, err := i.Client(ctx, uplink.Config{Patience: r.patience, Connections: r.nests, Log: log, Now: g.Now})
	if err != nil {
		return err
	}
	defer client.Close()
	if i.Exportable && !g.JSON {
		fmt.Fprint(g.Err, exportableWarning)
	}

	show := newStationDisplay(g, total+len(journal.Unfinished()), total < 0)
	st, err := station.New(station.Config{
		Order: r.order, Uplink: client, Journal: journal, Roots: i.Roots(), Nests: r.nests, Operator: r.operator,
		Tool: "hallmark station " + version, StepTimeout: r.step, StopAfter: r.stopAfter, Budget: r.budget,
		Adapter: func(nest int) (adapter.Adapter, error) {
			return adapter.Open(r.adapter, adapter.Config{Nest: nest, Log: log})
		},
		Renew: func(ctx context.Context) error {
			if g.Now().Before(i.RenewalDue()) {
				return nil
			}
			return i.Renew(ctx, client, "", g.Now)
		},
		Event: show.event, Log: log, Now: g.Now,
	})
	if err != nil {
		return err
	}

	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		select {
		case <-parent.Done():
		case <-signals:
		case <-ctx.Done():
			return
		}
		st.Stop()
		began := time.Now()
		for {
			select {
			case <-signals:
				// The first signal arrives here and through parent.
				if time.Since(began) > 100*time.Millisecond {
					cancel()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()

	last, err := collectReceipts(ctx, g, client, journal, r.dir, r.verbose)
	if err != nil {
		return err
	}
	sum, err := st.Run(ctx, source)
	last()
	show.summary(sum)
	return err
}

// source is where the units come from, and how many: -1 = not known.
func (r *stationRun) source(g *globals) (src station.Source, total int, done func(), err error) {
	done = func() {}
	switch {
	case r.serials == "-":
		return station.Lines(g.In), -1, done, nil
	case r.serials != "":
		b, err := os.ReadFile(r.serials)
		if err != nil {
			return nil, 0, done, err
		}
		for line := range bytes.Lines(b) {
			if len(bytes.TrimSpace(line)) > 0 {
				total++
			}
		}
		return station.Lines(bytes.NewReader(b)), total, done, nil
	case r.count > 0:
		return station.Allocate(r.count), r.count, done, nil
	}
	return nil, 0, done, nil
}

// stationDisplay shows a run: a line for each unit, a bar on a terminal, or JSON.
type stationDisplay struct {
	g      *globals
	colour bool
	bar    *progressbar.ProgressBar
}

func newStationDisplay(g *globals, total int, unknown bool) *stationDisplay {
	d := &stationDisplay{g: g, colour: terminal(g.Out) && os.Getenv("NO_COLOR") == ""}
	if !g.JSON && terminal(g.Err) && (unknown || total > 1) {
		if unknown {
			total = -1
		}
		d.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(g.Err), progressbar.OptionSetDescription("units"),
			progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("units"),
			progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(30), progressbar.OptionThrottle(100*time.Millisecond))
	}
	return d
}

func terminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// event is called by one nest at a time.
func (d *stationDisplay) event(e station.Event) {
	if d.g.JSON {
		d.json(e)
		return
	}
	if d.bar != nil {
		d.bar.Clear()
		defer d.bar.RenderBlank()
	}
	if e.State == "order" && e.Used != nil && e.Quantity != nil {
		fmt.Fprintf(d.g.Out, "Order %s is %s, %d of %d units used.\n", e.Order, e.Detail, *e.Used, *e.Quantity)
	}
	if !e.Final() {
		return
	}
	word, colour := "ok", "32"
	switch e.State {
	case station.Failure:
		word, colour = "FAILED", "31"
	case station.Pending:
		word, colour = "PENDING", "33"
	}
	word = fmt.Sprintf("%-8s", word)
	if d.colour {
		word = "\x1b[" + colour + "m" + word + "\x1b[0m"
	}
	name := e.Unit
	if name == "" {
		name = e.Job
	}
	var remarks []string
	if e.Serial != "" {
		remarks = append(remarks, e.Serial)
	}
	remarks = append(remarks, fmt.Sprintf("%d ms", e.MS))
	switch {
	case e.Again:
		remarks = append(remarks, "was committed before")
	case e.Resumed:
		remarks = append(remarks, "resumed")
	}
	fmt.Fprintf(d.g.Out, "%s %-20s %s\n", word, name, strings.Join(remarks, "  "))
	if e.Code != "" {
		fmt.Fprintf(d.g.Out, "         %s\n", strings.TrimSpace(e.What+" "+e.Detail))
		fmt.Fprintf(d.g.Out, "         next: %s\n", e.Next)
		id := ""
		if e.RequestID != "" {
			id = "  request " + e.RequestID
		}
		fmt.Fprintf(d.g.Out, "         code: %s%s\n", e.Code, id)
	}
	if d.bar != nil {
		d.bar.Add(1)
	}
}

func (d *stationDisplay) json(v any) {
	// One line for each event; g.print would spread it over many.
	json.NewEncoder(d.g.Out).Encode(v)
}

func (d *stationDisplay) summary(s station.Summary) {
	if d.bar != nil {
		d.bar.Finish()
	}
	if d.g.JSON {
		d.json(struct {
			State string `json:"state"`
			station.Summary
		}{"summary", s})
		return
	}
	andon := map[string]string{"green": "32", "yellow": "33", "red": "31"}[s.Andon]
	light := strings.ToUpper(s.Andon)
	if d.colour {
		light = "\x1b[" + andon + "m" + light + "\x1b[0m"
	}
	fmt.Fprintf(d.g.Out, "%s: %d committed", light, s.Committed)
	if s.Again > 0 {
		fmt.Fprintf(d.g.Out, " (%d were before)", s.Again)
	}
	fmt.Fprintf(d.g.Out, ", %d failed, %d pending", s.Failed, s.Pending)
	if s.Away > 0 {
		fmt.Fprintf(d.g.Out, " (%d not in its nest)", s.Away)
	}
	fmt.Fprintf(d.g.Out, " in %.1f s; a certificate took %d ms (p50), %d ms (p99)\n", s.Seconds, s.IssueMS.P50, s.IssueMS.P99)
}
