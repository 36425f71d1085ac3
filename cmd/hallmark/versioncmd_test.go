package main

import (
	"bytes"
	"encoding/json"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// TestSBOM_NamesEveryModuleOfTheProgram reads what is printed with the format's own
// library, and compares it with what the linker wrote down.
func TestSBOM_NamesEveryModuleOfTheProgram(t *testing.T) {
	run := func() []byte {
		var out bytes.Buffer
		c := newRootCmd(&globals{Out: &out, Err: &out})
		c.SetArgs([]string{"sbom"})
		if err := c.Execute(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	first := run()
	if !bytes.Equal(first, run()) {
		t.Error("two of the same program differ")
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(first), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	b, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("no build information")
	}
	if bom.SpecVersion != cdx.SpecVersion1_6 || bom.Metadata.Component.Name != "hallmark" {
		t.Errorf("%v of %+v", bom.SpecVersion, bom.Metadata.Component)
	}
	for _, m := range b.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		if !slices.ContainsFunc(*bom.Components, func(c cdx.Component) bool {
			return c.Name == m.Path && c.Version == m.Version && c.Properties != nil && (*c.Properties)[0].Value == m.Sum
		}) {
			t.Errorf("%s %s is missing", m.Path, m.Version)
		}
	}
	if n := len(*bom.Components); n != len(b.Deps)+1 || n < 20 {
		t.Errorf("%d components of %d modules", n, len(b.Deps))
	}
}

func TestVersion_SaysWhetherFIPSIsOn(t *testing.T) {
	var out bytes.Buffer
	g := &globals{Out: &out, Err: &out}
	c := newRootCmd(g)
	c.SetArgs([]string{"version", "--json"})
	if err := c.Execute(); err != nil {
		t.Fatal(err)
	}
	var v versionView
	if err := json.Unmarshal(out.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	if v.FIPS.Enabled != (len(v.FIPS.Off) > 0) || !strings.HasPrefix(v.Go, "go1.") || v.FIPS.Module == "" {
		t.Errorf("%+v", v)
	}
}
