package device

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"hallmark/device/mqtt"
	"hallmark/fleet/ota/manifest"
)

// errGone says that nobody wants the image any more.
var errGone = errors.New("the job is gone")

const (
	streamBlock  = 8 << 10 // octets
	streamBlocks = 8       // asked for at once
	streamTries  = 5       // without a new block
)

// part is the file that an image is fetched into, and who is told how far it is.
type part struct {
	*os.File
	have int64
	m    *manifest.Manifest
	told int64 // quarters
	tell func(have int64) error
}

// Write implements [io.Writer].
func (p *part) Write(b []byte) (int, error) {
	if p.have+int64(len(b)) > p.m.Size {
		return 0, manifest.ErrImage.New("It has more than the %d octets that were signed.", p.m.Size)
	}
	n, err := p.File.Write(b)
	p.have += int64(n)
	if err != nil {
		return n, ErrFirmware.Wrap(err, "The image cannot be written.")
	}
	if q := 4 * p.have / p.m.Size; q > p.told {
		if p.told = q; q < 4 {
			err = p.tell(p.have)
		}
	}
	return n, err
}

// download gets what is missing of an image: over HTTPS, and if that does not go, over
// the connection that there is. What came before is used.
func (r *runner) download(ctx context.Context, s *session, e execution, d firmwareDocument, m *manifest.Manifest, name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return ErrFirmware.Wrap(err, "")
	}
	defer f.Close()
	p := &part{File: f, m: m, tell: func(have int64) error {
		if now := r.session.Load(); now != nil {
			s = now
		}
		err := r.update(ctx, s, e, inProgress, map[string]string{"step": stepFetch, "version": string(m.Version), "received": fmt.Sprintf("%d/%d", have, m.Size)})
		if err == nil {
			return r.cfg.step("firmware-part")
		}
		if err := r.discard(e, err); err != nil {
			return nil // the connection ended: how far it is, is told later
		}
		return errGone
	}}
	if p.have, err = f.Seek(0, io.SeekEnd); err != nil {
		return ErrFirmware.Wrap(err, "")
	}
	if p.have > m.Size {
		return manifest.ErrImage.New("There is more of it than was signed.")
	}
	p.told = 4 * p.have / m.Size
	if p.have == 0 {
		if err := p.tell(0); err != nil {
			return err
		}
	}
	if p.have < m.Size && d.URL != "" {
		err = r.overHTTPS(ctx, d.URL, p)
	} else if p.have < m.Size && d.Stream.Name == "" {
		err = ErrFirmware.New("The job says of no way to get the image.")
	}
	final := errors.Is(err, errGone) || errors.Is(err, manifest.ErrImage) || ctx.Err() != nil
	if p.have < m.Size && !final && d.Stream.Name != "" {
		if err != nil {
			r.event(Event{Event: EventRefused, Job: e.Job, Code: codeOf(err), Reason: wordsOf(err)})
		}
		err = r.overStream(ctx, s, d, p)
	}
	return err
}

// overHTTPS asks for the rest of an image.
func (r *runner) overHTTPS(ctx context.Context, address string, p *part) error {
	if u, err := url.Parse(address); err != nil || u.Scheme != "https" || u.Host == "" {
		return ErrFirmware.Wrap(err, "The address does not begin with https://.")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.base().Roots, MinVersion: tls.VersionTLS12, Time: r.now}, DialContext: r.cfg.dial, ResponseHeaderTimeout: r.timeout(), DisableCompression: true}
	defer transport.CloseIdleConnections()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return ErrFirmware.Wrap(err, "")
	}
	if p.have > 0 {
		q.Header.Set("Range", "bytes="+strconv.FormatInt(p.have, 10)+"-")
		q.Header.Set("If-Range", `"`+p.m.DigestHex()+`"`)
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	a, err := client.Do(q)
	if err != nil {
		return ErrFirmware.Wrap(err, "")
	}
	defer a.Body.Close()
	switch a.StatusCode {
	case http.StatusPartialContent:
		if !strings.HasPrefix(a.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(p.have, 10)+"-") {
			return ErrFirmware.New("The answer is another part of the image.")
		}
	case http.StatusOK: // all of it, from the beginning
		if err = p.Truncate(0); err == nil {
			_, err = p.Seek(0, io.SeekStart)
		}
		if err != nil {
			return ErrFirmware.Wrap(err, "")
		}
		p.have, p.told = 0, 0
	default:
		return ErrFirmware.New("The service answered %s.", a.Status)
	}
	// A connection that stands still is one that ended.
	idle := time.AfterFunc(r.timeout(), func() { a.Body.Close() })
	defer idle.Stop()
	if _, err = io.Copy(p, &alive{a.Body, idle, r.timeout()}); err != nil && !errors.Is(err, ErrFirmware) && !errors.Is(err, manifest.ErrImage) && !errors.Is(err, errGone) {
		err = ErrFirmware.Wrap(err, "")
	}
	return err
}

// alive puts a timer off with each read.
type alive struct {
	io.Reader
	idle *time.Timer
	by   time.Duration
}

func (a *alive) Read(b []byte) (int, error) {
	n, err := a.Reader.Read(b)
	a.idle.Reset(a.by)
	return n, err
}

// streamMessage is a block of a file stream, or a refusal.
type streamMessage struct {
	Token   string `json:"c"`
	Number  int64  `json:"i"`
	Octets  []byte `json:"p"`
	Code    string `json:"o"`
	Message string `json:"m"`
}

// overStream asks for blocks over MQTT until the image is there.
func (r *runner) overStream(ctx context.Context, s *session, d firmwareDocument, p *part) error {
	base := s.topic("streams/" + d.Stream.Name)
	heard := make(chan mqtt.Message, 4*streamBlocks)
	r.blocks.Store(&heard)
	defer r.blocks.Store(nil)
	// Some services answer without being asked to, and refuse to be asked.
	if err := s.conn.Subscribe(ctx, mqtt.Subscription{Filter: base + "/data/json", QoS: 1}, mqtt.Subscription{Filter: base + "/rejected/json", QoS: 1}); err != nil && !errors.Is(err, mqtt.ErrSubscribe) {
		return err
	}
	if cut := p.have % streamBlock; cut != 0 { // blocks are whole
		p.have -= cut
		if err := p.Truncate(p.have); err != nil {
			return ErrFirmware.Wrap(err, "")
		}
	}
	if _, err := p.Seek(p.have, io.SeekStart); err != nil {
		return ErrFirmware.Wrap(err, "")
	}
	early := map[int64][]byte{}
	for tries := 0; p.have < p.m.Size; tries++ {
		if tries == streamTries {
			return ErrFirmware.New("The stream does not go on.")
		}
		before := p.have
		ask, err := json.Marshal(map[string]any{"c": "rdy", "f": d.Stream.File, "l": streamBlock, "o": p.have / streamBlock, "n": streamBlocks})
		if err != nil {
			return err
		}
		if err := s.conn.Publish(ctx, mqtt.Message{Topic: base + "/get/json", Payload: ask, QoS: 1}); err != nil {
			return err
		}
		want := min(p.have/streamBlock+streamBlocks, (p.m.Size+streamBlock-1)/streamBlock)
		for late := time.After(r.timeout()); p.have < p.m.Size && p.have/streamBlock < want; {
			var m mqtt.Message
			select {
			case m = <-heard:
			case <-late:
				late = nil
			case <-s.conn.Done():
				return s.conn.Err()
			case <-ctx.Done():
				return ctx.Err()
			}
			if late == nil {
				break
			}
			var b streamMessage
			if err := readMessage(m.Payload, &b); err != nil {
				continue
			}
			if strings.HasSuffix(m.Topic, "/rejected/json") {
				return ErrFirmware.New("The service refused the stream: %.64s %.200s", b.Code, b.Message)
			}
			if b.Number >= p.have/streamBlock && b.Number < want && len(b.Octets) <= streamBlock {
				early[b.Number] = b.Octets
			}
			for {
				i := p.have / streamBlock
				octets, ok := early[i]
				if !ok {
					break
				}
				delete(early, i)
				if int64(len(octets)) != min(streamBlock, p.m.Size-p.have) {
					return manifest.ErrImage.New("A block of it has another length.")
				}
				if _, err := p.Write(octets); err != nil {
					return err
				}
			}
		}
		if p.have > before {
			tries = -1
		}
	}
	return nil
}
