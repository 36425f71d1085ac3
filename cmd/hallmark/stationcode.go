package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
)

func init() { commands = append(commands, newStationCodeCmd, newStationsCmd) }

func newStationCodeCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "station-code", Short: "One-time codes with which stations enrol",
		Example: "  hallmark station-code create --station st-1 --site shenzhen-2",
	}
	c.AddCommand(newStationCodeCreateCmd(g))
	return c
}

func newStationCodeCreateCmd(g *globals) *cobra.Command {
	var r adminapi.StationCodeRequest
	c := &cobra.Command{
		Use: "create", Short: "Make a code for one station; good for an hour, shown once", Args: cobra.NoArgs,
		Long: `Make a code for one station. For a new computer under the name of a dead one, revoke
the station first, unless all its certificates have expired; its old key is never
taken again.`,
		Example: "  hallmark station-code create --station st-1 --site shenzhen-2",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.CreateStationCodeWithResponse(cmd.Context(), r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON201 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON201, func(w io.Writer) {
				c := a.JSON201
				facts(w, "station", c.Station, "site", c.Site, "until", moment(c.ExpiresAt), "code", c.Code)
				fmt.Fprintln(w, "\nGive the code to the station's installer over a way you trust. It also carries the\nhash of the root, so the station cannot be led to another service.")
			})
		},
	}
	c.Flags().StringVar(&r.Station, "station", "", "id of the station")
	c.Flags().StringVar(&r.Site, "site", "", "where it stands")
	c.MarkFlagRequired("station")
	c.MarkFlagRequired("site")
	return c
}

func newStationsCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "stations", Short: "Enrolled stations, as the service knows them",
		Example: `  hallmark stations list
  hallmark stations revoke st-1 --note "PC stolen"`,
	}
	c.AddCommand(newStationsListCmd(g), newStationsRevokeCmd(g))
	return c
}

func newStationsListCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List stations", Args: cobra.NoArgs,
		Example: "  hallmark stations list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.ListStationsWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200.Items, func(w io.Writer) {
				rows := [][]string{}
				for _, s := range a.JSON200.Items {
					rows = append(rows, []string{s.Id, s.Site, s.State, moment(s.EnrolledAt), s.Fingerprint})
				}
				table(w, []string{"STATION", "SITE", "STATE", "ENROLLED", "KEY"}, rows, "No station is enrolled. Make a code with hallmark station-code create.")
			})
		},
	}
}

func newStationsRevokeCmd(g *globals) *cobra.Command {
	var r adminapi.StationRevokeRequest
	c := &cobra.Command{
		Use: "revoke STATION", Short: "Revoke a station and its certificates; it stops at once", Args: cobra.ExactArgs(1),
		Example: `  hallmark stations revoke st-1 --note "PC stolen"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.RevokeStationWithResponse(cmd.Context(), args[0], r)
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				fmt.Fprintf(w, "Station %s is %s.\n", a.JSON200.Id, a.JSON200.State)
			})
		},
	}
	c.Flags().StringVar(&r.Note, "note", "", "why, for the record")
	c.MarkFlagRequired("note")
	return c
}
