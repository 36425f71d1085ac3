package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hallmark/api/adminapi"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
)

var errStatementThere = fault.Define(fault.Conflict, "cps-file-exists", "The file is there already, and people may have written in it.", "Name another file with --out and compare the two, or move the old one away.")

func init() { commands = append(commands, newCPSCmd) }

func newCPSCmd(g *globals) *cobra.Command {
	var file, out, format string
	c := &cobra.Command{
		Use: "cps", Short: "Write a certification practice statement from what the service does", Args: cobra.NoArgs,
		Long: `Write a combined certificate policy and certification practice statement in the
outline of RFC 3647, Section 6. What the configuration and the running service
decide is filled in: authorities and keys, profiles, lifetimes, lists, log, roles,
rules of ceremonies. What a person has to write is marked with "To be written".
A file that exists is never written over.
It needs the configuration file of the service and the right to read authorities.`,
		Example: `  hallmark cps --out cps.md
  hallmark cps --dir demo --out cps.html
  hallmark cps --config /etc/hallmark/hallmark.yaml --format html --out -`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format == "" {
				format = map[string]string{".html": "html", ".htm": "html"}[strings.ToLower(filepath.Ext(out))]
			}
			render := map[string]func(*cpsDocument) string{"": (*cpsDocument).markdown, "markdown": (*cpsDocument).markdown, "html": (*cpsDocument).html}[format]
			if render == nil {
				return errUsage{fmt.Errorf("--format is markdown or html, not %q", format)}
			}
			if _, err := os.Lstat(out); out != "-" && err == nil {
				return errStatementThere.New("%s.", out)
			}
			cfg, err := findConfig(g.Dir, file)
			if err != nil {
				return err
			}
			api, err := g.admin(cmd.Context())
			if err != nil {
				return err
			}
			a, err := api.ListAuthoritiesWithResponse(cmd.Context())
			if err != nil {
				return errAnswer.Wrap(err, "")
			}
			authorities, err := orProblem(a.JSON200, a.StatusCode(), a.Body)
			if err != nil {
				return err
			}
			lists, err := fetchLists(cmd.Context(), api)
			if err != nil {
				return err
			}
			d := writeCPS(&cpsFacts{cfg: cfg, authorities: authorities.Items, lists: lists, now: g.Now()})
			text := []byte(render(d))
			if out == "-" {
				_, err := g.Out.Write(text)
				return err
			}
			if err := durable.WriteFile(out, text, 0o644); err != nil {
				return err
			}
			sum := sha256.Sum256(text)
			facts := map[string]any{"file": out, "sha256": hex.EncodeToString(sum[:]), "to_be_written": d.open}
			return g.print(facts, func(w io.Writer) {
				fmt.Fprintf(w, "Written to %s. %d sections are yours to write; search for \"To be written\".\n", out, d.open)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "configuration file of the service; default hallmark.yaml in --dir")
	f.StringVar(&out, "out", "", "file to write, - for standard output")
	f.StringVar(&format, "format", "", "markdown or html; by the name of the file if not given")
	c.MarkFlagRequired("out")
	return c
}

// cpsFacts is what a statement is written from.
type cpsFacts struct {
	cfg         *Config
	authorities []adminapi.Authority
	lists       []adminapi.List
	now         time.Time
}

// cpsDocument is a text with headings, paragraphs, lists and tables.
type cpsDocument struct {
	title  string
	blocks []cpsBlock
	open   int // sections for a person
}

type cpsBlock struct {
	level int        // of a heading
	text  string     // of a heading or paragraph
	todo  bool       // a paragraph that somebody has to replace
	items []string   // of a list
	rows  [][]string // of a table; the first is its head
}

func (d *cpsDocument) heading(level int, text string) {
	d.blocks = append(d.blocks, cpsBlock{level: level, text: text})
}

func (d *cpsDocument) say(text string, args ...any) {
	d.blocks = append(d.blocks, cpsBlock{text: fmt.Sprintf(text, args...)})
}

func (d *cpsDocument) list(items ...string) { d.blocks = append(d.blocks, cpsBlock{items: items}) }

func (d *cpsDocument) table(rows ...[]string) { d.blocks = append(d.blocks, cpsBlock{rows: rows}) }

func (d *cpsDocument) todo(what string) {
	d.blocks = append(d.blocks, cpsBlock{text: what, todo: true})
	d.open++
}

// markdown is the document for editing.
func (d *cpsDocument) markdown() string {
	var b strings.Builder
	plain := strings.NewReplacer("\\", "\\\\", "<", "\\<", "*", "\\*", "|", "\\|", "\n", " ").Replace
	fmt.Fprintf(&b, "# %s\n", plain(d.title))
	for _, k := range d.blocks {
		b.WriteString("\n")
		switch {
		case k.level > 0:
			fmt.Fprintf(&b, "%s %s\n", strings.Repeat("#", k.level+1), plain(k.text))
		case k.todo:
			fmt.Fprintf(&b, "> **To be written:** %s\n", plain(k.text))
		case k.items != nil:
			for _, i := range k.items {
				fmt.Fprintf(&b, "- %s\n", plain(i))
			}
		case k.rows != nil:
			for n, row := range k.rows {
				b.WriteString("|")
				for _, cell := range row {
					fmt.Fprintf(&b, " %s |", plain(cell))
				}
				b.WriteString("\n")
				if n == 0 {
					b.WriteString("|" + strings.Repeat("---|", len(row)) + "\n")
				}
			}
		default:
			fmt.Fprintf(&b, "%s\n", plain(k.text))
		}
	}
	return b.String()
}

// html is the document for printing.
func (d *cpsDocument) html() string {
	var b strings.Builder
	e := html.EscapeString
	fmt.Fprintf(&b, `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>%s</title><style>
body{font:11pt/1.4 serif;max-width:48em;margin:2em auto;padding:0 1em}h1,h2,h3{font-family:sans-serif}
table{border-collapse:collapse;font-size:90%%}th,td{border:1px solid #999;padding:.2em .5em;text-align:left;vertical-align:top;overflow-wrap:anywhere}
.todo{background:#fff3bf;border-left:.3em solid #e8a400;padding:.4em .8em}@media print{h2{break-before:page}}
</style></head><body>
<h1>%s</h1>
`, e(d.title), e(d.title))
	for _, k := range d.blocks {
		switch {
		case k.level > 0:
			number, _, _ := strings.Cut(k.text, " ")
			fmt.Fprintf(&b, "<h%d id=\"s%s\">%s</h%d>\n", k.level+1, e(strings.TrimSuffix(number, ".")), e(k.text), k.level+1)
		case k.todo:
			fmt.Fprintf(&b, "<p class=\"todo\"><strong>To be written:</strong> %s</p>\n", e(k.text))
		case k.items != nil:
			b.WriteString("<ul>\n")
			for _, i := range k.items {
				fmt.Fprintf(&b, "<li>%s</li>\n", e(i))
			}
			b.WriteString("</ul>\n")
		case k.rows != nil:
			b.WriteString("<table>\n")
			for n, row := range k.rows {
				cell := "td"
				if n == 0 {
					cell = "th"
				}
				b.WriteString("<tr>")
				for _, text := range row {
					fmt.Fprintf(&b, "<%s>%s</%s>", cell, e(text), cell)
				}
				b.WriteString("</tr>\n")
			}
			b.WriteString("</table>\n")
		default:
			fmt.Fprintf(&b, "<p>%s</p>\n", e(k.text))
		}
	}
	b.WriteString("</body></html>\n")
	return b.String()
}
