package web

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"hallmark/access"
	"hallmark/internal/strictjson"
)

// CheckAnswer holds an answer to the contract, so that every test of the API is
// one of the document too.
func CheckAnswer(t *testing.T, r Route, status int, body []byte) {
	t.Helper()
	doc, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	op := doc.find(r.Method, r.Pattern)
	if status >= 300 {
		return
	}
	v, err := strictjson.Generic(body)
	if err != nil {
		t.Fatalf("%s: %v", op.ID, err)
	}
	if err := doc.check(op.Answer, v, op.ID); err != nil {
		t.Errorf("%s answers outside the contract: %v", op.ID, err)
	}
}

// A65: a new route without grant or operation does not start.
func TestA65_MountRefusesARouteThatNobodyGranted(t *testing.T) {
	doc, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	p := &people{contract: doc}
	for _, r := range []Route{
		{"GET", "/api/v1/orders", "order.peek", (*people).listOrders},
		{"GET", "/api/v1/orders", "", (*people).listOrders},
		{"GET", "/api/v1/everything", access.ReadOrders, (*people).listOrders},
		{"PATCH", "/api/v1/orders", access.ReadOrders, (*people).listOrders},
		{"GET", "/factory/v1/orders/{order}", access.ReadOrders, (*people).listOrders},
	} {
		if err := p.mount(echo.New(), []Route{r}); err == nil {
			t.Errorf("%s %s with %q is mounted", r.Method, r.Pattern, r.Action)
		}
	}
}

// Every limit that the document states is known to the checker, and every
// request schema closes its members and bounds its texts.
func TestContract_RequestsAreBounded(t *testing.T) {
	doc, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	var walk func(s *schema, where string)
	walk = func(s *schema, where string) {
		if s.Ref != "" {
			s = doc.schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
		}
		switch s.Type {
		case "object":
			switch {
			case s.others != nil: // names that the caller chooses
				if s.MaxProps == nil {
					t.Errorf("%s has no maxProperties", where)
				}
				walk(s.others, where+".*")
			case s.Additional.Value != "false":
				t.Errorf("%s is open", where)
			}
			for name, p := range s.Properties {
				walk(p, where+"."+name)
			}
		case "array":
			if s.MaxItems == nil {
				t.Errorf("%s has no maxItems", where)
			}
			walk(s.Items, where+"[]")
		case "string":
			if s.MaxLength == nil && len(s.Enum) == 0 && s.Format != "date-time" {
				t.Errorf("%s has no maxLength", where)
			}
		case "integer", "number":
			if s.Minimum == nil {
				t.Errorf("%s has no minimum", where)
			}
		}
	}
	for _, r := range routes {
		op := doc.find(r.Method, r.Pattern)
		if op.Body != nil {
			walk(op.Body, op.ID)
		}
		for name, p := range op.Path {
			walk(p.Schema, op.ID+" "+name)
		}
		for name, p := range op.Query {
			walk(p.Schema, op.ID+" "+name)
		}
	}
}

func FuzzOnePath(f *testing.F) {
	for _, s := range []string{"/", "/api/v1/orders", "//", "/a/../b", "/a/.", "/%2e", "/a b", "/a\\b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r := newRequest(path)
		if r == nil || !onePath(r) {
			return
		}
		p := r.URL.Path
		if strings.Contains(p, "//") || strings.Contains(p, "/../") || strings.Contains(p, "/./") || strings.ContainsAny(p, "\\\x00 \n%;") || strings.Count(p, "/") > strings.Count(r.URL.EscapedPath(), "/") {
			t.Errorf("%q passes", path)
		}
	})
}

func newRequest(path string) *http.Request {
	u, err := url.ParseRequestURI(path)
	if err != nil {
		return nil
	}
	return &http.Request{Method: "GET", URL: u}
}
