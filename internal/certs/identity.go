package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Identity is who this process is towards our other processes, and whom it believes.
type Identity struct {
	files *watched[identity]
	o     Options
}

// identity is what the files hold together.
type identity struct {
	pair  tls.Certificate
	roots *x509.CertPool
}

// Open reads <dir>/<name>.pem and <dir>/ca.pem.
func Open(dir, name string, o Options) (*Identity, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	o = o.withDefaults()
	own, bundle := filepath.Join(dir, name+".pem"), filepath.Join(dir, RootsFile)
	i := &Identity{o: o, files: &watched[identity]{
		name: name, files: []string{own, bundle}, o: o,
		read: func(previous *identity) (*identity, error) {
			pair, wrongPair := readPair(own)
			roots, wrongRoots := readPool(bundle)
			wrong := errors.Join(wrongPair, wrongRoots)
			if previous == nil && wrong != nil {
				return nil, fmt.Errorf("%w; make certificates with: banyan certs create", wrong)
			}
			// One of them can be taken up without the other.
			if wrongPair != nil {
				pair = previous.pair
			}
			if wrongRoots != nil {
				roots = previous.roots
			}
			if err := checkIdentity(pair.Leaf, name, roots, o.Clock.Now()); err != nil {
				return nil, errors.Join(wrong, fmt.Errorf("%s: %w", own, err))
			}
			return &identity{pair: pair, roots: roots}, wrong
		},
		inForce: func(i *identity) (time.Time, time.Time) { return i.pair.Leaf.NotBefore, i.pair.Leaf.NotAfter },
	}}
	if err := i.files.open(); err != nil {
		return nil, err
	}
	return i, nil
}

func readPool(path string) (*x509.CertPool, error) {
	roots, err := readRoots(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, root := range roots {
		pool.AddCert(root)
	}
	return pool, nil
}

// checkIdentity refuses a certificate that our own processes would not believe to be name.
func checkIdentity(c *x509.Certificate, name string, roots *x509.CertPool, now time.Time) error {
	got, err := nameOf(c)
	if err != nil {
		return err
	}
	if got != name {
		return fmt.Errorf("is the certificate of %s, not of %s", got, name)
	}
	if err := checkDates(c, now); err != nil {
		return err
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("is not valid under %s: %w", RootsFile, err)
	}
	return nil
}

// checkDates says it in words that do not change with the time: an error that stays the same is reported once.
func checkDates(c *x509.Certificate, now time.Time) error {
	if now.After(c.NotAfter) || now.Before(c.NotBefore) {
		return fmt.Errorf("is valid from %s to %s and not now, it has expired or is of the future",
			c.NotBefore.UTC().Format(time.DateTime), c.NotAfter.UTC().Format(time.DateTime))
	}
	return nil
}

// Server is for a listener that only the named processes may reach. Peer tells which of them it is.
func (i *Identity) Server(peers ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}, Time: i.o.Clock.Now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &i.files.get().pair, nil },
		// That there is one is left to crypto/tls, who it is to us: ClientCAs could not change while we run.
		ClientAuth:       tls.RequireAnyClientCert,
		VerifyConnection: i.verify(x509.ExtKeyUsageClientAuth, peers),
	}
}

// Client is for connections to a process of this name, whatever its address. For HTTP/2 set Protocols of the transport.
func (i *Identity) Client(peer string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Time: i.o.Clock.Now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &i.files.get().pair, nil },
		// The standard check would look for the host name, with roots that are fixed. Ours looks for the identity, with
		// the roots of the moment, and is never left out: VerifyConnection runs for resumed connections too.
		InsecureSkipVerify: true,
		VerifyConnection:   i.verify(x509.ExtKeyUsageServerAuth, []string{peer}),
	}
}

// verify checks the other side of a handshake: its chain, its dates, what its certificate is for, and its name.
func (i *Identity) verify(usage x509.ExtKeyUsage, peers []string) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return errors.New("the other side showed no certificate")
		}
		leaf, rest := cs.PeerCertificates[0], x509.NewCertPool()
		for _, c := range cs.PeerCertificates[1:] {
			rest.AddCert(c)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{
			Roots: i.files.get().roots, Intermediates: rest, CurrentTime: i.o.Clock.Now(), KeyUsages: []x509.ExtKeyUsage{usage},
		}); err != nil {
			return fmt.Errorf("the other side is not believed: %w", err)
		}
		name, err := nameOf(leaf)
		if err != nil {
			return fmt.Errorf("the other side is not believed: %w", err)
		}
		if !slices.Contains(peers, name) {
			return fmt.Errorf("the other side is %s, want %s", name, strings.Join(peers, " or "))
		}
		return nil
	}
}

// Peer is the name of the process at the other end of a connection that was made with Server or Client; "" if there is
// none. Of other connections it proves nothing.
func Peer(cs *tls.ConnectionState) string {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return ""
	}
	name, err := nameOf(cs.PeerCertificates[0])
	if err != nil {
		return ""
	}
	return name
}
