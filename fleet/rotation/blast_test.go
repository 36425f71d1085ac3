package rotation_test

import (
	"encoding/hex"
	"testing"
	"time"

	"hallmark/ca/catest"
	"hallmark/crl"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rotation"
	"hallmark/store/storetest"
)

// TestBlast_ADeviceThatSpeaksOnlyHTTPSIsThere on both engines: one that asked at the
// device door a short while ago is counted as connected, not held, and rotated; one that
// asked long ago is held.
func TestBlast_ADeviceThatSpeaksOnlyHTTPSIsThere(t *testing.T) {
	onBothEngines(t, func(t *testing.T, url string) {
		s := newSite(t, url, rotation.Rules{})
		d, gone, away := s.device("UNIT-1"), s.device("UNIT-2"), s.device("UNIT-3")
		for _, v := range []*device{d, gone, away} {
			v.put(v.a, false) // it was on MQTT once, long ago
		}
		s.clock.Add(24 * time.Hour)
		must(t, gone.ask(gone.a))
		s.clock.Add(2 * time.Hour)
		must(t, d.ask(d.a))
		s.clock.Add(40 * time.Minute) // a device that asks every half an hour may be late

		blast := crl.NewBlast(crl.BlastConfig{Store: s.DB, Service: s.Crl, Rotator: s.turner(), Now: s.clock.Now})
		p, err := blast.Plan(t.Context(), storetest.Officer("ann"), crl.BlastRequest{Query: crl.BlastQuery{Authority: catest.Device}, Reason: crl.CessationOfOperation, Rotate: &crl.BlastRotation{Timeout: 7200, Soak: 1}}, false)
		must(t, err)
		if p.Counts.Live != 1 {
			t.Errorf("%d devices are counted as connected: %+v", p.Counts.Live, p.Counts)
		}
		run := func(stage crl.BlastStage, each func(step int)) {
			t.Helper()
			_, err := blast.Start(t.Context(), storetest.Officer("ann"), p.ID, stage)
			must(t, err)
			for step := range 200 {
				now, err := blast.Get(t.Context(), scope, p.ID)
				must(t, err)
				if now.State != crl.BlastRunning {
					return
				}
				_, err = blast.Step(t.Context(), scope.Tenant, p.ID)
				must(t, err)
				s.pass(time.Second)
				each(step)
			}
			t.Fatalf("the stage %s does not end", stage)
		}
		held := func(v *device) bool { r, is := s.reason(v.a); return is && r == crl.CertificateHold }
		run(crl.StageHold, func(int) {})
		if held(d) || !s.works(d.a) || !held(gone) || !held(away) {
			t.Fatalf("on hold: %v %v %v", held(d), held(gone), held(away))
		}
		hash := p.Hash(crl.StageRotate)
		_, err = blast.Approve(t.Context(), storetest.Officer("bob"), p.ID, crl.StageRotate, hex.EncodeToString(hash[:]))
		must(t, err)
		id := "plan-" + p.ID
		run(crl.StageRotate, func(step int) {
			if step != 3 {
				return
			}
			s.is(id, d, campaign.Offered, "")
			must(t, d.ask(d.a))
			d.report("campaign-"+id, jobs.InProgress, nil)
			b, err := d.renew(d.a, catest.NewKey(t))
			must(t, err)
			d.b = b
			d.report("campaign-"+id, jobs.Succeeded, map[string]string{"certificateId": idOf(b)})
			must(t, d.ask(b))
			s.pass(10 * time.Minute)
			must(t, d.ask(b))
		})
		s.is(id, d, campaign.Done, "")
		if r, revoked := s.reason(d.a); !revoked || r != crl.Superseded || !s.works(d.b) {
			t.Errorf("A: %v %v; B works: %v", r, revoked, s.works(d.b))
		}
	})
}
