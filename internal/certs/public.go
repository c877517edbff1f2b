package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// Public is the TLS of the public port.
type Public struct {
	o     Options
	files *watched[tls.Certificate] // nil with ACME
	acme  *autocert.Manager         // nil with files
	// Domains that have had a certificate since the start.
	obtained map[string]*atomic.Bool
}

// OpenPublic reads the files, or prepares to ask the CA; nothing is asked yet.
func OpenPublic(c Config, o Options) (*Public, error) {
	p := &Public{o: o.withDefaults()}
	if len(c.ACME.Domains) > 0 {
		return p, p.openACME(c.ACME)
	}
	p.files = &watched[tls.Certificate]{
		name: "public", files: []string{c.Cert, c.Key}, o: p.o,
		read: func(*tls.Certificate) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
			if err != nil {
				return nil, fmt.Errorf("certificate %s with key %s: %w", c.Cert, c.Key, err)
			}
			if err := checkDates(pair.Leaf, p.o.Clock.Now()); err != nil {
				return nil, fmt.Errorf("certificate %s: %w", c.Cert, err)
			}
			return &pair, nil
		},
		inForce: func(c *tls.Certificate) (time.Time, time.Time) { return c.Leaf.NotBefore, c.Leaf.NotAfter },
	}
	return p, p.files.open()
}

func (p *Public) openACME(c ACME) error {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 30 * time.Second,
	}
	if c.Roots != "" {
		roots, err := readPool(c.Roots)
		if err != nil {
			return fmt.Errorf("roots of the ACME server: %w", err)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	p.obtained = map[string]*atomic.Bool{}
	for _, domain := range c.Domains {
		p.obtained[domain] = new(atomic.Bool)
	}
	p.acme = &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(c.Cache), Email: c.Email,
		Client: &acme.Client{DirectoryURL: c.Directory, UserAgent: "banyan", HTTPClient: &http.Client{Transport: transport, Timeout: time.Minute}},
		HostPolicy: func(_ context.Context, host string) error {
			if name, _, err := net.SplitHostPort(host); err == nil {
				host = name
			}
			if p.obtained[strings.ToLower(host)] == nil {
				return fmt.Errorf("%q is not a domain that is served here", host)
			}
			return nil
		},
	}
	return nil
}

// TLS is for the public listener: TLS 1.2 and later, HTTP/2 and 1.1.
func (p *Public) TLS() *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		// Of TLS 1.2 only what TLS 1.3 has kept: forward secrecy and authenticated encryption.
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.files.get(), nil },
	}
	if p.acme != nil {
		c.NextProtos = append(c.NextProtos, acme.ALPNProto)
		c.GetCertificate = p.obtainedCertificate
	}
	return c
}

// Challenges is for the plain port: it answers the CA's HTTP-01 questions and leaves the rest to next, which must not be
// nil. It has to be called before Run.
func (p *Public) Challenges(next http.Handler) http.Handler {
	if p.acme == nil {
		return next
	}
	return p.acme.HTTPHandler(next)
}

// Run obtains the certificates by ACME and sees that they are renewed, until ctx ends. For files there is nothing to do.
func (p *Public) Run(ctx context.Context) error {
	var domains sync.WaitGroup
	for domain := range p.obtained {
		domains.Go(func() { p.keep(ctx, domain) })
	}
	domains.Wait()
	<-ctx.Done()
	return nil
}

// obtainedCertificate answers a handshake. Clients never make it ask the CA: each could have it do so once a minute, for
// each domain, and the CA would soon refuse.
func (p *Public) obtainedCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if slices.Equal(hello.SupportedProtos, []string{acme.ALPNProto}) {
		return p.acme.GetCertificate(hello) // the CA itself, at its TLS-ALPN-01 challenge
	}
	domain := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	obtained := p.obtained[domain]
	if obtained == nil {
		return nil, fmt.Errorf("%q is not a domain that is served here", hello.ServerName)
	}
	if !obtained.Load() {
		return nil, fmt.Errorf("there is no certificate for %s yet", domain)
	}
	return p.acme.GetCertificate(question(domain))
}

// question asks for the ECDSA certificate of a domain. All clients get that one: for a client that does not offer ECDSA with
// TLS 1.2 the library would order a second one, and takes clients without TLS 1.2 for such.
func question(domain string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{ServerName: domain, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}
}

// Let's Encrypt allows five failed validations of a domain an hour: doubling from two minutes stays below.
const (
	firstRetry = 2 * time.Minute
	lastRetry  = time.Hour
)

// keep obtains the certificate of a domain, and then looks after it every hour: the library renews it when a third of its
// life is left, but says nothing when it cannot.
func (p *Public) keep(ctx context.Context, domain string) {
	retry := firstRetry
	for {
		wait := time.Hour
		leaf, err := p.obtain(ctx, domain)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.o.Metrics.Failures.WithLabelValues(domain).Inc()
			p.o.Log.Error("certificate cannot be obtained; it is tried again", "domain", domain, "in", retry, "error", err)
			wait, retry = retry, min(2*retry, lastRetry)
		} else {
			retry = firstRetry
			if p.obtained[domain].CompareAndSwap(false, true) {
				p.o.Log.Info("certificate obtained", "domain", domain, "until", leaf.NotAfter)
			}
			p.o.Metrics.Until.WithLabelValues(domain).Set(float64(leaf.NotAfter.Unix()))
			if left := leaf.NotAfter.Sub(p.o.Clock.Now()); left < leaf.NotAfter.Sub(leaf.NotBefore)/5 {
				p.o.Metrics.Failures.WithLabelValues(domain).Inc()
				p.o.Log.Error("certificate ends soon and could not be renewed yet", "domain", domain, "until", leaf.NotAfter)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-p.o.Clock.At(p.o.Clock.Now().Add(wait)):
		}
	}
}

// obtain takes the certificate from the cache, or from the CA, which may take minutes and cannot be broken off: when ctx
// ends it is not waited for.
func (p *Public) obtain(ctx context.Context, domain string) (*x509.Certificate, error) {
	type answer struct {
		cert *tls.Certificate
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		cert, err := p.acme.GetCertificate(question(domain))
		answers <- answer{cert, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case a := <-answers:
		if a.err != nil {
			return nil, a.err
		}
		return a.cert.Leaf, nil
	}
}
