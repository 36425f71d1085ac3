package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/internal/durable"
)

// BreakGlassConfig says who may come in when nobody else can (S42).
type BreakGlassConfig struct {
	// Key is the public half of the break-glass key, as hallmark breakglass create
	// prints it; its two shares are kept by two people.
	Key string `yaml:"key"`
}

func init() { commands = append(commands, newBreakGlassCmd) }

func newBreakGlassCmd(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use: "breakglass", Short: "The sealed key for when nobody can sign in",
		Long: `A break-glass key is made in two shares, which two people keep sealed; the service
knows its public half. Both shares together open one session of one hour, which may
hold and revoke certificates, revoke devices and stations, and give a named
administrator a new token, and nothing else. Everybody is told, the trail has it, and
the key is spent: the service complains until its configuration names a new one.`,
		Example: `  hallmark breakglass create --out ceremony/
  hallmark breakglass open --share share-a.txt --share share-b.txt --reason "all admins locked out" --out session.token
  HALLMARK_TOKEN=$(cat session.token) hallmark breakglass repair anna`,
	}
	c.AddCommand(newBreakGlassCreateCmd(g), newBreakGlassOpenCmd(g), newBreakGlassShowCmd(g), newBreakGlassRepairCmd(g), newBreakGlassCloseCmd(g))
	return c
}

func newBreakGlassCreateCmd(g *globals) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "create", Short: "Make a break-glass key in two shares", Args: cobra.NoArgs,
		Long: `Make a key and write its two shares to the files share-a.txt and share-b.txt in a
directory. Do it on a machine without a network, give each share to one person, on
paper or on a medium of its own, sealed, and remove the files. The key itself is
written nowhere. The line that is printed goes into the service's configuration.`,
		Example: "  hallmark breakglass create --out ceremony/",
		RunE: func(*cobra.Command, []string) error {
			key, a, b := access.NewBreakGlassKey()
			if err := os.MkdirAll(out, 0o700); err != nil {
				return err
			}
			files := map[string]access.Share{filepath.Join(out, "share-a.txt"): a, filepath.Join(out, "share-b.txt"): b}
			for name := range files {
				if _, err := os.Stat(name); err == nil {
					return errUsage{fmt.Errorf("%s is there already; a share is never overwritten", name)}
				}
			}
			for name, s := range files {
				if err := durable.WriteFile(name, []byte(s.Reveal()+"\n"), 0o600); err != nil {
					return err
				}
			}
			return g.print(map[string]any{"key": key.String(), "key_id": key.ID(), "shares": []string{filepath.Join(out, "share-a.txt"), filepath.Join(out, "share-b.txt")}}, func(w io.Writer) {
				fmt.Fprintf(w, "The shares of key %s are in %s. Give each to one person, sealed, then remove the files.\nIn the service's configuration:\n\nbreak_glass:\n  key: %s\n", key.ID(), out, key)
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", "directory for the shares")
	requiredFlags(c, "out")
	return c
}

// readShare reads a share from a file, from the text itself, or, for "-", from the
// terminal.
func (g *globals) readShare(from string) (access.Share, error) {
	text := from
	switch {
	case from == "-":
		b, err := io.ReadAll(io.LimitReader(g.In, 4096))
		if err != nil {
			return access.Share{}, err
		}
		text = string(b)
	case !strings.HasPrefix(from, "hallmark-break-glass-share"):
		b, err := os.ReadFile(from)
		if err != nil {
			return access.Share{}, err
		}
		text = string(b)
	}
	return access.ParseShare(text)
}

func newBreakGlassOpenCmd(g *globals) *cobra.Command {
	var shares []string
	var out string
	o := access.BreakGlassOpening{}
	c := &cobra.Command{
		Use: "open", Short: "Open a session with both shares", Args: cobra.NoArgs,
		Long: `Bring the two shares together on this machine, sign the service's nonce, and get a
token for one hour. It needs no principal. The key is spent by it. With --drill the
way is gone without effect: the session may do nothing and the key is not spent, but
who saw both shares on one machine should make a new key all the same.`,
		Example: `  hallmark breakglass open --server https://pki.example.com:8443 --share share-a.txt --share share-b.txt --reason "all admins locked out" --out session.token
  hallmark breakglass open --dir /var/lib/hallmark --share share-a.txt --share - --reason "yearly exercise" --drill`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(shares) != 2 {
				return errUsage{errors.New("give --share twice: share a and share b")}
			}
			var parts []access.Share
			for _, from := range shares {
				s, err := g.readShare(from)
				if err != nil {
					return err
				}
				parts = append(parts, s)
			}
			key, err := access.CombineShares(parts...)
			if err != nil {
				return err
			}
			defer clear(key)
			if g.Token == "" {
				g.Token = "none" // nobody has one: that is what this is for
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			n, err := api.BreakGlassNonceWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if n.JSON200 == nil {
				return problem(n.StatusCode(), n.Body)
			}
			o.Nonce = n.JSON200.Nonce
			o.Sign(key)
			a, err := api.OpenBreakGlassWithResponse(cmd.Context(), adminapi.BreakGlassOpening{KeyId: o.KeyID, Nonce: o.Nonce, Tenant: o.Tenant, Reason: o.Reason, Drill: o.Drill, Signature: o.Signature})
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON201 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			s := *a.JSON201
			if out != "" {
				if err := durable.WriteFile(out, []byte(s.Token+"\n"), 0o600); err != nil {
					return err
				}
				s.Token = ""
			}
			return g.print(s, func(w io.Writer) {
				facts(w, "session", s.Id, "until", moment(s.ExpiresAt), "key", s.KeyId, "token", s.Token)
				switch {
				case s.Drill:
					fmt.Fprintln(w, "\nA drill: the token may do nothing but look at this session. The key is not spent.")
				default:
					fmt.Fprintln(w, "\nSet HALLMARK_TOKEN to the token. It may hold and revoke, and repair a sign-in. The key is spent: make a new one today.")
				}
			})
		},
	}
	f := c.Flags()
	f.StringArrayVar(&shares, "share", nil, "file with a share, - for the terminal; twice")
	f.StringVar(&o.Tenant, "tenant", access.DefaultTenant, "tenant that the session is for")
	f.StringVar(&o.Reason, "reason", "", "what happened, in one line; it goes into the trail")
	f.BoolVar(&o.Drill, "drill", false, "exercise: spend no key and do nothing")
	f.StringVar(&out, "out", "", "write the token to this file and do not show it")
	requiredFlags(c, "share", "reason")
	return c
}

func newBreakGlassShowCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show the key, when it was drilled, and all sessions", Args: cobra.NoArgs, Example: "  hallmark breakglass show",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.GetBreakGlassWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				key := "not spent"
				switch {
				case a.JSON200.KeyId == "":
					key = "none is configured"
				case a.JSON200.Spent:
					key = "spent; make a new one"
				}
				facts(w, "key", strings.TrimSpace(a.JSON200.KeyId+" "+key), "drilled", moment(a.JSON200.DrilledAt), "open sessions", fmt.Sprint(a.JSON200.Open))
				rows := [][]string{}
				for _, s := range a.JSON200.Sessions {
					kind := "session"
					if s.Drill {
						kind = "drill"
					}
					rows = append(rows, []string{s.Id, kind, moment(s.OpenedAt), moment(s.ExpiresAt), dash(moment(s.ClosedAt)), s.From, s.Reason})
				}
				fmt.Fprintln(w)
				table(w, []string{"SESSION", "KIND", "OPENED", "UNTIL", "CLOSED", "FROM", "REASON"}, rows, "It was never opened.")
			})
		},
	}
}

func newBreakGlassRepairCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "repair NAME", Short: "Give a named administrator a new token", Args: cobra.ExactArgs(1),
		Long:    `In a break-glass session: give an enabled principal with the role platform or security-officer a new token. The former works no more.`,
		Example: "  HALLMARK_TOKEN=$(cat session.token) hallmark breakglass repair anna",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.RepairSignInWithResponse(cmd.Context(), args[0])
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) {
				p := a.JSON200.Principal
				facts(w, "name", p.Name, "role", p.Role, "until", moment(p.ExpiresAt), "token", a.JSON200.Token)
			})
		},
	}
}

func newBreakGlassCloseCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "close", Short: "End the session before its hour is over", Args: cobra.NoArgs, Example: "  HALLMARK_TOKEN=$(cat session.token) hallmark breakglass close",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.CloseBreakGlassWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			if a.JSON200 == nil {
				return problem(a.StatusCode(), a.Body)
			}
			return g.print(a.JSON200, func(w io.Writer) { fmt.Fprintf(w, "Session %s is over.\n", a.JSON200.Id) })
		},
	}
}

// breakGlass connects break-glass to the service: the configured key, and the
// checkpoint that every session gets under at once.
func (s *Server) breakGlass() (c access.BreakGlassConfig, err error) {
	c = access.BreakGlassConfig{Store: s.db, Nonces: s.box.MAC("break-glass-nonce")}
	if c.Key, err = access.ParseBreakGlassKey(s.cfg.BreakGlass.Key); err != nil {
		return c, errConfig.New("break_glass.key: %s.", err)
	}
	c.Opened = func(ctx context.Context) {
		ctx = context.WithoutCancel(ctx)
		s.checkpoint(ctx)
		s.wg.Go(func() { s.logs.round(ctx) })
	}
	return c, nil
}

// checkBreakGlass complains of an open session, and of a key that is spent or missing.
func (b *backend) checkBreakGlass(ctx context.Context, c *checks) {
	if b.access == nil {
		return
	}
	v, err := b.access.BreakGlass(ctx)
	const again = "Make a new key with hallmark breakglass create, put it into break_glass.key and restart."
	switch {
	case err != nil:
		c.add("break-glass", "failing", "Its sessions cannot be read.", "Run hallmark fsck.")
	case v.Open > 0:
		c.add("break-glass", "failing", fmt.Sprintf("%d sessions are open.", v.Open), "If nobody has an emergency, call the security officer; hallmark breakglass show says who opened it.")
	case v.Spent:
		c.add("break-glass", "failing", "The key "+v.KeyID+" is spent.", again)
	case v.KeyID == "" && (b.cfg.Production || len(v.Sessions) > 0):
		c.add("break-glass", "warning", "No key is configured: if nobody can sign in, nobody can.", again)
	case v.KeyID != "" && v.Drilled.IsZero():
		c.add("break-glass", "ok", "The key was never drilled.", "")
	case v.KeyID != "":
		c.add("break-glass", "ok", "", "")
	}
}

// breakGlassMetrics tells who watches.
type breakGlassMetrics struct {
	access *access.Authenticator
	mu     sync.Mutex
	kept   access.BreakGlassState
}

// Describe implements [prometheus.Collector].
func (m *breakGlassMetrics) Describe(ch chan<- *prometheus.Desc) {
	prometheus.DescribeByCollect(m, ch)
}

// Collect implements [prometheus.Collector].
func (m *breakGlassMetrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if v, err := m.access.BreakGlass(ctx); err == nil {
		m.kept = v
	}
	gauge := func(name, help string, v float64) {
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("hallmark_break_glass_"+name, help, nil, nil), prometheus.GaugeValue, v)
	}
	spent := 0.0
	if m.kept.Spent {
		spent = 1
	}
	gauge("open", "Break-glass sessions that work now; above 0 is an alarm.", float64(m.kept.Open))
	gauge("key_spent", "1 while the configured break-glass key has opened its session.", spent)
	gauge("sessions", "Break-glass sessions and drills since the beginning.", float64(len(m.kept.Sessions)))
}
