package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	superuser    = "postgres"
	startTimeout = 60 * time.Second // a loaded machine, recovery after a crash
	stopTimeout  = 30 * time.Second
)

// PostgresOptions say how a server is started.
type PostgresOptions struct {
	// NoSync turns fsync off: faster, and still safe against Crash, which does not take the machine down.
	NoSync bool
	// Settings go into postgresql.conf, as in {"max_prepared_transactions": "10"}.
	Settings map[string]string
}

// Postgres is a running PostgreSQL server.
type Postgres struct {
	admin *url.URL // superuser, database postgres

	// The rest is set for servers started here.
	bin, dir string
	cred     *syscall.Credential // nil: this process's own user
	watch    *watcher

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// StartPostgres makes and starts a server; Close ends it.
func StartPostgres(opts PostgresOptions) (*Postgres, error) {
	bin, err := findBinaries(places())
	if err != nil {
		return nil, err
	}
	cred, err := credential()
	if err != nil {
		return nil, err
	}
	// Not under t.TempDir: its path is too long for a socket, and closed to the user postgres.
	dir, err := os.MkdirTemp("", "banyan-pg-")
	if err != nil {
		return nil, err
	}
	s := &Postgres{bin: bin, dir: dir, cred: cred}
	if err := s.create(opts); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if s.watch, err = startWatcher(dir, s.attributes()); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.Start(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// ConnectPostgres is a server that runs already, by the DSN of a superuser.
func ConnectPostgres(ctx context.Context, dsn string) (*Postgres, error) {
	u, err := url.Parse(dsn)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") || u.Host == "" {
		return nil, errors.New("cannot be read; give it as in postgres://postgres:password@127.0.0.1:5432/postgres")
	}
	s := &Postgres{admin: u}
	return s, s.exec(ctx, "SELECT 1")
}

// credential is the user to run as: PostgreSQL refuses to run as root.
func credential() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")
}

// attributes put a child into a process group of its own: an interrupt typed at the terminal reaches this process,
// which then stops the server in order.
func (s *Postgres) attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: s.cred}
}

func (s *Postgres) create(opts PostgresOptions) error {
	password := rand.Text()
	if err := os.WriteFile(s.path("password"), []byte(password), 0o600); err != nil {
		return err
	}
	if s.cred != nil {
		for _, p := range []string{s.dir, s.path("password")} {
			if err := os.Chown(p, int(s.cred.Uid), int(s.cred.Gid)); err != nil {
				return err
			}
		}
	}
	if err := s.initdb(); err != nil {
		return err
	}
	port, err := FreePort()
	if err != nil {
		return err
	}
	settings := map[string]string{
		"listen_addresses": "127.0.0.1", "port": strconv.Itoa(port), "unix_socket_directories": s.dir,
		"max_connections": "300", "shared_buffers": "64MB", "wal_level": "logical", "timezone": "UTC", "log_timezone": "UTC",
		"logging_collector": "off", "fsync": onOff(!opts.NoSync), "full_page_writes": onOff(!opts.NoSync),
		"max_wal_size": "1GB", "log_line_prefix": "%m %u@%d ",
	}
	maps.Copy(settings, opts.Settings)
	var conf strings.Builder
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&conf, "%s = '%s'\n", k, strings.ReplaceAll(settings[k], "'", "''"))
	}
	if err := appendFile(filepath.Join(s.data(), "postgresql.conf"), conf.String()); err != nil {
		return err
	}
	// Everybody needs the password, the superuser too: other users of this machine reach the port as well.
	hba := "local all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n"
	if err := os.WriteFile(filepath.Join(s.data(), "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		return err
	}
	s.admin = &url.URL{
		Scheme: "postgres", User: url.UserPassword(superuser, password), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		Path: "/postgres", RawQuery: "sslmode=disable",
	}
	return nil
}

// initdb tries a natural-language collation first, as production databases have: a column that forgot COLLATE "C"
// is found out by the tests only if the default collation is another one.
func (s *Postgres) initdb() error {
	var failures []error
	for _, locale := range [][]string{{"--locale-provider=icu", "--icu-locale=en-US", "--locale=C"}, {"--locale=C"}} {
		args := append([]string{"-D", s.data(), "-U", superuser, "--pwfile", s.path("password"), "-E", "UTF8", "-A", "scram-sha-256", "--no-sync"}, locale...)
		cmd := exec.Command(filepath.Join(s.bin, "initdb"), args...)
		cmd.Dir = s.dir
		cmd.SysProcAttr = s.attributes()
		out, err := cmd.CombinedOutput()
		if err == nil {
			return nil
		}
		failures = append(failures, fmt.Errorf("initdb: %w\n%s", err, out))
		if err := os.RemoveAll(s.data()); err != nil {
			return err
		}
	}
	return errors.Join(failures...)
}

// FreePort is a port of 127.0.0.1 where nobody listens. It looks below the range that outgoing connections are given: a port of that range may be taken while the
// server is down for a moment.
func FreePort() (int, error) {
	for range 100 {
		port := 20000 + mathrand.IntN(12000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return 0, errors.New("found no free port on 127.0.0.1")
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func appendFile(name, text string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func (s *Postgres) path(name string) string { return filepath.Join(s.dir, name) }
func (s *Postgres) data() string            { return s.path("data") }

// Admin is the superuser's DSN for the database postgres.
func (s *Postgres) Admin() string { return s.admin.String() }

// DSN is the superuser's DSN for a database.
func (s *Postgres) DSN(database string) string {
	u := *s.admin
	u.Path = "/" + database
	return u.String()
}

// ErrForeign refuses what only the one who started a server may do.
var ErrForeign = errors.New("this server was not started here: it cannot be stopped or started")

// Start starts the server again after Stop or Crash, and waits until it takes connections.
func (s *Postgres) Start() error {
	if s.dir == "" {
		return ErrForeign
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return errors.New("the server runs already")
	}
	logFile, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }() // the child has its own descriptor
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), "-D", s.data())
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = s.attributes()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(done)
	}()
	s.cmd, s.done = cmd, done
	if err := s.ready(); err != nil {
		_ = s.end(syscall.SIGKILL)
		return err
	}
	return nil
}

func (s *Postgres) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.exec(ctx, "SELECT 1")
		if err == nil {
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("postgres ended at once: %s", s.log())
		case <-ctx.Done():
			return fmt.Errorf("postgres is not ready after %s: %w: %s", startTimeout, err, s.log())
		case <-tick.C:
		}
	}
}

// log is the end of the server's log.
func (s *Postgres) log() string {
	b, err := os.ReadFile(s.path("log"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-4096):]))
}

// Stop shuts the server down in order, ending its sessions.
func (s *Postgres) Stop() error { return s.stop(syscall.SIGINT) }

// Crash ends the server at once, as a power cut would: the next Start recovers from the log of writes.
func (s *Postgres) Crash() error { return s.stop(syscall.SIGQUIT) }

// Restart is Stop and Start.
func (s *Postgres) Restart() error {
	if err := s.Stop(); err != nil {
		return err
	}
	return s.Start()
}

func (s *Postgres) stop(signal syscall.Signal) error {
	if s.dir == "" {
		return ErrForeign
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return nil
	}
	return s.end(signal)
}

func (s *Postgres) end(signal syscall.Signal) error {
	err := s.cmd.Process.Signal(signal)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	select {
	case <-s.done:
	case <-time.After(stopTimeout):
		err = fmt.Errorf("postgres did not end within %s of %s: %s", stopTimeout, signal, s.log())
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	s.cmd, s.done = nil, nil
	return err
}

// Close stops the server and removes its folder. It leaves a server that was not started here alone.
func (s *Postgres) Close() error {
	if s.dir == "" {
		return nil
	}
	err := s.Crash() // nothing of it is needed any more
	return errors.Join(err, s.watch.close())
}

// TerminateSessions cuts every connection to a database, in the middle of whatever it does.
func (s *Postgres) TerminateSessions(database string) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return s.exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()", database)
}

// CreateDatabase makes an empty database.
func (s *Postgres) CreateDatabase(ctx context.Context, name string) error {
	for {
		err := s.exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != "55006" {
			return err
		}
		// 55006: somebody else makes a database of the same template just now.
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// DropDatabase drops a database with its sessions, and the roles whose names begin with its name: roles belong to the whole server.
func (s *Postgres) DropDatabase(ctx context.Context, name string) error {
	c, err := pgx.Connect(ctx, s.Admin())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	if _, err := c.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
		return err
	}
	rows, err := c.Query(ctx, "SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1)", name+"_")
	if err != nil {
		return err
	}
	roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, role := range roles {
		if _, err := c.Exec(ctx, "DROP ROLE IF EXISTS "+pgx.Identifier{role}.Sanitize()); err != nil {
			return err
		}
	}
	return nil
}

// Stopped says that a server that was started here does not run.
func (s *Postgres) Stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dir != "" && s.cmd == nil
}

func (s *Postgres) exec(ctx context.Context, sql string, args ...any) error {
	c, err := pgx.Connect(ctx, s.Admin())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	_, err = c.Exec(ctx, sql, args...)
	return err
}

// watcher is a process that waits for the end of this one and then cleans up behind it. Asking the kernel to signal
// the server when its parent dies would not do: that follows the thread that started it, and leaves the folder.
type watcher struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

const watchScript = `trap '' INT TERM HUP
read -r _
pid=$(head -n 1 data/postmaster.pid 2>/dev/null) || pid=
if [ -n "$pid" ]; then kill -QUIT "$pid" 2>/dev/null; fi
i=0
while [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done
cd / && rm -rf "$1"`

func startWatcher(dir string, attributes *syscall.SysProcAttr) (*watcher, error) {
	cmd := exec.Command("/bin/sh", "-c", watchScript, "sh", dir)
	cmd.Dir = dir
	cmd.SysProcAttr = attributes
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start watcher: %w", err)
	}
	return &watcher{cmd: cmd, stdin: stdin}, nil
}

func (w *watcher) close() error {
	return errors.Join(w.stdin.Close(), w.cmd.Wait())
}
