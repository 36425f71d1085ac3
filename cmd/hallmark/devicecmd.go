package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func init() { commands = append(commands, newDeviceAdminCmd) }

// newDeviceAdminCmd is about devices as the service knows them. The reference
// device itself adds its commands under the same word.
func newDeviceAdminCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "device", Short: "Devices: show the story of one, take it out of the field; be one, be thousands",
		Example: `  hallmark device show LMP-000123
  hallmark device revoke LMP-000123 --reason keyCompromise --note "sold on the grey market"
  hallmark device run D/devices/LMP-000123 --dir D`,
	}
	c.AddCommand(newDeviceShowCmd(g), newDeviceRevokeCmd(g), newDeviceRunCmd(g), newDeviceSimulateCmd(g))
	return c
}

func newDeviceShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a device or unit: certificates, making, thing", Args: cobra.ExactArgs(1),
		Example: "  hallmark device show LMP-000123",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetDeviceWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) { showDevice(w, a.JSON200) })
		},
	}
}

func showDevice(w io.Writer, d *adminapi.Device) {
	blocked := "no"
	if d.Blocked {
		blocked = "since " + moment(d.BlockedAt) + " by " + d.BlockedBy
	}
	facts(w, "device", d.Holder, "blocked", blocked, "note", d.Note)
	for _, id := range d.Identities {
		fmt.Fprintln(w)
		proven := ""
		if !id.InstalledAt.IsZero() {
			proven = yesNo(id.Proven)
		}
		facts(w, "identity", id.Profile+" "+id.Slot, "state", id.State, "order", id.Account, "station", id.Station, "serial", id.Serial, "installed", moment(id.InstalledAt), "proven", proven)
	}
	fmt.Fprintln(w)
	certTable(w, d.Certificates, "It has no certificate.")
	fmt.Fprintln(w)
	if d.Thing.Name == "" {
		fmt.Fprintln(w, "It has not booted yet: no thing is registered from it.")
		return
	}
	showThing(w, &d.Thing)
}

func newDeviceRevokeCmd(g *globals) *cobra.Command {
	var r adminapi.DeviceRevokeRequest
	c := &cobra.Command{
		Use: "revoke NAME", Short: "Block a device: all its certificates are revoked, it gets no other", Args: cobra.ExactArgs(1),
		Example: `  hallmark device revoke LMP-000123 --reason privilegeWithdrawn --note "stolen"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.RevokeDeviceWithResponse(cmd.Context(), args[0], r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				fmt.Fprintf(w, "%s is blocked; %d certificates were revoked now.\n", visible(a.JSON200.Device), len(a.JSON200.Revoked))
				for _, v := range a.JSON200.Revoked {
					fmt.Fprintf(w, "  %s (%s)\n", v.Serial, v.Authority)
				}
			})
		},
	}
	c.Flags().StringVar(&r.Reason, "reason", "", "keyCompromise, cessationOfOperation, privilegeWithdrawn, affiliationChanged, superseded or unspecified")
	c.Flags().StringVar(&r.Note, "note", "", "why, for the record")
	c.MarkFlagRequired("reason")
	return c
}
