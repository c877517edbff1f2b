package mail

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/smtp"
	"net/textproto"
	"strconv"
	"time"
)

// How the connection to an SMTP server is protected.
const (
	NoTLS    = "none"     // for a server on the same machine or network
	StartTLS = "starttls" // plain at first, then TLS or nothing
	FullTLS  = "tls"      // TLS from the first byte
)

// SMTP hands mails to a server. A crash between the server's word and ours sends a mail twice, with the same
// Message-ID.
type SMTP struct {
	Host     string
	Port     int
	Username string // "" for no login
	Password string
	TLS      string
	Timeout  time.Duration // of a whole conversation

	roots *x509.CertPool // nil for those of the system
}

// Send hands the mail over in a conversation of its own.
func (s SMTP) Send(ctx context.Context, m Mail) error {
	e, err := m.encode()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	if err := s.converse(ctx, e); err != nil {
		return fmt.Errorf("mail %s by %s: %w", m.ID, s.Host, err)
	}
	return nil
}

func (s SMTP) converse(ctx context.Context, e encoded) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(s.Host, strconv.Itoa(s.Port)))
	if err != nil {
		return err
	}
	// The client below knows no contexts: closing the connection ends whatever it waits for.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	config := &tls.Config{ServerName: s.Host, MinVersion: tls.VersionTLS12, RootCAs: s.roots}
	if s.TLS == FullTLS {
		conn = tls.Client(conn, config)
	}
	c, err := smtp.NewClient(conn, s.Host)
	if err != nil {
		_ = conn.Close()
		return err
	}
	defer func() { _ = c.Close() }()
	if s.TLS == StartTLS {
		if ok, _ := c.Extension("STARTTLS"); !ok {
			return errors.New("the server offers no STARTTLS, and modules.notifications.smtp.tls asks for it")
		}
		if err := c.StartTLS(config); err != nil {
			return err
		}
	}
	if s.Username != "" {
		if err := c.Auth(smtp.PlainAuth("", s.Username, s.Password, s.Host)); err != nil {
			return err
		}
	}
	if err := c.Mail(e.from); err != nil {
		return err
	}
	if err := c.Rcpt(e.to); err != nil {
		return refused(err)
	}
	w, err := c.Data()
	if err != nil {
		return refused(err)
	}
	if _, err := w.Write(e.bytes); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return refused(err)
	}
	_ = c.Quit() // the server has taken the mail: how it says goodbye changes nothing
	return nil
}

// refused tells a server's last word about the recipient or the content (5xx) from trouble that passes. One about
// us, as a failed login, passes too: once somebody has mended the configuration.
func refused(err error) error {
	var reply *textproto.Error
	if errors.As(err, &reply) && reply.Code >= 500 {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// Forget has nothing to remove: the server has the mail.
func (SMTP) Forget(context.Context, []string) error { return nil }

// Start has nothing to make ready.
func (SMTP) Start(context.Context) error { return nil }
