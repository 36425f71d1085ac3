package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	slash "path"
	"regexp"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"go.yaml.in/yaml/v3"

	"hallmark/internal/fault"
	"hallmark/internal/seal"
	"hallmark/store"
)

// backupFormat names the form of a backup: a tar archive, compressed with gzip,
// encrypted with age. Its first part is the head, its last the manifest, which
// names the hash of every other part.
const backupFormat = "hallmark backup 1"

const (
	headPart     = "head.json"
	manifestPart = "manifest.json"
	masterPart   = "state/seal.key.age"
	configPart   = "config/hallmark.yaml"
	tablesDir    = "tables/"
	keysDir      = "state/keys/"
)

var (
	errBackupRecipients = fault.Define(fault.Invalid, "backup-recipients", "It is not known for whom the backup is to be encrypted.", "Name recipients under backup.recipients: an age public key, or a file with some. hallmark backup keygen makes a pair.")
	errBackupRead       = fault.Define(fault.Invalid, "backup-unreadable", "This is not a whole backup of hallmark.", "Compare the file with its copy elsewhere, and use another backup if both are like this.")
	errBackupIdentity   = fault.Define(fault.Forbidden, "backup-identity", "The backup was not encrypted for this key.", "Give --identity with the secret key of one of the recipients, or --passphrase-file.")
	errBackupMaster     = fault.Define(fault.Conflict, "backup-master-key", "The master key that belongs to the backup is needed.", "Give --seal-key with a copy of the seal.key of the service, or --key-identity if the backup carries it.")
	errBackupForged     = fault.Define(fault.Forbidden, "backup-forged", "The backup was not made by a service that has this master key.", "Do not use it. Find out who can write to the directory of the backups.")
)

// backupHead says what a reader must know before it takes the rows.
type backupHead struct {
	Format  string `json:"format"`
	ID      string `json:"id"`
	Version int    `json:"version"` // of the schema
	Master  string `json:"master"`  // which master key belongs to it
}

// backupManifest says what a backup has, and what it has not.
type backupManifest struct {
	backupHead
	MadeAt   time.Time           `json:"made_at"`
	Program  string              `json:"program"`
	Origin   string              `json:"origin"` // of the log
	LogKey   string              `json:"log_key"`
	Facts    store.SnapshotFacts `json:"facts"`
	Rows     map[string]int64    `json:"rows"`
	Parts    []backupPart        `json:"parts"`
	NotInIt  []string            `json:"not_in_it"`
	MasterIn bool                `json:"master_in_it"`
	// MAC is by the master key: whoever knows a recipient's public key can encrypt,
	// but not make a backup that is taken (S32).
	MAC []byte `json:"mac,omitempty"`
}

// backupPart is one file of the archive.
type backupPart struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	Sum  []byte `json:"sha256"`
}

func (m *backupManifest) mac(box *seal.Box) ([]byte, error) {
	c := *m
	c.MAC = nil
	b, err := json.Marshal(&c)
	if err != nil {
		return nil, err
	}
	return box.MAC("backup-manifest", b), nil
}

// genuine says whether a service with this master key made the backup.
func (m *backupManifest) genuine(box *seal.Box) error {
	if m.Master != box.KeyID() {
		return errBackupMaster.New("It belongs to the key %s, this is %s.", m.Master, box.KeyID())
	}
	want, err := m.mac(box)
	if err != nil {
		return err
	}
	if !bytes.Equal(want, m.MAC) {
		return errBackupForged.New("")
	}
	return nil
}

// backupWriter writes the parts of a backup.
type backupWriter struct {
	age   io.WriteCloser
	gzip  *gzip.Writer
	tar   *tar.Writer
	parts []backupPart
}

func newBackupWriter(to io.Writer, recipients []age.Recipient) (*backupWriter, error) {
	a, err := age.Encrypt(to, recipients...)
	if err != nil {
		return nil, errBackupRecipients.Wrap(err, "")
	}
	// Most octets are keys and signatures, which do not shrink: the quickest level
	// takes what there is to take.
	z, err := gzip.NewWriterLevel(a, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	return &backupWriter{age: a, gzip: z, tar: tar.NewWriter(z)}, nil
}

func (w *backupWriter) put(name string, data []byte) error {
	if err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), Format: tar.FormatPAX}); err != nil {
		return err
	}
	if _, err := w.tar.Write(data); err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	w.parts = append(w.parts, backupPart{name, int64(len(data)), sum[:]})
	return nil
}

func (w *backupWriter) close() error {
	for _, c := range []io.Closer{w.tar, w.gzip, w.age} {
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

// maxPart bounds what is read into memory; a row of the database can be a list.
const maxPart = 320 << 20

// readBackup gives every part but the manifest, in order, and then the manifest,
// compared with what came. A part belongs to each only while it runs. Nothing
// is to be relied on before readBackup has returned.
func readBackup(ctx context.Context, from io.Reader, identities []age.Identity, each func(name string, data []byte) error) (*backupManifest, error) {
	a, err := age.Decrypt(from, identities...)
	var no *age.NoIdentityMatchError
	if errors.As(err, &no) {
		return nil, errBackupIdentity.Wrap(err, "")
	}
	if err != nil {
		return nil, errBackupRead.Wrap(err, "")
	}
	z, err := gzip.NewReader(a)
	if err != nil {
		return nil, errBackupRead.Wrap(err, "")
	}
	t := tar.NewReader(z)
	var parts []backupPart
	var m *backupManifest
	var head []byte
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errBackupRead.Wrap(err, "After %d parts.", len(parts))
		}
		if h.Typeflag != tar.TypeReg || h.Size > maxPart || slash.Clean("/"+h.Name) != "/"+h.Name {
			return nil, errBackupRead.New("Part %.80q.", h.Name)
		}
		if m != nil {
			return nil, errBackupRead.New("Part %.80q comes after the manifest.", h.Name)
		}
		data := make([]byte, h.Size)
		if _, err := io.ReadFull(t, data); err != nil {
			return nil, errBackupRead.Wrap(err, "Part %s.", h.Name)
		}
		if h.Name == manifestPart {
			m = &backupManifest{}
			if err := json.Unmarshal(data, m); err != nil {
				return nil, errBackupRead.Wrap(err, "Its manifest cannot be read.")
			}
			continue
		}
		if len(parts) == 0 {
			if h.Name != headPart {
				return nil, errBackupRead.New("It does not begin with its head.")
			}
			head = data
		}
		sum := sha256.Sum256(data)
		parts = append(parts, backupPart{h.Name, h.Size, sum[:]})
		if each != nil {
			if err := each(h.Name, data); err != nil {
				return nil, err
			}
		}
	}
	// What is behind the archive would go unseen otherwise; at the end age says
	// whether the file is whole.
	if n, err := io.Copy(io.Discard, z); err != nil || n > 0 {
		return nil, errBackupRead.Wrap(err, "There is something behind the archive.")
	}
	if n, err := io.Copy(io.Discard, a); err != nil || n > 0 {
		return nil, errBackupRead.Wrap(err, "There is something behind the archive.")
	}
	if m == nil {
		return nil, errBackupRead.New("It has no manifest.")
	}
	var b backupHead
	if err := json.Unmarshal(head, &b); err != nil || b != m.backupHead || b.Format != backupFormat {
		return nil, errBackupRead.Wrap(err, "Head and manifest differ, or it has another format than %q.", backupFormat)
	}
	if !slices.EqualFunc(parts, m.Parts, func(a, b backupPart) bool {
		return a.Name == b.Name && a.Size == b.Size && bytes.Equal(a.Sum, b.Sum)
	}) {
		return nil, errBackupRead.New("Its parts are not those that its manifest names.")
	}
	return m, nil
}

// checkBackup reads all of a backup and compares the rows with the manifest.
// With box, the manifest must be of a service that has the same master key.
func checkBackup(ctx context.Context, from io.Reader, identities []age.Identity, box *seal.Box) (*backupManifest, error) {
	rows := map[string]int64{}
	m, err := readBackup(ctx, from, identities, func(name string, data []byte) error {
		if !strings.HasPrefix(name, tablesDir) {
			return nil
		}
		c, err := store.CheckChunk(data)
		rows[c.Table] += c.Rows
		return err
	})
	if err != nil {
		return nil, err
	}
	for table, want := range m.Rows {
		if rows[table] != want {
			return nil, errBackupRead.New("Table %s has %d rows; the manifest says %d.", table, rows[table], want)
		}
	}
	if box != nil {
		err = m.genuine(box)
	}
	return m, err
}

// recipientsOf reads age public keys: each is one, or the name of a file with some.
func recipientsOf(list []string, abs func(string) string) (out []age.Recipient, err error) {
	for _, s := range list {
		text := s
		if !strings.HasPrefix(s, "age1") {
			b, err := os.ReadFile(abs(s))
			if err != nil {
				return nil, errBackupRecipients.Wrap(err, "")
			}
			text = string(b)
		}
		r, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil {
			return nil, errBackupRecipients.Wrap(err, "%.80q.", s)
		}
		out = append(out, r...)
	}
	return out, nil
}

// onceFor makes a key pair that is forgotten when the backup was read back. It is
// of the recipients' kind, since age does not mix a kind that quantum computers
// break with one that they do not.
func onceFor(recipients []age.Recipient) (age.Identity, age.Recipient, error) {
	for _, r := range recipients {
		if _, ok := r.(*age.HybridRecipient); ok {
			id, err := age.GenerateHybridIdentity()
			if err != nil {
				return nil, nil, err
			}
			return id, id.Recipient(), nil
		}
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, nil, err
	}
	return id, id.Recipient(), nil
}

// identitiesOf opens what the flags name.
func identitiesOf(identity, passphrase string) ([]age.Identity, error) {
	switch {
	case identity != "" && passphrase != "":
		return nil, errUsage{errors.New("give --identity or --passphrase-file")}
	case passphrase != "":
		p, err := readPassphrase(passphrase)
		if err != nil {
			return nil, err
		}
		id, err := age.NewScryptIdentity(p)
		return []age.Identity{id}, err
	case identity == "":
		return nil, errBackupIdentity.New("None was given.")
	}
	b, err := os.ReadFile(identity)
	if err != nil {
		return nil, errBackupIdentity.Wrap(err, "")
	}
	defer clear(b)
	ids, err := age.ParseIdentities(bytes.NewReader(b))
	if err != nil {
		return nil, errBackupIdentity.New("The file %s has no secret key of age.", identity) // the error could quote it
	}
	return ids, nil
}

func readPassphrase(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", errBackupIdentity.Wrap(err, "")
	}
	p := strings.TrimRight(string(b), "\r\n")
	if len(p) < 20 {
		return "", errBackupIdentity.New("The passphrase in %s has %d characters; 20 are needed.", file, len(p))
	}
	return p, nil
}

var (
	secretName  = regexp.MustCompile(`(?i)(password|passphrase|secret|pin|credential|token)$`)
	secretInURL = regexp.MustCompile(`(://[^/@:\s]*:)[^@/\s]+@`)
	pinInURI    = regexp.MustCompile(`(pin-value=)[^&;'"\s]+`)
)

const leftOut = "LEFT-OUT-OF-THE-BACKUP"

// withoutSecrets is a configuration with its secrets taken out. What cannot be
// read is left out as a whole.
func withoutSecrets(text []byte) []byte {
	var n yaml.Node
	if err := yaml.Unmarshal(text, &n); err != nil {
		return fmt.Appendf(nil, "# The configuration could not be read.\n")
	}
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		n.HeadComment, n.LineComment, n.FootComment = "", "", ""
		if n.Kind == yaml.MappingNode {
			for i := 0; i+1 < len(n.Content); i += 2 {
				if k, v := n.Content[i], n.Content[i+1]; v.Kind == yaml.ScalarNode && secretName.MatchString(k.Value) {
					v.Value = leftOut
				}
			}
		}
		if n.Kind == yaml.ScalarNode {
			n.Value = pinInURI.ReplaceAllString(secretInURL.ReplaceAllString(n.Value, "${1}"+leftOut+"@"), "${1}"+leftOut)
		}
		for _, c := range n.Content {
			walk(c)
		}
	}
	walk(&n)
	out, err := yaml.Marshal(&n)
	if err != nil {
		return nil
	}
	return out
}
