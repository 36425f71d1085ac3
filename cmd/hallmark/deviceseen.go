package main

import (
	"net/http"

	"hallmark/fleet/registry"
)

// seen has presence hear of operational certificates that are used over HTTPS: a
// device that speaks nothing else proves a new certificate so. What counts is that the
// door lets it in, as with MQTT, and not what it is answered.
func (s *Server) seen(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			s.fleet.presence.Used(registry.CertificateID(r.TLS.PeerCertificates[0].Raw), func() string {
				who, err := s.gate.Admit(r.Context(), r.TLS)
				if err != nil || who.Thing == "" { // whoever answers the request says why
					return ""
				}
				return who.Tenant
			})
		}
		next.ServeHTTP(w, r)
	})
}
