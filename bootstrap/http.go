package bootstrap

import (
	"crypto/x509"
	"encoding/json"
	"io"
	"mime"
	"net/http"

	"hallmark/api/deviceapi"
	"hallmark/internal/strictjson"
)

// maxBody bounds a request: a CSR in base64 and 64 parameters.
const maxBody = 128 << 10

// facts reads the connection of a request.
func facts(r *http.Request) Facts {
	var f Facts
	if r.TLS == nil {
		return f
	}
	f.Exporter = r.TLS.ExportKeyingMaterial
	if len(r.TLS.PeerCertificates) > 0 {
		f.Certificate = r.TLS.PeerCertificates[0]
	}
	return f
}

// HandleNonce is POST /bootstrap/v1/nonce.
func (s *Service) HandleNonce(w http.ResponseWriter, r *http.Request) error {
	nonce, expires, err := s.Nonce(r.Context(), facts(r))
	if err != nil {
		return err
	}
	return reply(w, deviceapi.Nonce{Nonce: nonce, Expires: expires.UTC()})
}

// HandleRegister is POST /bootstrap/v1/register.
func (s *Service) HandleRegister(w http.ResponseWriter, r *http.Request) error {
	// Who asks, before a body is read for nobody.
	f := facts(r)
	if _, err := s.knock(r.Context(), f); err != nil {
		return err
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return ErrRequest.New("Its content type is not application/json.")
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return ErrRequest.Wrap(err, "It is too long, or broke off.")
	}
	var body deviceapi.RegisterRequest
	if err := strictjson.Decode(raw, &body, strictjson.WithLimits(strictjson.Limits{Size: maxBody, Depth: 4})); err != nil {
		return err
	}
	req := Request{CSR: body.Csr}
	if body.Parameters != nil {
		req.Parameters = *body.Parameters
	}
	if len(req.Parameters) > 64 {
		return ErrRequest.New("It has %d parameters, 64 are allowed.", len(req.Parameters))
	}
	for name, value := range req.Parameters {
		if len(value) > 1024 || len(name) > 128 {
			return ErrRequest.New("A parameter is longer than 1024 characters, or its name than 128.")
		}
	}
	out, err := s.Register(r.Context(), f, req)
	if err != nil {
		return err
	}
	policies, configuration := out.Policies, out.Configuration
	if policies == nil {
		policies = []string{}
	}
	if configuration == nil {
		configuration = map[string]string{}
	}
	registration := deviceapi.Registration{Thing: string(out.Thing), Certificate: out.Certificate, Chain: out.Chain, TrustBundle: out.TrustBundle,
		Configuration: configuration, Policies: policies, Status: string(out.Status)}
	if c, err := x509.ParseCertificate(out.Certificate); err == nil {
		win := windowOf(c)
		registration.Renew = &deviceapi.RenewalWindow{Start: win.Start, End: win.End}
	}
	return reply(w, registration)
}

// HandleWhoAmI is GET /bootstrap/v1/whoami. To be let in proves a new key.
func (s *Service) HandleWhoAmI(w http.ResponseWriter, r *http.Request) error {
	id, err := s.identify(r.Context(), facts(r))
	if err != nil {
		return err
	}
	end := id.NotAfter.UTC()
	out := deviceapi.WhoAmI{Holder: id.Holder, Profile: string(id.Profile), Serial: id.Serial.String(), Status: string(id.Status), NotAfter: &end}
	if id.Thing != "" {
		thing := string(id.Thing)
		out.Thing = &thing
	}
	return reply(w, out)
}

// Handler serves the four; problem answers with an error's problem document.
func (s *Service) Handler(problem func(w http.ResponseWriter, r *http.Request, err error)) *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"POST /bootstrap/v1/nonce":    s.HandleNonce,
		"POST /bootstrap/v1/register": s.HandleRegister,
		"GET /bootstrap/v1/renewal":   s.HandleRenewal,
		"GET /bootstrap/v1/whoami":    s.HandleWhoAmI,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := h(w, r); err != nil {
				problem(w, r, err)
			}
		})
	}
	return mux
}

func reply(w http.ResponseWriter, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, err = w.Write(append(body, '\n'))
	if err != nil {
		return nil // the device is gone; there is nobody to tell
	}
	return nil
}
