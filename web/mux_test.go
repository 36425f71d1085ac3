package web_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"hallmark/web"
)

func TestRefusing_NamesTheMethodsThatThereAre(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders/{order}/issue", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("order") != "o1" {
			t.Errorf("order %q", r.PathValue("order"))
		}
		w.WriteHeader(http.StatusCreated)
	})
	h := web.Refusing(mux)
	for _, c := range []struct {
		method, path string
		status       int
		code, allow  string
	}{
		{"POST", "/orders/o1/issue", http.StatusCreated, "", ""},
		{"GET", "/orders/o1/issue", http.StatusMethodNotAllowed, "method-not-allowed", "POST"},
		{"POST", "/orders/o1", http.StatusNotFound, "route-unknown", ""},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.status || w.Header().Get("Allow") != c.allow || !strings.Contains(w.Body.String(), c.code) {
			t.Errorf("%s %s: %d, Allow %q, %s", c.method, c.path, w.Code, w.Header().Get("Allow"), w.Body)
		}
	}
}
