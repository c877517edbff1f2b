package discovery_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/secret"
	"github.com/banyan-go/banyan/proxy/discovery"
)

// real is a Consul agent in development mode, with access control.
type real struct {
	t       *testing.T
	binary  string
	token   string
	http    string
	dns     string
	flags   []string
	stop    func()
	logFile string
}

// newReal starts one. BANYAN_TEST_CONSUL is the path of a binary, or 1 to build it, which takes minutes the first time.
func newReal(t *testing.T) *real {
	t.Helper()
	binary := os.Getenv("BANYAN_TEST_CONSUL")
	switch binary {
	case "":
		t.Skip("a real Consul is not tried: set BANYAN_TEST_CONSUL to the path of the binary, or to 1 to build it (minutes)")
	case "1":
		binary = build(t)
	}
	r := &real{t: t, binary: binary, token: "6f1c9c1e-0000-4000-8000-000000000002", logFile: filepath.Join(t.TempDir(), "log")}
	var ports [4]string
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		_, ports[i], _ = net.SplitHostPort(l.Addr().String())
	}
	r.http, r.dns = "127.0.0.1:"+ports[0], "127.0.0.1:"+ports[1]
	r.flags = []string{
		"agent", "-dev", "-bind=127.0.0.1", "-http-port=" + ports[0], "-dns-port=" + ports[1], "-grpc-port=-1", "-server-port=" + ports[2],
		"-serf-lan-port=" + ports[3], "-serf-wan-port=-1",
		"-hcl", fmt.Sprintf(`acl { enabled = true default_policy = "deny" tokens { initial_management = %[1]q agent = %[1]q default = %[1]q } }`, r.token),
	}
	t.Cleanup(func() {
		if r.stop != nil {
			r.stop()
		}
	})
	return r
}

// build makes the binary out of the module in consultest, and keeps it.
func build(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(cache, "banyan", "consul")
	cmd := exec.Command("go", "build", "-o", binary, "github.com/hashicorp/consul")
	cmd.Dir = "consultest"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build Consul: %v\n%s", err, out)
	}
	return binary
}

// start runs the agent until it leads. It never outlives this process: the shell kills it when its input ends.
func (r *real) start() {
	r.t.Helper()
	log, err := os.OpenFile(r.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command("sh", append([]string{"-c", `"$@" & read _; kill -9 $!; wait $!`, "sh", r.binary}, r.flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	input, err := cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.stop = func() { _ = input.Close(); _ = cmd.Wait(); r.stop = nil }
	for deadline := time.Now().Add(time.Minute); ; {
		if r.leads() {
			return
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(r.logFile)
			r.t.Fatalf("Consul does not start:\n%s", text)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// leads says whether there is a leader and its access control knows our token.
func (r *real) leads() bool {
	for _, path := range []string{"/v1/status/leader", "/v1/acl/token/self", "/v1/health/service/consul?passing"} {
		request, err := http.NewRequest(http.MethodGet, "http://"+r.http+path, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		request.Header.Set("X-Consul-Token", r.token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if text := strings.TrimSpace(string(body)); err != nil || response.StatusCode != http.StatusOK || text == `""` || text == "[]" {
			return false
		}
	}
	return true
}

func (r *real) config() discovery.Consul {
	return discovery.Consul{Addr: "http://" + r.http, Token: secret.Text(r.token)}
}

// restart kills the agent; in development mode it keeps nothing.
func (r *real) restart() {
	r.t.Helper()
	if r.stop != nil {
		r.stop()
	}
	r.start()
}
