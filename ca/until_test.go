package ca_test

import (
	"errors"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
)

// TestIssue_EndsBeforeTheAuthorityDoes_S2: after issue_until an authority issues
// nothing, though its certificate lives on for its lists.
func TestIssue_EndsBeforeTheAuthorityDoes_S2(t *testing.T) {
	f := catest.New(t)
	for name, until := range map[string]time.Time{"over": time.Now().Add(-time.Minute), "runs": time.Now().Add(time.Hour)} {
		key := catest.NewKey(t)
		c := f.Certify(t, profile.DutyDevice, name, key.Public())
		f.Keys.Add("test:"+name, key)
		if err := f.DB.CreateAuthority(t.Context(), ca.Authority{Name: name, Tenant: access.DefaultTenant, Duty: profile.DutyDevice, State: ca.StateActive, KeyURI: "test:" + name,
			BaseURL: catest.BaseURL, Shards: 1, IssueUntil: until, CreatedAt: time.Now(), Certificate: c.Raw}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.CA.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := request(t, "SN-1", catest.NewKey(t))
	r.Authority = "over"
	if _, err := f.CA.Issue(t.Context(), r); !errors.Is(err, ca.ErrAuthorityClosed) {
		t.Errorf("after its end: %v", err)
	}
	r.Authority = "runs"
	if _, err := f.CA.Issue(t.Context(), r); err != nil {
		t.Errorf("before its end: %v", err)
	}
	// Without a name the newest that is open is picked, never the other.
	for i := range 3 {
		out, err := f.CA.Issue(t.Context(), request(t, "SN-"+string(rune('A'+i)), catest.NewKey(t)))
		if err != nil || out.Authority == "over" {
			t.Errorf("picked %s, %v", out.Authority, err)
		}
	}
	if _, issuer, err := f.CA.ListAlgorithm("over"); err != nil || len(issuer.Subject) == 0 {
		t.Errorf("its lists: %v", err)
	}
}
