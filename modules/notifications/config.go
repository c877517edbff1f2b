package notifications

import (
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/notifications/internal/letter"
	"github.com/banyan-go/banyan/modules/notifications/internal/mail"
)

// The senders.
const (
	senderFolder = "folder"
	senderSMTP   = "smtp"
)

// Config says how users are told.
type Config struct {
	Sender         string       `mapstructure:"sender"`          // folder or smtp
	From           string       `mapstructure:"from"`            // as in "Banyan <shop@example.com>"
	Language       string       `mapstructure:"language"`        // of those who have not chosen
	InvitationLink string       `mapstructure:"invitation_link"` // of the page that takes invitations; {token} stands for the token
	Folder         FolderConfig `mapstructure:"folder"`
	SMTP           SMTPConfig   `mapstructure:"smtp"`
}

// FolderConfig is for the sender that writes .eml files.
type FolderConfig struct {
	Dir  string `mapstructure:"dir"`  // "" for mail in the module's own folder
	Sync bool   `mapstructure:"sync"` // wait for the disk with each mail
}

// SMTPConfig is for the sender that speaks to a mail server.
type SMTPConfig struct {
	Host     string        `mapstructure:"host"`
	Port     int           `mapstructure:"port"`
	Username string        `mapstructure:"username"` // "" for no login
	Password string        `mapstructure:"password"`
	TLS      string        `mapstructure:"tls"`     // starttls, tls or none
	Timeout  time.Duration `mapstructure:"timeout"` // of a whole conversation
}

// DefaultConfig is what holds unless said otherwise.
func DefaultConfig() Config {
	return Config{
		Sender: senderFolder, From: "Banyan <shop@localhost>", Language: letter.Languages()[0],
		InvitationLink: "http://localhost:8080/#invitation={token}",
		Folder:         FolderConfig{Sync: true},
		SMTP:           SMTPConfig{Port: 587, TLS: mail.StartTLS, Timeout: 20 * time.Second},
	}
}

// Validate names the wrong key and the way out.
func (c Config) Validate() error {
	wrong := func(key, format string, args ...any) error {
		return fmt.Errorf("modules.notifications."+key+": "+format, args...)
	}
	if !mail.CanSendAs(c.From) {
		return wrong("from", "%q is not an address like Banyan <shop@example.com>", c.From)
	}
	if !slices.Contains(letter.Languages(), c.Language) {
		return wrong("language", "%q is not one of %s", c.Language, strings.Join(letter.Languages(), ", "))
	}
	if link, err := url.Parse(c.InvitationLink); err != nil || (link.Scheme != "http" && link.Scheme != "https") || link.Host == "" || !strings.Contains(c.InvitationLink, tokenMark) {
		return wrong("invitation_link", "%q is not an address with a place for the token, like https://shop.example.com/#invitation=%s", c.InvitationLink, tokenMark)
	}
	switch c.Sender {
	case senderFolder:
		return nil
	case senderSMTP:
	default:
		return wrong("sender", "%q is not %s or %s", c.Sender, senderFolder, senderSMTP)
	}
	s := c.SMTP
	switch {
	case s.Host == "":
		return wrong("smtp.host", "is empty; name the mail server, or set modules.notifications.sender to %s", senderFolder)
	case s.Port < 1 || s.Port > 65535:
		return wrong("smtp.port", "%d is not between 1 and 65535", s.Port)
	case s.TLS != mail.NoTLS && s.TLS != mail.StartTLS && s.TLS != mail.FullTLS:
		return wrong("smtp.tls", "%q is not %s, %s or %s", s.TLS, mail.StartTLS, mail.FullTLS, mail.NoTLS)
	case s.Username != "" && s.TLS == mail.NoTLS && s.Host != "localhost" && s.Host != "127.0.0.1" && s.Host != "::1":
		return wrong("smtp.tls", "%s would send the password in the clear; use %s or %s", s.TLS, mail.StartTLS, mail.FullTLS)
	case s.Timeout <= 0 || s.Timeout >= unit.EffectGrace:
		// A longer conversation would be taken over by another process and the mail sent twice.
		return wrong("smtp.timeout", "%s is not between 0 and %s", s.Timeout, unit.EffectGrace)
	}
	return nil
}

// sender is the one that the configuration asks for.
func (c Config) sender(d module.Deps) mail.Sender {
	if c.Sender == senderSMTP {
		return mail.SMTP{Host: c.SMTP.Host, Port: c.SMTP.Port, Username: c.SMTP.Username, Password: c.SMTP.Password, TLS: c.SMTP.TLS, Timeout: c.SMTP.Timeout}
	}
	dir := c.Folder.Dir
	if dir == "" {
		dir = filepath.Join(d.Files, "mail")
	}
	return mail.Folder{Dir: dir, Sync: c.Folder.Sync}
}
