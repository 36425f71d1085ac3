package provisioner

import (
	"errors"
	"testing"

	"hallmark/ca/profile"
)

func manifest() Body {
	return Body{ID: "o", Tenant: "main", Product: "p", Quantity: 2, KeyOrigin: profile.OriginManifest, CreatedBy: "ann",
		Serials: SerialRule{List: []string{"A", "B"}, HardwareType: "1.3.6.1.4.1.99999.1", Hardware: []string{"0102", "0a"}}}
}

func TestSerialRule_ManifestGivesEachUnitItsHardware(t *testing.T) {
	b := manifest()
	if err := b.Check(); err != nil {
		t.Fatal(err)
	}
	canonical, err := b.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseBody(canonical)
	if err != nil {
		t.Fatal(err)
	}
	m := newMatcher(again.Serials)
	if string(m.hardware["A"]) != "\x01\x02" || string(m.hardware["B"]) != "\x0a" || m.hardwareType.String() != b.Serials.HardwareType {
		t.Errorf("got %x of type %s", m.hardware, m.hardwareType)
	}
}

func TestSerialRule_RefusesABrokenManifest(t *testing.T) {
	for name, change := range map[string]func(*SerialRule){
		"one too few":   func(r *SerialRule) { r.Hardware = r.Hardware[:1] },
		"not hex":       func(r *SerialRule) { r.Hardware[1] = "xy" },
		"empty":         func(r *SerialRule) { r.Hardware[1] = "" },
		"twice":         func(r *SerialRule) { r.Hardware[1] = "0102" },
		"no type":       func(r *SerialRule) { r.HardwareType = "" },
		"type no OID":   func(r *SerialRule) { r.HardwareType = "1" },
		"without units": func(r *SerialRule) { r.List, r.Pattern = nil, ".*" },
	} {
		t.Run(name, func(t *testing.T) {
			b := manifest()
			change(&b.Serials)
			if err := b.Check(); !errors.Is(err, ErrOrderInvalid) {
				t.Errorf("got %v", err)
			}
		})
	}
}
