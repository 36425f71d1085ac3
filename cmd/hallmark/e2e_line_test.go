package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hallmark/api/adminapi"
	"hallmark/station/spool"
)

// line is a site whose service and station are processes that get killed.
type line struct {
	*site
	service_ *process
	station  *process
	units    int
}

func newLine(t *testing.T, units int) *line {
	t.Helper()
	l := &line{site: newSite(t, "softhsm", "", lamps(units)), units: units}
	l.halt()
	l.serveAgain()
	return l
}

func (l *line) serveAgain() { l.service_ = l.service("hallmark.yaml", "state") }

// stationStatus reads the station's journal as the command shows it.
func (l *line) stationStatus() (committed, open, failed int) {
	l.t.Helper()
	out, errOut, exit := l.cli("station", "status", "--dir", l.path("station"))
	var v stationIdentityView
	if err := json.Unmarshal([]byte(out), &v); err != nil || exit != exitOK || v.Journal == nil {
		l.t.Fatalf("station status: %d %v %s%s", exit, err, out, errOut)
	}
	return v.Journal.Count[spool.Committed], len(v.Open), v.Journal.Count[spool.Failed]
}

// run starts the station for what is left of the order: it finishes what it had
// begun by itself.
func (l *line) runStation() {
	l.t.Helper()
	committed, open, _ := l.stationStatus()
	args := []string{"station", "run", "--dir", l.path("station"), "--order", siteOrder, "--adapter", "simulate:" + l.path("devices") + "?slow=20ms",
		"--nests", "4", "--operator", "wei", "--patience", "60s", "--stop-after", "0", "--json"}
	if n := l.units - committed - open; n > 0 {
		args = append(args, "--count", fmt.Sprint(n))
	}
	l.station = l.spawn(args...)
}

// reach waits until so many units are committed, or the station ended.
func (l *line) reach(units int) {
	l.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		if n, _, _ := l.stationStatus(); n >= units {
			return
		}
		select {
		case err := <-l.station.done:
			l.t.Fatalf("the station ended: %v\n%s", err, l.station.said.Bytes())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("the line stands still before unit %d", units)
		}
	}
}

// settle lets the station come to its end, starting it again until nothing is open.
func (l *line) settle() {
	l.t.Helper()
	for range 5 {
		if err := <-l.station.done; err == nil {
			return
		}
		l.t.Logf("the station ended with %s", lastLine(l.station.said.Bytes()))
		l.runStation()
	}
	l.t.Fatalf("the station does not finish: %s", l.station.said.Bytes())
}

func lastLine(b []byte) string {
	if len(b) > 600 {
		b = b[len(b)-600:]
	}
	return string(b)
}

// complete holds the end to what was ordered: every unit, once.
func (l *line) complete() {
	l.t.Helper()
	l.settle()
	committed, open, failed := l.stationStatus()
	if committed != l.units || open != 0 || failed != 0 {
		l.t.Errorf("the journal has %d units committed, %d open, %d failed; ordered were %d", committed, open, failed, l.units)
	}
	o := l.order(siteOrder)
	if o.Used != int64(l.units) || o.Installed != int64(l.units) {
		l.t.Errorf("the order used %d and installed %d of %d", o.Used, o.Installed, l.units)
	}
	seen := map[string]bool{}
	for i := 1; i <= l.units; i++ {
		name := fmt.Sprintf("LMP-%06d", i)
		c := readCert(l.t, l.path("devices", name, "idevid.pem"))
		if c.Subject.CommonName != name || seen[c.SerialNumber.Text(16)] {
			l.t.Errorf("%s holds the certificate %s of %s", name, c.SerialNumber.Text(16), c.Subject.CommonName)
		}
		seen[c.SerialNumber.Text(16)] = true
	}
	if dirs, _ := filepath.Glob(l.path("devices", "*")); len(dirs) != l.units {
		l.t.Errorf("%d devices were touched for %d units", len(dirs), l.units)
	}
	live, all := 0, 0
	var cursor *string
	for {
		profile, limit := "idevid", 200
		a, err := l.api("bob").SearchCertificatesWithResponse(l.t.Context(), &adminapi.SearchCertificatesParams{Profile: &profile, Cursor: cursor, Limit: &limit})
		if err != nil {
			l.t.Fatal(err)
		}
		page, err := answered(a.StatusCode(), a.Body, a.JSON200)
		if err != nil {
			l.t.Fatal(err)
		}
		for _, c := range page.Items {
			all++
			if c.Status == "good" {
				live++
				if !seen[c.Serial] {
					l.t.Errorf("no device holds the live certificate %s of %s", c.Serial, c.Holder)
				}
			}
		}
		if page.Next == "" {
			break
		}
		cursor = &page.Next
	}
	if live != l.units || all != l.units {
		l.t.Errorf("%d certificates, %d of them live, for %d units: a kill made one more", all, live, l.units)
	}
	l.clean()
	if err := l.service_.stop(); err != nil {
		l.t.Errorf("the service: %v\n%s", err, l.service_.said.Bytes())
	}
	l.clean()
}

// TestLine_SurvivesKills covers A2 and the story of the line: the station is
// killed, the service is killed, the token goes away, all in the middle of an
// order of 100 units, and in the end there are 100 units with 100 certificates.
func TestLine_SurvivesKills(t *testing.T) {
	l := newLine(t, 100)
	l.runStation()

	l.reach(10)
	l.station.kill()
	l.runStation()

	l.reach(35)
	l.service_.kill()
	l.serveAgain()

	l.reach(60)
	tokens, away := l.path("keys", "softhsm", "tokens"), l.path("keys", "softhsm", "away")
	if err := os.Rename(tokens, away); err != nil {
		t.Fatal(err)
	}
	// Without the key the line stops: nothing is committed for a while.
	deadline, before := time.Now().Add(30*time.Second), -1
	for {
		n, _, _ := l.stationStatus()
		if n == before {
			break
		}
		if before = n; time.Now().After(deadline) {
			t.Fatal("the line does not stop without the token")
		}
		time.Sleep(1500 * time.Millisecond)
	}
	if before >= l.units {
		t.Error("the order was finished before the token was away")
	}
	t.Logf("the line stood at unit %d without its token", before)
	if err := os.Rename(away, tokens); err != nil {
		t.Fatal(err)
	}
	l.complete()
}

// TestLine_KillLoop kills service or station at random moments of an order, five
// times, or a hundred times during 500 units with HALLMARK_PROOF=1 (A2).
func TestLine_KillLoop(t *testing.T) {
	kills, units := 5, 60
	if long() {
		kills, units = 100, 500
	}
	l := newLine(t, units)
	l.runStation()
	for i := range kills {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(500*time.Millisecond)))
		if err != nil {
			t.Fatal(err)
		}
		l.reach(min(units-1, (i+1)*units/(kills+1))) // so that the kills are spread over the order
		time.Sleep(time.Duration(n.Int64()) / 4)
		if n.Bit(0) == 0 {
			l.service_.kill()
			l.serveAgain()
		} else {
			l.station.kill()
			l.runStation()
		}
	}
	l.complete()
}
