package certs

import (
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"path/filepath"
	"strings"
)

// Config says where the certificate of the public port comes from: files, or an ACME CA. With neither the port speaks
// plain HTTP.
type Config struct {
	Cert string `mapstructure:"cert"` // PEM file of the certificate and what leads to its root
	Key  string `mapstructure:"key"`  // PEM file of its key; may be the same file
	// HTTP is the address of a port for plain HTTP beside it, which answers the CA and sends everybody else to https; empty for none.
	HTTP string `mapstructure:"http_addr"`
	ACME ACME   `mapstructure:"acme"`
}

// ACME obtains certificates by RFC 8555, as from Let's Encrypt. To name domains is to accept the terms of the CA.
type ACME struct {
	Domains   []string `mapstructure:"domains"`
	Email     string   `mapstructure:"email"`     // where the CA writes to when something is wrong; may be empty
	Directory string   `mapstructure:"directory"` // URL of the CA
	Roots     string   `mapstructure:"roots"`     // PEM file of the roots that the CA's own server has; empty for those of the system
	Cache     string   `mapstructure:"cache"`     // folder of account and certificates; replicas have to share one; empty for one in the data folder
}

// DefaultConfig is no TLS.
func DefaultConfig() Config {
	return Config{ACME: ACME{Domains: []string{}, Directory: "https://acme-v02.api.letsencrypt.org/directory"}}
}

// In is the configuration of a process that keeps its things in a folder.
func (c Config) In(data string) Config {
	if c.ACME.Cache == "" {
		c.ACME.Cache = filepath.Join(data, "acme")
	}
	return c
}

// Enabled says whether there is to be TLS.
func (c Config) Enabled() bool { return c.Cert != "" || len(c.ACME.Domains) > 0 }

// Validate names the wrong key, with prefix before it as in "gateway.tls.", and the way out.
func (c Config) Validate(prefix string) error {
	var wrong []error
	note := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(prefix+format, args...)) }
	if (c.Cert == "") != (c.Key == "") {
		missing, given := "key", "cert"
		if c.Cert == "" {
			missing, given = given, missing
		}
		note("%s: is empty, and %s%s is not; give both, they may be one file", missing, prefix, given)
	}
	if c.Cert != "" && len(c.ACME.Domains) > 0 {
		note("acme.domains: are given, and %scert too; a certificate comes from files or from ACME", prefix)
	}
	if c.HTTP != "" {
		if _, port, err := net.SplitHostPort(c.HTTP); err != nil || port == "" {
			note("http_addr: %q is not host:port, as in :80", c.HTTP)
		} else if !c.Enabled() {
			note("http_addr: is given, and there is no TLS to send clients to; give %scert or %sacme.domains", prefix, prefix)
		}
	}
	for _, domain := range c.ACME.Domains {
		if !hostName(domain) || !strings.Contains(domain, ".") || net.ParseIP(domain) != nil {
			note("acme.domains: %q is not a domain in lower case, as in shop.example; wildcards and addresses cannot be had", domain)
		}
	}
	if c.ACME.Email != "" {
		if a, err := mail.ParseAddress(c.ACME.Email); err != nil || a.Address != c.ACME.Email {
			note("acme.email: %q is not an address, as in ops@shop.example", c.ACME.Email)
		}
	}
	if len(c.ACME.Domains) > 0 {
		if u, err := url.Parse(c.ACME.Directory); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			note("acme.directory: is not a URL as in https://acme-v02.api.letsencrypt.org/directory")
		}
	}
	return errors.Join(wrong...)
}
