package broker

import (
	"net"
	"net/http"

	"github.com/coder/websocket"
)

// WebSocket is a handler for MQTT inside WebSocket (MQTT 5, Section 6), at any path.
// The HTTP server's TLS must request client certificates, as [Config.TLS] does.
func (b *Broker) WebSocket() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			http.Error(w, "TLS is required", http.StatusUpgradeRequired)
			return
		}
		remote, prefix := addressOf(stringAddr(r.RemoteAddr))
		if b.lim.Connections > 0 && b.count.connections.Load()+b.count.pending.Load() >= int64(b.lim.Connections) {
			b.count.refusedFull.Add(1)
			http.Error(w, "too many connections", http.StatusServiceUnavailable)
			return
		}
		if !b.admission.enter(prefix, b.lim.PerAddress) {
			b.count.refusedAddress.Add(1)
			http.Error(w, "too many connections", http.StatusTooManyRequests)
			return
		}
		b.count.accepted.Add(1)
		b.count.pending.Add(1)
		known := false
		admitted := func() {
			if !known {
				known = true
				b.count.pending.Add(-1)
				b.admission.leave(prefix)
			}
		}
		defer admitted()
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"mqtt"}, CompressionMode: websocket.CompressionDisabled})
		if err != nil {
			return
		}
		if ws.Subprotocol() != "mqtt" { // [MQTT-6.0.0-3]
			ws.Close(websocket.StatusPolicyViolation, "subprotocol mqtt is required")
			return
		}
		ws.SetReadLimit(int64(b.lim.PacketSize) + 16<<10)           // a frame may hold several packets
		nc := websocket.NetConn(b.ctx, ws, websocket.MessageBinary) // text frames end it [MQTT-6.0.0-1]
		if !b.track(nc) {
			nc.Close()
			return
		}
		done := make(chan struct{})
		b.run(nc, remote, *r.TLS, admitted, func() {
			b.untrack(nc)
			b.wg.Done()
			close(done)
		})
		<-done // the server closes the connection when a handler returns
	})
}

// stringAddr is a peer's address as HTTP has it.
type stringAddr string

func (stringAddr) Network() string  { return "tcp" }
func (a stringAddr) String() string { return string(a) }

var _ net.Addr = stringAddr("")
