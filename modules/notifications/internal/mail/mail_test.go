package mail

import (
	"bufio"
	"context"
	"errors"
	"io"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func letter() Mail {
	return Mail{
		ID: "0190-1", From: "Banyan <shop@example.com>", To: "ada@example.com", Name: "Ada Lovelace", Subject: "Ihre Bestellung ist bestätigt",
		Text: "Guten Tag,\n\nüber 1.000,00 GBP =\n.\n", Date: time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC),
	}
}

// read reads a mail as its recipient would.
func read(t testing.TB, b []byte) (header mail.Header, text string) {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil {
		t.Fatal(err)
	}
	return m.Header, strings.ReplaceAll(string(body), "\r\n", "\n")
}

func TestEncode(t *testing.T) {
	t.Parallel()
	m := letter()
	e, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	h, text := read(t, e.bytes)
	if text != m.Text {
		t.Errorf("got text %q, want %q", text, m.Text)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject"))
	if err != nil || subject != m.Subject {
		t.Errorf("got subject %q, %v", subject, err)
	}
	for name, want := range map[string]string{
		"Message-Id": "<0190-1@banyan>", "Date": "Sun, 01 Mar 2026 09:00:00 +0000", "To": `"Ada Lovelace" <ada@example.com>`,
		"From": `"Banyan" <shop@example.com>`, "Content-Type": "text/plain; charset=utf-8", "Mime-Version": "1.0",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for i, line := range strings.Split(string(e.bytes), "\r\n") {
		if strings.ContainsAny(line, "\r\n") || len(line) > 998 {
			t.Errorf("line %d is no line of a mail: %q", i, line)
		}
	}
	if e.from != "shop@example.com" || e.to != "ada@example.com" {
		t.Errorf("got the envelope %q, %q", e.from, e.to)
	}
}

// TestNoHeaderIsSmuggledIn tries every field that somebody else fills in.
func TestNoHeaderIsSmuggledIn(t *testing.T) {
	t.Parallel()
	for _, evil := range []string{"x\r\nBcc: all@example.com", "x\nBcc: all@example.com", "x\rBcc: all@example.com", "x\r\n\r\nBcc: body", "=?utf-8?q?x=0D=0ABcc:_all@example.com?="} {
		m := letter()
		m.Name, m.Subject = evil, evil
		e, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		h, text := read(t, e.bytes)
		if h.Get("Bcc") != "" || len(h) != 9 || text != m.Text {
			t.Errorf("%q: got %v", evil, h)
		}
		m = letter()
		m.To = "ada@example.com" + strings.TrimPrefix(evil, "x")
		if _, err := m.encode(); !errors.Is(err, ErrRefused) {
			t.Errorf("the address %q was taken: %v", m.To, err)
		}
	}
	for _, id := range []string{"", "../../etc/passwd", "a/b", "a>\r\nBcc: b", strings.Repeat("a", 65)} {
		m := letter()
		m.ID = id
		if _, err := m.encode(); !errors.Is(err, ErrRefused) {
			t.Errorf("the id %q was taken: %v", id, err)
		}
	}
	for _, to := range []string{"", "ada", "Ada <ada@example.com>", "a@b, c@d"} {
		m := letter()
		m.To = to
		if _, err := m.encode(); !errors.Is(err, ErrRefused) {
			t.Errorf("the address %q was taken: %v", to, err)
		}
	}
}

func TestLongHeadersAreFolded(t *testing.T) {
	t.Parallel()
	m := letter()
	m.Subject, m.Name = strings.Repeat("Größe ", 300), strings.Repeat("Ü", 900)
	e, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	s := bufio.NewScanner(strings.NewReader(string(e.bytes)))
	for s.Scan() {
		if len(s.Text()) > 998 {
			t.Errorf("a line of %d characters", len(s.Text()))
		}
	}
	h, _ := read(t, e.bytes)
	if got, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject")); err != nil || got != strings.TrimSpace(m.Subject) {
		t.Errorf("got %q, %v", got, err)
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("Ada", "ada@example.com", "Hello", "text\n")
	f.Add("a\r\nb: c", "a@b\r\n", "=?utf-8?q?=0A?=", "\r\n.\r\n")
	f.Fuzz(func(t *testing.T, name, to, subject, text string) {
		m := Mail{ID: "1", From: "shop@example.com", To: to, Name: name, Subject: subject, Text: text}
		e, err := m.encode()
		if err != nil {
			return
		}
		parsed, err := mail.ReadMessage(strings.NewReader(string(e.bytes)))
		if err != nil {
			t.Fatalf("%q cannot be read: %v", e.bytes, err)
		}
		if len(parsed.Header) != 9 {
			t.Fatalf("got %d headers: %v", len(parsed.Header), parsed.Header)
		}
	})
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*.eml"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestFolder(t *testing.T) {
	t.Parallel()
	for _, sync := range []bool{false, true} {
		f := Folder{Dir: filepath.Join(t.TempDir(), "mail"), Sync: sync}
		ctx := t.Context()
		if err := errors.Join(f.Start(ctx), f.Forget(ctx, []string{"never-was"})); err != nil {
			t.Fatal(err)
		}
		m := letter()
		if err := f.Send(ctx, m); err != nil {
			t.Fatal(err)
		}
		m.Text = "another text" // the same mail all the same
		if err := f.Send(ctx, m); err != nil {
			t.Fatal(err)
		}
		found := files(t, f.Dir)
		if len(found) != 1 || filepath.Base(found[0]) != "0190-1@banyan.eml" {
			t.Fatalf("got %v", found)
		}
		b, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, text := read(t, b); text != letter().Text {
			t.Errorf("got %q", text)
		}
		left, err := os.ReadDir(f.tmp())
		if err != nil || len(left) != 0 {
			t.Errorf("left behind %v, %v", left, err)
		}
		if err := f.Forget(ctx, []string{m.ID, "never-was", "../x"}); err != nil {
			t.Fatal(err)
		}
		if found := files(t, f.Dir); len(found) != 0 {
			t.Errorf("got %v", found)
		}
	}
}

func TestFolderRemovesWhatACrashLeft(t *testing.T) {
	t.Parallel()
	f := Folder{Dir: t.TempDir()}
	if err := os.MkdirAll(f.tmp(), 0o700); err != nil {
		t.Fatal(err)
	}
	old, fresh := filepath.Join(f.tmp(), "1-old"), filepath.Join(f.tmp(), "2-fresh")
	for _, name := range []string{old, fresh} {
		if err := os.WriteFile(name, []byte("From: half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * leftBehind)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	if err := f.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Error("what a crash left is still there")
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Error("the file of somebody who is still writing is gone")
	}
}

// A mail that was half-written once is nowhere any more when it was sent, sent again or forgotten.
func TestFolderLeavesNoHalves(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, c := range []struct {
		name string
		do   func(f Folder) error
	}{
		{"sent", func(f Folder) error { return f.Send(ctx, letter()) }},
		{"sent again", func(f Folder) error {
			if err := os.WriteFile(f.path(letter().ID), []byte("From: whole"), 0o600); err != nil {
				return err
			}
			return f.Send(ctx, letter())
		}},
		{"forgotten", func(f Folder) error { return f.Forget(ctx, []string{letter().ID}) }},
	} {
		f := Folder{Dir: t.TempDir()}
		if err := os.MkdirAll(f.tmp(), 0o700); err != nil {
			t.Fatal(err)
		}
		mine, old, other := filepath.Join(f.tmp(), letter().ID+"-123"), filepath.Join(f.tmp(), "1-9"), filepath.Join(f.tmp(), letter().ID+"-1-123")
		for _, name := range []string{mine, old, other} {
			if err := os.WriteFile(name, []byte("To: ada@example.org"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		past := time.Now().Add(-2 * leftBehind)
		if err := errors.Join(os.Chtimes(old, past, past), c.do(f)); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for name, want := range map[string]bool{mine: false, old: false, other: true} {
			if _, err := os.Stat(name); (err == nil) != want {
				t.Errorf("%s: %s: %v, want it there: %v", c.name, filepath.Base(name), err, want)
			}
		}
	}
}

func TestFolderManyAtOnce(t *testing.T) {
	t.Parallel()
	f := Folder{Dir: t.TempDir()}
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			if err := f.Send(context.Background(), letter()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if found := files(t, f.Dir); len(found) != 1 {
		t.Errorf("got %v", found)
	}
}
