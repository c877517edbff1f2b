package mail

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// server is a tiny SMTP server on the loopback.
type server struct {
	config   *tls.Config // offers STARTTLS
	full     bool        // TLS from the first byte
	refuse   string      // answer to RCPT instead of 250
	silent   bool        // never says a word
	dropQuit bool        // hangs up instead of saying goodbye

	mu    sync.Mutex
	mails []string // RCPT line, then the content
	login string
	plain bool // a mail came in without TLS
}

func (s *server) start(t *testing.T) (host string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if s.full {
		l = tls.NewListener(l, s.config)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	host, p, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err = strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

func (s *server) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(conn)
	if s.silent {
		_, _ = in.ReadByte()
		return
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(conn, format+"\r\n", args...) }
	secure := s.full
	rcpt := ""
	say("220 tiny")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			say("250-tiny")
			if s.config != nil && !secure {
				say("250-STARTTLS")
			}
			say("250 AUTH PLAIN")
		case "STARTTLS":
			say("220 go ahead")
			over := tls.Server(conn, s.config)
			conn, in, secure = over, bufio.NewReader(over), true
		case "AUTH":
			raw, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(rest, "PLAIN "))
			s.mu.Lock()
			s.login = strings.ReplaceAll(string(raw), "\x00", "/")
			s.mu.Unlock()
			say("235 ok")
		case "RCPT":
			if s.refuse != "" {
				say("%s", s.refuse)
				continue
			}
			rcpt = rest
			say("250 ok")
		case "DATA":
			say("354 go on")
			var content strings.Builder
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				content.WriteString(strings.TrimPrefix(line, "."))
			}
			s.mu.Lock()
			s.mails = append(s.mails, rcpt, content.String())
			s.plain = s.plain || !secure
			s.mu.Unlock()
			say("250 taken")
		case "QUIT":
			if s.dropQuit {
				return
			}
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

func certificate(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tiny"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, roots
}

func TestSMTP(t *testing.T) {
	t.Parallel()
	config, roots := certificate(t)
	tests := []struct {
		name   string
		server *server
		client SMTP
		want   string // part of the error
		login  string
		final  bool // the error is ErrRefused
	}{
		{name: "plain", server: &server{}, client: SMTP{TLS: NoTLS}},
		{name: "starttls with login", server: &server{config: config}, client: SMTP{TLS: StartTLS, Username: "ada", Password: "pw"}, login: "/ada/pw"},
		{name: "tls with login", server: &server{config: config, full: true}, client: SMTP{TLS: FullTLS, Username: "ada", Password: "pw"}, login: "/ada/pw"},
		{name: "no goodbye", server: &server{dropQuit: true}, client: SMTP{TLS: NoTLS}},
		{name: "no starttls to be had", server: &server{}, client: SMTP{TLS: StartTLS}, want: "no STARTTLS"},
		{name: "a recipient that does not exist", server: &server{refuse: "550 no such user"}, client: SMTP{TLS: NoTLS}, want: "no such user", final: true},
		{name: "a full mailbox", server: &server{refuse: "452 try again"}, client: SMTP{TLS: NoTLS}, want: "try again"},
		{name: "a server that says nothing", server: &server{silent: true}, client: SMTP{TLS: NoTLS, Timeout: 50 * time.Millisecond}, want: "mail 0190-1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := tt.client
			c.Host, c.Port = tt.server.start(t)
			c.roots = roots
			if c.Timeout == 0 {
				c.Timeout = 10 * time.Second
			}
			err := c.Send(t.Context(), letter())
			if errors.Is(err, ErrRefused) != tt.final {
				t.Errorf("got %v, refused for good: %v", err, tt.final)
			}
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || len(tt.server.mails) != 0 {
					t.Errorf("got %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tt.server.mu.Lock()
			defer tt.server.mu.Unlock()
			if len(tt.server.mails) != 2 || tt.server.mails[0] != "TO:<ada@example.com>" || tt.server.login != tt.login {
				t.Fatalf("got %q, login %q", tt.server.mails, tt.server.login)
			}
			if tt.server.plain != (c.TLS == NoTLS) {
				t.Error("the mail travelled the wrong way")
			}
			if h, text := read(t, []byte(tt.server.mails[1])); text != letter().Text || h.Get("Message-Id") != "<0190-1@banyan>" {
				t.Errorf("got %v, %q", h, text)
			}
		})
	}
}

func TestSMTPAnswersToItsContext(t *testing.T) {
	t.Parallel()
	s := &server{silent: true}
	c := SMTP{TLS: NoTLS, Timeout: 10 * time.Second}
	c.Host, c.Port = s.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	started := time.Now()
	if err := c.Send(ctx, letter()); err == nil || time.Since(started) > 5*time.Second {
		t.Errorf("got %v after %s", err, time.Since(started))
	}
}

func TestSMTPDoesNotTrustStrangers(t *testing.T) {
	t.Parallel()
	config, _ := certificate(t)
	s := &server{config: config}
	c := SMTP{TLS: StartTLS, Timeout: 10 * time.Second}
	c.Host, c.Port = s.start(t)
	if err := c.Send(t.Context(), letter()); err == nil || len(s.mails) != 0 {
		t.Errorf("got %v", err)
	}
}
