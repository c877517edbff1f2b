package testinfra

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The environment of a test run with RabbitMQ.
const (
	EnvRabbit      = "BANYAN_TEST_RABBITMQ_URL"       // AMQP URL of an administrator: use this broker
	EnvRabbitAdmin = "BANYAN_TEST_RABBITMQ_ADMIN_URL" // of its management plugin; http://<user>:<password>@<host>:15672 if unset
)

// ErrNoRabbit says that this machine has no RabbitMQ to start.
var ErrNoRabbit = errors.New("no RabbitMQ (/usr/lib/rabbitmq/bin/rabbitmq-server) or no epmd on this machine: install the package rabbitmq-server, " +
	"as scripts/rabbitmq.sh does, or name a running broker with " + EnvRabbit + "=amqp://administrator:password@host:5672/")

const (
	rabbitStart = 120 * time.Second // ten on a calm machine
	rabbitCalls = 30 * time.Second
)

// RabbitServer is a running RabbitMQ with its management plugin.
type RabbitServer struct {
	amqp, admin *url.URL
	client      *http.Client

	// The rest is set for servers started here.
	script, dir string
	epmd        string // port
	watch       *watcher

	mu    sync.Mutex
	cmd   *exec.Cmd
	shell io.WriteCloser // the server's Erlang shell
	done  chan struct{}
	evals int
}

var sharedRabbit = sync.OnceValues(func() (*RabbitServer, error) {
	if os.Getenv(EnvRabbit) == "" {
		return LaunchRabbit()
	}
	s, err := foreignRabbit(os.Getenv(EnvRabbit), os.Getenv(EnvRabbitAdmin))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.call(ctx, http.MethodGet, "/api/whoami", nil, nil); err != nil {
		return nil, fmt.Errorf("%s: its management plugin (%s): %w", EnvRabbit, EnvRabbitAdmin, err)
	}
	return s, nil
})

func foreignRabbit(broker, admin string) (*RabbitServer, error) {
	u, err := url.Parse(broker)
	if err != nil || u.Scheme != "amqp" || u.Host == "" || u.User == nil {
		return nil, fmt.Errorf("%s cannot be read; give it as in amqp://guest:guest@127.0.0.1:5672/", EnvRabbit)
	}
	a := &url.URL{Scheme: "http", User: u.User, Host: net.JoinHostPort(u.Hostname(), "15672")}
	if admin != "" {
		if a, err = url.Parse(admin); err != nil || a.Host == "" || a.User == nil {
			return nil, fmt.Errorf("%s cannot be read; give it as in http://guest:guest@127.0.0.1:15672", EnvRabbitAdmin)
		}
	}
	return newRabbit(u, a), nil
}

func newRabbit(broker, admin *url.URL) *RabbitServer {
	return &RabbitServer{amqp: broker, admin: admin, client: &http.Client{Timeout: rabbitCalls}}
}

// Rabbit is a virtual host of its own in the broker that the tests of this process, or of a whole run, share. It is deleted when the
// test ends.
func Rabbit(tb testing.TB) *Broker {
	tb.Helper()
	s, err := sharedRabbit()
	needRabbit(tb, err)
	return s.host(tb)
}

// PrivateRabbit is a broker of this test alone, which may stop it, and is gone when the test ends.
func PrivateRabbit(tb testing.TB) *Broker {
	tb.Helper()
	s, err := LaunchRabbit()
	needRabbit(tb, err)
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close RabbitMQ: %v", err)
		}
	})
	return &Broker{tb: tb, server: s, vhost: "/"}
}

// needRabbit is Need for RabbitMQ.
func needRabbit(tb testing.TB, err error) {
	tb.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrNoRabbit) && os.Getenv(EnvRequire) == "":
		tb.Skipf("skipped: %v", err)
	default:
		tb.Fatalf("RabbitMQ for the test: %v", err)
	}
}

// LaunchRabbit makes and starts a broker; Close ends it.
func LaunchRabbit() (*RabbitServer, error) {
	script, err := findRabbit("/usr/lib/rabbitmq/bin", "/usr/lib/rabbitmq/lib/*/sbin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin")
	if err != nil {
		return nil, err
	}
	epmd, err := exec.LookPath("epmd")
	if err != nil {
		return nil, ErrNoRabbit
	}
	dir, err := os.MkdirTemp("", "banyan-rabbit-")
	if err != nil {
		return nil, err
	}
	var ports [4]string
	for i := range ports {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		ports[i] = strconv.Itoa(port)
	}
	user := url.UserPassword("banyan", rand.Text())
	s := newRabbit(&url.URL{Scheme: "amqp", User: user, Host: "127.0.0.1:" + ports[0], Path: "/"}, &url.URL{Scheme: "http", User: user, Host: "127.0.0.1:" + ports[1]})
	s.script, s.dir, s.epmd = script, dir, ports[3]
	if err := s.configure(ports[0], ports[1], ports[2]); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if s.watch, err = startRabbitWatcher(dir, epmd, s.epmd); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.Start(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func findRabbit(patterns ...string) (string, error) {
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(pattern, "rabbitmq-server"))
		if err != nil {
			return "", err
		}
		for _, path := range found {
			if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", ErrNoRabbit
}

func (s *RabbitServer) configure(port, adminPort, distPort string) error {
	password, _ := s.amqp.User.Password()
	conf := strings.Join([]string{
		"listeners.tcp.1 = 127.0.0.1:" + port, "management.tcp.ip = 127.0.0.1", "management.tcp.port = " + adminPort, "management.rates_mode = none",
		"default_user = " + s.amqp.User.Username(), "default_pass = " + password, "log.console = true", "log.console.level = warning", "log.file = false",
		"vm_memory_high_watermark.absolute = 2GB", "disk_free_limit.absolute = 10MB",
		"collect_statistics_interval = 1000", "", // connections are listed that late
	}, "\n")
	for name, text := range map[string]string{"rabbitmq.conf": conf, "enabled_plugins": "[rabbitmq_management].\n", "ports": distPort} {
		if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (s *RabbitServer) path(name string) string { return filepath.Join(s.dir, name) }

func (s *RabbitServer) environment() ([]string, error) {
	dist, err := os.ReadFile(s.path("ports"))
	if err != nil {
		return nil, err
	}
	return append(os.Environ(),
		"HOME="+s.dir, "ERL_EPMD_PORT="+s.epmd, "ERL_EPMD_ADDRESS=127.0.0.1", "RABBITMQ_NODENAME=banyan"+s.epmd+"@localhost", "RABBITMQ_DIST_PORT="+string(dist),
		"RABBITMQ_CONFIG_FILE="+s.path("rabbitmq.conf"), "RABBITMQ_ENABLED_PLUGINS_FILE="+s.path("enabled_plugins"), "RABBITMQ_MNESIA_BASE="+s.path("data"),
		"RABBITMQ_LOG_BASE="+s.dir, "RABBITMQ_LOGS=-", "RABBITMQ_PID_FILE="+s.path("pid"), "RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RABBITMQ_ALLOW_INPUT=1", // runs Erlang in place of the script, with a shell on its input
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"), nil
}

// Start starts the server again after Crash, with its data, and waits until it takes connections.
func (s *RabbitServer) Start() error {
	if s.dir == "" {
		return errForeign
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return errors.New("the broker runs already")
	}
	environment, err := s.environment()
	if err != nil {
		return err
	}
	logFile, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }() // the child has its own descriptor
	cmd := exec.Command(s.script)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, environment, logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if s.shell, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start rabbitmq-server: %w", err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(done)
	}()
	s.cmd, s.done = cmd, done
	// For the watcher, which needs it before the server writes its own.
	if err := os.WriteFile(s.path("group"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		return err
	}
	return s.ready(done)
}

func (s *RabbitServer) ready(done chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), rabbitStart)
	defer cancel()
	for {
		err := s.call(ctx, http.MethodGet, "/api/vhosts/%2F", nil, nil)
		if err == nil {
			var c net.Conn
			if c, err = net.Dial("tcp", s.amqp.Host); err == nil {
				return c.Close()
			}
		}
		select {
		case <-done:
			return fmt.Errorf("rabbitmq-server ended at once: %s", s.log())
		case <-ctx.Done():
			return fmt.Errorf("rabbitmq-server is not ready after %s: %w: %s", rabbitStart, err, s.log())
		case <-time.After(50 * time.Millisecond): // another process: there is nothing to be woken by
		}
	}
}

func (s *RabbitServer) log() string {
	b, err := os.ReadFile(s.path("log"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-4096):]))
}

// Crash ends the server at once, as kill -9 does.
func (s *RabbitServer) Crash() error {
	if s.dir == "" {
		return errForeign
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return nil
	}
	err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		err = nil
	}
	<-s.done
	s.cmd, s.done = nil, nil
	_ = s.shell.Close() // the end of the process may have closed it
	return err
}

// Freeze stops the server's process without ending it, as a machine without memory does, until the function it gives is called.
func (s *RabbitServer) Freeze() (thaw func() error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return nil, errForeign
	}
	group := -s.cmd.Process.Pid
	return func() error { return syscall.Kill(group, syscall.SIGCONT) }, syscall.Kill(group, syscall.SIGSTOP)
}

// Eval runs Erlang expressions in a server that was started here, and waits for their end.
func (s *RabbitServer) Eval(expressions string) error {
	s.mu.Lock()
	if s.cmd == nil {
		s.mu.Unlock()
		return errForeign
	}
	s.evals++
	ended := s.path(fmt.Sprintf("eval%d", s.evals))
	_, err := fmt.Fprintf(s.shell, "try (fun() -> %s end)() of _ -> file:write_file(%q, \"\") catch _:E -> file:write_file(%q, io_lib:format(\"~p\", [E])) end.\n", expressions, ended, ended)
	done := s.done
	s.mu.Unlock()
	if err != nil {
		return err
	}
	timeout := time.After(rabbitStart)
	for {
		if b, err := os.ReadFile(ended); err == nil {
			if len(b) > 0 {
				return fmt.Errorf("%s: %s", expressions, b)
			}
			return nil
		}
		select {
		case <-done:
			return errors.New("the broker ended")
		case <-timeout:
			return fmt.Errorf("%s did not end in %s: %s", expressions, rabbitStart, s.log())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Close ends the server and removes its folder. It leaves a server that was not started here alone.
func (s *RabbitServer) Close() error {
	if s.dir == "" {
		return nil
	}
	err := s.Crash() // nothing of it is needed any more
	return errors.Join(err, s.watch.close())
}

// URL is the administrator's AMQP URL, and Admin that of the management plugin.
func (s *RabbitServer) URL() string   { return s.amqp.String() }
func (s *RabbitServer) Admin() string { return s.admin.String() }

// call asks the management plugin.
func (s *RabbitServer) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(ctx, rabbitCalls)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.admin.Host+path, body)
	if err != nil {
		return err
	}
	password, _ := s.admin.User.Password()
	req.SetBasicAuth(s.admin.User.Username(), password)
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return &adminError{resp.StatusCode, fmt.Sprintf("%s %s: %s %s", method, path, resp.Status, answer)}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

type adminError struct {
	status int
	text   string
}

func (e *adminError) Error() string { return e.text }

func missing(err error) bool {
	var e *adminError
	return errors.As(err, &e) && e.status == http.StatusNotFound
}

// rabbitWatchScript runs the server's name service, which every Erlang node needs and none ends, until this process is gone.
const rabbitWatchScript = `trap '' INT TERM HUP
"$2" -port "$3" -address 127.0.0.1 </dev/null >/dev/null 2>&1 & epmd=$!
read -r _
group=$(cat group 2>/dev/null) || group=
if [ -n "$group" ]; then kill -KILL "-$group" 2>/dev/null; fi
kill -KILL $epmd 2>/dev/null
i=0
while [ -n "$group" ] && kill -0 "-$group" 2>/dev/null && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done
cd / && rm -rf "$1"`

func startRabbitWatcher(dir, epmd, port string) (*watcher, error) {
	cmd := exec.Command("/bin/sh", "-c", rabbitWatchScript, "sh", dir, epmd, port)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start watcher: %w", err)
	}
	return &watcher{cmd: cmd, stdin: stdin}, nil
}

// Broker is a virtual host for a test.
type Broker struct {
	tb     testing.TB
	server *RabbitServer
	vhost  string
}

func (s *RabbitServer) host(tb testing.TB) *Broker {
	tb.Helper()
	random := make([]byte, 6)
	_, _ = rand.Read(random) // never fails: see crypto/rand
	b := &Broker{tb: tb, server: s, vhost: "t" + hex.EncodeToString(random)}
	b.must(http.MethodPut, "/api/vhosts/"+b.vhost, nil, nil)
	b.must(http.MethodPut, "/api/permissions/"+b.vhost+"/"+url.PathEscape(s.amqp.User.Username()), permissions{".*", ".*", ".*"}, nil)
	tb.Cleanup(func() { b.must(http.MethodDelete, "/api/vhosts/"+b.vhost, nil, nil) })
	return b
}

type permissions struct {
	Configure string `json:"configure"`
	Write     string `json:"write"`
	Read      string `json:"read"`
}

func (b *Broker) must(method, path string, in, out any) {
	b.tb.Helper()
	if err := b.server.call(context.Background(), method, path, in, out); err != nil {
		b.tb.Fatal(err)
	}
}

// URL is the AMQP URL of an administrator of the virtual host.
func (b *Broker) URL() string { return b.url(b.server.amqp.User) }

func (b *Broker) url(user *url.Userinfo) string {
	u := *b.server.amqp
	u.User, u.Path, u.RawPath = user, "/"+b.vhost, "/"+url.PathEscape(b.vhost)
	return u.String()
}

// Addr is where the broker listens.
func (b *Broker) Addr() string { return b.server.amqp.Host }

// User makes a user with these rights, until the test ends, and gives its AMQP URL.
func (b *Broker) User(configure, write, read string) string {
	b.tb.Helper()
	name, password := "u"+strings.ToLower(rand.Text()[:12]), rand.Text()
	b.must(http.MethodPut, "/api/users/"+name, map[string]string{"password": password, "tags": ""}, nil)
	b.tb.Cleanup(func() { b.must(http.MethodDelete, "/api/users/"+name, nil, nil) })
	b.must(http.MethodPut, "/api/permissions/"+url.PathEscape(b.vhost)+"/"+name, permissions{configure, write, read}, nil)
	return b.url(url.UserPassword(name, password))
}

// Connections are the names of the connections to the virtual host.
func (b *Broker) Connections() []string {
	b.tb.Helper()
	var all []struct {
		Name string `json:"name"`
	}
	b.must(http.MethodGet, "/api/vhosts/"+url.PathEscape(b.vhost)+"/connections", nil, &all)
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	return names
}

// KillConnections has the broker end all connections to the virtual host, and says how many there were.
func (b *Broker) KillConnections() int {
	b.tb.Helper()
	n := 0
	for _, name := range b.Connections() {
		err := b.server.call(context.Background(), http.MethodDelete, "/api/connections/"+url.PathEscape(name), nil, nil)
		if err == nil {
			n++
		} else if !missing(err) { // one that is gone already is fine
			b.tb.Fatal(err)
		}
	}
	return n
}

// DeleteQueue deletes a queue with what it holds.
func (b *Broker) DeleteQueue(name string) {
	b.tb.Helper()
	b.must(http.MethodDelete, "/api/queues/"+url.PathEscape(b.vhost)+"/"+url.PathEscape(name), nil, nil)
}

// Private parts: of a broker that PrivateRabbit gave.

// Crash ends the broker as kill -9 does; Start starts it again with its data.
func (b *Broker) Crash() { b.check(b.server.Crash()) }

// Start starts the broker again after Crash.
func (b *Broker) Start() { b.check(b.server.Start()) }

// StopApp stops RabbitMQ in order and leaves its process.
func (b *Broker) StopApp() { b.check(b.server.Eval("rabbit:stop()")) }

// StartApp starts RabbitMQ again after StopApp.
func (b *Broker) StartApp() {
	b.tb.Helper()
	b.check(b.server.Eval("rabbit:start()"))
	b.server.mu.Lock()
	done := b.server.done
	b.server.mu.Unlock()
	b.check(b.server.ready(done))
}

// CutConnections ends all connections as a cable that is cut does, without a word.
func (b *Broker) CutConnections() {
	b.check(b.server.Eval("[exit(P, kill) || P <- rabbit_networking:connections()]"))
}

// SetMemoryAlarm makes the broker believe that it is short of memory, or not.
func (b *Broker) SetMemoryAlarm(on bool) {
	if on {
		b.check(b.server.Eval("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []})"))
	} else {
		b.check(b.server.Eval("rabbit_alarm:clear_alarm({resource_limit, memory, node()})"))
	}
}

// Freeze stops the broker's process until the function it gives is called.
func (b *Broker) Freeze() (thaw func()) {
	b.tb.Helper()
	f, err := b.server.Freeze()
	b.check(err)
	return func() { b.check(f()) }
}

func (b *Broker) check(err error) {
	b.tb.Helper()
	if err != nil {
		b.tb.Fatal(err)
	}
}
