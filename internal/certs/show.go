package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/clock"
)

// Certificate is what may be shown of a certificate: everything but its key.
type Certificate struct {
	File      string    `json:"file"`
	Kind      string    `json:"kind"` // root, signer or identity
	Name      string    `json:"name,omitempty"`
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Serial    string    `json:"serial"`
	URIs      []string  `json:"uris,omitempty"`
	DNSNames  []string  `json:"dns_names,omitempty"`
	Addresses []string  `json:"addresses,omitempty"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	SHA256    string    `json:"sha256"`
	Problem   string    `json:"problem,omitempty"` // why it is not believed, or should be looked at
}

// Show reads the certificates of a folder: roots, signer, identities. A file that is wrong is shown with its problem. A nil
// clock is the machine's.
func Show(dir string, c clock.Clock) ([]Certificate, error) {
	r := Request{Dir: dir, Clock: c}
	names, err := identities(dir)
	if err != nil {
		return nil, err
	}
	var list []Certificate
	add := func(file, kind string, c *x509.Certificate, problem error) {
		shown := describe(c)
		shown.File, shown.Kind = file, kind
		if problem == nil && r.now().After(shown.NotAfter) {
			problem = fmt.Errorf("ended on %s", shown.NotAfter.Format(time.DateOnly))
		}
		if info, err := os.Stat(r.path(file)); problem == nil && err == nil && kind != "root" && info.Mode().Perm()&0o077 != 0 {
			problem = fmt.Errorf("its key can be read by others (%#o); make it 0600", info.Mode().Perm())
		}
		if problem != nil {
			shown.Problem = strings.TrimPrefix(problem.Error(), r.path(file)+": ")
		}
		list = append(list, shown)
	}
	roots, err := readRoots(r.path(RootsFile))
	if err != nil {
		add(RootsFile, "root", nil, err)
	}
	pool := x509.NewCertPool()
	for _, root := range roots {
		pool.AddCert(root)
		add(RootsFile, "root", root, nil)
	}
	if s, err := readPair(r.path(SignerFile)); !os.IsNotExist(err) {
		add(SignerFile, "signer", s.Leaf, err)
	}
	for _, name := range names {
		pair, err := readPair(r.file(name))
		if err == nil {
			err = checkIdentity(pair.Leaf, name, pool, r.now())
		}
		add(name+".pem", "identity", pair.Leaf, err)
	}
	if len(names) == 0 && len(roots) == 0 {
		return nil, fmt.Errorf("%s: holds no certificates: %w", filepath.Clean(dir), fs.ErrNotExist)
	}
	return list, nil
}

func describe(c *x509.Certificate) Certificate {
	if c == nil {
		return Certificate{}
	}
	shown := Certificate{
		Subject: c.Subject.String(), Issuer: c.Issuer.String(), Serial: c.SerialNumber.Text(16),
		DNSNames: c.DNSNames, NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(),
	}
	for _, u := range c.URIs {
		shown.URIs = append(shown.URIs, u.String())
	}
	for _, ip := range c.IPAddresses {
		shown.Addresses = append(shown.Addresses, ip.String())
	}
	if name, err := nameOf(c); err == nil {
		shown.Name = name
	}
	sum := sha256.Sum256(c.Raw)
	shown.SHA256 = hex.EncodeToString(sum[:])
	return shown
}

// Table is a list as a table: the header, and a row for each.
func Table(list []Certificate) (header []string, rows [][]any) {
	header = []string{"File", "Subject", "Issuer", "Valid for", "Until", "Problem"}
	for _, c := range list {
		until := ""
		if !c.NotAfter.IsZero() {
			until = c.NotAfter.Format("2006-01-02 15:04 MST")
		}
		valid := strings.Join(append(append(append([]string{}, c.URIs...), c.DNSNames...), c.Addresses...), " ")
		rows = append(rows, []any{c.File, c.Subject, c.Issuer, valid, until, c.Problem})
	}
	return header, rows
}
