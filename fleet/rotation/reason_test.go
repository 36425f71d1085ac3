package rotation_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"hallmark/fleet/campaign"
	"hallmark/fleet/rotation"
)

// TestReasons_EachOpensARotationAndIsKeptForTheDevice; what uses an algorithm, a key size
// or an authority is found along the index of things, and a campaign takes the same query.
func TestReasons_EachOpensARotationAndIsKeptForTheDevice(t *testing.T) {
	s := newSite(t, "", rotation.Rules{})
	d := s.device("UNIT-1")
	find := func(query string, want int64) {
		t.Helper()
		if n, err := s.Registry.Count(t.Context(), scope, query); err != nil || n != want {
			t.Errorf("%s finds %d, %v", query, n, err)
		}
	}
	const query = "certificate.algorithm:P-256 AND certificate.keySize<384 AND certificate.authority:device-1"
	find(query, 1)
	find("certificate.algorithm:RSA-* OR certificate.keySize>=384", 0)
	find("certificate.authority:device-2", 0)
	for i, reason := range []campaign.Reason{campaign.Expiry, campaign.Rollover, campaign.Compromise, campaign.Algorithm, campaign.Ownership} {
		id := fmt.Sprint("c", i)
		spec := campaign.Spec{Reason: reason, Query: query, Soak: time.Hour, Timeout: 6 * time.Hour}
		if reason == campaign.Algorithm {
			spec.Parameters = json.RawMessage(`{"algorithm":"P-384"}`)
		}
		s.create(id, spec)
		s.pass(time.Second)
		d.rotate("campaign-" + id)
		s.pass(time.Second)
		s.pass(2 * time.Hour)
		s.is(id, d, campaign.Done, "")
		list, err := s.rotation.History(t.Context(), scope, d.thing, 100)
		must(t, err)
		if e := list[len(list)-1]; e.What != rotation.Retired || e.Reason != reason || e.Campaign != id || e.Certificate != idOf(d.a) {
			t.Errorf("%s: %+v", reason, e)
		}
		d.a, d.b = d.b, nil
		find(query, 1) // by the new certificate; what was revoked has no key any more
	}
}
