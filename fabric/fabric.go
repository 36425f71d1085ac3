package fabric

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Config makes a Fabric.
type Config struct {
	// Key is shared by the nodes of one service and known to nobody else; at least
	// 32 octets.
	Key []byte
	// Servers are the URLs of NATS servers, nats://HOST:PORT or tls://HOST:PORT. Empty
	// means a server in this process, which no other node reaches.
	Servers []string
	// TLS is for the connections to Servers; nil means none but what a tls:// URL asks
	// for by itself.
	TLS *tls.Config
	// Credentials names a file with a NATS user's credentials; empty = none.
	Credentials string
	// JetStream is the directory in which the server of this process keeps streams;
	// empty = it has none. It has no meaning with Servers.
	JetStream string

	Log *slog.Logger // nil = discard
}

// Fabric is this process's connection to the others. It is safe for concurrent use.
type Fabric struct {
	log      *slog.Logger
	server   *server.Server // nil with external servers
	nc       *nats.Conn
	seal     *sealer
	subjects string

	Stats Stats

	answers string // subject of answers, without the token
	mu      sync.Mutex
	asked   map[uint64]*question
	token   uint64
	stop    chan struct{}
	done    chan struct{}
	once    sync.Once
}

// Stats counts for the metrics.
type Stats struct {
	Sent, Received atomic.Int64
	Silent         atomic.Int64 // questions without an answer
	Refused        atomic.Int64 // frames that no node of this service sealed
	Dropped        atomic.Int64 // frames that came faster than they were worked on
}

const (
	// startTime is how long Open waits for a server.
	startTime = 10 * time.Second
	// pendingOctets bounds what waits to be worked on. What is beyond it is lost: who
	// asked is not answered, and asks again or refuses.
	pendingOctets = 64 << 20
	// largest frame that is taken. Packets are at most 149,504 octets.
	maxFrame = 1 << 20
)

// Open connects. It waits for the server for some seconds and fails without it: a
// node that cannot hear the others must not let devices in.
func Open(ctx context.Context, cfg Config) (f *Fabric, err error) {
	if len(cfg.Key) < 32 {
		return nil, ErrConfig.New("The key has %d octets; 32 are needed.", len(cfg.Key))
	}
	f = &Fabric{log: cfg.Log, asked: map[uint64]*question{}, stop: make(chan struct{}), done: make(chan struct{})}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if f.seal, err = newSealer(cfg.Key); err != nil {
		return nil, err
	}
	if f.subjects, err = f.seal.subjects(); err != nil {
		return nil, err
	}
	if len(cfg.Servers) == 0 {
		if err := f.embed(cfg.JetStream); err != nil {
			return nil, err
		}
	}
	if err := f.connect(ctx, &cfg); err != nil {
		if f.server != nil {
			f.server.Shutdown()
		}
		return nil, err
	}
	go f.watch()
	return f, nil
}

// embed starts a server in this process. It listens nowhere.
func (f *Fabric) embed(streams string) error {
	opts := &server.Options{DontListen: true, NoSigs: true, NoLog: true, NoSystemAccount: true, MaxPayload: maxFrame, DisableJetStreamBanner: true}
	if streams != "" {
		if err := os.MkdirAll(streams, 0o700); err != nil {
			return ErrConfig.Wrap(err, "fabric.jetstream.")
		}
		opts.JetStream, opts.StoreDir, opts.NoSystemAccount = true, streams, false
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return ErrConfig.Wrap(err, "")
	}
	s.Start()
	if !s.ReadyForConnections(startTime) {
		s.Shutdown()
		return ErrUnavailable.New("The server of this process did not start.")
	}
	f.server = s
	return nil
}

func (f *Fabric) connect(ctx context.Context, cfg *Config) error {
	opts := []nats.Option{
		nats.Name("hallmark"), nats.NoEcho(), nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond), nats.ReconnectJitter(100*time.Millisecond, time.Second),
		nats.PingInterval(2 * time.Second), nats.MaxPingsOutstanding(2), nats.Timeout(startTime / 2), nats.DrainTimeout(5 * time.Second),
		nats.FlusherTimeout(5 * time.Second), nats.ReconnectBufSize(-1), // what cannot be sent is an error, not a surprise after a minute
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				f.log.Error("connection to the other nodes lost", "error", err)
			}
		}),
		nats.ReconnectHandler(func(c *nats.Conn) {
			f.log.Info("connected to the other nodes again", "server", c.ConnectedUrlRedacted())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
			f.Stats.Dropped.Add(1)
			f.log.Warn("frames of other nodes lost", "error", err)
		}),
	}
	url := ""
	if f.server != nil {
		opts = append(opts, nats.InProcessServer(f.server))
	} else {
		for i, s := range cfg.Servers {
			if i > 0 {
				url += ","
			}
			url += s
		}
		if cfg.TLS != nil {
			opts = append(opts, nats.Secure(cfg.TLS))
		}
		if cfg.Credentials != "" {
			opts = append(opts, nats.UserCredentials(cfg.Credentials))
		}
	}
	var err error
	for deadline := time.Now().Add(startTime); ; {
		if f.nc, err = nats.Connect(url, opts...); err == nil {
			break
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return ErrUnavailable.Wrap(err, "")
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	if n := f.nc.MaxPayload(); n < 256<<10 {
		f.nc.Close()
		return ErrConfig.New("The server takes messages of %d octets; 262144 are needed.", n)
	}
	f.answers = fmt.Sprintf("%s.answer.%x", f.subjects, f.seal.name)
	_, err = f.subscribe(f.answers+".*", f.onAnswer)
	if err == nil {
		err = f.nc.FlushTimeout(startTime)
	}
	if err != nil {
		f.nc.Close()
		return ErrUnavailable.Wrap(err, "")
	}
	return nil
}

func (f *Fabric) subscribe(subject string, fn nats.MsgHandler) (*nats.Subscription, error) {
	s, err := f.nc.Subscribe(subject, fn)
	if err != nil {
		return nil, err
	}
	return s, s.SetPendingLimits(-1, pendingOctets)
}

// Shared tells whether other nodes can be there at all.
func (f *Fabric) Shared() bool { return f.server == nil }

// Up tells whether the server is connected.
func (f *Fabric) Up() bool { return f.nc.IsConnected() }

// Listen takes the frames for a node, one at a time and in order. fn must not
// block; reply is nil for a frame that nobody asks an answer for, and else may be
// called once, from any goroutine. Listen returns when the server knows of it.
func (f *Fabric) Listen(node string, fn func(data []byte, reply func([]byte))) (stop func(), err error) {
	place := f.place(node)
	s, err := f.subscribe(place, func(m *nats.Msg) {
		data, ok := f.open(place, m.Data)
		if !ok {
			return
		}
		if m.Reply == "" {
			fn(data, nil)
			return
		}
		to := m.Reply
		fn(data, func(answer []byte) {
			f.Stats.Sent.Add(1)
			if err := f.nc.Publish(to, f.seal.seal(to, answer)); err != nil {
				f.log.Debug("answer not sent", "error", err)
			}
		})
	})
	if err == nil {
		err = f.nc.FlushTimeout(startTime)
	}
	if err != nil {
		return nil, ErrUnavailable.Wrap(err, "")
	}
	return func() {
		s.Unsubscribe()
		f.nc.FlushTimeout(time.Second) // whoever asks from now on hears that nobody is there
	}, nil
}

func (f *Fabric) place(node string) string { return f.subjects + ".node." + node }

func (f *Fabric) open(place string, frame []byte) ([]byte, bool) {
	f.Stats.Received.Add(1)
	data, err := f.seal.open(place, frame)
	if err != nil {
		if f.Stats.Refused.Add(1) == 1 {
			f.log.Error("frame refused; further ones are only counted", "error", err)
		}
		return nil, false
	}
	return data, true
}

// Send sends a frame that nobody answers.
func (f *Fabric) Send(node string, data []byte) error {
	place := f.place(node)
	f.Stats.Sent.Add(1)
	if err := f.nc.Publish(place, f.seal.seal(place, data)); err != nil {
		return ErrUnavailable.Wrap(err, "")
	}
	return nil
}

// Tell says a word to all other nodes. It is a hint to look into the database, and
// can say no more than that.
func (f *Fabric) Tell(word string) error {
	place := f.subjects + ".word." + word
	if err := f.nc.Publish(place, f.seal.seal(place, nil)); err != nil {
		return ErrUnavailable.Wrap(err, "")
	}
	return nil
}

// Hear calls fn whenever another node said the word. fn must not block.
func (f *Fabric) Hear(word string, fn func()) error {
	place := f.subjects + ".word." + word
	_, err := f.subscribe(place, func(m *nats.Msg) {
		if _, ok := f.open(place, m.Data); ok {
			fn()
		}
	})
	if err != nil {
		return ErrUnavailable.Wrap(err, "")
	}
	return nil
}

// Close ends the connection, and the server of this process.
func (f *Fabric) Close() {
	f.once.Do(func() {
		f.nc.Close()
		close(f.stop)
		<-f.done
		if f.server != nil {
			f.server.Shutdown()
			f.server.WaitForShutdown()
		}
	})
}
