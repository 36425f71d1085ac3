package main

import (
	"crypto/fips140"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/spf13/cobra"

	"hallmark/internal/fault"
)

func init() { commands = append(commands, newVersionCmd, newSBOMCmd) }

var errBuildInfo = fault.Define(fault.Unavailable, "cli-no-build-info", "This program does not say what it was built from.", "Build it with modules: make build.")

// fipsOff is what the FIPS build does not do, and other builds do.
var fipsOff = []string{
	"TLS: ChaCha20-Poly1305, and X25519 without ML-KEM",
	"key files that scrypt or PBKDF2 with SHA-1 protects",
}

// fipsOutside is what the validated module says nothing about.
var fipsOutside = []string{
	"signatures of PKCS #11 and PIV tokens: their own validation counts",
	"SHA-1 in OCSP as a name of the issuer, which protects nothing (RFC 6960, Section 4.3)",
	"the checks of the lint library, which decide and do not protect",
}

// versionView is what `hallmark version --json` prints.
type versionView struct {
	Version  string   `json:"version"`
	Commit   string   `json:"commit,omitempty"`
	Modified bool     `json:"modified,omitempty"`
	Go       string   `json:"go"`
	Platform string   `json:"platform"`
	FIPS     fipsView `json:"fips140"`
}

type fipsView struct {
	Enabled bool     `json:"enabled"`
	Module  string   `json:"module"`
	Off     []string `json:"off,omitempty"`
	Outside []string `json:"outside,omitempty"`
}

func newVersionCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Say what this program is, and what its FIPS mode switches off", Args: cobra.NoArgs,
		Example: "  hallmark version\n  hallmark version --json",
		RunE: func(*cobra.Command, []string) error {
			v := versionView{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, FIPS: fipsView{Enabled: fips140.Enabled(), Module: fips140.Version()}}
			if b, ok := debug.ReadBuildInfo(); ok {
				for _, s := range b.Settings {
					switch s.Key {
					case "vcs.revision":
						v.Commit = s.Value
					case "vcs.modified":
						v.Modified = s.Value == "true"
					}
				}
			}
			if v.FIPS.Enabled {
				v.FIPS.Off, v.FIPS.Outside = fipsOff, fipsOutside
			}
			return g.print(v, func(w io.Writer) {
				commit := v.Commit
				if v.Modified {
					commit += ", changed after it"
				}
				facts(w, "version", v.Version, "commit", commit, "go", v.Go, "platform", v.Platform)
				if !v.FIPS.Enabled {
					facts(w, "FIPS 140-3", "off; `make fips` builds a program with it")
					return
				}
				facts(w, "FIPS 140-3", "on, Go Cryptographic Module "+v.FIPS.Module)
				for _, s := range v.FIPS.Off {
					fmt.Fprintf(w, "  off: %s\n", s)
				}
				for _, s := range v.FIPS.Outside {
					fmt.Fprintf(w, "  outside of it: %s\n", s)
				}
			})
		},
	}
}

func newSBOMCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "sbom", Short: "Print what this program is made of, as CycloneDX", Args: cobra.NoArgs,
		Long: `Print a software bill of materials of this very program as CycloneDX 1.6 in JSON: the
modules that are linked into it, with their versions and the hashes under which Go
knows them. It holds no time and no random number, so the same program prints the same.`,
		Example: "  hallmark sbom > hallmark.cdx.json",
		RunE: func(*cobra.Command, []string) error {
			b, ok := debug.ReadBuildInfo()
			if !ok {
				return errBuildInfo.New("")
			}
			e := cdx.NewBOMEncoder(g.Out, cdx.BOMFileFormatJSON)
			e.SetPretty(true)
			return e.EncodeVersion(billOfMaterials(b), cdx.SpecVersion1_6)
		},
	}
}

// billOfMaterials is made of what the linker wrote down.
func billOfMaterials(b *debug.BuildInfo) *cdx.BOM {
	main := cdx.Component{BOMRef: "pkg:golang/" + b.Main.Path + "@" + version, Type: cdx.ComponentTypeApplication, Name: b.Main.Path, Version: version, PackageURL: "pkg:golang/" + b.Main.Path + "@" + version}
	properties := []cdx.Property{{Name: "go:version", Value: b.GoVersion}}
	for _, s := range b.Settings {
		properties = append(properties, cdx.Property{Name: "go:build:" + s.Key, Value: s.Value})
	}
	main.Properties = &properties
	std := cdx.Component{BOMRef: "pkg:golang/std@" + b.GoVersion, Type: cdx.ComponentTypeLibrary, Name: "std", Version: b.GoVersion, PackageURL: "pkg:golang/std@" + b.GoVersion}
	components, refs := []cdx.Component{std}, []string{std.BOMRef}
	for _, m := range b.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		url := "pkg:golang/" + m.Path + "@" + m.Version
		c := cdx.Component{BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: url}
		if m.Sum != "" { // a hash over the module's files, not of one file
			c.Properties = &[]cdx.Property{{Name: "go:sum", Value: m.Sum}}
		}
		components, refs = append(components, c), append(refs, url)
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &main}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}}
	return bom
}
