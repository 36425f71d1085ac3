package main

import (
	"os"
	"strings"
	"testing"
)

// TestRescan_ARevokedUnitIsRefusedByTheService holds a unit that was made and
// committed against its service: once its certificate is revoked, its board does
// not pass at the station any more (S9), while its neighbour still does.
func TestRescan_ARevokedUnitIsRefusedByTheService(t *testing.T) {
	s := newSite(t, quickHSM(), "", anyName(2))
	if err := os.WriteFile(s.path("serials"), []byte("F-0001\nF-0002\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	scan := func() (string, int) {
		out, _, exit := s.cli("station", "run", "--dir", s.path("station"), "--order", siteOrder, "--adapter", "simulate:"+s.path("devices"), "--serials", s.path("serials"))
		return out, exit
	}
	for range 2 { // made, and then looked at again
		if out, exit := scan(); exit != exitOK || !strings.Contains(out, `"committed":2`) {
			t.Fatalf("%d %s", exit, out)
		}
	}
	serial := readCert(t, s.path("devices", "F-0001", "idevid.pem")).SerialNumber.Text(16)
	if out, errOut, exit := s.cli("cert", "revoke", serial, "--reason", "keyCompromise", "--note", "found on a forum"); exit != exitOK {
		t.Fatalf("%s%s", out, errOut)
	}
	out, exit := scan()
	for _, want := range []string{`"code":"identity-revoked"`, `"committed":1,"again":1,"failed":1`, `"andon":"red"`} {
		if exit == exitOK || !strings.Contains(out, want) {
			t.Errorf("%s is missing, exit %d\n%s", want, exit, out)
		}
	}
	if o := s.order(siteOrder); o.Used != 2 || o.Installed > 2 {
		t.Errorf("the order used %d", o.Used)
	}
	s.clean()
}
