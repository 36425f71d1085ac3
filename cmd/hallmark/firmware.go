package main

import (
	"cmp"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"

	"hallmark/fleet/ota"
	"hallmark/fleet/ota/manifest"
	"hallmark/internal/s3"
	"hallmark/store/blobs"
	"hallmark/web"
)

// FirmwareConfig is whose firmware this service takes, and where it keeps images.
type FirmwareConfig struct {
	// Trust is a PEM file with the public keys, or the roots, whose signatures under a
	// manifest count (S40). Without it the service takes no firmware.
	Trust string `yaml:"trust"`
	// Signatures is how many different signers a manifest must have; default 1.
	Signatures int `yaml:"signatures"`
	// Dir is the directory of images; default firmware, below state.
	Dir string `yaml:"dir"`
	// S3 is a store of images in place of a directory.
	S3 *FirmwareStoreConfig `yaml:"s3"`
}

// FirmwareStoreConfig is a bucket for images in a store that speaks the S3 protocol.
type FirmwareStoreConfig struct {
	Endpoint string `yaml:"endpoint"` // buckets are named in the path
	Region   string `yaml:"region"`   // default us-east-1
	Bucket   string `yaml:"bucket"`
	Prefix   string `yaml:"prefix"`   // put before the names, with its slash
	KeyFile  string `yaml:"key_file"` // access key and secret key, a line each
	CAFile   string `yaml:"ca_file"`  // roots of the store; default the system's
}

// images is where images are kept.
func (c *FirmwareConfig) images(state string, in func(string) string) (ota.Blobs, error) {
	if c.S3 == nil {
		dir := filepath.Join(state, "firmware")
		if c.Dir != "" {
			dir = in(c.Dir)
		}
		return blobs.Directory{Dir: dir}, nil
	}
	if c.Dir != "" {
		return nil, errConfig.New("fleet.firmware: images are in dir or in s3, not in both.")
	}
	v := s3.Config{Endpoint: c.S3.Endpoint, Region: c.S3.Region, Bucket: c.S3.Bucket, Prefix: c.S3.Prefix, KeyFile: in(c.S3.KeyFile)}
	if c.S3.KeyFile == "" {
		v.KeyFile = ""
	}
	if c.S3.CAFile != "" {
		v.CAFile = in(c.S3.CAFile)
	}
	client, err := s3.New(v)
	if err != nil {
		return nil, errConfig.Wrap(err, "fleet.firmware.s3.")
	}
	return blobs.Bucket{Client: client}, nil
}

// openFirmware makes the service of firmware. It has no key that could sign any: a key
// of one of its authorities as the signer's is refused (S40).
func (s *Server) openFirmware(r *fleetRuntime) error {
	c := &s.cfg.Fleet.Firmware
	at := func(name string) string {
		if filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(s.cfg.dir, name)
	}
	images, err := c.images(s.cfg.State, at)
	if err != nil {
		return err
	}
	conf := ota.Config{Store: s.db, Blobs: images, Staging: filepath.Join(s.cfg.State, "firmware-uploads"), Shadows: r.shadows, Things: s.reged, Presence: s.db, Jobs: s.db, Campaigns: s.db,
		HTTPS: s.deviceURL, Key: s.box.MAC, Log: s.log, Now: s.now}
	if c.Trust != "" {
		text, err := os.ReadFile(at(c.Trust))
		if err != nil {
			return errConfig.Wrap(err, "fleet.firmware.trust.")
		}
		if conf.Trust, err = manifest.ParseTrust(text, cmp.Or(c.Signatures, 1)); err != nil {
			return errConfig.Wrap(err, "fleet.firmware: the file of the signers or their number.")
		}
		for _, a := range s.ca.Authorities() {
			if cert, err := x509.ParseCertificate(a.Certificate); err == nil && conf.Trust.Uses(cert.PublicKey) {
				return errConfig.New("fleet.firmware.trust: the key of the authority %s signs certificates; firmware has keys and roots of its own.", a.Name)
			}
		}
	} else if c.Signatures != 0 {
		return errConfig.New("fleet.firmware: trust is missing.")
	}
	r.ota = ota.New(conf)
	return nil
}

// mountFirmware puts the images on the device door.
func (s *Server) mountFirmware(mux *http.ServeMux) {
	images := s.fleet.ota.Handler(web.Fail)
	mux.HandleFunc(ota.Pattern, func(w http.ResponseWriter, r *http.Request) {
		web.SetRoute(r.Context(), ota.Pattern[len("GET "):])
		images.ServeHTTP(w, r)
	})
}
