package broker

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/mochi-mqtt/server/v2/packets"
)

// TestConformance_WebSocket: [MQTT-6.0.0-1] a text frame ends the connection,
// [MQTT-6.0.0-2] frames and packets need not fall together, [MQTT-6.0.0-4] the
// subprotocol is mqtt, and without it there is no connection.
func TestConformance_WebSocket(t *testing.T) {
	f := open(t, nil)
	srv := httptest.NewUnstartedServer(f.WebSocket())
	srv.TLS = testPKI().Server("http/1.1")
	srv.StartTLS()
	defer srv.Close()
	dial := func(protocols ...string) *websocket.Conn {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		hc := &http.Client{Transport: &http.Transport{TLSClientConfig: testPKI().Client("lamp1")}}
		ws, _, err := websocket.Dial(ctx, strings.Replace(srv.URL, "https", "wss", 1)+"/mqtt", &websocket.DialOptions{HTTPClient: hc, Subprotocols: protocols})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ws.CloseNow() })
		return ws
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var connect bytes.Buffer
	if err := connectPacket(4, "lamp1").ConnectEncode(&connect); err != nil {
		t.Fatal(err)
	}
	// One octet a frame, then two packets in one.
	ws := dial("mqtt")
	if ws.Subprotocol() != "mqtt" {
		t.Errorf("subprotocol %q", ws.Subprotocol())
	}
	for _, b := range connect.Bytes() {
		if err := ws.Write(ctx, websocket.MessageBinary, []byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if err := ws.Write(ctx, websocket.MessageBinary, []byte{packets.Pingreq << 4, 0, packets.Pingreq << 4, 0}); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for len(got) < 8 {
		kind, b, err := ws.Read(ctx)
		if err != nil || kind != websocket.MessageBinary {
			t.Fatal(kind, err)
		}
		got = append(got, b...)
	}
	if !bytes.Equal(got, []byte{0x20, 2, 0, 0, 0xD0, 0, 0xD0, 0}) {
		t.Errorf("got %x", got)
	}
	if err := ws.Write(ctx, websocket.MessageText, []byte{packets.Pingreq << 4, 0}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.Read(ctx); err == nil || ctx.Err() != nil {
		t.Error("a text frame is taken")
	}
	f.event("disconnected", "lamp1")
	if _, _, err := dial().Read(ctx); err == nil || ctx.Err() != nil {
		t.Error("without a subprotocol it is served")
	}
}
