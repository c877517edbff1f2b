package sandbox

import (
	"errors"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// need skips a test for want of a server, unless all of them have to be there.
func need(t *testing.T, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv("BANYAN_TEST_REQUIRE") == "" && (errors.Is(err, ErrNoPostgres) || errors.Is(err, ErrNoRabbit)):
		t.Skipf("skipped: %v", err)
	default:
		t.Fatal(err)
	}
}

func TestForeignServersAreLeftAlone(t *testing.T) {
	t.Parallel()
	srv, err := StartPostgres(PostgresOptions{NoSync: true})
	need(t, err)
	t.Cleanup(func() { _ = srv.Close() })
	foreign, err := ConnectPostgres(t.Context(), srv.Admin())
	if err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func() error{"stop": foreign.Stop, "crash": foreign.Crash, "start": foreign.Start, "restart": foreign.Restart} {
		if err := do(); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}
	if err := foreign.Close(); err != nil {
		t.Error(err)
	}
	if err := foreign.CreateDatabase(t.Context(), "first"); err != nil {
		t.Errorf("it does not run any more: %v", err)
	}
	if err := foreign.DropDatabase(t.Context(), "first"); err != nil {
		t.Error(err)
	}
	s := ConnectRabbit(&url.URL{}, &url.URL{})
	if s.Crash() == nil || s.Start() == nil || s.StopApp() == nil || s.Close() != nil {
		t.Error("a broker that was not started here was touched")
	}
	if _, err := s.Freeze(); err == nil {
		t.Error("a broker that was not started here was frozen")
	}
}

// TestServerEndsWithProcess runs this test binary as a child that starts a server and is then killed.
func TestServerEndsWithProcess(t *testing.T) {
	t.Parallel()
	need(t, func() error { _, err := findBinaries(places()); return err }())
	report := filepath.Join(t.TempDir(), "report")
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildProcess$")
	cmd.Env = append(os.Environ(), "BANYAN_SANDBOX_POSTGRES_CHILD="+report)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var dsn, dir string
	wait(t, "the child's server", func() bool {
		b, err := os.ReadFile(report)
		var ok bool
		dsn, dir, ok = strings.Cut(string(b), "\n")
		return err == nil && ok && strings.HasSuffix(dir, ".")
	})
	dir = strings.TrimSuffix(dir, ".")
	if c, err := pgx.Connect(t.Context(), dsn); err != nil {
		t.Fatal(err)
	} else {
		_ = c.Close(t.Context())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	wait(t, "the end of the server", func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, os.ErrNotExist)
	})
	if _, err := pgx.Connect(t.Context(), dsn); err == nil {
		t.Error("the server outlived the process that started it")
	}
}

func TestChildProcess(t *testing.T) {
	report := os.Getenv("BANYAN_SANDBOX_POSTGRES_CHILD")
	if report == "" {
		t.Skip("part of TestServerEndsWithProcess")
	}
	srv, err := StartPostgres(PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(report, []byte(srv.Admin()+"\n"+srv.dir+"."), 0o600); err != nil {
		t.Fatal(err)
	}
	select {} // until it is killed
}

// A broker ends with the process that asked for it, however that ends.
func TestBrokerEndsWithProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a broker")
	}
	t.Parallel()
	_, err := findRabbit("/usr/lib/rabbitmq/bin")
	need(t, err)
	report := filepath.Join(t.TempDir(), "report")
	cmd := exec.Command(os.Args[0], "-test.run=^TestRabbitChild$")
	cmd.Env = append(os.Environ(), "BANYAN_SANDBOX_RABBIT_CHILD="+report)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var addr, dir string
	wait(t, "the child's broker", func() bool {
		text, err := os.ReadFile(report)
		var ok bool
		addr, dir, ok = strings.Cut(string(text), "\n")
		return err == nil && ok && strings.HasSuffix(dir, ".")
	})
	dir = strings.TrimSuffix(dir, ".")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	wait(t, "the end of the broker", func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, os.ErrNotExist)
	})
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("the broker outlived the process that started it")
	}
}

func TestRabbitChild(t *testing.T) {
	report := os.Getenv("BANYAN_SANDBOX_RABBIT_CHILD")
	if report == "" {
		t.Skip("part of TestBrokerEndsWithProcess")
	}
	s, err := StartRabbit()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(report, []byte(s.amqp.Host+"\n"+s.dir+"."), 0o600); err != nil {
		t.Fatal(err)
	}
	select {} // until it is killed
}

func wait(t *testing.T, what string, reached func() bool) {
	t.Helper()
	deadline, look := time.After(startTimeout), time.NewTicker(20*time.Millisecond)
	defer look.Stop()
	for !reached() { // another process: there is nothing to be woken by
		select {
		case <-look.C:
		case <-deadline:
			t.Fatalf("waited %s for %s", startTimeout, what)
		}
	}
}

func TestFindBinaries(t *testing.T) {
	root := t.TempDir()
	t.Setenv("PATH", root)
	if _, err := findBinaries([]string{root + "/*/bin"}); !errors.Is(err, ErrNoPostgres) {
		t.Errorf("got %v without binaries, want ErrNoPostgres", err)
	}
	for _, name := range []string{"9/bin/initdb", "9/bin/postgres", "17/bin/initdb", "17/bin/postgres", "18/bin/initdb"} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got, err := findBinaries([]string{root + "/*/bin"})
	if want := filepath.Join(root, "17/bin"); err != nil || got != want {
		t.Errorf("got %q (%v), want %q: the newest that is complete", got, err, want)
	}
}

func TestFindRabbit(t *testing.T) {
	dir := t.TempDir()
	if _, err := findRabbit(dir); !errors.Is(err, ErrNoRabbit) {
		t.Errorf("got %v without a server, want ErrNoRabbit", err)
	}
	want := filepath.Join(dir, "rabbitmq-server")
	if err := os.WriteFile(want, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := findRabbit(filepath.Join(dir, "other"), dir); err != nil || got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}
