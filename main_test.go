package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/banyan-go/banyan/config"
	"github.com/banyan-go/banyan/internal/admin"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/ownership"
)

// TestMain keeps the configuration of whoever runs the tests out of them.
func TestMain(m *testing.M) {
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "BANYAN_") && !strings.HasPrefix(name, "BANYAN_TEST_") {
			if err := os.Unsetenv(name); err != nil {
				panic(err)
			}
		}
	}
	os.Exit(m.Run())
}

// run runs a command line in this process.
func run(t *testing.T, args ...string) (out string, code int, err error) {
	t.Helper()
	var b bytes.Buffer
	cmd := command()
	cmd.SetArgs(args)
	cmd.SetOut(&b)
	cmd.SetErr(&b)
	err = cmd.ExecuteContext(t.Context())
	return b.String(), exitCode(err), err
}

func TestWrongCommandLines(t *testing.T) {
	t.Parallel()
	for line, hint := range map[string]string{
		"nonsense":                `unknown command "nonsense" for "banyan"; see banyan --help`,
		"--nonsense":              "unknown flag: --nonsense; see banyan --help",
		"serve now":               "see banyan serve --help",
		"serve --start-empty x":   `--start-empty: there is no store "x"; there are control, users, catalog`,
		"migrate --start-empty x": `--start-empty: there is no store "x"; there are control, users, catalog`,
		"serve --only payments --start-empty payments": "--start-empty: is for the shop",
		"serve --nonsense":                        "see banyan serve --help",
		"docs x":                                  "see banyan docs --help",
		"help nonsense":                           "see banyan help --help",
		"completion nonsense":                     "see banyan completion --help",
		"deadletters":                             `"banyan deadletters" is followed by discard, list, replay, show; see banyan deadletters --help`,
		"deadletters nonsense":                    `unknown command "nonsense" for "banyan deadletters"; see banyan deadletters --help`,
		"deadletters show orders":                 "see banyan deadletters show --help",
		"deadletters replay":                      "see banyan deadletters replay --help",
		"deadletters replay orders 1 --handler x": "see banyan deadletters replay --help",
		"deadletters discard orders 1":            "--reason: say why; it is logged; see banyan deadletters discard --help",
		"projections":                             "see banyan projections --help",
		"projections rebuild":                     "see banyan projections rebuild --help",
		"replay":                                  "see banyan replay --help",
		"replay --clients many f.csv":             "see banyan replay --help",
		"migrate":                                 "database.driver: is sqlite",
		"config --config /nowhere/at/all.yaml":    "config file:",
	} {
		out, code, err := run(t, strings.Fields(line)...)
		if code != exitUsage || err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("banyan %s: exit code %d, %v; want %d and %q", line, code, err, exitUsage, hint)
		}
		if out != "" {
			t.Errorf("banyan %s prints %q beside its error", line, out)
		}
	}
}

// TestWrongConfiguration sets variables, so that it does not run beside others.
func TestWrongConfiguration(t *testing.T) {
	for _, c := range []struct{ line, variable, value, want string }{
		{"migrate", "BANYAN_BUS_WORKERS", "many", "bus.workers"},
		{"migrate", "BANYAN_DATABASE_DRIVER", "postgres", "database.postgres.dsn: is empty"},
		{"migrate", "BANYAN_DATABASE_POSTGRES_DSN", "postgres://127.0.0.1:1/x", "database.postgres.secret: is empty"},
		{"migrate", "BANYAN_DATABASE_POSTGRES_SECRET", "quite secret", "database.postgres.admin_dsn: is empty"},
		{"migrate", "BANYAN_DATABASE_POSTGRES_ADMIN_DSN", "postgres://a:quite secret@127.0.0.1:1:1/x", "database.postgres.admin_dsn: cannot be read"},
		{"replay f.csv", "BANYAN_ADMIN_PASSWORD", "", "BANYAN_ADMIN_PASSWORD: is empty"},
		{"replay --target localhost f.csv", "BANYAN_ADMIN_PASSWORD", "x", `target: "localhost" is not the address of a shop`},
	} {
		t.Setenv(c.variable, c.value)
		cmd := command()
		cmd.SetArgs(strings.Fields(c.line))
		err := cmd.ExecuteContext(t.Context())
		if exitCode(err) != exitUsage || err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "quite secret") {
			t.Errorf("%s with %s=%s: exit code %d, %v; want %d and %s", c.line, c.variable, c.value, exitCode(err), err, exitUsage, c.want)
		}
		if c.variable == "BANYAN_BUS_WORKERS" {
			t.Setenv(c.variable, "4")
		}
	}
	t.Setenv("BANYAN_DATABASE_POSTGRES_ADMIN_DSN", "postgres://127.0.0.1:1/x?connect_timeout=1")
	cmd := command()
	cmd.SetArgs([]string{"migrate"})
	if err := cmd.ExecuteContext(t.Context()); exitCode(err) != exitFailed {
		t.Errorf("a database that cannot be reached: exit code %d, %v; want %d", exitCode(err), err, exitFailed)
	}
}

// TestHelp: help is no mistake, and every command and flag has a text.
func TestHelp(t *testing.T) {
	t.Parallel()
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Name() == "completion" || cmd.Name() == "help" {
			return
		}
		path := strings.Fields(cmd.CommandPath())[1:]
		for _, line := range [][]string{append(path[:len(path):len(path)], "--help"), append([]string{"help"}, path...)} {
			out, code, err := run(t, line...)
			if code != 0 || !strings.Contains(out, "\nUsage:\n  "+cmd.CommandPath()) {
				t.Errorf("banyan %s: exit code %d, %v, prints %s", strings.Join(line, " "), code, err, out)
			}
			if cmd.HasSubCommands() && cmd.HasParent() && strings.Contains(out, cmd.CommandPath()+" [flags]") {
				t.Errorf("banyan %s: says that it does something alone: %s", strings.Join(line, " "), out)
			}
			for l := range strings.Lines(out) {
				if l := strings.TrimRight(l, "\n"); len([]rune(l)) > 140 {
					t.Errorf("banyan %s: a line of %d columns: %s", strings.Join(line, " "), len([]rune(l)), l)
				}
			}
		}
		if cmd.Short == "" {
			t.Errorf("%s has no text", cmd.CommandPath())
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(command())
}

func TestDocsListsFilesInOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 3 {
		out, code, err := run(t, "docs", "--dir", dir)
		if want := filepath.Join(dir, "asyncapi.json") + "\n" + filepath.Join(dir, "openapi.json") + "\n"; code != 0 || out != want {
			t.Fatalf("exit code %d, %v, prints %q, want %q", code, err, out, want)
		}
	}
}

// TestKeysAreKept: whoever offers an Idempotency-Key may be sent the same again by the gateway, so its answers have to be of the kind
// that is kept.
func TestKeysAreKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if out, code, err := run(t, "docs", "--dir", dir); code != 0 {
		t.Fatalf("exit code %d, %v, prints %q", code, err, out)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]struct {
			Parameters []struct{ Name string }
			Responses  map[string]struct{ Headers map[string]any }
		}
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	offered := 0
	for path, operations := range doc.Paths {
		for method, o := range operations {
			takes, keeps := false, false
			for _, p := range o.Parameters {
				takes = takes || p.Name == "Idempotency-Key"
			}
			for _, r := range o.Responses {
				keeps = keeps || r.Headers["Idempotency-Replayed"] != nil
			}
			if takes && !keeps {
				t.Errorf("%s %s takes an Idempotency-Key and keeps no answer; mark its route as Fresh", method, path)
			}
			if takes {
				offered++
			}
		}
	}
	if offered < 10 {
		t.Errorf("%d routes take an Idempotency-Key: nothing was looked at", offered)
	}
}

// TestExplainAsksWhatItWasAsked: "get" is no GET to the gateway, so it is none to who asks about it.
func TestExplainAsksWhatItWasAsked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := admin.Token(dir); err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Query().Get("method")
		_, _ = fmt.Fprint(w, "{}")
	}))
	t.Cleanup(server.Close)
	if out, code, err := run(t, "route", "explain", "get", "/x", "--data", dir, "--admin-addr", server.Listener.Addr().String()); code != 0 {
		t.Fatalf("exit code %d, %v, prints %q", code, err, out)
	}
	if got := <-asked; got != "get" {
		t.Errorf("asks about %s", got)
	}
}

// TestDeadLettersCommands asks an admin port that says what it was asked.
func TestDeadLettersCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := admin.Token(dir); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 10)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.EscapedPath() + "?" + r.URL.RawQuery
		switch {
		case r.Method == http.MethodPost:
			_, _ = fmt.Fprint(w, `{"replayed":1}`)
		case r.URL.Path == "/admin/deadletters" && r.URL.Query().Has("module"):
			_, _ = fmt.Fprint(w, `{"items":[{"module":"orders","id":"1","reason":"broken"}]}`)
		case r.URL.Path == "/admin/deadletters":
			_, _ = fmt.Fprint(w, `{"items":[]}`)
		default:
			_, _ = fmt.Fprint(w, `{"id":"1"}`)
		}
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	for _, c := range []struct {
		line       []string
		asked, out string
	}{
		{[]string{"list"}, "GET /admin/deadletters?limit=1000", "no dead letters\n"},
		{[]string{"list", "--json"}, "GET /admin/deadletters?limit=1000", "{\n  \"items\": []\n}\n"},
		{[]string{"list", "--module", "a b&c", "--handler", "x"}, "GET /admin/deadletters?handler=x&limit=1000&module=a+b%26c", "broken\n"},
		{[]string{"show", "orders", "a/../b"}, "GET /admin/deadletters/orders/a%2F..%2Fb?", "}\n"},
		{[]string{"replay", "orders"}, "POST /admin/deadletters/orders/replay?", "1\n"},
		{[]string{"replay", "orders", "--handler", "x"}, "POST /admin/deadletters/orders/replay?handler=x", "1\n"},
		{[]string{"replay", "orders", "1"}, "POST /admin/deadletters/orders/1/replay?", "1\n"},
		{[]string{"discard", "orders", "1", "--reason", "old"}, "POST /admin/deadletters/orders/1/discard?", "1\n"},
	} {
		out, code, err := run(t, append([]string{"deadletters", "--data", dir, "--admin-addr", l.Addr().String()}, c.line...)...)
		if code != 0 || !strings.HasSuffix(out, c.out) {
			t.Errorf("%v: exit code %d, %v, prints %q, want %q at the end", c.line, code, err, out, c.out)
			continue
		}
		if got := <-asked; got != c.asked {
			t.Errorf("%v asks %s, want %s", c.line, got, c.asked)
		}
		for l := range strings.Lines(out) {
			if strings.HasSuffix(l, " \n") {
				t.Errorf("%v: blanks at the end of %q", c.line, l)
			}
		}
	}
}

// A panic in a module that is served alone is an error in the log, and an answer, as it is in the shop.
func TestPanicOfAModuleServedAlone(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	p := &only{log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))}
	server, err := p.newServer(config.Default(), "payments", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a nil store") }), nil, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	server.Handler.ServeHTTP(w, httptest.NewRequest("GET", "/api/payments", nil))
	if w.Code != 500 || !strings.Contains(log.String(), "a nil store") {
		t.Errorf("answered %d %s, logged %s", w.Code, w.Body, log.String())
	}
}

// stopping ends at the n-th look that somebody takes at it.
type stopping struct {
	context.Context
	left   atomic.Int64
	cancel context.CancelFunc
}

func (s *stopping) look() {
	if s.left.Add(-1) == 0 {
		s.cancel()
	}
}

func (s *stopping) Done() <-chan struct{} { s.look(); return s.Context.Done() }
func (s *stopping) Err() error            { s.look(); return s.Context.Err() }

// said is what a process has said.
type said struct {
	mu    sync.Mutex
	text  strings.Builder
	heard func(text string)
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	if s.heard != nil {
		s.heard(s.text.String())
	}
	return len(p), nil
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// A start that is told to stop ends well, whenever that is, and the next one goes on from there.
func TestStoppedAtAnyMoment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	early := 0
	for n := int64(1); ; n += n/4 + 1 {
		cfg, err := config.Load(config.Options{Flags: map[string]string{"data": filepath.Join(dir, fmt.Sprint(n%3)), "addr": "127.0.0.1:0", "admin_addr": "127.0.0.1:0"}})
		if err != nil {
			t.Fatal(err)
		}
		inner, cancel := context.WithCancel(t.Context())
		ctx := &stopping{Context: inner, cancel: cancel}
		ctx.left.Store(n)
		out, log := &said{}, &said{}
		out.heard = func(text string) {
			if strings.Contains(text, "is ready") {
				cancel()
			}
		}
		err = serve(ctx, cfg, config.Options{}, nil, out, log)
		ready := strings.Contains(out.String(), "is ready")
		if err != nil {
			t.Fatalf("stopped at look %d, ready %v: %v\n%s", n, ready, err, log)
		}
		if got := strings.Contains(log.String(), "stopped before it was ready"); got == ready {
			t.Fatalf("stopped at look %d, ready %v: %s", n, ready, log)
		}
		if ready {
			break
		}
		early++
	}
	if early < 10 {
		t.Errorf("only %d starts were stopped before they were ready", early)
	}
}

// So does one that waits for the shop's first start, or for a database; what is wrong by itself stays an error.
func TestStoppedWhileItWaits(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load(config.Options{Flags: map[string]string{"data": t.TempDir(), "addr": "127.0.0.1:0", "admin_addr": "127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := &said{heard: func(text string) {
		if strings.Contains(text, "waiting for the first start of the shop") {
			cancel()
		}
	}}
	if err := serveOnly(ctx, cfg, "payments", io.Discard, log); err != nil || !strings.Contains(log.String(), "stopped before it was ready") {
		t.Errorf("ended with %v: %s", err, log)
	}

	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	go func() {
		if c, err := silent.Accept(); err == nil {
			cancel()
			<-t.Context().Done()
			_ = c.Close()
		}
	}()
	waiting := cfg
	waiting.Database.Driver, waiting.Database.Postgres.DSN, waiting.Database.Postgres.Secret = "postgres", "postgres://"+silent.Addr().String()+"/banyan", "x"
	log = &said{}
	if err := serve(ctx, waiting, config.Options{}, nil, io.Discard, log); err != nil || !strings.Contains(log.String(), "stopped before it was ready") {
		t.Errorf("ended with %v: %s", err, log)
	}

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	cfg.Addr = taken.Addr().String()
	if err := serve(t.Context(), cfg, config.Options{}, nil, io.Discard, io.Discard); err == nil {
		t.Error("a port that is taken is no error")
	}
}

// On PostgreSQL another command makes what was lost.
func TestStartEmptyOnPostgres(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "banyan.yaml")
	if err := os.WriteFile(file, []byte("database: {driver: postgres, postgres: {dsn: 'postgres://127.0.0.1:1/x', secret: x}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, code, err := run(t, "serve", "--config", file, "--data", t.TempDir(), "--start-empty", "orders")
	if code != exitUsage || err == nil || !strings.Contains(err.Error(), "banyan migrate --start-empty orders") {
		t.Errorf("ended with %d, %v", code, err)
	}
}

// A shop that has lost one of its files does not go on with an empty one, and neither does a process of the module; --start-empty has it
// made again, also for a module that is away.
func TestStartWithoutAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg, err := config.Load(config.Options{Flags: map[string]string{"data": dir, "addr": "127.0.0.1:0", "admin_addr": "127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	whenReady := func() {}
	start := func(startEmpty ...string) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		log := &said{}
		out := &said{heard: func(text string) {
			if strings.Contains(text, "is ready") {
				whenReady()
				cancel()
			}
		}}
		err := serve(ctx, cfg, config.Options{}, startEmpty, out, log)
		if err == nil && !strings.Contains(out.String(), "is ready") {
			t.Fatalf("ended before it was ready: %s", log)
		}
		return err
	}
	lose := func(name string) {
		if err := os.Remove(filepath.Join(dir, name+".db")); err != nil {
			t.Fatal(err)
		}
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	lose("payments")
	if err := start(); !errors.Is(err, database.ErrLost) {
		t.Errorf("without payments.db: %v", err)
	}
	waits, cancel := context.WithCancel(t.Context())
	defer cancel()
	alone := &said{heard: func(text string) {
		if strings.Contains(text, "waiting for the first start") {
			cancel()
		}
	}}
	if err := serveOnly(waits, cfg, "payments", io.Discard, alone); !errors.Is(err, database.ErrLost) {
		t.Errorf("payments alone without its file: %v: %s", err, alone)
	}
	if err := start("payments"); err != nil {
		t.Errorf("payments may be made again: %v", err)
	}
	lose(database.Control)
	if err := start("payments"); !errors.Is(err, database.ErrLost) {
		t.Errorf("without control.db: %v", err)
	}
	if err := start(database.Control); err != nil {
		t.Errorf("control.db may be made again: %v", err)
	}

	// As if payments had left: the shop makes the file and leaves it to the other process.
	stores, err := database.Open(cfg.Database, dir, 1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	shared, err := stores.Store(t.Context(), database.Control)
	if err != nil {
		t.Fatal(err)
	}
	r := ownership.Record{Module: "payments", Wish: ownership.Wish{Placement: ownership.Remote}, Owner: ownership.Away, Epoch: 2}
	if err := ownership.NewStore(shared).Move(t.Context(), ownership.Record{Module: "payments", Version: 9}, r, ownership.Cause{}); err != nil {
		t.Fatal(err)
	}
	if err := stores.Close(); err != nil {
		t.Fatal(err)
	}
	lose("payments")
	if err := start(); !errors.Is(err, database.ErrLost) {
		t.Errorf("without payments.db, which is away: %v", err)
	}
	whenReady = func() {
		stores, err := database.Open(cfg.Database, dir, 1, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := stores.Store(t.Context(), "payments"); err != nil {
			t.Errorf("its own process cannot write it: %v", err)
		}
		if err := stores.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := start("payments"); err != nil {
		t.Errorf("payments, which is away, may be made again: %v", err)
	}
	whenReady = func() {}
	if err := start(); err != nil {
		t.Errorf("after that: %v", err)
	}
}
