package testinfra

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/sandbox"
)

// ErrNoWebServer says that this machine has no nginx or haproxy to start.
var ErrNoWebServer = errors.New("is not in PATH, /usr/sbin or /usr/local/sbin: install the packages nginx and haproxy, as scripts/webservers.sh does")

// WebServer is nginx or haproxy with a configuration of a test. It never outlives the process that asked for it: the shell that
// started it ends it when its input closes.
type WebServer struct {
	tb    testing.TB
	name  string
	dir   string
	cmd   *exec.Cmd
	input io.Closer
}

// StartNginx starts nginx until the test ends. config makes the configuration; it gets a folder for what nginx writes, and must
// listen on addr.
func StartNginx(tb testing.TB, addr string, config func(dir string) string) *WebServer {
	tb.Helper()
	return startWebServer(tb, "nginx", addr, "QUIT", config, "-c", "conf", "-p", ".", "-e", "error.log", "-g", "daemon off;")
}

// StartHAProxy starts haproxy until the test ends, as StartNginx does nginx. What it logs to stdout is in its file "stdout".
func StartHAProxy(tb testing.TB, addr string, config func(dir string) string) *WebServer {
	tb.Helper()
	return startWebServer(tb, "haproxy", addr, "USR1", config, "-f", "conf", "-db")
}

// FreeAddr is an address of this machine where nobody listens.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	port, err := sandbox.FreePort()
	if err != nil {
		tb.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

const webServerTimeout = 15 * time.Second // they start within milliseconds

// endScript runs the server until the input ends, then lets it finish in order, and after five seconds not so.
const endScript = `signal=$1; shift
"$@" </dev/null & server=$!
read -r _
kill -"$signal" $server 2>/dev/null
(i=0; while kill -0 $server 2>/dev/null && [ $i -lt 50 ]; do sleep 0.1; i=$((i+1)); done; kill -TERM $server 2>/dev/null) &
wait $server`

func startWebServer(tb testing.TB, name, addr, signal string, config func(dir string) string, args ...string) *WebServer {
	tb.Helper()
	binary, err := findWebServer(name, "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin")
	needWebServer(tb, err)
	s := &WebServer{tb: tb, name: name, dir: tb.TempDir()}
	if err := os.WriteFile(s.path("conf"), []byte(config(s.dir)), 0o600); err != nil {
		tb.Fatal(err)
	}
	out, err := os.Create(s.path("stdout"))
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = out.Close() }() // the child has its own descriptor
	s.cmd = exec.Command("/bin/sh", append([]string{"-c", endScript, "sh", signal, binary}, args...)...)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.dir, out, out
	if s.input, err = s.cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Stop)
	for deadline := time.Now().Add(webServerTimeout); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			return s
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s does not listen on %s after %s: %v\n%s%s", name, addr, webServerTimeout, err, s.File("stdout"), s.File("error.log"))
		}
		<-time.After(10 * time.Millisecond) // another process: there is nothing to be woken by
	}
}

func findWebServer(name string, places ...string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range places {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s %w", name, ErrNoWebServer)
}

// needWebServer is Need for web servers.
func needWebServer(tb testing.TB, err error) {
	tb.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrNoWebServer) && os.Getenv(EnvRequire) == "":
		tb.Skipf("skipped: %v", err)
	default:
		tb.Fatalf("web server for the test: %v", err)
	}
}

// Stop ends the server in order: after it, its files have all that it has logged.
func (s *WebServer) Stop() {
	if s.input == nil {
		return
	}
	_ = s.input.Close()
	s.input = nil
	_ = s.cmd.Wait() // how it ended is in its log
}

// File is what the server has written to a file of its folder; "" if it has written none.
func (s *WebServer) File(name string) string {
	s.tb.Helper()
	b, err := os.ReadFile(s.path(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.tb.Fatal(err)
	}
	return string(b)
}

func (s *WebServer) path(name string) string { return filepath.Join(s.dir, name) }
