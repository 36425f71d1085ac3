package web

import (
	"net/http"
	"path"
	"strings"
)

// onePath tells whether the request's path is spelled in the one way that the
// route table knows (A63). Encoded dots, slashes, backslashes, percent signs and
// control characters, empty and dot segments are other spellings; what they mean
// depends on who reads them, so they mean nothing here.
func onePath(r *http.Request) bool {
	p := r.URL.Path
	if p == "" || p[0] != '/' || r.URL.Fragment != "" || r.URL.Opaque != "" {
		return false
	}
	for i := range len(p) {
		if c := p[i]; c <= ' ' || c >= 0x7f || c == '\\' || c == '%' || c == ';' {
			return false
		}
	}
	if raw := strings.ToLower(r.URL.RawPath); strings.Contains(raw, "%2e") || strings.Contains(raw, "%2f") {
		return false
	}
	clean := path.Clean(p)
	return clean == p || clean+"/" == p && p != "//"
}

// forwarded tells whether a header speaks for somebody else. Nothing in front
// of this service is trusted to say who the client is, so such headers go before
// anybody can read them (A62). Underscores are read as hyphens by some servers.
func forwarded(name string) bool {
	n := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	if n == "forwarded" || n == "via" || n == "client-cert" || n == "client-cert-chain" || n == "true-client-ip" || n == "cf-connecting-ip" {
		return true
	}
	for _, p := range [...]string{"x-forwarded", "x-real-", "x-ssl", "x-client-", "x-original-", "x-rewrite-", "ssl-client", "x-amzn-mtls", "x-http-method"} {
		if strings.HasPrefix(n, p) {
			return true
		}
	}
	return false
}

func dropForwarded(h http.Header) {
	for name := range h {
		if forwarded(name) {
			delete(h, name)
		}
	}
}
