// Package cli is what the commands share: tables or JSON on standard output, and a client for the admin port.
package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/banyan-go/banyan/internal/admin"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/rest"
)

// Output is where a command writes, and how.
type Output struct {
	W    io.Writer
	JSON bool
}

// Print writes v as JSON, or as a table with one row for each of rows.
func (o Output) Print(v any, header []string, rows [][]any) error {
	if o.JSON {
		e := json.NewEncoder(o.W)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	t := table.NewWriter()
	t.SetOutputMirror(o.W)
	t.SuppressTrailingSpaces()
	t.SetStyle(table.StyleLight)
	t.Style().Options.DrawBorder = false
	t.Style().Options.SeparateColumns = false
	h := make(table.Row, len(header))
	for i, s := range header {
		h[i] = s
	}
	t.AppendHeader(h)
	for _, r := range rows {
		t.AppendRow(table.Row(r))
	}
	t.Render()
	return nil
}

// Terminal says whether f is a terminal.
func Terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// Admin speaks to the running process through its admin port.
type Admin struct {
	base  string
	token string
	http  *http.Client
}

// Dial prepares to speak to the process with this data directory and admin address. It makes no connection yet.
func Dial(dataDir, addr string) (*Admin, error) {
	if _, err := os.Stat(dataDir); err != nil {
		return nil, fmt.Errorf("data: %w; give the data directory of the running process with --data", err)
	}
	token, err := admin.Token(dataDir)
	if err != nil {
		return nil, err
	}
	return &Admin{base: "http://" + addr, token: token, http: &http.Client{Timeout: 10 * time.Minute, Transport: &http.Transport{Proxy: nil}}}, nil
}

// Path is the path of a thing of the admin port; what of it was typed by somebody is escaped.
func Path(first string, more ...string) string {
	path := "/admin/" + first
	for _, part := range more {
		path += "/" + url.PathEscape(part)
	}
	return path
}

// Query is the query of a path: names and values in turn. Empty values are left out.
func Query(pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// Get asks for path and decodes the answer into v.
func (a *Admin) Get(ctx context.Context, path string, v any) error {
	return a.do(ctx, http.MethodGet, path, nil, v)
}

// Post sends body to path and decodes the answer into v.
func (a *Admin) Post(ctx context.Context, path string, body, v any) error {
	return a.do(ctx, http.MethodPost, path, body, v)
}

func (a *Admin) do(ctx context.Context, method, path string, body, v any) error {
	var encoded []byte
	if body != nil {
		var err error
		if encoded, err = json.Marshal(body); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(encoded))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+a.token)
	r.Header.Set("User-Agent", "banyan "+strings.Join(os.Args[1:min(2, len(os.Args))], " "))
	resp, err := a.http.Do(r)
	if err != nil {
		return fmt.Errorf("no process answers at %s; start `banyan serve`, or give its address with --admin-addr: %w", a.base, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		var p rest.Problem
		if json.Unmarshal(answer, &p) != nil || p.Status == 0 {
			return fmt.Errorf("%s answered %s", a.base, resp.Status)
		}
		if p.Status == http.StatusUnauthorized {
			return errors.New("the process at " + a.base + " has another token; give its data directory with --data")
		}
		return &errs.Error{Kind: p.Kind, Message: p.Detail, Fields: p.Errors}
	}
	return json.Unmarshal(answer, v)
}
