package main

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/internal/der"
	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
	"hallmark/provisioner"
)

var errConfig = fault.Define(fault.Invalid, "config-invalid", "The configuration is not valid.", "Correct the named line; hallmark config check tells when it is right.")

var errModule = fault.Define(fault.Forbidden, "token-module-refused", "The PKCS#11 library is not one that the configuration allows.", "List it under tokens.modules on the service's machine, or use one that is listed.")

// Config is hallmark.yaml. A key that is not here is an error.
type Config struct {
	// State is the directory of everything the service keeps: database, seal
	// key, service keys, published lists. Relative to the file.
	State string `yaml:"state"`
	// Database is a file (SQLite) or a postgres:// URL; default hallmark.db in State.
	Database string `yaml:"database"`
	// Production refuses every development convenience at once and lists them
	// (S44): software CA keys, exportable keys, base URLs that cannot last,
	// names that only this machine knows, orders without an approver.
	Production bool `yaml:"production"`
	// BaseURL is the start of the URLs in certificates (lists, OCSP, issuers).
	// It is frozen into an authority when that is made (S3).
	BaseURL string `yaml:"base_url"`
	// ServerNames are the names and addresses in the service's TLS certificates.
	ServerNames []string `yaml:"server_names"`
	// Domain is an owned domain for the units' DNS names UNIT.ORDER.DOMAIN; empty leaves them out.
	Domain string `yaml:"domain"`
	// PolicyArc is the object identifier under which roles and key origins are numbered.
	PolicyArc string `yaml:"policy_arc"`
	// Listen are the addresses of the doors.
	Listen Listen `yaml:"listen"`
	// Approvers are who may sign orders, pinned here and not in the database (S32).
	Approvers []ApproverConfig `yaml:"approvers"`
	// ApprovalsNeeded is how many of them must sign; default 1.
	ApprovalsNeeded int `yaml:"approvals_needed"`
	// Tokens configures PKCS#11.
	Tokens TokensConfig `yaml:"tokens"`
	// Lists configures the CRLs.
	Lists ListsConfig `yaml:"lists"`
	// Fleet configures how devices are registered.
	Fleet FleetConfig `yaml:"fleet"`
	// Enrolment switches the standard protocols on.
	Enrolment EnrolmentConfig `yaml:"enrolment"`
	// MQTT configures the broker.
	MQTT MQTTConfig `yaml:"mqtt"`
	// Privacy says what is kept about devices, and for how long.
	Privacy PrivacyConfig `yaml:"privacy"`
	// Fabric connects the nodes of one service.
	Fabric FabricConfig `yaml:"fabric"`
	// Log configures the transparency log.
	Log LogConfig `yaml:"log"`
	// Backup says where backups are kept, and for whom they are encrypted.
	Backup BackupConfig `yaml:"backup"`
	// HookRoots names a PEM file with the roots that hooks' servers are verified
	// with; empty means the system's.
	HookRoots string `yaml:"hook_roots"`
	// OnePerson lets one person set hooks, register others' CAs and raise budgets by
	// the single commands, where it takes a second one otherwise (S36). Production mode
	// refuses it.
	OnePerson bool `yaml:"one_person"`
	// BreakGlass is for when nobody can sign in.
	BreakGlass BreakGlassConfig `yaml:"break_glass"`
	// NTP names time servers, HOST or HOST:PORT, as a second opinion about the clock
	// (S38); production mode needs one.
	NTP []string `yaml:"ntp"`
	// LogLevel is debug, info, warn or error; default info.
	LogLevel string `yaml:"log_level"`

	dir string // of the file
}

// Listen is where the doors are.
type Listen struct {
	People  string `yaml:"people"`  // console and administration API; default 127.0.0.1:8443
	Device  string `yaml:"device"`  // devices, mutual TLS; default :9443
	MQTT    string `yaml:"mqtt"`    // devices, MQTT over mutual TLS; default :8883
	Factory string `yaml:"factory"` // stations, mutual TLS; default :9444
	Enrol   string `yaml:"enrol"`   // enrolment without a certificate; default :9445
	Public  string `yaml:"public"`  // lists, OCSP, certificates, log, health, without TLS; default :8080
	Metrics string `yaml:"metrics"` // default 127.0.0.1:9090
}

// ApproverConfig pins an approver's public key.
type ApproverConfig struct {
	Name string `yaml:"name"`
	Key  string `yaml:"key"` // PEM text, or the name of a PEM file, with a public key
}

// TokensConfig configures PKCS#11 tokens.
type TokensConfig struct {
	Sessions int `yaml:"sessions"` // per token; 0 picks min(cores, 4)
	// Modules are the PKCS#11 libraries that a key's URI may name. A library is
	// code that runs as the service, so production mode loads no other; empty
	// means any in development.
	Modules []string `yaml:"modules"`
	// Direct loads the libraries into the service instead of a process of each
	// one's own: a crash of one is then the service's.
	Direct bool `yaml:"direct"`
	// Environment names the variables that the libraries' processes get besides
	// those that every one does.
	Environment []string `yaml:"environment"`
	// ExposedKeys are keys of imported authorities, as hallmark ca list shows them,
	// that production mode takes although copies of them may exist.
	ExposedKeys []string `yaml:"exposed_keys"`
	// Groups are the keys that more than one token holds.
	Groups []TokenGroup `yaml:"groups"`
}

// exposedAllowed tells whether the configuration names a key that could be copied.
func (c *Config) exposedAllowed(uri string) bool {
	u, err := hsm.ParseURI(uri)
	return err == nil && slices.Contains(c.Tokens.ExposedKeys, u.Key())
}

// ListsConfig configures CRLs.
type ListsConfig struct {
	Validity Duration `yaml:"validity"` // default 168h; a list is renewed at half of it
	Shards   int      `yaml:"shards"`   // of newly made authorities; default 1
	// Deltas publishes a delta list beside every list.
	Deltas bool `yaml:"deltas"`
	// Filters makes compact filters of this age; 0 makes none.
	Filters Duration `yaml:"filters"`
	// Destinations are places that lists are sent to, besides the public listener.
	Destinations []DestinationConfig `yaml:"destinations"`
	// Import are lists of other CAs, whose devices were brought along.
	Import []ImportConfig `yaml:"import"`
}

// FleetConfig configures how devices are registered. Production mode refuses the
// first two.
type FleetConfig struct {
	// JITP registers devices of registered CAs when they connect for the first
	// time (S22).
	JITP bool `yaml:"jitp"`
	// ServerKeys lets devices with a claim certificate ask for a key that the
	// service makes (S17).
	ServerKeys bool `yaml:"server_keys"`
	// AnyClient names tenants whose devices may connect with any client identifier
	// that their policies allow, where the rule is the thing's name, or that and a
	// number (S25). The summary warns of it.
	AnyClient []string `yaml:"any_client"`
	// DarkLane lets devices come back whose operational certificate has expired.
	DarkLane DarkLaneConfig `yaml:"dark_lane"`
	// Campaigns is the rules of changes that many devices get.
	Campaigns CampaignsConfig `yaml:"campaigns"`
	// Rotation is what is done about certificates of devices that end soon.
	Rotation RotationConfig `yaml:"rotation"`
	// Firmware is whose firmware devices get.
	Firmware FirmwareConfig `yaml:"firmware"`
	// Ownership is the rules of giving devices away.
	Ownership OwnershipConfig `yaml:"ownership"`
}

// DarkLaneConfig bounds the dark-device lane; without a policy there is none.
type DarkLaneConfig struct {
	Policy   string   `yaml:"policy"`   // what a device may do in quarantine; "" means off
	Within   Duration `yaml:"within"`   // since the end of the certificate; default 720h
	PerDay   int64    `yaml:"per_day"`  // devices of a tenant; default 100
	Groups   []string `yaml:"groups"`   // of which a thing must be in one; none means all things
	Profiles []string `yaml:"profiles"` // that may have expired; default ldevid, also idevid
}

// complete fills defaults.
func (c *DarkLaneConfig) complete() error {
	if c.Policy == "" {
		if c.Within != 0 || c.PerDay != 0 || len(c.Groups)+len(c.Profiles) > 0 {
			return errConfig.New("fleet.dark_lane: policy is missing; without it there is no lane.")
		}
		return nil
	}
	if c.Within == 0 {
		c.Within = Duration(30 * 24 * time.Hour)
	}
	if d := time.Duration(c.Within); d < time.Hour || d > 10*365*24*time.Hour {
		return errConfig.New("fleet.dark_lane.within: %s is not 1h to 87600h.", d)
	}
	if c.PerDay == 0 {
		c.PerDay = 100
	}
	if c.PerDay < 1 || c.PerDay > 1_000_000 {
		return errConfig.New("fleet.dark_lane.per_day: %d is not 1 to 1000000.", c.PerDay)
	}
	if len(c.Profiles) == 0 {
		c.Profiles = []string{string(profile.LDevID)}
	}
	for _, p := range c.Profiles {
		if p != string(profile.LDevID) && p != string(profile.IDevID) {
			return errConfig.New("fleet.dark_lane.profiles: %q is neither ldevid nor idevid.", p)
		}
	}
	if !slices.Contains(c.Profiles, string(profile.LDevID)) {
		return errConfig.New("fleet.dark_lane.profiles: ldevid is missing; a device comes back with its operational certificate.")
	}
	return nil
}

// PrivacyConfig says what is kept about devices, and what others can see (S43).
type PrivacyConfig struct {
	// Pseudonyms keeps the names of things and serial numbers out of the subjects
	// of new operational certificates.
	Pseudonyms bool `yaml:"pseudonyms"`
	// TLS13 refuses older TLS at the device door, which shows the birth
	// certificate to whoever listens.
	TLS13 bool `yaml:"tls13"`
	// Presence is how long it is known when a device was last connected; default 9600h.
	Presence Duration `yaml:"presence"`
	// Orphans is how long shadows of names are kept that are no thing's; default 720h.
	Orphans Duration `yaml:"orphans"`
	// Shadows is how long shadows are kept that nobody updates; 0 keeps them as
	// long as their thing.
	Shadows Duration `yaml:"shadows"`
}

// LogConfig configures the transparency log.
type LogConfig struct {
	Origin string `yaml:"origin"` // its name in checkpoints; default from base_url
	// Key is the URI of the Ed25519 key in a token that signs checkpoints (S34);
	// empty means a file, sealed under the master key, which production mode takes
	// only with SoftwareKey, that says why there is no token for it.
	Key         string `yaml:"key"`
	SoftwareKey string `yaml:"software_key"`
	// Publish is a directory to which the log is written as static files, for a
	// web server or CDN; empty leaves it out.
	Publish string `yaml:"publish"`
	// PublishEvery is how often that is done, and how often witnesses are asked;
	// default 10s.
	PublishEvery Duration `yaml:"publish_every"`
	// Witnesses sign checkpoints that extend what they signed before (C2SP
	// tlog-witness); Quorum of them must sign before one is published, default all.
	Witnesses []WitnessConfig `yaml:"witnesses"`
	Quorum    int             `yaml:"quorum"`
	// CheckpointFiles are on storage that a restored backup does not replace: the
	// newest checkpoint is written there, and compared with the log at the start (S34).
	CheckpointFiles []string `yaml:"checkpoint_files"`
}

// Duration is a Go duration in YAML.
type Duration time.Duration

// UnmarshalYAML reads "168h".
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %q is not a duration such as 168h", n.Line, n.Value)
	}
	*d = Duration(v)
	return nil
}

// loadConfig reads, checks and completes a configuration file.
func loadConfig(file string) (*Config, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, errConfig.Wrap(err, "File %s.", file)
	}
	c, err := parseConfig(b, filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	return c, nil
}

var unknownField = regexp.MustCompile(`line (\d+): field (\S+) not found in type main\.(\w+)`)

// maxConfig bounds the file: a YAML parser takes its time with a huge one.
const maxConfig = 256 << 10

// parseConfig is strict: an unknown key is an error with its line and the
// nearest name.
func parseConfig(b []byte, dir string) (*Config, error) {
	if len(b) > maxConfig {
		return nil, errConfig.New("The file has %d octets; %d are allowed.", len(b), maxConfig)
	}
	c := &Config{dir: dir}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		if m := unknownField.FindStringSubmatch(err.Error()); m != nil {
			return nil, errConfig.New("Line %s: there is no key %q here%s.", m[1], m[2], nearest(m[2], m[3])).With("line", m[1])
		}
		return nil, errConfig.New("%s.", strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\n", " "), "yaml: "))
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errConfig.New("There is a second document after ---.")
	}
	return c, c.complete()
}

// nearest suggests the key that was probably meant.
func nearest(key, typeName string) string {
	for _, v := range []any{Config{}, Listen{}, ApproverConfig{}, TokensConfig{}, TokenGroup{}, ListsConfig{}, DestinationConfig{}, ImportConfig{}, FleetConfig{}, DarkLaneConfig{}, EnrolmentConfig{}, ESTConfig{}, CMPConfig{}, SCEPConfig{}, MQTTConfig{}, PrivacyConfig{}, FabricConfig{}, FabricTLS{}, LogConfig{}, WitnessConfig{}, BreakGlassConfig{}, BackupConfig{}} {
		if t := reflect.TypeOf(v); t.Name() == typeName {
			var names []string
			for i := range t.NumField() {
				if n := t.Field(i).Tag.Get("yaml"); n != "" {
					names = append(names, n)
				}
			}
			if n := strictjson.Nearest(key, names); n != "" {
				return fmt.Sprintf("; did you mean %q", n)
			}
			return "; there are " + strings.Join(names, ", ")
		}
	}
	return ""
}

// complete fills defaults and checks what can be checked without starting.
func (c *Config) complete() error {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.State, "state")
	if !filepath.IsAbs(c.State) {
		c.State = filepath.Join(c.dir, c.State)
	}
	def(&c.Database, "hallmark.db")
	if !strings.Contains(c.Database, "://") && !filepath.IsAbs(c.Database) {
		c.Database = filepath.Join(c.State, c.Database)
	}
	def(&c.BaseURL, "http://localhost:8080")
	if err := ca.ValidBaseURL(c.BaseURL, false); err != nil {
		return errConfig.New("base_url: %s", fault.From(err).Detail)
	}
	if len(c.ServerNames) == 0 {
		c.ServerNames = []string{"localhost", "127.0.0.1", "::1"}
	}
	for _, n := range c.ServerNames {
		if _, err := netip.ParseAddr(n); err != nil && !validHost(n) {
			return errConfig.New("server_names: %q is neither a DNS name nor an address.", n)
		}
	}
	if c.Domain != "" && !validHost(c.Domain) {
		return errConfig.New("domain: %q is not a DNS name.", c.Domain)
	}
	def(&c.PolicyArc, profile.DefaultArc)
	if _, err := der.ParseOID(c.PolicyArc); err != nil {
		return errConfig.New("policy_arc: %q is not an object identifier.", c.PolicyArc)
	}
	def(&c.Listen.People, "127.0.0.1:8443")
	def(&c.Listen.Device, ":9443")
	def(&c.Listen.MQTT, ":8883")
	def(&c.Listen.Factory, ":9444")
	def(&c.Listen.Enrol, ":9445")
	def(&c.Listen.Public, ":8080")
	def(&c.Listen.Metrics, "127.0.0.1:9090")
	for name, a := range c.Listen.all() {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return errConfig.New("listen.%s: %q is not HOST:PORT.", name, a)
		}
	}
	if h, _, _ := net.SplitHostPort(c.Listen.Metrics); h != "127.0.0.1" && h != "::1" && h != "localhost" {
		return errConfig.New("listen.metrics: %q is not local; profiles show memory.", c.Listen.Metrics)
	}
	if c.ApprovalsNeeded == 0 {
		c.ApprovalsNeeded = 1
	}
	if c.ApprovalsNeeded < 0 || len(c.Approvers) > 0 && c.ApprovalsNeeded > len(c.Approvers) {
		return errConfig.New("approvals_needed: %d of %d approvers.", c.ApprovalsNeeded, len(c.Approvers))
	}
	if c.Tokens.Sessions < 0 || c.Tokens.Sessions > 256 {
		return errConfig.New("tokens.sessions: %d is not 0 to 256.", c.Tokens.Sessions)
	}
	if _, err := c.groups(); err != nil {
		return err
	}
	if err := c.Enrolment.complete(c.dir, c.ServerNames); err != nil {
		return err
	}
	if _, err := c.MQTT.limits(); err != nil {
		return err
	}
	if err := c.Fleet.Campaigns.complete(); err != nil {
		return err
	}
	if err := c.Fleet.Rotation.complete(); err != nil {
		return err
	}
	if err := c.Fleet.Ownership.complete(); err != nil {
		return err
	}
	if err := c.Fleet.DarkLane.complete(); err != nil {
		return err
	}
	if c.Lists.Validity == 0 {
		c.Lists.Validity = Duration(7 * 24 * time.Hour)
	}
	if d := time.Duration(c.Lists.Validity); d < 10*time.Minute || d > 90*24*time.Hour {
		return errConfig.New("lists.validity: %s is not 10m to 2160h.", d)
	}
	if d := time.Duration(c.Lists.Filters); d != 0 && (d < time.Hour || d > 7*24*time.Hour) {
		return errConfig.New("lists.filters: %s is not 1h to 168h.", d)
	}
	if c.Lists.Shards == 0 {
		c.Lists.Shards = 1
	}
	if c.Lists.Shards < 1 || c.Lists.Shards > 100_000 {
		return errConfig.New("lists.shards: %d is not 1 to 100000.", c.Lists.Shards)
	}
	for _, d := range []struct {
		name string
		v    *Duration
		def  time.Duration
	}{{"presence", &c.Privacy.Presence, 400 * 24 * time.Hour}, {"orphans", &c.Privacy.Orphans, 30 * 24 * time.Hour}, {"shadows", &c.Privacy.Shadows, 0}} {
		if *d.v == 0 {
			*d.v = Duration(d.def)
		}
		if v := time.Duration(*d.v); v != 0 && v < time.Hour {
			return errConfig.New("privacy.%s: %s is less than 1h.", d.name, v)
		}
	}
	if err := c.Fabric.complete(c.dir, c.State); err != nil {
		return err
	}
	def(&c.Log.Origin, strings.TrimPrefix(c.BaseURL, "http://")+"/log")
	if strings.ContainsAny(c.Log.Origin, " +\n") {
		return errConfig.New("log.origin: %q has a space or a plus sign.", c.Log.Origin)
	}
	if err := c.Log.complete(c.dir); err != nil {
		return err
	}
	if err := c.Backup.complete(c.dir); err != nil {
		return err
	}
	for i, a := range c.NTP {
		if _, _, err := net.SplitHostPort(a); err != nil {
			a = net.JoinHostPort(strings.Trim(a, "[]"), "123")
		}
		host, port, err := net.SplitHostPort(a)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || net.ParseIP(host) == nil && !validHost(host) {
			return errConfig.New("ntp: %q is not HOST or HOST:PORT.", c.NTP[i])
		}
		c.NTP[i] = a
	}
	if len(c.NTP) > 8 {
		return errConfig.New("ntp: %d servers; eight are enough.", len(c.NTP))
	}
	def(&c.LogLevel, "info")
	_, err := c.approvers()
	return err
}

func (l *Listen) all() map[string]string {
	return map[string]string{"people": l.People, "device": l.Device, "mqtt": l.MQTT, "factory": l.Factory, "enrol": l.Enrol, "public": l.Public, "metrics": l.Metrics}
}

func validHost(h string) bool {
	for _, l := range strings.Split(h, ".") {
		if !profile.Label(l) {
			return false
		}
	}
	return true
}

// approvers parses the pinned keys.
func (c *Config) approvers() ([]provisioner.Approver, error) {
	var out []provisioner.Approver
	for i, a := range c.Approvers {
		text := []byte(a.Key)
		if !strings.Contains(a.Key, "-----BEGIN") {
			name := a.Key
			if !filepath.IsAbs(name) {
				name = filepath.Join(c.dir, name)
			}
			var err error
			if text, err = os.ReadFile(name); err != nil {
				return nil, errConfig.New("approvers[%d].key: %v.", i, err)
			}
		}
		key, err := parsePublicKey(text)
		if err != nil || a.Name == "" {
			return nil, errConfig.New("approvers[%d]: a name and a public key in PEM are needed.", i)
		}
		out = append(out, provisioner.Approver{Name: a.Name, Key: key})
	}
	return out, nil
}

func parsePublicKey(text []byte) (crypto.PublicKey, error) {
	b, _ := pem.Decode(text)
	if b == nil {
		return nil, errors.New("no PEM block")
	}
	if b.Type == "CERTIFICATE" {
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, err
		}
		return c.PublicKey, nil
	}
	return x509.ParsePKIXPublicKey(b.Bytes)
}

// moduleAllowed refuses a PKCS#11 library that the configuration does not list.
func (c *Config) moduleAllowed(module string) error {
	if module == "" || slices.Contains(c.Tokens.Modules, module) || len(c.Tokens.Modules) == 0 && !c.Production {
		return nil
	}
	return errModule.New("%s.", module)
}

func newConfigCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check and explain the configuration file"}
	check := &cobra.Command{
		Use: "check FILE", Short: "Tell whether a configuration file is valid", Args: cobra.ExactArgs(1),
		Example: "  hallmark config check hallmark.yaml",
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := loadConfig(args[0])
			if err != nil {
				return err
			}
			if err := refused(c.conveniences()); err != nil {
				return err
			}
			return g.print(map[string]any{"valid": true, "state": c.State, "production": c.Production}, func(w io.Writer) {
				fmt.Fprintf(w, "%s is valid. State: %s, production mode: %s.\n", args[0], c.State, strconv.FormatBool(c.Production))
			})
		},
	}
	cmd.AddCommand(check)
	return cmd
}
