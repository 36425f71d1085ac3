package main

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/big"
	"os"
	"time"

	"github.com/spf13/cobra"

	"hallmark/ca"
	"hallmark/crl/filter"
)

// benchFilterResult is what bench filter prints. Gzip is of the list.
type benchFilterResult struct {
	Issued       int     `json:"issued"`
	Revoked      int     `json:"revoked"`
	Build        float64 `json:"build_ms"`
	Bytes        int     `json:"filter_bytes"`
	Bits         float64 `json:"filter_bits_per_revoked"`
	ListBytes    int     `json:"crl_bytes"`
	GzipBytes    int     `json:"crl_gzip_bytes"`
	False        int     `json:"false_answers"`
	Nanoseconds  float64 `json:"answer_ns"`
	TimesList    float64 `json:"times_smaller_than_crl"`
	TimesGzip    float64 `json:"times_smaller_than_gzip"`
	DeltaOf100   int     `json:"delta_bytes_of_100_changes"`
	NotCoveredOK bool    `json:"later_days_not_covered"`
}

func newBenchFilterCmd(g *globals) *cobra.Command {
	var issued, revoked int
	var out, caOut string
	cmd := &cobra.Command{
		Use: "filter", Short: "The compact filter: size, time, and an answer for everything issued", Args: cobra.NoArgs,
		Long: `A filter is made over serial numbers in the form of ours, signed and loaded by a
verifier, which then is asked about every one of them. The revocation list with the
same entries is made by the standard library of Go, for its size.`,
		Example: "  hallmark bench filter --issued 1000000 --revoked 10000 --json",
		RunE: func(*cobra.Command, []string) error {
			if issued < 1 || issued > 20_000_000 || revoked < 0 || revoked > issued {
				return errUsage{errors.New("--issued is 1 to 20000000 and --revoked at most that")}
			}
			r, err := benchFilter(issued, revoked, out, caOut)
			if err != nil {
				return err
			}
			if err := g.print(r, func(w io.Writer) {
				fmt.Fprintf(w, "%d issued, %d revoked: %d octets, %.2f bits for each that is revoked, made in %.0f ms\n", r.Issued, r.Revoked, r.Bytes, r.Bits, r.Build)
				fmt.Fprintf(w, "the list has %d octets (%.0f times), with gzip %d (%.0f times)\n", r.ListBytes, r.TimesList, r.GzipBytes, r.TimesGzip)
				fmt.Fprintf(w, "%d false answers, %.0f ns each; 100 changes are %d octets\n", r.False, r.Nanoseconds, r.DeltaOf100)
			}); err != nil {
				return err
			}
			if r.False > 0 {
				return fmt.Errorf("%d false answers", r.False)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&issued, "issued", 1_000_000, "serial numbers")
	f.IntVar(&revoked, "revoked", 10_000, "of those, revoked")
	f.StringVar(&out, "out", "", "write the filter here")
	f.StringVar(&caOut, "ca-out", "", "write the CA's certificate here as PEM")
	return cmd
}

func benchFilter(issued, revoked int, out, caOut string) (*benchFilterResult, error) {
	now := time.Now()
	serials := make([][]byte, issued)
	for i := range serials {
		s, err := ca.NewSerial(now.AddDate(0, 0, -1-i%1000), nil)
		if err != nil {
			return nil, err
		}
		serials[i] = s[:]
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	issuer := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Bench CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	if issuer, err = selfMade(issuer, issuer, caKey, caKey); err != nil {
		return nil, err
	}
	delegate, err := selfMade(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "Bench status"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 0, 14),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}}, issuer, key, caKey)
	if err != nil {
		return nil, err
	}
	signer := filter.Signer{Key: key, Cert: delegate}
	h := filter.Header{Authority: "bench-1", KeyHash: sha256.Sum256(issuer.RawSubjectPublicKeyInfo), Sequence: 1, Size: uint64(issued), Day: uint32(now.Unix() / 86400), ThisUpdate: now, NextUpdate: now.AddDate(0, 0, 2), Issued: uint64(issued)}
	all := iter.Seq2[[]byte, error](func(yield func([]byte, error) bool) {
		for _, s := range serials {
			if !yield(s, nil) {
				return
			}
		}
	})
	r := &benchFilterResult{Issued: issued, Revoked: revoked}
	start := time.Now()
	data, err := filter.Build(h, serials[:revoked], all, signer)
	if err != nil {
		return nil, err
	}
	r.Build, r.Bytes = ms(time.Since(start)), len(data)
	if revoked > 0 {
		r.Bits = float64(8*len(data)) / float64(revoked)
	}
	v := filter.NewVerifier(issuer, 0)
	if err := v.Load(data, now); err != nil {
		return nil, err
	}
	start = time.Now()
	for i, s := range serials {
		if a := v.Serial(s, now); a == filter.NotCovered || (a == filter.Revoked) != (i < revoked) {
			r.False++
		}
	}
	r.Nanoseconds = float64(time.Since(start).Nanoseconds()) / float64(issued)
	later, err := ca.NewSerial(now.AddDate(0, 0, 1), nil)
	if err != nil {
		return nil, err
	}
	r.NotCoveredOK = v.Serial(later[:], now) == filter.NotCovered
	h.Sequence, h.Base = 2, 1
	delta, err := filter.BuildDelta(h, serials[:min(100, issued)], nil, signer)
	if err != nil {
		return nil, err
	}
	r.DeltaOf100 = len(delta)
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.AddDate(0, 0, 7)}
	for i, s := range serials[:revoked] {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: new(big.Int).SetBytes(s), RevocationTime: now.Add(-time.Duration(i) * time.Minute), ReasonCode: []int{0, 1, 3, 4, 5}[i%5]})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, issuer, caKey)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	z.Write(der)
	if err := z.Close(); err != nil {
		return nil, err
	}
	r.ListBytes, r.GzipBytes = len(der), packed.Len()
	r.TimesList, r.TimesGzip = float64(len(der))/float64(len(data)), float64(packed.Len())/float64(len(data))
	if out != "" {
		err = os.WriteFile(out, data, 0o644)
	}
	if caOut != "" && err == nil {
		err = os.WriteFile(caOut, pemCertificate(issuer), 0o644)
	}
	return r, err
}

func selfMade(c, issuer *x509.Certificate, key, signer *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func pemCertificate(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
