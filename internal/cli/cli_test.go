package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banyan-go/banyan/internal/admin"
	"github.com/banyan-go/banyan/internal/cli"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/rest"
)

func TestPrint(t *testing.T) {
	t.Parallel()
	rows := [][]any{{"orders", 3}, {"payments", 0}}
	var out bytes.Buffer
	if err := (cli.Output{W: &out}).Print(nil, []string{"module", "pending"}, rows); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"MODULE", "PENDING", "orders", "3", "payments"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	for l := range strings.Lines(out.String()) {
		if strings.TrimRight(l, " \n")+"\n" != l {
			t.Errorf("blanks at the end of %q", l)
		}
	}
	out.Reset()
	if err := (cli.Output{W: &out, JSON: true}).Print(map[string]int{"orders": 3}, []string{"module"}, rows); err != nil {
		t.Fatal(err)
	}
	var got map[string]int
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got["orders"] != 3 {
		t.Errorf("%v in %s", err, out.String())
	}
}

func TestPathAndQuery(t *testing.T) {
	t.Parallel()
	if got, want := cli.Path("deadletters", "a b", "c/../d?e")+cli.Query("module", "", "handler", "x&y=z", "limit", "5"), "/admin/deadletters/a%20b/c%2F..%2Fd%3Fe?handler=x%26y%3Dz&limit=5"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := cli.Path("modules") + cli.Query("module", ""); got != "/admin/modules" {
		t.Errorf("got %s", got)
	}
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if cli.Terminal(f) {
		t.Error("a file is a terminal")
	}
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	token, err := admin.Token(dir)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fail := func(err error) {
			p, retry := rest.NewProblem(r.Context(), err)
			rest.WriteProblem(w, p, retry)
		}
		switch {
		case r.Header.Get("Authorization") != "Bearer "+token:
			fail(errs.New(errs.Unauthenticated, "no"))
		case r.URL.Path == "/conflict":
			fail(errs.New(errs.Conflict, "it is already replayed").With("id", "is known"))
		case r.URL.Path == "/html":
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write([]byte("<html>"))
		default:
			var body map[string]string
			_ = json.NewDecoder(r.Body).Decode(&body) // a GET has none
			_ = json.NewEncoder(w).Encode(map[string]string{"method": r.Method, "path": r.URL.Path, "body": body["a"]})
		}
	}))
	defer server.Close()
	addr := server.Listener.Addr().String()
	c, err := cli.Dial(dir, addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	var got map[string]string
	if err := c.Get(ctx, "/x", &got); err != nil || got["method"] != "GET" || got["path"] != "/x" {
		t.Errorf("get: %v, %v", got, err)
	}
	if err := c.Post(ctx, "/x", map[string]string{"a": "b"}, &got); err != nil || got["method"] != "POST" || got["body"] != "b" {
		t.Errorf("post: %v, %v", got, err)
	}
	var e *errs.Error
	if err := c.Post(ctx, "/conflict", nil, &got); !errors.As(err, &e) || e.Kind != errs.Conflict || e.Message != "it is already replayed" || len(e.Fields) != 1 {
		t.Errorf("a problem comes as %v", err)
	}
	if err := c.Get(ctx, "/html", &got); err == nil || !strings.Contains(err.Error(), "502") {
		t.Errorf("another answer comes as %v", err)
	}

	other, err := cli.Dial(t.TempDir(), addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Get(ctx, "/x", &got); err == nil || !strings.Contains(err.Error(), "--data") || strings.Contains(err.Error(), token) {
		t.Errorf("another token: %v", err)
	}
	if _, err := cli.Dial(filepath.Join(dir, "nowhere"), addr); err == nil || !strings.Contains(err.Error(), "--data") {
		t.Errorf("no data directory: %v", err)
	}
	server.Close()
	if err := c.Get(ctx, "/x", &got); err == nil || !strings.Contains(err.Error(), "banyan serve") {
		t.Errorf("nobody there: %v", err)
	}
}
