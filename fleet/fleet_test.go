package fleet

import (
	"errors"
	"strings"
	"testing"
)

func TestParseThingName_TakesTheWiresNamesOnly(t *testing.T) {
	for _, s := range []string{"a", "press:7_A-1", strings.Repeat("x", 128)} {
		if n, err := ParseThingName(s); err != nil || string(n) != s {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", strings.Repeat("x", 129), "a.b", "a b", "a\x00", "é", "a/b", "Ａ"} {
		if _, err := ParseThingName(s); !errors.Is(err, ErrThingName) {
			t.Errorf("%q is taken: %v", s, err)
		}
	}
}

func FuzzParseThingName(f *testing.F) {
	f.Add("press-7")
	f.Add("a\nb")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseThingName(s)
		if err == nil && (string(n) != s || strings.ContainsAny(s, "\x00\r\n\x1b/+#$ ") || len(s) > MaxThingName) {
			t.Errorf("%q is taken", s)
		}
	})
}

func TestPrincipalStatus_RevokedIsFinalAndPendingIsNeverSet(t *testing.T) {
	all := []PrincipalStatus{Active, Inactive, PendingActivation, Revoked, PendingTransfer}
	for _, from := range all {
		if from.CanBecome(PendingActivation) || Revoked.CanBecome(from) {
			t.Errorf("%s", from)
		}
	}
	for _, p := range []string{"PENDING_ACTIVATION", "PENDING_TRANSFER"} {
		if _, err := ParsePrincipalStatus(p); !errors.Is(err, ErrStatus) {
			t.Error(err)
		}
	}
}
