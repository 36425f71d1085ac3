package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/tlog"
	"hallmark/hsm"
	"hallmark/internal/fault"
	"hallmark/station"
	"hallmark/station/spool"
	"hallmark/station/uplink"
)

// receipts gives a station the receipts of what it asked for; whatever is
// somebody else's, unknown or without a checkpoint is left out.
func (s *Server) receipts(ctx context.Context, st access.Actor, serials []ca.Serial) (string, map[ca.Serial][]byte, error) {
	out := map[ca.Serial][]byte{}
	for _, serial := range serials {
		r, err := s.db.RecordBySerial(ctx, st.Tenant, "", serial)
		if fault.KindOf(err) == fault.NotFound {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		if r.Requester != "station:"+st.Name || r.DER == nil {
			continue
		}
		row, err := s.db.LogLeaf(ctx, st.Scope(), r.Leaf)
		if err != nil {
			return "", nil, err
		}
		if row == nil {
			return "", nil, tlog.ErrCorrupt.New("Leaf %d is missing.", r.Leaf)
		}
		receipt, err := s.logs.receipt(ctx, row.Leaf)
		if errors.Is(err, tlog.ErrPending) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		if out[serial], err = json.Marshal(receipt); err != nil {
			return "", nil, err
		}
	}
	return s.tlog.VerifierKey(), out, nil
}

const (
	// collectEvery is how often a working station fetches receipts.
	collectEvery = 30 * time.Second
	// collectLast bounds the round at the end of a run: the next run goes on.
	collectLast = 2 * time.Second
)

// collectReceipts runs beside a station and once more at its end.
func collectReceipts(ctx context.Context, g *globals, client *uplink.Client, journal *spool.Spool, dir string, verbose bool) (last func(), err error) {
	keep, err := spool.OpenReceipts(filepath.Join(dir, station.SpoolDir))
	if err != nil {
		return nil, err
	}
	log := stationLog(g, verbose)
	round := func(ctx context.Context) {
		if kept, waiting, err := station.CollectReceipts(ctx, client, journal, keep, log); err != nil {
			log.InfoContext(ctx, "receipts not fetched; the next round will", "error", err)
		} else if kept > 0 {
			log.DebugContext(ctx, "receipts kept", "kept", kept, "waiting", waiting)
		}
	}
	running, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for every(running, collectEvery) {
			round(running)
		}
	}()
	return func() {
		cancel()
		<-done
		ctx, stop := context.WithTimeout(ctx, collectLast)
		defer stop()
		round(ctx)
		keep.Close()
	}, nil
}

func newStationReceiptsCmd(g *globals) *cobra.Command {
	var dir, module string
	var wait time.Duration
	c := &cobra.Command{
		Use: "receipts", Short: "Fetch the transparency log's receipts of what the station made", Args: cobra.NoArgs,
		Long: `A receipt proves to anybody who knows the log's key that a certificate is in the
log. A running station fetches them by itself; this fetches what is missing, for
example after the last units of an order, and verifies each.`,
		Example: "  hallmark station receipts --dir station-a --wait 30s",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ring := hsm.Open(hsm.Config{Module: module, Log: stationLog(g, false)})
			defer ring.Close()
			i, err := station.Load(dir, ring)
			if err != nil {
				return err
			}
			journal, err := spool.OpenConfig(spool.Config{Dir: filepath.Join(dir, station.SpoolDir), Log: stationLog(g, false), Now: g.Now})
			if err != nil {
				return err
			}
			defer journal.Close()
			keep, err := spool.OpenReceipts(filepath.Join(dir, station.SpoolDir))
			if err != nil {
				return err
			}
			defer keep.Close()
			client, err := i.Client(cmd.Context(), uplink.Config{Log: stationLog(g, false), Now: g.Now})
			if err != nil {
				return err
			}
			defer client.Close()
			deadline := time.Now().Add(wait)
			kept, waiting := 0, 0
			for {
				var n int
				if n, waiting, err = station.CollectReceipts(cmd.Context(), client, journal, keep, stationLog(g, false)); err != nil {
					return err
				}
				if kept += n; waiting == 0 || time.Now().After(deadline) {
					break
				}
				if !every(cmd.Context(), time.Second) {
					return cmd.Context().Err()
				}
			}
			return g.print(map[string]any{"kept": kept, "waiting": waiting, "receipts": keep.Count(), "log_key": keep.LogKey()}, func(w io.Writer) {
				fmt.Fprintf(w, "%d receipts are kept, %d of them new; %d units wait for the log's next checkpoint.\n", keep.Count(), kept, waiting)
			})
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "the station's own directory")
	moduleFlag(c, &module)
	c.Flags().DurationVar(&wait, "wait", 0, "how long to wait for units that have no checkpoint yet")
	requiredFlags(c, "dir")
	return c
}
