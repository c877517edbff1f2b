package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/internal/wholefile"
)

// The files of a CA beside those of the identities.
const (
	RootsFile  = "ca.pem"
	SignerFile = "ca-key.pem"
)

const (
	rootLife     = 10 * 365 * 24 * time.Hour
	identityLife = 90 * 24 * time.Hour
	skew         = 5 * time.Minute // clocks of other machines may be behind by this
	scheme       = "banyan"
)

// Request says what to make.
type Request struct {
	Dir       string
	Names     []string // identities, as in gateway or payments; Renew without any renews all that are there
	Hosts     []string // names and addresses beside localhost; nil makes Renew keep those that a certificate has
	Overwrite bool     // lets Create replace what is there, the CA too
	Clock     clock.Clock
}

func (r Request) now() time.Time {
	if r.Clock == nil {
		return clock.System{}.Now()
	}
	return r.Clock.Now()
}

// Create makes a CA, unless the folder has one, and a certificate for each name. What exists is not replaced unless
// Overwrite says so; then the CA is a new one, and nobody who believes the old one believes these certificates.
func Create(r Request) ([]Certificate, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if len(r.Names) == 0 {
		return nil, errors.New("names: there are none; name the identities, as in gateway,payments")
	}
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create %s: %w", r.Dir, err)
	}
	there, err := identities(r.Dir)
	if err != nil {
		return nil, err
	}
	if r.Overwrite {
		if left := slices.DeleteFunc(there, func(name string) bool { return slices.Contains(r.Names, name) }); len(left) > 0 {
			return nil, fmt.Errorf("names: %s would be left with a certificate of the CA that is replaced; name all, or rotate the CA instead",
				strings.Join(left, ", "))
		}
	} else {
		for _, name := range r.Names {
			if slices.Contains(there, name) {
				return nil, fmt.Errorf("%s exists; renew it, or overwrite it and the CA", r.file(name))
			}
		}
	}
	s, err := r.readSigner()
	switch {
	case err == nil && !r.Overwrite:
		if err := r.believed(s); err != nil {
			return nil, err
		}
	case r.Overwrite, errors.Is(err, fs.ErrNotExist) && !exists(r.path(RootsFile)):
		if s, err = newSigner(r.now()); err != nil {
			return nil, err
		}
		// The key is first: of two who create at the same time one ends here, before it has written anything.
		if err := write(r.path(SignerFile), s.pem, r.Overwrite); err != nil {
			return nil, err
		}
		if err := write(r.path(RootsFile), encode(s.cert), r.Overwrite); err != nil {
			return nil, err
		}
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s is not beside %s; bring it to add certificates to this CA, or overwrite all",
			r.path(SignerFile), RootsFile)
	default:
		return nil, err
	}
	for _, name := range r.Names {
		if err := r.issue(s, name, r.Hosts, r.Overwrite); err != nil {
			return nil, err
		}
	}
	return Show(r.Dir, r.Clock)
}

// Renew makes new certificates, with new keys, for identities that have one. Processes take them up while they run.
func Renew(r Request) ([]Certificate, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	s, err := r.readSigner()
	if err != nil {
		return nil, r.noSigner(err)
	}
	if err := r.believed(s); err != nil {
		return nil, err
	}
	there, err := identities(r.Dir)
	if err != nil {
		return nil, err
	}
	names := r.Names
	if len(names) == 0 {
		names = there
	}
	hosts := map[string][]string{}
	for _, name := range names {
		if !slices.Contains(there, name) {
			return nil, fmt.Errorf("%s does not exist; create makes it, renew only what is there (%s)", r.file(name), strings.Join(there, ", "))
		}
		hosts[name] = r.Hosts
		if r.Hosts != nil {
			continue
		}
		old, err := readPair(r.file(name))
		if err != nil {
			return nil, fmt.Errorf("%w; give the hosts, for they cannot be taken from it", err)
		}
		hosts[name] = hostsOf(old.Leaf)
	}
	for _, name := range names {
		if err := r.issue(s, name, hosts[name], true); err != nil {
			return nil, err
		}
	}
	return Show(r.Dir, r.Clock)
}

// Rotate makes a new CA, which signs from now on, and adds its root to those that are believed. Certificates stay as they
// are: Renew comes when every process has the new roots.
func Rotate(r Request) ([]Certificate, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	roots, err := readRoots(r.path(RootsFile))
	if err != nil {
		return nil, r.noRoots(err)
	}
	s, err := newSigner(r.now())
	if err != nil {
		return nil, err
	}
	// The roots come first: a certificate must never be signed by a CA that nobody believes.
	if err := wholefile.Replace(r.path(RootsFile), encode(append([]*x509.Certificate{s.cert}, roots...)...)); err != nil {
		return nil, err
	}
	if err := wholefile.Replace(r.path(SignerFile), s.pem); err != nil {
		return nil, err
	}
	return Show(r.Dir, r.Clock)
}

// Prune takes out the roots that are not needed any more: those that neither sign nor have signed an identity of this
// folder. Identities of this CA that are in use elsewhere and not in this folder are not seen.
func Prune(r Request) ([]Certificate, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	roots, err := readRoots(r.path(RootsFile))
	if err != nil {
		return nil, r.noRoots(err)
	}
	s, err := r.readSigner()
	if err != nil {
		return nil, r.noSigner(err)
	}
	names, err := identities(r.Dir)
	if err != nil {
		return nil, err
	}
	needed := []*x509.Certificate{}
	for _, name := range names {
		pair, err := readPair(r.file(name))
		if err != nil {
			return nil, fmt.Errorf("%w; renew or remove it, for it may need an old root", err)
		}
		needed = append(needed, pair.Leaf)
	}
	kept := slices.DeleteFunc(roots, func(root *x509.Certificate) bool {
		return !root.Equal(s.cert) && !slices.ContainsFunc(needed, func(c *x509.Certificate) bool { return c.CheckSignatureFrom(root) == nil })
	})
	if len(kept) == 0 {
		return nil, fmt.Errorf("%s: no root would be left; rotate the CA", r.path(RootsFile))
	}
	if err := wholefile.Replace(r.path(RootsFile), encode(kept...)); err != nil {
		return nil, err
	}
	return Show(r.Dir, r.Clock)
}

// Give puts what a process needs, the roots and its own certificate and key, into a folder of its own: to is folder by name. The CA's key and
// other processes' keys stay in dir. The roots come first, everywhere: nobody is shown a certificate whose root he has not got yet.
func Give(dir string, to map[string]string) error {
	r := Request{Dir: dir}
	there, err := identities(dir)
	if err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(to))
	for _, name := range names {
		if !slices.Contains(there, name) {
			return fmt.Errorf("give: %s does not exist; there are %s", r.file(name), strings.Join(there, ", "))
		}
		if err := os.MkdirAll(to[name], 0o700); err != nil {
			return fmt.Errorf("give: %w", err)
		}
		own, err := os.Stat(to[name])
		if err != nil {
			return fmt.Errorf("give: %w", err)
		}
		all, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("give: %w", err)
		}
		if os.SameFile(own, all) {
			return fmt.Errorf("give: %s is the folder with all keys; name one for %s alone", to[name], name)
		}
	}
	for _, file := range []func(name string) string{func(string) string { return RootsFile }, func(name string) string { return name + ".pem" }} {
		for _, name := range names {
			text, err := os.ReadFile(r.path(file(name)))
			if err != nil {
				return fmt.Errorf("give: %w", err)
			}
			if err := wholefile.Replace(filepath.Join(to[name], file(name)), text); err != nil {
				return fmt.Errorf("give: %w", err)
			}
		}
	}
	return nil
}

func (r Request) path(file string) string { return filepath.Join(r.Dir, file) }
func (r Request) file(name string) string { return r.path(name + ".pem") }

// check refuses names and hosts that cannot be in a certificate.
func (r Request) check() error {
	var wrong []error
	if r.Dir == "" {
		wrong = append(wrong, errors.New("dir: is empty; name a folder, as in ./certs"))
	}
	for i, name := range r.Names {
		if err := checkName(name); err != nil {
			wrong = append(wrong, fmt.Errorf("names: %w", err))
		} else if slices.Contains(r.Names[:i], name) {
			wrong = append(wrong, fmt.Errorf("names: %s is there twice", name))
		}
	}
	for _, host := range r.Hosts {
		if net.ParseIP(host) == nil && !hostName(host) {
			wrong = append(wrong, fmt.Errorf("hosts: %q is neither a host name in lower case, as in payments.shop.internal, nor an address; it has no port", host))
		}
	}
	return errors.Join(wrong...)
}

func checkName(name string) error {
	if name == "ca" || name == "ca-key" {
		return fmt.Errorf("%q is the name of a file of the CA", name)
	}
	if !hostName(name) || strings.Contains(name, ".") {
		return fmt.Errorf("%q is not a name of letters in lower case, digits and hyphens, as in payments", name)
	}
	return nil
}

// hostName says whether s is a host name in lower case.
func hostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}

// signer is a CA that can sign.
type signer struct {
	cert *x509.Certificate
	key  crypto.PrivateKey
	pem  []byte
}

func newSigner(now time.Time) (signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return signer{}, fmt.Errorf("make the CA: %w", err)
	}
	number, err := serial()
	if err != nil {
		return signer{}, err
	}
	template := &x509.Certificate{
		SerialNumber: number,
		// Two CAs of one bundle are told apart by name too: that is how a verifier finds the candidates.
		Subject:   pkix.Name{CommonName: "Banyan CA " + hex.EncodeToString(number.Bytes()[:4])},
		NotBefore: now.Add(-skew), NotAfter: now.Add(rootLife),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return signer{}, fmt.Errorf("make the CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return signer{}, fmt.Errorf("make the CA: %w", err)
	}
	text, err := encodePair(cert, key)
	return signer{cert: cert, key: key, pem: text}, err
}

func (r Request) readSigner() (signer, error) {
	pair, err := readPair(r.path(SignerFile))
	if err != nil {
		return signer{}, err
	}
	if !pair.Leaf.IsCA {
		return signer{}, fmt.Errorf("%s: is not the certificate of a CA", r.path(SignerFile))
	}
	if r.now().After(pair.Leaf.NotAfter) {
		return signer{}, fmt.Errorf("%s: the CA ended on %s; rotate it", r.path(SignerFile), pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	return signer{cert: pair.Leaf, key: pair.PrivateKey}, nil
}

// believed refuses to sign what no process would believe.
func (r Request) believed(s signer) error {
	roots, err := readRoots(r.path(RootsFile))
	if errors.Is(err, fs.ErrNotExist) {
		// Create was ended between the two files.
		return wholefile.Create(r.path(RootsFile), encode(s.cert))
	}
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(roots, s.cert.Equal) {
		return fmt.Errorf("%s: does not hold the root of %s, so nobody would believe what it signs; rotate the CA", r.path(RootsFile), SignerFile)
	}
	return nil
}

func (r Request) noSigner(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; bring the key of the CA, or create a CA first", err)
	}
	return err
}

func (r Request) noRoots(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; create a CA first", err)
	}
	return err
}

// issue signs a certificate for name, with a new key, and writes both as one file.
func (r Request) issue(s signer, name string, hosts []string, replace bool) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("issue %s: %w", name, err)
	}
	number, err := serial()
	if err != nil {
		return err
	}
	until := r.now().Add(identityLife)
	if until.After(s.cert.NotAfter) {
		until = s.cert.NotAfter // it would not be believed longer
	}
	template := &x509.Certificate{
		SerialNumber: number, Subject: pkix.Name{CommonName: name},
		NotBefore: r.now().Add(-skew), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{{Scheme: scheme, Host: name}},
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip == nil && !slices.Contains(template.DNSNames, host) {
			template.DNSNames = append(template.DNSNames, host)
		} else if ip != nil && !slices.ContainsFunc(template.IPAddresses, ip.Equal) {
			template.IPAddresses = append(template.IPAddresses, ip)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.cert, key.Public(), s.key)
	if err != nil {
		return fmt.Errorf("issue %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("issue %s: %w", name, err)
	}
	text, err := encodePair(cert, key)
	if err != nil {
		return err
	}
	return write(r.file(name), text, replace)
}

// hostsOf are the hosts that a certificate was asked for.
func hostsOf(c *x509.Certificate) []string {
	hosts := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	return hosts
}

// nameOf is the identity in a certificate: of its URIs exactly one is ours, and that is a name and nothing else.
func nameOf(c *x509.Certificate) (string, error) {
	name := ""
	for _, u := range c.URIs {
		if u.Scheme != scheme {
			continue
		}
		if name != "" || checkName(u.Host) != nil || u.String() != scheme+"://"+u.Host {
			return "", fmt.Errorf("the certificate names no single identity: %q", u)
		}
		name = u.Host
	}
	if name == "" {
		return "", errors.New("the certificate names no identity (a URI as in banyan://gateway)")
	}
	return name, nil
}

// identities are the names that have a file.
func identities(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, e := range entries {
		if name, pem := strings.CutSuffix(e.Name(), ".pem"); pem && checkName(name) == nil {
			names = append(names, name)
		}
	}
	return names, nil
}

// readPair reads a certificate and its key out of one file. Its errors never quote what is in it.
func readPair(path string) (tls.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s: is not a certificate with its key: %w", path, err)
	}
	return pair, nil
}

// readRoots reads a bundle of roots. Whatever else is in the file is refused: a root that is left out without a word
// would be missed later, in a handshake.
func readRoots(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var roots []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s: holds a %s; it is for certificates alone", path, block.Type)
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", path, len(roots)+1, err)
		}
		if !root.IsCA {
			return nil, fmt.Errorf("%s: certificate %d is not that of a CA", path, len(roots)+1)
		}
		roots = append(roots, root)
	}
	if strings.TrimSpace(string(text)) != "" {
		return nil, fmt.Errorf("%s: after %d certificates there is something that is none", path, len(roots))
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("%s: holds no certificate", path)
	}
	return roots, nil
}

func encode(certs ...*x509.Certificate) []byte {
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

func encodePair(c *x509.Certificate, key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return append(encode(c), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...), nil
}

// serial is a random number of 127 bits, the first of which is set so that it always has the same length.
func serial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b), nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func write(path string, text []byte, replace bool) error {
	if replace {
		return wholefile.Replace(path, text)
	}
	return wholefile.Create(path, text)
}
