package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/fleet/campaign"
	"hallmark/fleet/ota/manifest"
	"hallmark/hsm"
	"hallmark/internal/durable"
)

func init() { commands = append(commands, newOTACmd) }

func newOTACmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "ota", Short: "Firmware: sign, publish, roll out",
		Long: `Firmware is signed away from the service, with a key of its own: offline, or by as
many people as the configuration wants. The service stores and verifies; what was
published a second person releases, and a campaign brings it to devices. See docs/ota.md.`,
		Example: `  hallmark ota sign lamp-1.4.0.bin --class lamp --version 1.4.0 --floor 1.2 --hardware rev-a --key 'pkcs11:token=firmware;object=signer' --out lamp-1.4.0.manifest
  hallmark ota publish lamp-1.4.0.manifest lamp-1.4.0.bin
  hallmark ota rollout lamp 1.4.0 --name lamps-1-4 --group lamps --canary lab --abort FAILED:2:20`,
	}
	c.AddCommand(newOTAKeyCmd(g), newOTASignCmd(g), newOTAInspectCmd(g), newOTAPublishCmd(g), newOTAListCmd(g), newOTAShowCmd(g), newOTAWithdrawCmd(g), newOTARolloutCmd(g), newOTAStatusCmd(g))
	return c
}

func newOTAKeyCmd(g *globals) *cobra.Command {
	f := &hsmFlags{g: g}
	var out string
	c := &cobra.Command{
		Use: "key URI", Short: "Write the public half of a signer's key, for fleet.firmware.trust and for devices", Args: cobra.ExactArgs(1),
		Long:    "Make the key with hallmark hsm generate, in a token of its own. The files of several signers are put one after the other.",
		Example: "  hallmark ota key 'pkcs11:token=firmware;object=signer' --out firmware-keys.pem",
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd, func(ctx context.Context, ring *hsm.Keyring) error {
				k, err := ring.Signer(ctx, args[0])
				if err != nil {
					return err
				}
				der, err := x509.MarshalPKIXPublicKey(k.Public())
				if err != nil {
					return manifest.ErrKey.Wrap(err, "")
				}
				if err := durable.WriteFile(out, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644); err != nil {
					return err
				}
				id := sha256.Sum256(der)
				return g.print(map[string]string{"file": out, "id": hex.EncodeToString(id[:])}, func(w io.Writer) {
					facts(w, "file", out, "signer", hex.EncodeToString(id[:]))
				})
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", "file for the public key")
	c.Flags().StringVar(&f.module, "module", "", "PKCS#11 module for URIs that name none")
	c.Flags().StringVar(&f.pinSource, "pin-source", "", "PIN for URIs that name no source")
	c.Flags().DurationVar(&f.timeout, "timeout", 2*time.Minute, "give up after this time")
	c.MarkFlagRequired("out")
	return c
}

func newOTASignCmd(g *globals) *cobra.Command {
	f := &hsmFlags{g: g}
	var class, version, floor, requires, expires, key, chain, out, add string
	var hardware []string
	c := &cobra.Command{
		Use: "sign IMAGE", Short: "Sign a manifest for an image; needs no service", Args: cobra.ExactArgs(1),
		Long: `Makes the manifest of an image and signs it with a key in a token, or in a file
(file:/path). With --add it signs a manifest that somebody else has signed already,
after showing what it says; the image is checked against it.`,
		Example: `  hallmark ota sign lamp.bin --class lamp --version 1.4.0 --floor 1.2 --hardware rev-a --hardware rev-b --expires 2027-12-31 --key 'pkcs11:token=firmware;object=signer' --out lamp.manifest
  hallmark ota sign lamp.bin --add lamp.manifest --key 'pkcs11:token=second;object=signer' --out lamp.manifest`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if key == "" || out == "" {
				return errUsage{errors.New("--key and --out are needed")}
			}
			image, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer image.Close()
			var s *manifest.Signed
			if add != "" {
				raw, err := os.ReadFile(add)
				if err != nil {
					return err
				}
				if s, err = manifest.Parse(raw); err != nil {
					return err
				}
				m := s.Unverified()
				if err := m.CheckImage(image); err != nil {
					return err
				}
			} else {
				end, err := parseWhen(expires)
				if err != nil {
					return err
				}
				if end.IsZero() {
					return errUsage{errors.New("--expires says until when it may be installed, such as 2027-12-31")}
				}
				slices.Sort(hardware)
				m := &manifest.Manifest{Class: class, Version: manifest.Version(version), Floor: manifest.Version(floor), Requires: manifest.Version(requires), Hardware: slices.Compact(hardware), Expires: end.UTC().Truncate(time.Second)}
				h := sha256.New()
				if m.Size, err = io.Copy(h, image); err != nil {
					return manifest.ErrImage.Wrap(err, "")
				}
				m.Digest = [sha256.Size]byte(h.Sum(nil))
				if s, err = manifest.New(m); err != nil {
					return err
				}
			}
			certs, err := signerChain(chain)
			if err != nil {
				return err
			}
			return f.run(cmd, func(ctx context.Context, ring *hsm.Keyring) error {
				k, err := ring.Signer(ctx, key)
				if err != nil {
					return err
				}
				if err := s.Sign(k, certs); err != nil {
					return err
				}
				raw, err := s.Encode()
				if err != nil {
					return err
				}
				if err := durable.WriteFile(out, raw, 0o644); err != nil {
					return err
				}
				m := s.Unverified()
				return g.print(manifestFacts(&m), func(w io.Writer) {
					showManifest(w, &m)
					fmt.Fprintf(w, "\n%s was written. Next: hallmark ota publish %s %s, or somebody else signs it too with --add.\n", out, shellWord(out), shellWord(args[0]))
				})
			})
		},
	}
	l := c.Flags()
	l.StringVar(&class, "class", "", "product class that the image is for")
	l.StringVar(&version, "version", "", "version of the image, such as 1.4.0")
	l.StringVar(&floor, "floor", "0", "a device that has run it never goes below this version")
	l.StringVar(&requires, "requires", "", "a device has at least this version before")
	l.StringArrayVar(&hardware, "hardware", nil, "hardware that it fits (again for more)")
	l.StringVar(&expires, "expires", "", "until when it may be installed (2027-12-31 or 2027-12-31T12:00:00Z)")
	keyURIFlag(c, &key, "key", "URI of the signer's key; the token's PIN as in hallmark hsm")
	l.StringVar(&chain, "chain", "", "PEM file with the key's certificate, and those between it and the pinned root")
	l.StringVar(&add, "add", "", "signed manifest to add a signature to")
	l.StringVar(&out, "out", "", "file for the signed manifest")
	l.StringVar(&f.module, "module", "", "PKCS#11 module for URIs that name none")
	l.StringVar(&f.pinSource, "pin-source", "", "PIN for URIs that name no source")
	l.DurationVar(&f.timeout, "timeout", 2*time.Minute, "give up after this time")
	return c
}

// signerChain reads the certificates of a signer.
func signerChain(file string) (out []*x509.Certificate, err error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, manifest.ErrKey.Wrap(err, "The signer's certificates.")
		}
		out = append(out, c)
	}
	return out, nil
}

func manifestFacts(m *manifest.Manifest) map[string]any {
	return map[string]any{"class": m.Class, "version": m.Version, "floor": m.Floor, "requires": m.Requires, "hardware": m.Hardware, "size": m.Size, "sha256": m.DigestHex(), "expires_at": m.Expires}
}

func showManifest(w io.Writer, m *manifest.Manifest, more ...string) {
	facts(w, append([]string{"class", m.Class, "version", string(m.Version), "floor", string(m.Floor), "requires", dash(string(m.Requires)), "hardware", strings.Join(m.Hardware, ", "), "size", fmt.Sprint(m.Size), "sha256", m.DigestHex(), "until", moment(m.Expires)}, more...)...)
}

func newOTAInspectCmd(g *globals) *cobra.Command {
	var trust string
	var need int
	c := &cobra.Command{
		Use: "inspect MANIFEST [IMAGE]", Short: "Verify a manifest, and its image, without the service", Args: cobra.RangeArgs(1, 2),
		Example: "  hallmark ota inspect lamp.manifest lamp.bin --trust firmware-keys.pem",
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			text, err := os.ReadFile(trust)
			if err != nil {
				return err
			}
			t, err := manifest.ParseTrust(text, need)
			if err != nil {
				return err
			}
			m, signers, err := t.Verify(raw, g.Now())
			if err != nil {
				return err
			}
			if len(args) == 2 {
				f, err := os.Open(args[1])
				if err != nil {
					return err
				}
				defer f.Close()
				if err := m.CheckImage(f); err != nil {
					return err
				}
			}
			v := manifestFacts(m)
			v["signers"] = signers
			return g.print(v, func(w io.Writer) { showManifest(w, m, "signers", strings.Join(signers, ", ")) })
		},
	}
	c.Flags().StringVar(&trust, "trust", "", "PEM file with the pinned keys or roots")
	c.Flags().IntVar(&need, "signatures", 1, "how many of them must have signed")
	c.MarkFlagRequired("trust")
	return c
}

const (
	uploadPart  = 700 << 10 // octets; in base64 it is below the service's bound of a request
	uploadTries = 30
)

func newOTAPublishCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "publish MANIFEST IMAGE", Short: "Give a signed manifest and its image to the service; a second person releases it", Args: cobra.ExactArgs(2),
		Example: "  hallmark ota publish lamp-1.4.0.manifest lamp-1.4.0.bin",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			raw, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			s, err := manifest.Parse(raw)
			if err != nil {
				return err
			}
			image, err := os.Open(args[1])
			if err != nil {
				return err
			}
			defer image.Close()
			m := s.Unverified() // the service verifies it
			if err := m.CheckImage(image); err != nil {
				return err
			}
			api, err := g.admin(ctx)
			if err != nil {
				return err
			}
			if err := g.upload(ctx, api, m.DigestHex(), m.Size, image); err != nil {
				return err
			}
			a, err := api.PublishFirmwareWithResponse(ctx, adminapi.FirmwareRequest{Manifest: raw})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON201 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON201, func(w io.Writer) {
				showFirmware(w, a.JSON201)
				fmt.Fprintf(w, "\nNext: %s\n", firmwareNext(a.JSON201))
			})
		},
	}
}

// upload sends an image in parts, from where the service has it. An image takes no more
// memory than a part, here and there.
func (g *globals) upload(ctx context.Context, api *adminapi.ClientWithResponses, digest string, size int64, image io.ReaderAt) error {
	w := io.Discard
	if !g.JSON && terminal(g.Err) {
		w = g.Err
	}
	bar := progressbar.NewOptions64(size, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription("  "+digest[:12]), progressbar.OptionShowBytes(true), progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish())
	part := make([]byte, uploadPart)
	back := 0 // answers that did not go forward
	for have, first := int64(0), true; first || have < size; first = false {
		n, err := image.ReadAt(part[:min(uploadPart, size-have)], have)
		if err != nil && err != io.EOF {
			return manifest.ErrImage.Wrap(err, "")
		}
		a, err := api.UploadFirmwareWithResponse(ctx, digest, adminapi.FirmwarePart{Size: size, Offset: have, Octets: part[:n]})
		last := have+int64(n) == size
		switch {
		case err != nil && ctx.Err() == nil && last && back < uploadTries: // the service stores what is whole, which can take longer than an answer
			back++
			continue
		case err != nil:
			return errAnswer.Wrap(err, "")
		case a.JSON200 == nil:
			return problem(a.StatusCode(), a.Body)
		}
		now := a.JSON200.Have
		if now <= have {
			back++
		}
		if now < 0 || now > size || back >= uploadTries {
			return errAnswer.New("The service does not take the image: it has %d of %d octets.", now, size)
		}
		have = now
		bar.Set64(have)
	}
	return bar.Finish()
}

func showFirmware(w io.Writer, v *adminapi.Firmware) {
	facts(w, "class", v.Class, "version", v.Version, "state", v.State, "floor", v.Floor, "requires", dash(v.Requires), "hardware", strings.Join(v.Hardware, ", "), "size", fmt.Sprint(v.Size), "sha256", v.Digest,
		"manifest", v.Hash, "until", moment(v.ExpiresAt), "signers", dash(strings.Join(v.Signers, ", ")), "published", v.CreatedBy+", "+moment(v.CreatedAt), "decided", dash(v.DecidedBy), "problem", dash(v.Problem), "address", dash(v.Url))
}

func firmwareNext(v *adminapi.Firmware) string {
	switch v.State {
	case "released":
		return "hallmark ota rollout " + shellWord(v.Class) + " " + shellWord(v.Version) + " --name NAME --group GROUP"
	case "withdrawn":
		return "nothing; sign another version"
	}
	return "somebody else looks at it with hallmark approval show " + v.Request + ", and approves it with hallmark approval approve " + v.Request
}

func newOTAListCmd(g *globals) *cobra.Command {
	var class string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List firmware", Args: cobra.NoArgs,
		Example: "  hallmark ota list --class lamp",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			items, cut, err := gather(limit, func(cursor *string, n int) ([]adminapi.Firmware, string, error) {
				a, err := api.ListFirmwareWithResponse(cmd.Context(), &adminapi.ListFirmwareParams{Class: optional(class), Cursor: cursor, Limit: &n})
				if err != nil {
					return nil, "", errAnswer.Wrap(err, "")
				}
				if a.JSON200 == nil {
					return nil, "", problem(a.StatusCode(), a.Body)
				}
				return a.JSON200.Items, a.JSON200.Next, nil
			})
			if err != nil {
				return err
			}
			return g.print(items, func(w io.Writer) {
				rows := [][]string{}
				for _, v := range items {
					rows = append(rows, []string{v.Class, v.Version, v.State, v.Floor, fmt.Sprint(v.Size), moment(v.ExpiresAt), moment(v.CreatedAt)})
				}
				table(w, []string{"CLASS", "VERSION", "STATE", "FLOOR", "SIZE", "UNTIL", "SINCE"}, rows, "There is no firmware. Publish some with hallmark ota publish.")
				more(w, cut, len(items))
			})
		},
	}
	c.Flags().StringVar(&class, "class", "", "only this product class")
	c.Flags().IntVar(&limit, "limit", 200, "most versions to list; 0 for all")
	return c
}

func newOTAShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show CLASS VERSION", Short: "Show a version of firmware and what was signed", Args: cobra.ExactArgs(2),
		Example: "  hallmark ota show lamp 1.4.0",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetFirmwareWithResponse(cmd.Context(), args[0], args[1])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) { showFirmware(w, a.JSON200) })
		},
	}
}

func newOTAWithdrawCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "withdraw CLASS VERSION", Short: "Keep a version from every device that does not have it, for ever", Args: cobra.ExactArgs(2),
		Example: "  hallmark ota withdraw lamp 1.4.0",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.WithdrawFirmwareWithResponse(cmd.Context(), args[0], args[1])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				showFirmware(w, a.JSON200)
				fmt.Fprintln(w, "\nCampaigns that offer it skip who is left; cancel or roll them back with hallmark campaign.")
			})
		},
	}
}

func newOTARolloutCmd(g *globals) *cobra.Command {
	var f campaignFlags
	var name string
	var healthy, connect time.Duration
	c := &cobra.Command{
		Use: "rollout CLASS VERSION", Short: "Make the campaign that brings released firmware to devices; a second person approves it", Args: cobra.ExactArgs(2),
		Long:    "It takes the flags of hallmark campaign create. A device has succeeded when it is up, connected and well for the time of --healthy.",
		Example: "  hallmark ota rollout lamp 1.4.0 --name lamps-1-4 --group lamps --canary lab --canary-watch 24h --stage ten:10:24h --abort FAILED:2:20 --healthy 30m",
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" || f.parameters != "" {
				return errUsage{errors.New("--name names the campaign, and --parameters are made of the other flags")}
			}
			whole := func(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }
			raw, err := json.Marshal(map[string]any{"class": args[0], "version": args[1], "healthySeconds": whole(healthy), "connectSeconds": whole(connect)})
			if err != nil {
				return err
			}
			f.parameters, f.r.Kind = string(raw), string(campaign.Firmware)
			r, err := f.request(name)
			if err != nil {
				return err
			}
			return g.createCampaign(cmd, r)
		},
	}
	f.add(c)
	c.Flags().Lookup("kind").Annotations = nil // it is firmware
	c.Flags().Lookup("kind").Hidden = true
	c.Flags().StringVar(&name, "name", "", "name of the campaign")
	c.Flags().DurationVar(&healthy, "healthy", 10*time.Minute, "for how long a device has to be up, connected and well")
	c.Flags().DurationVar(&connect, "connect", 5*time.Minute, "how long the new image may take to connect before the device goes back")
	return c
}

func newOTAStatusCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "status CAMPAIGN", Short: "How a roll-out goes", Args: cobra.ExactArgs(1),
		Example: "  hallmark ota status lamps-1-4",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetCampaignWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) { showCampaign(w, a.JSON200) })
		},
	}
}
