package ceremony_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/ca/ceremony"
	"hallmark/hsm/hsmtest"
)

// The record shows the fingerprints in words, digits and QR codes; a reader of
// QR codes that is not ours reads them off the page as Chromium draws it.
func TestRecord_ShowsFingerprintsThatAScannerReads(t *testing.T) {
	s := newStage(t)
	s.script = bytes.Replace(s.script, []byte("title: Test of a ceremony"), []byte("title: \"<script>alert(1)</script>\""), 1)
	res := s.must()
	v, err := ceremony.VerifyRun(res.Data, ceremony.RunTrust{})
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	if err := ceremony.WriteRecord(&page, v, res.Data); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"acme-root.cer", "devices-1.cer", "acme-root-1.crl"} {
		der := s.read(n)
		if !strings.Contains(page.String(), hash(der)) || !strings.Contains(page.String(), ceremony.WordsOf(der)) {
			t.Errorf("nothing of %s", n)
		}
	}
	if strings.Contains(page.String(), "<script") || strings.Count(page.String(), `<svg class="qr"`) != 4 {
		t.Error("the title is code, or QR codes are missing")
	}
	if os.Getenv("HALLMARK_PROOF") != "1" {
		return
	}
	dir := t.TempDir()
	file, shot := filepath.Join(dir, "record.html"), filepath.Join(dir, "record.png")
	if err := os.WriteFile(file, page.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"chromium", "zbarimg"} {
		if _, err := exec.LookPath(p); err != nil {
			hsmtest.Missing(t, p+" is not installed; apt-get install -y chromium zbar-tools")
		}
	}
	if out, err := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--screenshot="+shot, "--window-size=900,2400", "file://"+file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command("zbarimg", "-q", shot).Output()
	if err != nil || !strings.Contains(string(out), "SHA256:"+strings.ToUpper(hash(s.read("acme-root.cer")))) {
		t.Errorf("%v: %s", err, out)
	}
}
