// Package mail puts a text into an Internet message and hands it over: to a folder of .eml files, or to an SMTP
// server.
package mail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"regexp"
	"strings"
	"time"
)

// Domain is the right side of Message-IDs. It names the program, not a host, so that an id is the same wherever a
// mail is sent from.
const Domain = "banyan"

// ErrRefused: the mail itself was refused, for good; sending it again changes nothing.
var ErrRefused = errors.New("the mail was refused")

// Mail is a text to somebody.
type Mail struct {
	ID      string // becomes the Message-ID; sending the same ID again is sending the same mail
	From    string // as in "Banyan <shop@example.com>"
	To      string // address alone
	Name    string // of the recipient
	Subject string
	Text    string
	Date    time.Time
}

// Sender hands mails over.
type Sender interface {
	// Send hands a mail over. It may be called again for a mail that was handed over before.
	Send(ctx context.Context, m Mail) error
	// Forget removes what the sender itself keeps of mails.
	Forget(ctx context.Context, ids []string) error
	// Start makes ready what an earlier run may have left in between.
	Start(ctx context.Context) error
}

var idForm = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// encoded is a mail in the form in which it travels, with its envelope.
type encoded struct {
	from, to string // addresses alone
	bytes    []byte // RFC 5322, lines end in CRLF
}

// encode checks a mail and writes it down. What is wrong with it is ErrRefused: no header can be smuggled in
// by a name, a subject or an address.
func (m Mail) encode() (encoded, error) {
	if !idForm.MatchString(m.ID) {
		return encoded{}, fmt.Errorf("%w: its id cannot be part of a Message-ID", ErrRefused)
	}
	from, err := mail.ParseAddress(m.From)
	if err != nil {
		return encoded{}, fmt.Errorf("the sender's address %q cannot be read: %w", m.From, err)
	}
	to, err := mail.ParseAddress(m.To)
	if err != nil || to.Name != "" || to.Address != m.To || strings.ContainsAny(m.To, "\r\n\x00") {
		return encoded{}, fmt.Errorf("%w: the recipient's address cannot be read", ErrRefused)
	}
	to.Name = oneLine(m.Name)
	var b bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, fold(value)) }
	header("From", from.String())
	header("To", to.String())
	header("Subject", mime.QEncoding.Encode("utf-8", oneLine(m.Subject)))
	header("Date", m.Date.UTC().Format(time.RFC1123Z))
	header("Message-ID", "<"+m.ID+"@"+Domain+">")
	header("Auto-Submitted", "auto-generated")
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	body := quotedprintable.NewWriter(&b)
	text := strings.ToValidUTF8(strings.ReplaceAll(m.Text, "\r\n", "\n"), "?")
	if _, err := body.Write([]byte(strings.ReplaceAll(text, "\r", "\n"))); err != nil {
		return encoded{}, err
	}
	if err := body.Close(); err != nil {
		return encoded{}, err
	}
	if !bytes.HasSuffix(b.Bytes(), []byte("\r\n")) {
		b.WriteString("\r\n")
	}
	return encoded{from: from.Address, to: to.Address, bytes: b.Bytes()}, nil
}

// CanSendAs says whether from can be a sender, as in "Banyan <shop@example.com>".
func CanSendAs(from string) bool {
	_, err := mail.ParseAddress(from)
	return err == nil
}

// oneLine is s without what could end a header.
func oneLine(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?")))
}

// fold breaks a long header between encoded words, as no line may be longer than 998 characters.
func fold(value string) string { return strings.ReplaceAll(value, "?= =?", "?=\r\n =?") }
