package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/testinfra"
)

const adminPassword = "correct-horse-battery-staple"

// binary is built once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "banyan-e2e")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "banyan")
	out, err := exec.Command("go", "build", "-o", path, "github.com/banyan-go/banyan").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// shop is a running process, or one that was.
type shop struct {
	t       testing.TB
	dir     string
	addr    string
	admin   string
	program string // "" for the one under test
	env     []string
	args    []string // beside those of every process
	cmd     *exec.Cmd
	out     *lockedBuffer
	errOut  *lockedBuffer
	Engine  string
	server  *testinfra.Server
	dbName  string
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// sqlite prepares a shop on SQLite.
func sqlite(t testing.TB, env ...string) *shop {
	t.Helper()
	return &shop{t: t, Engine: "sqlite", dir: t.TempDir(), addr: freeAddr(t), admin: freeAddr(t), env: env}
}

var moduleNames = []string{"users", "catalog", "carts", "orders", "payments", "inventory", "shipping", "notifications"}

// postgres prepares a shop on a fresh database. With own it has a server to itself, which may be restarted.
func postgres(t testing.TB, own bool, env ...string) *shop {
	t.Helper()
	var server *testinfra.Server
	if own {
		server = testinfra.StartPostgres(t, testinfra.Options{})
	} else {
		server = testinfra.Postgres(t)
	}
	dsn := server.Database(t)
	databasetest.PostgresAt(t, dsn, moduleNames...)
	s := &shop{t: t, Engine: "postgres", dir: t.TempDir(), addr: freeAddr(t), admin: freeAddr(t), server: server, dbName: testinfra.Name(dsn)}
	s.env = append([]string{"BANYAN_DATABASE_DRIVER=postgres", "BANYAN_DATABASE_POSTGRES_DSN=" + databasetest.Bare(t, dsn), "BANYAN_DATABASE_POSTGRES_SECRET=" + databasetest.Secret}, env...)
	return s
}

// replica is another process on the same database.
func (s *shop) replica() *shop {
	return &shop{t: s.t, Engine: s.Engine, dir: s.t.TempDir(), addr: freeAddr(s.t), admin: freeAddr(s.t), env: s.env, server: s.server, dbName: s.dbName}
}

// standIn is a process that answers for one module of the shop, whose gateway learns where it is.
func (s *shop) standIn(module string) *shop {
	o := s.replica()
	o.dir, o.args = s.dir, []string{"--only", module} // the payment provider's and the mails' files are shared
	s.env = append(s.env, "BANYAN_MODULES_"+strings.ToUpper(module)+"_ENDPOINTS=http://"+o.addr)
	return o
}

// place says where a module is, from the next start on.
func (s *shop) place(module, placement string, more ...string) {
	prefix := "BANYAN_MODULES_" + strings.ToUpper(module) + "_"
	s.env = append(s.env, prefix+"PLACEMENT="+placement)
	for _, m := range more {
		s.env = append(s.env, prefix+m)
	}
}

// start starts the process and waits until it is ready.
func (s *shop) start() *shop {
	s.t.Helper()
	s.launch()
	s.await()
	return s
}

func (s *shop) launch() {
	s.t.Helper()
	program := cmp.Or(s.program, mustBinary(s.t))
	s.cmd = exec.Command(program, append([]string{"serve", "--data", s.dir, "--addr", s.addr, "--admin-addr", s.admin}, s.args...)...)
	inherited := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "BANYAN_") })
	s.cmd.Env = append(append(inherited, "BANYAN_ADMIN_PASSWORD="+adminPassword, "BANYAN_GATEWAY_ACCESS_LOG=false"), s.env...)
	s.out, s.errOut = &lockedBuffer{}, &lockedBuffer{}
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.errOut
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.kill)
}

func (s *shop) await() {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		r, err := http.Get("http://" + s.addr + "/readyz")
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode == 200 {
				return
			}
		}
		if s.cmd.ProcessState != nil || time.Now().After(deadline) {
			s.t.Fatalf("the shop does not become ready: %s%s", s.out, s.errOut)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// kill ends the process with kill -9.
func (s *shop) kill() {
	if s.cmd == nil || s.cmd.ProcessState != nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// stop ends the process with SIGTERM and returns its exit code.
func (s *shop) stop() int {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	_ = s.cmd.Wait()
	return s.cmd.ProcessState.ExitCode()
}

// metrics are the lines of the process that begin with a prefix.
func (s *shop) metrics(t testing.TB, prefix string) (found []string) {
	t.Helper()
	r, err := http.Get("http://" + s.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	all, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(all)) {
		if strings.HasPrefix(line, prefix) {
			found = append(found, strings.TrimSuffix(line, "\n"))
		}
	}
	return found
}

// client speaks to a shop as somebody.
type client struct {
	t     testing.TB
	base  func() string
	token string
	http  *http.Client
}

func (s *shop) client() *client {
	return &client{t: s.t, base: func() string { return "http://" + s.addr }, http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}}
}

type answer struct {
	Status int
	Header http.Header
	Body   []byte
}

func (a answer) into(t testing.TB, v any) {
	t.Helper()
	if a.Status >= 300 {
		t.Fatalf("status %d: %s", a.Status, a.Body)
	}
	if err := json.Unmarshal(a.Body, v); err != nil {
		t.Fatalf("%v: %s", err, a.Body)
	}
}

// try sends a request once; an error is one of the connection.
func (c *client) try(method, path string, body any, header ...string) (answer, error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		encoded, err := json.Marshal(b)
		if err != nil {
			return answer{}, err
		}
		r = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, c.base()+path, r)
	if err != nil {
		return answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	out, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, out}, err
}

// do sends a request and fails the test if nobody answers.
func (c *client) do(method, path string, body any, header ...string) answer {
	c.t.Helper()
	a, err := c.try(method, path, body, header...)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// insist sends a request with its idempotency key until somebody answers for good.
func (c *client) insist(method, path string, body any, key string) (answer, error) {
	var last string
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
		a, err := c.try(method, path, body, "Idempotency-Key", key)
		switch {
		case err == nil && a.Status != 429 && a.Status < 500:
			return a, nil
		case err == nil:
			last = fmt.Sprintf("status %d: %s", a.Status, a.Body)
		default:
			last = err.Error()
		}
		<-time.After(20 * time.Millisecond)
	}
	return answer{}, fmt.Errorf("no answer to %s %s within a minute: %s", method, path, last)
}

func (c *client) login(email, password string) *client {
	c.t.Helper()
	var token struct {
		AccessToken string `json:"access_token"`
	}
	c.do("POST", "/api/auth/login", map[string]string{"email": email, "password": password}).into(c.t, &token)
	return &client{t: c.t, base: c.base, token: token.AccessToken, http: c.http}
}

func (s *shop) asAdmin() *client {
	s.t.Helper()
	return s.client().login("admin@banyan.local", adminPassword)
}

type lineBody struct {
	SKU      string     `json:"sku"`
	Quantity int64      `json:"quantity"`
	Price    *priceBody `json:"price,omitempty"`
}

type priceBody struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

// stock makes products with so many units each.
func (c *client) stock(units int64, skus ...string) {
	c.t.Helper()
	var products []map[string]any
	var lines []lineBody
	for _, sku := range skus {
		products = append(products, map[string]any{"sku": sku, "name": "Product " + sku, "price": priceBody{450, "GBP"}})
		lines = append(lines, lineBody{SKU: sku, Quantity: units})
	}
	if a := c.do("POST", "/api/products/batch", map[string]any{"products": products}); a.Status >= 300 {
		c.t.Fatalf("products: %d %s", a.Status, a.Body)
	}
	if a := c.do("POST", "/api/inventory/deliveries", map[string]any{"reference": "first", "lines": lines}); a.Status >= 300 {
		c.t.Fatalf("delivery: %d %s", a.Status, a.Body)
	}
}

// customer makes a customer without a password.
func (c *client) customer(reference string) string {
	c.t.Helper()
	var u struct {
		ID string `json:"id"`
	}
	a, err := c.insist("POST", "/api/users", map[string]string{"name": "Customer " + reference, "reference": reference}, "customer "+reference)
	if err != nil {
		c.t.Fatal(err)
	}
	a.into(c.t, &u)
	return u.ID
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

var saidPassword = regexp.MustCompile(`password (\S+) \(said this once`)
