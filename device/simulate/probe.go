package simulate

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"hallmark/device/mqtt"
)

const probers = 8

// probe tries what the devices hold, again and again, until the simulation ends: the
// pair that a device has in use on its disk has to let it in, whatever is being done
// to it. It asks the device listener who that is, on a new TLS connection.
func (s *simulation) probe() {
	if s.agents == nil || s.agents.Probe <= 0 {
		return
	}
	var next atomic.Int64
	pause := time.Duration(float64(probers) * float64(time.Second) / s.agents.Probe)
	for range min(probers, len(s.devices)) {
		s.wg.Go(func() {
			t := time.NewTicker(pause)
			defer t.Stop()
			for {
				select {
				case <-s.ctx.Done():
					return
				case <-t.C:
				}
				s.tryOne(s.devices[int(next.Add(1))%len(s.devices)])
			}
		})
	}
}

func (s *simulation) tryOne(d *simulated) {
	for try := 0; ; try++ {
		slot, cert, err := held(d.agent.dir)
		code := "unreadable"
		if err == nil {
			var answered bool
			if code, answered = s.whoami(cert); !answered {
				if s.ctx.Err() == nil {
					s.agents.missed.Add(1)
				}
				return
			}
		}
		if code == "" {
			s.agents.probes.Add(1)
			return
		}
		// The device may have changed its keys while this one was asked about.
		if again, _, _ := held(d.agent.dir); (again != slot || err != nil) && try < 3 {
			continue
		}
		s.agents.probes.Add(1)
		s.agents.locked.Add(1)
		s.agents.mu.Lock()
		if len(s.agents.refused) < 20 {
			s.agents.refused = append(s.agents.refused, d.thing+" "+slot+" "+code)
		}
		s.agents.mu.Unlock()
		return
	}
}

// held is what a device has in use on its disk. Its name changes with every
// certificate.
func held(dir string) (name string, c tls.Certificate, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, "slots", "active"))
	if err != nil {
		return "", c, err
	}
	slot := filepath.Join(dir, "slots", filepath.Base(strings.TrimSpace(string(raw))))
	c, err = tls.LoadX509KeyPair(filepath.Join(slot, "cert.pem"), filepath.Join(slot, "key.pem"))
	if err != nil {
		return "", c, err
	}
	return filepath.Base(slot) + " " + c.Leaf.SerialNumber.Text(16), c, nil
}

// whoami asks the device listener. code is the service's for a refusal; answered is
// false where nothing was said about the certificate.
func (s *simulation) whoami(cert tls.Certificate) (code string, answered bool) {
	config := mqtt.TLS(cert, s.cfg.Roots, "")
	config.NextProtos, config.ClientSessionCache = nil, nil
	client := &http.Client{Timeout: s.cfg.Timeout, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Timeout)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(s.agents.Server, "/")+"/bootstrap/v1/whoami", nil)
	if err != nil {
		return "", false
	}
	res, err := client.Do(q)
	if err != nil {
		return "", false
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	switch {
	case err != nil || res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests:
		return "", false
	case res.StatusCode == http.StatusOK:
		return "", true
	}
	var p struct {
		Code string `json:"code"`
	}
	if json.Unmarshal(raw, &p) != nil || p.Code == "" {
		p.Code = fmt.Sprint(res.StatusCode)
	}
	return p.Code, true
}
