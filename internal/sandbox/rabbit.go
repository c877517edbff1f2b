package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
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
	"time"
)

// ErrNoRabbit says that this machine has no RabbitMQ to start.
var ErrNoRabbit = errors.New("no RabbitMQ (/usr/lib/rabbitmq/bin/rabbitmq-server) or no epmd on this machine: install the package rabbitmq-server, " +
	"as scripts/rabbitmq.sh does")

const (
	rabbitStart = 120 * time.Second // ten on a calm machine
	rabbitCalls = 30 * time.Second
)

// Rabbit is a running RabbitMQ with its management plugin.
type Rabbit struct {
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

// ConnectRabbit is a broker that runs already: the URLs of an administrator for AMQP and for the management plugin.
func ConnectRabbit(broker, admin *url.URL) *Rabbit {
	return &Rabbit{amqp: broker, admin: admin, client: &http.Client{Timeout: rabbitCalls}}
}

// StartRabbit makes and starts a broker; Close ends it.
func StartRabbit() (*Rabbit, error) {
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
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		ports[i] = strconv.Itoa(port)
	}
	user := url.UserPassword("banyan", rand.Text())
	s := ConnectRabbit(&url.URL{Scheme: "amqp", User: user, Host: "127.0.0.1:" + ports[0], Path: "/"}, &url.URL{Scheme: "http", User: user, Host: "127.0.0.1:" + ports[1]})
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

func (s *Rabbit) configure(port, adminPort, distPort string) error {
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

func (s *Rabbit) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Rabbit) environment() ([]string, error) {
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
func (s *Rabbit) Start() error {
	if s.dir == "" {
		return ErrForeign
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

func (s *Rabbit) ready(done chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), rabbitStart)
	defer cancel()
	for {
		err := s.Call(ctx, http.MethodGet, "/api/vhosts/%2F", nil, nil)
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

func (s *Rabbit) log() string {
	b, err := os.ReadFile(s.path("log"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-4096):]))
}

// Crash ends the server at once, as kill -9 does.
func (s *Rabbit) Crash() error {
	if s.dir == "" {
		return ErrForeign
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

// Listed says whether the directory of quorum queues is on disk with a queue in it. RabbitMQ 3.10 writes that some seconds after the queue
// is made (dets, delayed_write); if it is killed before, it makes the queue anew: without its messages, and without a leader, so that
// nothing is confirmed, until it is started once more.
func (s *Rabbit) Listed(queue string) (bool, error) {
	found, err := filepath.Glob(s.path("data/*/quorum/*/names.dets"))
	if err != nil || len(found) != 1 {
		return false, errors.Join(err, fmt.Errorf("the directory of quorum queues: %d files", len(found)))
	}
	names, err := os.ReadFile(found[0])
	return bytes.Contains(names, []byte("_"+queue+"m")), err
}

// Freeze stops the server's process without ending it, as a machine without memory does, until the function it gives is called.
func (s *Rabbit) Freeze() (thaw func() error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return nil, ErrForeign
	}
	group := -s.cmd.Process.Pid
	return func() error { return syscall.Kill(group, syscall.SIGCONT) }, syscall.Kill(group, syscall.SIGSTOP)
}

// Eval runs Erlang expressions in a server that was started here, and waits for their end.
func (s *Rabbit) Eval(expressions string) error {
	s.mu.Lock()
	if s.cmd == nil {
		s.mu.Unlock()
		return ErrForeign
	}
	s.evals++
	ended := s.path(fmt.Sprintf("eval%d", s.evals))
	// Renamed when it is whole: a file that is only begun says that there was no error.
	_, err := fmt.Fprintf(s.shell, "file:write_file(%[2]q, try (fun() -> %[1]s end)() of _ -> \"\" catch _:E -> io_lib:format(\"~p\", [E]) end), file:rename(%[2]q, %[3]q).\n",
		expressions, ended+".part", ended)
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
func (s *Rabbit) Close() error {
	if s.dir == "" {
		return nil
	}
	err := s.Crash() // nothing of it is needed any more
	return errors.Join(err, s.watch.close())
}

// URL is the administrator's AMQP URL, and Admin that of the management plugin.
func (s *Rabbit) URL() string   { return s.amqp.String() }
func (s *Rabbit) Admin() string { return s.admin.String() }

// Call asks the management plugin.
func (s *Rabbit) Call(ctx context.Context, method, path string, in, out any) error {
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

// Missing says that the management plugin knows nothing of what was named.
func Missing(err error) bool {
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

// User is the administrator, with the password.
func (s *Rabbit) User() *url.Userinfo { return s.amqp.User }

// Addr is where the broker listens.
func (s *Rabbit) Addr() string { return s.amqp.Host }

// HostURL is the AMQP URL of a user of a virtual host.
func (s *Rabbit) HostURL(user *url.Userinfo, host string) string {
	u := *s.amqp
	u.User, u.Path, u.RawPath = user, "/"+host, "/"+url.PathEscape(host)
	return u.String()
}

// Permissions are what a user may do in a virtual host, as regular expressions of names.
type Permissions struct {
	Configure string `json:"configure"`
	Write     string `json:"write"`
	Read      string `json:"read"`
}

// CreateHost makes a virtual host for the administrator, and gives its AMQP URL.
func (s *Rabbit) CreateHost(ctx context.Context, name string) (string, error) {
	if err := s.Call(ctx, http.MethodPut, "/api/vhosts/"+url.PathEscape(name), nil, nil); err != nil {
		return "", err
	}
	return s.HostURL(s.User(), name), s.Allow(ctx, name, s.User().Username(), Permissions{".*", ".*", ".*"})
}

// Allow gives a user rights in a virtual host.
func (s *Rabbit) Allow(ctx context.Context, host, user string, p Permissions) error {
	return s.Call(ctx, http.MethodPut, "/api/permissions/"+url.PathEscape(host)+"/"+url.PathEscape(user), p, nil)
}

// DeleteHost deletes a virtual host with all that is in it.
func (s *Rabbit) DeleteHost(ctx context.Context, name string) error {
	return s.Call(ctx, http.MethodDelete, "/api/vhosts/"+url.PathEscape(name), nil, nil)
}

// Connections are the names of the connections to a virtual host.
func (s *Rabbit) Connections(ctx context.Context, host string) ([]string, error) {
	var all []struct {
		Name string `json:"name"`
	}
	err := s.Call(ctx, http.MethodGet, "/api/vhosts/"+url.PathEscape(host)+"/connections", nil, &all)
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	return names, err
}

// KillConnections has the broker end all connections to a virtual host, and says how many there were.
func (s *Rabbit) KillConnections(ctx context.Context, host string) (n int, err error) {
	names, err := s.Connections(ctx, host)
	for _, name := range names {
		switch err := s.Call(ctx, http.MethodDelete, "/api/connections/"+url.PathEscape(name), nil, nil); {
		case err == nil:
			n++
		case !Missing(err): // one that is gone already is fine
			return n, err
		}
	}
	return n, err
}

// StopApp stops RabbitMQ in order and leaves its process.
func (s *Rabbit) StopApp() error { return s.Eval("rabbit:stop()") }

// StartApp starts RabbitMQ again after StopApp, and waits until it takes connections.
func (s *Rabbit) StartApp() error {
	if err := s.Eval("rabbit:start()"); err != nil {
		return err
	}
	s.mu.Lock()
	done := s.done
	s.mu.Unlock()
	return s.ready(done)
}

// CutConnections ends all connections as a cable that is cut does, without a word.
func (s *Rabbit) CutConnections() error {
	return s.Eval("[exit(P, kill) || P <- rabbit_networking:connections()]")
}
