package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"hallmark/station"
	"hallmark/station/spool"
)

type stationAbandonView struct {
	Unit     string `json:"unit,omitempty"`
	Order    string `json:"order"`
	Job      string `json:"job"`
	State    string `json:"state"`            // in which it was given up
	Serial   string `json:"serial,omitempty"` // of its certificate, if it has one
	Operator string `json:"operator,omitempty"`
	Note     string `json:"note"`
}

func newStationAbandonCmd(g *globals) *cobra.Command {
	var dir, order, operator, note string
	cmd := &cobra.Command{
		Use:   "abandon UNIT --dir DIRECTORY",
		Short: "Give up a unit that was begun and will not be finished, such as a scrapped board",
		Long: `A unit that a run left is taken up again by every later one. This ends it: a record
in the journal says who gave it up and why. A unit that has no serial yet goes by
the name that "hallmark station status" shows (new-...).

The service is not told. What it reserved and never signed becomes void after a day,
and the order gets its unit back. A certificate that was issued stays good until it
is revoked.`,
		Example: `  hallmark station abandon SN-0042 --dir st-1 --operator ann --note "cracked in the fixture"
  hallmark station abandon new-5f0c9a3e12d4b677 --dir st-1 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if _, err := station.Load(dir, nil); err != nil {
				return err
			}
			journal, err := spool.OpenConfig(spool.Config{Dir: filepath.Join(dir, station.SpoolDir), Log: stationLog(g, false), Now: g.Now})
			if err != nil {
				return err
			}
			defer journal.Close()
			u, err := station.Abandon(journal, order, args[0], operator, note)
			if err != nil {
				return err
			}
			v := stationAbandonView{Unit: u.Unit, Order: u.Order, Job: u.Job, State: string(u.State), Serial: u.Serial, Operator: operator, Note: note}
			return g.print(v, func(w io.Writer) {
				name := u.Unit
				if name == "" {
					name = u.Job
				}
				fmt.Fprintf(w, "Unit %s of order %s was %s and is given up.\n", name, u.Order, u.State)
				switch {
				case u.Serial != "":
					fmt.Fprintf(w, "  next         hallmark cert revoke %s --reason cessationOfOperation --note %q\n", u.Serial, note)
				case u.State == spool.Requested:
					fmt.Fprintln(w, "  The service may have a certificate for it that never came here: hallmark order units", u.Order)
				}
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", "", "the station's own directory")
	f.StringVar(&order, "order", "", "the unit's order, if it is open in more than one")
	f.StringVar(&operator, "operator", "", "who gives it up; recorded as asserted")
	f.StringVar(&note, "note", "scrapped", "why, for the record")
	requiredFlags(cmd, "dir")
	return cmd
}
