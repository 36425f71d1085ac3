package hook

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"hallmark/internal/fault"
)

var (
	first  = Secret{KeyID: "k1", Key: bytes.Repeat([]byte{1}, 32)}
	second = Secret{KeyID: "k2", Key: bytes.Repeat([]byte{2}, 32)}
	lo     = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
)

var question = Request{ClaimCertificateID: "claim", CertificateID: "cert", CertificatePEM: "pem\n", TemplateARN: "arn:t", ClientID: "client", Parameters: map[string]string{"SerialNumber": "1"}}

// author is a hook as its author would write it.
func author(t *testing.T, url *string, answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		id, err := Verify(r.Header, *url, body, []Secret{first, second}, time.Now())
		if err != nil {
			t.Error(err)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		SignReply(w.Header(), id, []byte(answer), first)
		_, _ = io.WriteString(w, answer)
	}
}

// server starts a TLS server on loopback and a caller for it.
func server(t *testing.T, handler func(url *string) http.HandlerFunc, change func(*Config)) *Caller {
	t.Helper()
	var url string
	srv := httptest.NewTLSServer(handler(&url))
	t.Cleanup(srv.Close)
	url = srv.URL + "/hook?x=1"
	cfg := Config{Name: "test", URL: url, Secrets: []Secret{first}, AllowAddresses: lo, RootCAs: pool(srv)}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func pool(srv *httptest.Server) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(srv.Certificate())
	return p
}

func wantFault(t *testing.T, d Decision, err error, def *fault.Definition, detail string) {
	t.Helper()
	if !errors.Is(err, def) {
		t.Fatalf("got %+v, %v; want %s", d, err, def.Code)
	}
	if d.Allow || d.Overrides != nil {
		t.Errorf("a fault came with a decision: %+v", d)
	}
	if got := fault.From(err).Detail; got != detail {
		t.Errorf("got  %s\nwant %s", got, detail)
	}
}

func TestCall_SendsTheWiresRequest(t *testing.T) {
	var got map[string]any
	c := server(t, func(url *string) http.HandlerFunc {
		next := author(t, url, `{"allowProvisioning":true}`)
		return func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if err := json.Unmarshal(body, &got); err != nil {
				t.Error(err)
			}
			if r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" || r.RequestURI != "/hook?x=1" {
				t.Errorf("%s %s %v", r.Method, r.RequestURI, r.Header)
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			next(w, r)
		}
	}, nil)
	d, err := c.Call(t.Context(), question)
	if err != nil || !d.Allow || d.Overrides != nil {
		t.Fatalf("%+v %v", d, err)
	}
	want := map[string]any{"claimCertificateId": "claim", "certificateId": "cert", "certificatePem": "pem\n", "templateArn": "arn:t", "clientId": "client", "parameters": map[string]any{"SerialNumber": "1"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	if _, err := c.Call(t.Context(), Request{}); err != nil {
		t.Fatal(err)
	}
	if p, ok := got["parameters"].(map[string]any); !ok || len(p) != 0 {
		t.Errorf("no parameters are sent as %v", got["parameters"])
	}
}

func TestCall_Answers(t *testing.T) {
	for name, c := range map[string]struct {
		answer    string
		overrides map[string]string
		def       *fault.Definition
		detail    string
	}{
		"allowed":              {`{"allowProvisioning":true}`, nil, nil, ""},
		"allowed with nothing": {` {"parameterOverrides":null,"allowProvisioning":true}`, nil, nil, ""},
		"override":             {`{"allowProvisioning":true,"parameterOverrides":{"SerialNumber":"2","More":""}}`, map[string]string{"SerialNumber": "2", "More": ""}, nil, ""},
		"denied":               {`{"allowProvisioning":false,"parameterOverrides":{"a":"b"}}`, nil, ErrRefused, ""},
		"garbage":              {`<html>`, nil, ErrAnswerInvalid, `Line 1, column 1, in the document: '<' where a value is expected.`},
		"empty":                {``, nil, ErrAnswerInvalid, `Line 1, column 1, in the document: the text ends where a value is expected.`},
		"null":                 {`null`, nil, ErrAnswerInvalid, `It does not say allowProvisioning.`},
		"no answer":            {`{}`, nil, ErrAnswerInvalid, `It does not say allowProvisioning.`},
		"true as text":         {`{"allowProvisioning":"true"}`, nil, ErrAnswerInvalid, `Line 1, column 28, in allowProvisioning: want true or false.`},
		"true as number":       {`{"allowProvisioning":1}`, nil, ErrAnswerInvalid, `Line 1, column 23, in allowProvisioning: want true or false.`},
		"true as null":         {`{"allowProvisioning":null}`, nil, ErrAnswerInvalid, `It does not say allowProvisioning.`},
		"said twice":           {`{"allowProvisioning":false,"allowProvisioning":true}`, nil, ErrAnswerInvalid, `Line 1, column 28, in the document: the member "allowProvisioning" stands twice.`},
		"other case":           {`{"AllowProvisioning":true}`, nil, ErrAnswerInvalid, `Line 1, column 2, in the document: the member "AllowProvisioning" is not known, perhaps "allowProvisioning" was meant.`},
		"unknown member":       {`{"allowProvisioning":true,"x":1}`, nil, ErrAnswerInvalid, `Line 1, column 27, in the document: the member "x" is not known.`},
		"two values":           {`{"allowProvisioning":true}{}`, nil, ErrAnswerInvalid, `Line 1, column 27, in the document: bytes follow the value.`},
		"override of AWS S21":  {`{"allowProvisioning":true,"parameterOverrides":{"AWS::IoT::Certificate::Id":"x"}}`, nil, ErrAnswerInvalid, `It overrides "AWS::IoT::Certificate::Id", which is the service's.`},
		"override of aws S21":  {`{"allowProvisioning":true,"parameterOverrides":{"aws::x":"x"}}`, nil, ErrAnswerInvalid, `It overrides "aws::x", which is the service's.`},
		"override with null":   {`{"allowProvisioning":true,"parameterOverrides":{"a":null}}`, nil, ErrAnswerInvalid, `It overrides "a" with null.`},
		"override with object": {`{"allowProvisioning":true,"parameterOverrides":{"a":{}}}`, nil, ErrAnswerInvalid, `Line 1, column 53, in parameterOverrides.a: nested deeper than 2.`},
		"override with number": {`{"allowProvisioning":true,"parameterOverrides":{"a":1}}`, nil, ErrAnswerInvalid, `Line 1, column 54, in parameterOverrides: want a string.`},
	} {
		t.Run(name, func(t *testing.T) {
			call := server(t, func(url *string) http.HandlerFunc { return author(t, url, c.answer) }, nil)
			d, err := call.Call(t.Context(), question)
			if c.def != nil {
				wantFault(t, d, err, c.def, c.detail)
				return
			}
			if err != nil || !d.Allow || !reflect.DeepEqual(d.Overrides, c.overrides) {
				t.Errorf("got %+v, %v", d, err)
			}
		})
	}
}

// S20, A58: whatever the other end does, a device does not get in by it.
func TestS20_FailsClosed(t *testing.T) {
	const yes = `{"allowProvisioning":true}`
	reply := func(w http.ResponseWriter, id string, s Secret, body string) {
		SignReply(w.Header(), id, []byte(body), s)
		_, _ = io.WriteString(w, body)
	}
	for name, c := range map[string]struct {
		handler func(w http.ResponseWriter, r *http.Request, id string)
		def     *fault.Definition
		detail  string
	}{
		"no signature":  {func(w http.ResponseWriter, _ *http.Request, _ string) { _, _ = io.WriteString(w, yes) }, ErrAnswerInvalid, `The header Hallmark-Hook-Reply-Signature must stand there once.`},
		"wrong secret":  {func(w http.ResponseWriter, _ *http.Request, id string) { reply(w, id, second, yes) }, ErrAnswerInvalid, `Its signature is not over this request and this answer.`},
		"other request": {func(w http.ResponseWriter, _ *http.Request, _ string) { reply(w, strings.Repeat("0", 32), first, yes) }, ErrAnswerInvalid, `Its signature is not over this request and this answer.`},
		"the request's MAC": {func(w http.ResponseWriter, r *http.Request, _ string) {
			w.Header().Set(HeaderReplySignature, r.Header.Get(HeaderSignature))
			_, _ = io.WriteString(w, yes)
		}, ErrAnswerInvalid, `Its signature is not over this request and this answer.`},
		"changed body": {func(w http.ResponseWriter, _ *http.Request, id string) {
			SignReply(w.Header(), id, []byte(`{"allowProvisioning":false}`), first)
			_, _ = io.WriteString(w, yes)
		}, ErrAnswerInvalid, `Its signature is not over this request and this answer.`},
		"two signatures": {func(w http.ResponseWriter, _ *http.Request, id string) {
			w.Header().Add(HeaderReplySignature, "x")
			w.Header().Add(HeaderReplySignature, first.replyMAC(id, []byte(yes)))
			_, _ = io.WriteString(w, yes)
		}, ErrAnswerInvalid, `The header Hallmark-Hook-Reply-Signature must stand there once.`},
		"too big": {func(w http.ResponseWriter, _ *http.Request, id string) {
			reply(w, id, first, yes+strings.Repeat(" ", maxAnswer))
		}, ErrAnswerInvalid, `It is longer than 65536 bytes.`},
		"error with yes": {func(w http.ResponseWriter, _ *http.Request, id string) {
			SignReply(w.Header(), id, []byte(yes), first)
			w.WriteHeader(500)
			_, _ = io.WriteString(w, yes)
		}, ErrFailed, `It answered with status 500.`},
		"created": {func(w http.ResponseWriter, _ *http.Request, id string) {
			SignReply(w.Header(), id, []byte(yes), first)
			w.WriteHeader(201)
			_, _ = io.WriteString(w, yes)
		}, ErrFailed, `It answered with status 201.`},
		"redirect": {func(w http.ResponseWriter, r *http.Request, id string) {
			SignReply(w.Header(), id, nil, first)
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, ErrAnswerInvalid, `It redirects, which is not followed.`},
		"breaks off": {func(w http.ResponseWriter, _ *http.Request, id string) {
			w.Header().Set("Content-Length", "100")
			reply(w, id, first, yes)
		}, ErrFailed, `The answer broke off.`},
		"closes": {func(http.ResponseWriter, *http.Request, string) { panic(http.ErrAbortHandler) }, ErrFailed, `It cannot be reached.`},
		"huge header": {func(w http.ResponseWriter, _ *http.Request, id string) {
			w.Header().Set("X", strings.Repeat("x", 64<<10))
			reply(w, id, first, yes)
		}, ErrFailed, `It cannot be reached.`},
		"waits": {func(_ http.ResponseWriter, r *http.Request, _ string) { <-r.Context().Done() }, ErrFailed, `It took too long.`},
		"drips": {func(w http.ResponseWriter, r *http.Request, id string) {
			SignReply(w.Header(), id, []byte(yes), first)
			_, _ = io.WriteString(w, "{")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, ErrFailed, `It took too long.`},
		"compressed garbage": {func(w http.ResponseWriter, _ *http.Request, id string) {
			w.Header().Set("Content-Encoding", "gzip")
			reply(w, id, first, "\x1f\x8b")
		}, ErrAnswerInvalid, `Line 1, column 1, in the document: '\x1f' where a value is expected.`},
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			call := server(t, func(*string) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					calls.Add(1)
					_, _ = io.Copy(io.Discard, r.Body)
					c.handler(w, r, r.Header.Get(HeaderRequestID))
				}
			}, func(cfg *Config) { cfg.Timeout = 300 * time.Millisecond })
			d, err := call.Call(t.Context(), question)
			wantFault(t, d, err, c.def, c.detail)
			if n := calls.Load(); n != 1 {
				t.Errorf("the hook was called %d times", n)
			}
		})
	}
}

func TestS20_AReplyIsForOneRequestOnly(t *testing.T) {
	const yes = `{"allowProvisioning":true}`
	var kept string
	c := server(t, func(*string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if kept == "" {
				kept = first.replyMAC(r.Header.Get(HeaderRequestID), []byte(yes))
			}
			w.Header().Set(HeaderReplySignature, kept)
			_, _ = io.WriteString(w, yes)
		}
	}, nil)
	if d, err := c.Call(t.Context(), question); err != nil || !d.Allow {
		t.Fatal(err)
	}
	d, err := c.Call(t.Context(), question)
	wantFault(t, d, err, ErrAnswerInvalid, `Its signature is not over this request and this answer.`)
}

func TestS20_TwoSecretsLiveWhileRotating(t *testing.T) {
	for name, replyWith := range map[string]Secret{"old": first, "new": second} {
		t.Run(name, func(t *testing.T) {
			c := server(t, func(url *string) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					id, err := Verify(r.Header, *url, body, []Secret{first, second}, time.Now())
					if err != nil || r.Header.Get(HeaderKeyID) != "k2" {
						t.Errorf("the request is signed with %s: %v", r.Header.Get(HeaderKeyID), err)
					}
					answer := []byte(`{"allowProvisioning":true}`)
					SignReply(w.Header(), id, answer, replyWith)
					_, _ = w.Write(answer)
				}
			}, func(cfg *Config) { cfg.Secrets = []Secret{second, first} })
			if _, err := c.Call(t.Context(), question); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestVerify_RefusesWhatWasNotSigned(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	const url = "https://hook.example/a"
	body := []byte(`{"a":1}`)
	signed := func() http.Header {
		h := http.Header{}
		first.sign(h, "0123", url, body, now)
		return h
	}
	if id, err := Verify(signed(), url, body, []Secret{second, first}, now.Add(Window)); err != nil || id != "0123" {
		t.Fatalf("%q %v", id, err)
	}
	for name, f := range map[string]func(h http.Header) error{
		"other body": func(h http.Header) error {
			_, err := Verify(h, url, []byte(`{"a":2}`), []Secret{first}, now)
			return err
		},
		"other URL":    func(h http.Header) error { _, err := Verify(h, url+"b", body, []Secret{first}, now); return err },
		"other secret": func(h http.Header) error { _, err := Verify(h, url, body, []Secret{second}, now); return err },
		"no secret":    func(h http.Header) error { _, err := Verify(h, url, body, nil, now); return err },
		"empty secret": func(h http.Header) error { _, err := Verify(h, url, body, []Secret{{KeyID: "k1"}}, now); return err },
		"renamed key": func(h http.Header) error {
			h.Set(HeaderKeyID, "k2")
			_, err := Verify(h, url, body, []Secret{{"k2", first.Key}}, now)
			return err
		},
		"replayed late": func(h http.Header) error {
			_, err := Verify(h, url, body, []Secret{first}, now.Add(Window+time.Second))
			return err
		},
		"from ahead": func(h http.Header) error {
			_, err := Verify(h, url, body, []Secret{first}, now.Add(-Window-time.Second))
			return err
		},
		"new time": func(h http.Header) error {
			h.Set(HeaderTime, fmt.Sprint(now.Unix()+1))
			_, err := Verify(h, url, body, []Secret{first}, now)
			return err
		},
		"odd time": func(h http.Header) error {
			h.Set(HeaderTime, "+1800000000")
			_, err := Verify(h, url, body, []Secret{first}, now)
			return err
		},
		"new id": func(h http.Header) error {
			h.Set(HeaderRequestID, "0124")
			_, err := Verify(h, url, body, []Secret{first}, now)
			return err
		},
		"two ids": func(h http.Header) error {
			h.Add(HeaderRequestID, "0124")
			_, err := Verify(h, url, body, []Secret{first}, now)
			return err
		},
		"no signature": func(h http.Header) error {
			h.Del(HeaderSignature)
			_, err := Verify(h, url, body, []Secret{first}, now)
			return err
		},
		"moved lines": func(h http.Header) error {
			h.Set(HeaderRequestID, "0123\nhttps")
			_, err := Verify(h, url, body, []Secret{first}, now)
			return err
		},
	} {
		if err := f(signed()); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A58: every way to write or hide a local address.
func TestA58_NewRefusesHiddenLocalAddresses(t *testing.T) {
	all := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	for url, def := range map[string]*fault.Definition{
		"https://127.0.0.1/":                  ErrAddress,
		"https://[::1]/":                      ErrAddress,
		"https://0.0.0.0/":                    ErrAddress,
		"https://[::]/":                       ErrAddress,
		"https://169.254.169.254/latest":      ErrAddress,
		"https://10.0.0.1/":                   ErrAddress,
		"https://172.31.255.255/":             ErrAddress,
		"https://192.168.1.1/":                ErrAddress,
		"https://100.64.0.1/":                 ErrAddress,
		"https://224.0.0.1/":                  ErrAddress,
		"https://255.255.255.255/":            ErrAddress,
		"https://[::ffff:127.0.0.1]/":         ErrAddress,
		"https://[::ffff:7f00:1]/":            ErrAddress,
		"https://[::127.0.0.1]/":              ErrAddress,
		"https://[64:ff9b::7f00:1]/":          ErrAddress,
		"https://[2002:7f00:1::]/":            ErrAddress,
		"https://[fe80::1]/":                  ErrAddress,
		"https://[fe80::1%25lo]/":             ErrAddress,
		"https://[fd00:ec2::254]/":            ErrAddress,
		"https://[ff02::1]/":                  ErrAddress,
		"https://2130706433/":                 ErrAddress,
		"https://0x7f000001/":                 ErrAddress,
		"https://0177.0.0.1/":                 ErrAddress,
		"https://127.1/":                      ErrAddress,
		"https://127.0.0.1./":                 ErrAddress,
		"https://0x7f.0.0.0x1/":               ErrAddress,
		"ftp://hook.example/":                 ErrConfig,
		"//hook.example/":                     ErrConfig,
		"https:hook.example":                  ErrConfig,
		"https://user:pw@hook.example/":       ErrConfig,
		"https://hook.example/#x":             ErrConfig,
		"https://hook.example/#":              ErrConfig,
		"https://":                            ErrConfig,
		"https:///x":                          ErrConfig,
		"https://hook.example/a b":            ErrConfig,
		"https://hook.example/\n":             ErrConfig,
		"https://h\u00f6ok.example/":          ErrConfig,
		"https://hook.example\uff0f127.0.0.1": ErrConfig,
		"":                                    ErrConfig,
	} {
		if _, err := New(Config{URL: url, Secrets: []Secret{first}, AllowAddresses: all}); !errors.Is(err, def) {
			t.Errorf("%s: got %v, want %s", url, err, def.Code)
		}
	}
	for _, url := range []string{"https://hook.example/", "https://8.8.8.8:8443/a?b=c", "https://[2606:4700::1111]/"} {
		if _, err := New(Config{URL: url, Secrets: []Secret{first}, AllowAddresses: all}); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestA58_AllowList(t *testing.T) {
	prefixes := func(s string) (out []netip.Prefix) {
		for _, p := range strings.Fields(s) {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	for _, c := range []struct {
		list, addr string
		want       bool
	}{
		{"", "8.8.8.8", false},
		{"", "127.0.0.1", false},
		{"8.8.8.0/24", "8.8.8.8", true},
		{"8.8.8.0/24", "::ffff:8.8.8.8", true},
		{"::ffff:8.8.8.0/120", "8.8.8.8", true},
		{"8.8.8.0/24", "8.8.9.8", false},
		{"0.0.0.0/0 ::/0", "8.8.8.8", true},
		{"0.0.0.0/0 ::/0", "127.0.0.1", false},
		{"0.0.0.0/0 ::/0", "::1", false},
		{"0.0.0.0/0 ::/0", "169.254.169.254", false},
		{"0.0.0.0/1", "10.1.2.3", false},
		{"10.0.0.0/7", "10.1.2.3", false},
		{"10.0.0.0/8", "10.1.2.3", true},
		{"10.1.0.0/16 0.0.0.0/0", "10.1.2.3", true},
		{"127.0.0.1/32", "127.0.0.1", true},
		{"127.0.0.1/32", "::ffff:127.0.0.1", true},
		{"127.0.0.1/32", "127.0.0.2", false},
		{"127.0.0.1/32", "64:ff9b::7f00:1", false},
		{"::1/128", "::1", true},
		{"::/0 127.0.0.0/8", "2002:7f00:1::", false},
		{"fe80::/10", "fe80::1", true},
		{"fe80::/10", "fe80::1%lo", false},
		{"0.0.0.0/8", "0.0.0.0", false},
		{"::/128", "::", false},
		{"ff00::/8", "ff02::1", false},
		{"fd00::/8", "fd00:ec2::254", true},
		{"8.8.8.8/24", "8.8.8.1", true},
	} {
		l, err := newAllowList(prefixes(c.list))
		if err != nil {
			t.Fatal(err)
		}
		if got := l.allows(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%q allows %s: %v", c.list, c.addr, got)
		}
	}
	if _, err := newAllowList([]netip.Prefix{{}}); !errors.Is(err, ErrConfig) {
		t.Error("an invalid prefix is taken")
	}
}

// names is a resolver that answers each question with the next address.
func names(t *testing.T, addresses ...string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	var mu sync.Mutex
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Authoritative, m.RecursionAvailable, m.Additionals = true, true, true, nil
			q := m.Questions[0]
			if q.Type == dnsmessage.TypeA {
				mu.Lock()
				addr := addresses[0]
				if len(addresses) > 1 {
					addresses = addresses[1:]
				}
				mu.Unlock()
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()}}}
			}
			if out, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// A58: a name that was good a moment ago and now leads inside is refused when
// it is dialled; nothing reaches the address behind it.
func TestA58_ANameThatRebinds(t *testing.T) {
	var calls atomic.Int32
	var url string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		author(t, &url, `{"allowProvisioning":true}`)(w, r)
	}))
	defer srv.Close()
	srv.Config.SetKeepAlivesEnabled(false) // each call resolves anew
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	url = "https://example.com:" + port + "/" // the test certificate's name
	now := time.Now
	c, err := New(Config{URL: url, Secrets: []Secret{first}, RootCAs: pool(srv), Now: now,
		AllowAddresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		Resolver:       names(t, "127.0.0.1", "127.0.0.2", "169.254.169.254", "10.0.0.1", "0.0.0.0", "127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Call(t.Context(), question); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"127.0.0.2", "169.254.169.254", "10.0.0.1", "0.0.0.0"} {
		d, err := c.Call(t.Context(), question)
		wantFault(t, d, err, ErrAddress, `The name leads to `+addr+`, which is not in the allow-list.`)
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls went out", n)
	}
	if _, err := c.Call(t.Context(), question); err != nil {
		t.Errorf("the refusals disturbed the good name: %v", err)
	}
}

func TestA58_EmptyListRefusesEverything(t *testing.T) {
	c, err := New(Config{URL: "https://example.com/", Secrets: []Secret{first}, Resolver: names(t, "93.184.216.34")})
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Call(t.Context(), question)
	wantFault(t, d, err, ErrAddress, `The name leads to 93.184.216.34, which is not in the allow-list.`)
}

func TestCall_PlainHTTPIsForLoopback(t *testing.T) {
	var url string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		author(t, &url, `{"allowProvisioning":true}`)(w, r)
	}))
	defer srv.Close()
	url = srv.URL
	c, err := New(Config{URL: url, Secrets: []Secret{first}, AllowAddresses: lo})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Call(t.Context(), question); err != nil {
		t.Error(err)
	}
	if _, err := New(Config{URL: url, Secrets: []Secret{first}}); !errors.Is(err, ErrAddress) {
		t.Errorf("loopback without being listed: %v", err)
	}
	c, err = New(Config{URL: "http://example.com/", Secrets: []Secret{first}, AllowAddresses: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, Resolver: names(t, "93.184.216.34")})
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Call(t.Context(), question)
	wantFault(t, d, err, ErrAddress, `Without TLS only loopback addresses may be called.`)
}

func TestCall_IgnoresProxiesAndForeignRoots(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	c := server(t, func(url *string) http.HandlerFunc { return author(t, url, `{"allowProvisioning":true}`) }, nil)
	if _, err := c.Call(t.Context(), question); err != nil {
		t.Error(err)
	}
	c = server(t, func(url *string) http.HandlerFunc { return author(t, url, `{"allowProvisioning":true}`) }, func(cfg *Config) { cfg.RootCAs = x509.NewCertPool() })
	d, err := c.Call(t.Context(), question)
	wantFault(t, d, err, ErrFailed, `It cannot be reached.`)
}

func TestBreaker_LeavesAHookAloneThatIsDown(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	forward := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
	var calls atomic.Int32
	var down atomic.Bool
	down.Store(true)
	c := server(t, func(*string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			if down.Load() {
				w.WriteHeader(503)
				return
			}
			answer := []byte(`{"allowProvisioning":false}`)
			SignReply(w.Header(), r.Header.Get(HeaderRequestID), answer, first)
			_, _ = w.Write(answer)
		}
	}, func(cfg *Config) { cfg.Now = clock })
	for range breakAfter {
		d, err := c.Call(t.Context(), question)
		wantFault(t, d, err, ErrFailed, `It answered with status 503.`)
	}
	d, err := c.Call(t.Context(), question)
	wantFault(t, d, err, ErrFailed, `It failed too often and is left alone for a while.`)
	if f := fault.From(err); f.RetryAfter != breakFor || calls.Load() != breakAfter {
		t.Errorf("retry after %v, %d calls", f.RetryAfter, calls.Load())
	}
	// One trial after the pause; it fails, so the pause starts again.
	forward(breakFor)
	d, err = c.Call(t.Context(), question)
	wantFault(t, d, err, ErrFailed, `It answered with status 503.`)
	d, err = c.Call(t.Context(), question)
	wantFault(t, d, err, ErrFailed, `It failed too often and is left alone for a while.`)
	// A refusal is an answer: the breaker closes and stays closed.
	down.Store(false)
	forward(breakFor)
	for range breakAfter + 1 {
		d, err = c.Call(t.Context(), question)
		wantFault(t, d, err, ErrRefused, ``)
	}
	if n := calls.Load(); n != 2*breakAfter+2 {
		t.Errorf("%d calls", n)
	}
}

func TestBreaker_OneTrialAtATimeAndOursDoNotCount(t *testing.T) {
	b := breaker{failures: breakAfter}
	now := time.Unix(1, 0)
	if ok, _ := b.enter(now); !ok {
		t.Fatal("no trial")
	}
	if ok, _ := b.enter(now); ok {
		t.Fatal("two trials at once")
	}
	b.leave(now, undecided)
	if ok, _ := b.enter(now); !ok {
		t.Fatal("a trial that was given up blocks the next")
	}
	b.leave(now, answered)
	if b.failures != 0 {
		t.Error("an answer does not close it")
	}
	c := server(t, func(url *string) http.HandlerFunc { return author(t, url, `{"allowProvisioning":true}`) }, nil)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range breakAfter + 1 {
		if _, err := c.Call(gone, question); !errors.Is(err, ErrFailed) {
			t.Fatal(err)
		}
	}
	if _, err := c.Call(t.Context(), question); err != nil {
		t.Errorf("devices that went away opened the breaker: %v", err)
	}
}

func TestNew_RefusesUnusableSecretsAndTimeouts(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no secret":     func(c *Config) { c.Secrets = nil },
		"three secrets": func(c *Config) { c.Secrets = []Secret{first, second, {KeyID: "k3", Key: first.Key}} },
		"short key":     func(c *Config) { c.Secrets = []Secret{{KeyID: "k", Key: make([]byte, 31)}} },
		"key id":        func(c *Config) { c.Secrets = []Secret{{KeyID: "a\nb", Key: first.Key}} },
		"same name":     func(c *Config) { c.Secrets = []Secret{first, first} },
		"long timeout":  func(c *Config) { c.Timeout = 5*time.Second + 1 },
		"negative":      func(c *Config) { c.Timeout = -1 },
	} {
		cfg := Config{URL: "https://hook.example/", Secrets: []Secret{first}}
		change(&cfg)
		if _, err := New(cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKey_IsShownNowhere(t *testing.T) {
	s := Secret{KeyID: "k", Key: Key("SENSITIVE-SENSITIVE-SENSITIVE-32")}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "secret", s, "key", s.Key)
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "secret", s, "key", s.Key)
	_ = json.NewEncoder(&out).Encode(s)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb, s, s.Key, &s)
	}
	for _, leak := range []string{"SENSITIVE", "53454e53", "83, 69", "83 69", "U0VOU0"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("%s leaks: %s", leak, out.String())
		}
	}
}

// The reader of answers never panics and never allows without a true.
func FuzzRead(f *testing.F) {
	for _, s := range []string{`{"allowProvisioning":true}`, `{"allowProvisioning":true,"parameterOverrides":{"a":"b"}}`, `{"allowProvisioning":null}`, `[]`, ``} {
		f.Add([]byte(s))
	}
	c, err := New(Config{URL: "https://hook.example/", Secrets: []Secret{first}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		h := http.Header{}
		SignReply(h, "1", answer, first)
		d, err := c.read(h, "1", answer)
		if (err == nil) != d.Allow || err == nil && !bytes.Contains(answer, []byte("true")) {
			t.Fatalf("%+v %v", d, err)
		}
	})
}
