package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"time"

	"hallmark/crl"
	"hallmark/internal/s3"
)

// DestinationConfig is a place that lists are sent to: one of directory, url and s3.
type DestinationConfig struct {
	Directory string `yaml:"directory"`
	URL       string `yaml:"url"`        // of a web server; the path of a list is put behind it
	Method    string `yaml:"method"`     // PUT (default) or POST, of url
	TokenFile string `yaml:"token_file"` // with a bearer token, of url
	S3        string `yaml:"s3"`         // the endpoint of an S3-compatible store
	Region    string `yaml:"region"`     // of s3; default us-east-1
	Bucket    string `yaml:"bucket"`     // of s3
	Prefix    string `yaml:"prefix"`     // of the names in the bucket
	KeyFile   string `yaml:"key_file"`   // access key and secret key, a line each, of s3
	CAFile    string `yaml:"ca_file"`    // roots of the server; default the system's
}

// ImportConfig is a list of a CA that is not ours.
type ImportConfig struct {
	Name     string   `yaml:"name"`
	CA       string   `yaml:"ca"`       // PEM file of the CA's certificate
	URL      string   `yaml:"url"`      // where its list is, or
	File     string   `yaml:"file"`     // the file that has it
	Every    Duration `yaml:"every"`    // default 1h
	Required bool     `yaml:"required"` // refuse its devices while there is no current list
}

// in gives a file that is named relative to the configuration.
func (c *Config) in(file string) string {
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(c.dir, file)
}

// destinations are the configured places.
func (c *Config) destinations() (out []crl.Destination, err error) {
	for i, d := range c.Lists.Destinations {
		n := 0
		for _, s := range []string{d.Directory, d.URL, d.S3} {
			if s != "" {
				n++
			}
		}
		if n != 1 {
			return nil, errConfig.New("lists.destinations: number %d has %d of directory, url and s3.", i+1, n)
		}
		var one crl.Destination
		switch {
		case d.Directory != "":
			one = crl.Directory{Dir: c.in(d.Directory)}
		case d.URL != "":
			one, err = crl.NewHTTPPush(crl.HTTPPushConfig{URL: d.URL, Method: d.Method, TokenFile: c.in(d.TokenFile), CAFile: c.in(d.CAFile)})
		default:
			one, err = crl.NewS3(s3.Config{Endpoint: d.S3, Region: d.Region, Bucket: d.Bucket, Prefix: d.Prefix, KeyFile: c.in(d.KeyFile), CAFile: c.in(d.CAFile)})
		}
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

// imports are the configured lists of other CAs.
func (c *Config) imports() (out []crl.ImportSource, err error) {
	for _, i := range c.Lists.Import {
		text, err := os.ReadFile(c.in(i.CA))
		if err != nil {
			return nil, errConfig.Wrap(err, "lists.import: the CA of %s.", i.Name)
		}
		block, _ := pem.Decode(text)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errConfig.New("lists.import: %s has no certificate in PEM.", i.CA)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errConfig.Wrap(err, "lists.import: the CA of %s.", i.Name)
		}
		out = append(out, crl.ImportSource{Name: i.Name, Issuer: cert, URL: i.URL, File: c.in(i.File), Every: time.Duration(i.Every), Required: i.Required})
	}
	return out, nil
}

// openLists opens what carries trust that was taken away: to other places, as
// filters, and from other CAs.
func (s *Server) openLists() error {
	cfg := s.cfg
	places, err := cfg.destinations()
	if err != nil {
		return err
	}
	if len(places) > 0 {
		s.sender = crl.NewSender(crl.SenderConfig{Destinations: places, Log: s.log, Now: s.now})
	}
	public := filepath.Join(cfg.State, "public")
	floor, err := s.db.ListFloor(context.Background())
	if err != nil {
		return err
	}
	if cfg.Lists.Filters > 0 {
		s.filters = crl.NewFilters(crl.FiltersConfig{Store: s.db, CA: s.ca, Responder: s.responder, Every: time.Duration(cfg.Lists.Filters), Dir: public, Send: s.sender, Floor: floor("", 0), Clock: s.clockNotAhead, Log: s.log, Now: s.now})
	}
	sources, err := cfg.imports()
	if err != nil {
		return err
	}
	if s.imports, err = crl.NewImports(crl.ImportsConfig{Sources: sources, Dir: filepath.Join(cfg.State, "imported"), Log: s.log, Now: s.now}); err != nil {
		return err
	}
	s.lists = crl.NewPublisher(crl.PublisherConfig{Store: s.db, CA: s.ca, Set: s.set, Dir: public, Validity: time.Duration(cfg.Lists.Validity), Deltas: cfg.Lists.Deltas,
		Send: s.sender, Filters: s.filters, Floor: floor, Clock: s.clockNotAhead, Log: s.log, Now: s.now})
	return nil
}

// runLists starts what openLists opened.
func (s *Server) runLists(ctx context.Context) {
	s.wg.Go(func() { s.ocsp.Run(ctx) })
	if s.sender != nil {
		s.wg.Go(func() { s.sender.Run(ctx) })
	}
	if s.filters != nil {
		s.wg.Go(func() { s.filters.Run(ctx) })
	}
	s.wg.Go(func() { s.imports.Run(ctx) })
}
