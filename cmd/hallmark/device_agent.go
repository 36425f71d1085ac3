package main

import (
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"hallmark/device"
	"hallmark/internal/fault"
)

func init() { commands = append(commands, newDeviceAgentCmd) }

var errAgentRoots = fault.Define(fault.Invalid, "cli-agent-roots", "The device has no root to check the service with.", "Put root.pem into the device's directory, or give --ca-file.")

func newDeviceAgentCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "device-agent", Short: "The reference device: what a product does with its certificates",
		Long: `The reference device shows what a product's own software has to do: register once
with its birth certificate, keep the operational one, renew it. Its directory has
idevid.pem and idevid.key from the factory; the agent adds ldevid.pem, ldevid.key,
registration.json and trust.pem. Stopped at any point, it goes on where it was.`,
		Example: "  hallmark device-agent firstboot devices/SN-0001 --url https://localhost:9443 --ca-file root.pem",
	}
	c.AddCommand(newDeviceFirstBootCmd(g), newDeviceResetCmd(g))
	return c
}

func newDeviceFirstBootCmd(g *globals) *cobra.Command {
	var cfg device.Config
	var parameters []string
	c := &cobra.Command{
		Use: "firstboot DIRECTORY", Short: "Register the device, or find that it is registered", Args: cobra.ExactArgs(1),
		Example: `  hallmark device-agent firstboot devices/SN-0001 --url https://localhost:9443 --ca-file root.pem
  hallmark device-agent firstboot devices/SN-0001 --url https://localhost:9443 --parameter Site=hall-3
  hallmark device-agent firstboot devices/SN-0001 --url https://localhost:9443 --renew`,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg.Dir, cfg.Now = args[0], g.Now
			for _, p := range parameters {
				name, value, ok := strings.Cut(p, "=")
				if !ok || name == "" {
					return errUsage{fmt.Errorf("--parameter %q is not NAME=VALUE", p)}
				}
				if cfg.Parameters == nil {
					cfg.Parameters = map[string]string{}
				}
				cfg.Parameters[name] = value
			}
			var err error
			if cfg.Roots, err = agentRoots(g.CAFile, cfg.Dir); err != nil {
				return err
			}
			out, err := device.FirstBoot(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return g.print(out, func(w io.Writer) {
				said := "registered"
				if out.Resumed {
					said = "registered before, and let in"
				}
				fmt.Fprintf(w, "The device is %s as %s.\n", said, out.Thing)
				fmt.Fprintf(w, "  certificate  %s (slot %s, until %s)\n  status       %s\n", out.Serial, out.Slot, out.NotAfter.Format("2006-01-02"), out.Status)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Server, "url", "", "URL of the service's device listener, https://HOST:9443")
	f.StringArrayVar(&parameters, "parameter", nil, "NAME=VALUE for the registration template; may be repeated")
	f.BoolVar(&cfg.Renew, "renew", false, "make a new key and certificate although there is one that works")
	f.DurationVar(&cfg.Timeout, "timeout", 0, "of one exchange with the service; 0 is 30s")
	c.MarkFlagRequired("url")
	return c
}

func newDeviceResetCmd(g *globals) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "reset DIRECTORY", Short: "Forget everything but what the factory made", Args: cobra.ExactArgs(1),
		Long: `The device's side of a factory reset, or of a sale: operational keys and certificates,
settings and jobs under way are removed. The birth certificate, the firmware and the
roots that the device trusts stay. Its next start is a first boot. On the service's side:
hallmark owner reset, or hallmark owner release.`,
		Example: "  hallmark device-agent reset devices/SN-0001 --yes",
		RunE: func(_ *cobra.Command, args []string) error {
			if !yes {
				return errUsage{fmt.Errorf("give --yes: the device's operational keys are gone afterwards")}
			}
			if err := device.Reset(args[0]); err != nil {
				return err
			}
			return g.print(map[string]any{"reset": true}, func(w io.Writer) {
				fmt.Fprintln(w, "The device is as the factory made it. Next: hallmark device-agent firstboot.")
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do it")
	return c
}

// agentRoots reads the roots of the device: the named file, else what is in its
// directory.
func agentRoots(file, dir string) (*x509.CertPool, error) {
	files := []string{filepath.Join(dir, "trust.pem"), filepath.Join(dir, "root.pem")}
	if file != "" {
		files = []string{file}
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(b) {
			return nil, errAgentRoots.New("%s holds no certificate in PEM.", name)
		}
		return pool, nil
	}
	return nil, errAgentRoots.New("Looked for %s.", strings.Join(files, " and "))
}
