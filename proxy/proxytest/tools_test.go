package proxytest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/pem"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/banyan-go/banyan/internal/testinfra"
	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/upstream"
)

const h2spec = "github.com/summerwind/h2spec/cmd/h2spec"

// built are the programs of the module in tools, which has versions of its own. They are kept: the first time takes a minute.
var built = sync.OnceValues(func() (dir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(cache, "banyan", "proxytest")
	run := func(args ...string) error {
		cmd := exec.Command("go", args...)
		cmd.Dir = "tools"
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", args[0], err, out)
		}
		return nil
	}
	if err := run("list", "-deps", "./...", h2spec); err != nil {
		return "", &missing{err}
	}
	return dir, run("build", "-o", dir+string(filepath.Separator), "./...", h2spec)
})

// missing says that the modules of the tools cannot be had.
type missing struct{ error }

// tool is the path of a program.
func tool(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped: tools are not tried with -short")
	}
	dir, err := built()
	if _, ok := err.(*missing); ok && os.Getenv(testinfra.EnvRequire) == "" {
		t.Skipf("skipped: the modules of proxy/proxytest/tools cannot be had: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// serving starts a program that prints where it listens, and ends when its input does.
func serving(t *testing.T, name string, args ...string) (addr string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stderr = io.Discard
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s does not say where it listens: %v", name, err)
	}
	return strings.TrimSpace(line)
}

// run runs a program to its end.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// The cases of h2spec that net/http's server fails by itself, whatever stands behind it. Some it fails only sometimes: it has
// closed the connection before h2spec has read why.
var netHTTPFails = []string{
	"http2/3.5 Sends invalid connection preface",
	"http2/4.2 Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE",
	"http2/5.1 half closed (remote): Sends a HEADERS frame",
	"http2/5.4.1 Sends an invalid PING frame for connection close",
	"http2/6.5.3 Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE",
	"http2/8.1.2.2 Sends a HEADERS frame that contains the connection-specific header field",
	`http2/8.1.2.2 Sends a HEADERS frame that contains the TE header field with any value other than "trailers"`,
}

func TestH2spec(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %t", secure), func(t *testing.T) {
			t.Parallel()
			program := tool(t, "h2spec")
			start := open
			var args []string
			if secure {
				start, args = openTLS, []string{"-t", "-k"}
			}
			origin := backend(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(w, strings.Repeat("hello ", 100))
			})
			d := start(t, func(c *proxy.Config, _ *proxy.Options) { c.Upstreams = []proxy.Foreign{legacy(origin)} })
			_, port, _ := net.SplitHostPort(d.addr)
			// What fails only sometimes is tried again; a case has passed if it has passed once.
			results := map[string]bool{}
			var passed, failed []string
			for range 3 {
				report := filepath.Join(t.TempDir(), "report.xml")
				out, _ := run(t, program, append(args, "-h", "127.0.0.1", "-p", port, "-P", "/x", "-j", report)...) // its exit code is in the report
				readReport(t, report, out, results)
				passed, failed = nil, nil
				unknown := 0
				for _, name := range slices.Sorted(maps.Keys(results)) {
					if results[name] {
						passed = append(passed, name)
						continue
					}
					failed = append(failed, name)
					if !slices.Contains(netHTTPFails, name) {
						unknown++
					}
				}
				if len(passed) >= 140 && unknown == 0 {
					break
				}
			}
			t.Logf("%d of %d passed, failed: %q", len(passed), len(results), failed)
			if len(results) < 145 || len(passed) < 140 {
				t.Errorf("only %d of %d passed", len(passed), len(results))
			}
			for _, name := range failed {
				if !slices.Contains(netHTTPFails, name) {
					t.Errorf("%s fails, and not because of net/http", name)
				}
			}
		})
	}
}

// readReport reads what h2spec writes in the form of JUnit: which cases have passed. What has passed before stays so.
func readReport(t *testing.T, name, out string, results map[string]bool) {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var report struct {
		Suites []struct {
			Cases []struct {
				Package string    `xml:"package,attr"`
				Name    string    `xml:"classname,attr"`
				Skipped *struct{} `xml:"skipped"`
				Failure *string   `xml:"failure"`
				Error   *string   `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(raw, &report); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, s := range report.Suites {
		for _, c := range s.Cases {
			name := c.Package + " " + c.Name
			if seen[name]++; seen[name] > 1 {
				name += fmt.Sprintf(" (%d)", seen[name])
			}
			results[name] = results[name] || c.Failure == nil && c.Error == nil && c.Skipped == nil
		}
	}
}

func TestInteroperabilityOfGRPC(t *testing.T) {
	t.Parallel()
	program := tool(t, "grpcinterop")
	origin := "http://" + serving(t, program, "serve")
	f := legacy(origin, proxy.ForeignRoute{Match: "POST /grpc.testing.TestService/{rest...}", Class: "stream"}, proxy.ForeignRoute{Match: "POST /grpc.testing.UnimplementedService/{rest...}", Class: "stream"})
	f.Protocol = upstream.H2C
	change := func(c *proxy.Config, _ *proxy.Options) { c.Upstreams = []proxy.Foreign{f} }
	plain, secure := open(t, change), openTLS(t, change)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := run(t, program, "cases")
	if err != nil {
		t.Fatal(err)
	}
	cases := strings.Fields(list)
	if len(cases) != 14 {
		t.Fatalf("%d cases", len(cases))
	}
	for _, way := range [][]string{{"h2c", plain.addr}, {"TLS", secure.addr, ca}} {
		for _, c := range cases {
			t.Run(way[0]+" "+c, func(t *testing.T) {
				if out, err := run(t, program, append([]string{c}, way[1:]...)...); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}

// TestWebSocketLibraries: each library as client and as server, with the gateway between them.
func TestWebSocketLibraries(t *testing.T) {
	t.Parallel()
	program := tool(t, "websocket")
	for _, server := range []string{"gorilla", "coder"} {
		for _, client := range []string{"gorilla", "coder"} {
			t.Run(client+" asks "+server, func(t *testing.T) {
				t.Parallel()
				d := inFrontOf(t, legacy("http://"+serving(t, program, "serve", server)))
				if out, err := run(t, program, "probe", client, "ws://"+d.addr+"/x"); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}
