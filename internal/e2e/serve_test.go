package e2e

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A first start needs nothing and says the admin's password once; a second start finds everything again; SIGTERM drains.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	s := sqlite(t)
	s.dir = filepath.Join(s.dir, "data") // which the shop makes
	s.env = append(s.env, "BANYAN_ADMIN_PASSWORD=")
	s.start()
	var found []string
	eventually(t, "the password is said", func() bool { // the pipe may come behind the port
		found = saidPassword.FindStringSubmatch(s.out.String())
		return found != nil
	})
	c := s.client().login("admin@banyan.local", found[1])
	if a := c.do("GET", "/api/auth/me", nil); a.Status != 200 {
		t.Errorf("signed in with the password that was said: %d %s", a.Status, a.Body)
	}
	if strings.Contains(s.errOut.String(), found[1]) {
		t.Error("the password is in the log")
	}
	for _, name := range []string{"admin.token", "users.db"} {
		info, err := os.Stat(filepath.Join(s.dir, name))
		if err != nil {
			t.Error(err)
		} else if name == "admin.token" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	if info, err := os.Stat(s.dir); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the data directory has mode %v, error %v", info.Mode(), err)
	}
	if code := s.stop(); code != 0 {
		t.Fatalf("exit code %d after SIGTERM: %s", code, s.errOut)
	}
	s.start()
	if strings.Contains(s.out.String(), "password") {
		t.Errorf("a password was said again: %s", s.out)
	}
	if a := c.do("GET", "/api/auth/me", nil); a.Status != 200 {
		t.Errorf("a token of before the restart: %d %s", a.Status, a.Body)
	}
}

// A password that was made up is not lost when the first start is killed after it made the account and before it said so.
func TestFirstPasswordSurvivesAKill(t *testing.T) {
	t.Parallel()
	s := sqlite(t, "BANYAN_ADMIN_PASSWORD=")
	// Nobody reads what it says, so that the start ends with the first thing that it says: the password.
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.WriteFile(closed, []byte("#!/bin/bash\nexec 3> >(:)\nwait $!\nexec "+mustBinary(t)+" \"$@\" >&3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.program = closed
	s.launch()
	_ = s.cmd.Wait()
	if s.cmd.ProcessState.Success() {
		t.Fatalf("it has not ended by a signal: %s", s.errOut)
	}
	kept, err := os.Stat(filepath.Join(s.dir, "admin.password"))
	if err != nil || kept.Mode().Perm() != 0o600 {
		t.Errorf("the password is kept in %v, %v, want mode 0600", kept, err)
	}
	s.program = ""
	s.start()
	found := saidPassword.FindStringSubmatch(s.out.String())
	if found == nil {
		t.Fatalf("no password was said: %s", s.out)
	}
	s.client().login("admin@banyan.local", found[1])
	if _, err := os.Stat(filepath.Join(s.dir, "admin.password")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was said is still kept: %v", err)
	}
	s.stop()
	s.start()
	if strings.Contains(s.out.String(), "password") {
		t.Errorf("a password was said again: %s", s.out)
	}
}

// Whoever gives a password, and has an admin with another one, is told that it is not used; nobody else is told anything.
func TestAdminPasswordThatIsNotUsed(t *testing.T) {
	t.Parallel()
	s := sqlite(t, "BANYAN_ADMIN_PASSWORD=the one of the first start")
	const warning = "BANYAN_ADMIN_PASSWORD is not used"
	s.start().stop()
	said := s.errOut.String()
	s.start().stop()
	said += s.errOut.String()
	s.env = append(s.env, "BANYAN_ADMIN_PASSWORD=")
	s.start().stop()
	if said += s.errOut.String(); strings.Contains(said, warning) {
		t.Errorf("without a reason: %s", said)
	}
	s.env = append(s.env, "BANYAN_ADMIN_PASSWORD=quite another one")
	s.start()
	eventually(t, "the warning", func() bool { return strings.Contains(s.errOut.String(), warning) })
	if said := s.errOut.String(); strings.Count(said, warning) != 1 || strings.Contains(said, "quite another one") || !strings.Contains(said, `"level":"WARN"`) {
		t.Errorf("said %s", said)
	}
	s.client().login("admin@banyan.local", "the one of the first start")
}

// Nobody but the owner reads what is in the data folder, also one that was there before and is open to all: not what is made in it, and
// not the stores that were left there open.
func TestFilesAreTheOwnersAlone(t *testing.T) {
	t.Parallel()
	s := sqlite(t)
	s.program = filepath.Join(t.TempDir(), "open")
	if err := os.WriteFile(s.program, []byte("#!/bin/sh\numask 022\nexec "+mustBinary(t)+" \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	stores := 0
	check := func(when string) {
		t.Helper()
		stores = 0
		if err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // it was a file of a moment
			}
			info, err := d.Info()
			if err == nil && path != s.dir && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: %s has mode %v", when, path, info.Mode())
			}
			if strings.Contains(path, ".db") {
				stores++
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	s.start()
	admin := s.asAdmin()
	admin.stock(1, "MUG")
	id := admin.customer("1")
	admin.do("POST", "/api/orders", map[string]any{"customer_id": id, "lines": []lineBody{{SKU: "MUG", Quantity: 1, Price: &priceBody{450, "GBP"}}}, "card": "tok_visa"})
	eventually(t, "the card is charged", func() bool { _, err := os.Stat(filepath.Join(s.dir, "payments", "provider.jsonl")); return err == nil })
	check("first start")
	if stores < 3*(len(moduleNames)+1) { // each with its log and its lock at least
		t.Errorf("only %d files of stores were looked at", stores)
	}
	s.kill() // leaves the logs of the stores
	files, err := filepath.Glob(filepath.Join(s.dir, "*.db*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Chmod(f, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.start()
	check("start on open files")
}

// SIGTERM while requests come: each one that was sent before the port closed is answered, and what was
// acknowledged is there after the next start.
func TestDrainAnswersWhatIsInFlight(t *testing.T) {
	t.Parallel()
	s := sqlite(t).start()
	l := newLedger(t, s)
	l.run(4, 60, func(n int) {
		if n == 30 {
			if code := s.stop(); code != 0 {
				t.Errorf("exit code %d: %s", code, s.errOut)
			}
			s.start()
		}
	})
	l.check()
}

func TestSecondProcessIsRefused(t *testing.T) {
	t.Parallel()
	s := sqlite(t).start()
	other := sqlite(t)
	other.dir = s.dir
	other.launch()
	_ = other.cmd.Wait()
	if code := other.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(other.errOut.String(), "--data") {
		t.Errorf("exit code %d: %s", code, other.errOut)
	}
}

// An operator who has not got an answer yet keeps no process from ending well.
func TestDrainCutsOperators(t *testing.T) {
	t.Parallel()
	s := sqlite(t).start()
	for _, asked := range []string{"", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n", "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"} {
		c, err := net.Dial("tcp", s.admin)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := c.Write([]byte(asked)); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(asked, "\r\n\r\n") { // those before it have been taken too, then
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if code := s.stop(); code != 0 {
		t.Errorf("the shop ended with %d: %s", code, s.errOut)
	}
}

func TestWrongConfigurationStopsTheStart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ env, want string }{
		{"BANYAN_MODULES_PAYMENTS_PLACEMENT=remot", `modules.payments.placement: "remot" is not local, shadow, canary, remote or retired`},
		{"BANYAN_BUS_WORKER=3", "bus.workers"},
		{"BANYAN_DATABASE_DRIVER=oracle", `database.driver: "oracle" is not sqlite or postgres`},
	} {
		s := sqlite(t, c.env)
		s.launch()
		_ = s.cmd.Wait()
		if code := s.cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(s.errOut.String(), c.want) {
			t.Errorf("%s: exit code %d: %s", c.env, code, s.errOut)
		}
	}
}

func TestProbesAndMetrics(t *testing.T) {
	t.Parallel()
	s := sqlite(t).start()
	for _, url := range []string{"http://" + s.addr + "/healthz", "http://" + s.addr + "/readyz", "http://" + s.addr + "/readyz?module=orders",
		"http://" + s.admin + "/healthz", "http://" + s.admin + "/readyz", "http://" + s.admin + "/metrics", "http://" + s.addr + "/docs", "http://" + s.addr + "/docs/openapi.json"} {
		r, err := http.Get(url)
		if err != nil {
			t.Error(err)
			continue
		}
		_ = r.Body.Close()
		if r.StatusCode != 200 {
			t.Errorf("%s: %s", url, r.Status)
		}
	}
	for _, url := range []string{"http://" + s.addr + "/metrics", "http://" + s.admin + "/admin/modules", "http://" + s.addr + "/admin/modules"} {
		r, err := http.Get(url)
		if err != nil {
			t.Error(err)
			continue
		}
		_ = r.Body.Close()
		if r.StatusCode < 400 {
			t.Errorf("%s: %s, want a refusal", url, r.Status)
		}
	}
}

// Nothing that a client can send makes the shop answer 5xx, show its inside or store anything.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := sqlite(t).start()
	admin := s.asAdmin()
	admin.stock(10, "MUG")
	id := admin.customer("1")
	order := func(change string) string {
		body := `{"customer_id":"` + id + `","lines":[{"sku":"MUG","quantity":1,"price":{"amount":450,"currency":"GBP"}}],"card":"tok_visa"}`
		if change == "" {
			return body
		}
		parts := strings.SplitN(change, "=>", 2)
		if !strings.Contains(body, parts[0]) {
			t.Fatalf("%q is not in the body", parts[0])
		}
		return strings.Replace(body, parts[0], parts[1], 1)
	}
	big := `{"customer_id":"` + strings.Repeat("x", 10<<20) + `"}`
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		want                     []int
	}{
		{"malformed JSON", "POST", "/api/orders", `{"customer_id":`, nil, []int{400}},
		{"not an object", "POST", "/api/orders", `[]`, nil, []int{400, 422}},
		{"unknown field", "POST", "/api/orders", order(`"card"=>"cart_colour":1,"card"`), nil, []int{422}},
		{"negative quantity", "POST", "/api/orders", order(`"quantity":1=>"quantity":-1`), nil, []int{422}},
		{"huge quantity", "POST", "/api/orders", order(`"quantity":1=>"quantity":99999999999999999999`), nil, []int{400, 422}},
		{"fractional amount", "POST", "/api/orders", order(`"amount":450=>"amount":4.5`), nil, []int{400, 422}},
		{"negative amount", "POST", "/api/orders", order(`"amount":450=>"amount":-450`), nil, []int{422}},
		{"overflowing total", "POST", "/api/orders", order(`"quantity":1,"price":{"amount":450=>"quantity":1000000,"price":{"amount":9223372036854775807`), nil, []int{422}},
		{"unknown customer id", "POST", "/api/orders", order(id + `=>'; DROP TABLE stream; --`), nil, []int{422}},
		{"card number", "POST", "/api/orders", order(`tok_visa=>4111111111111111`), nil, []int{422}},
		{"NUL in text", "POST", "/api/orders", order(`MUG=>M\u0000G`), nil, []int{400}},
		{"10 MB body", "POST", "/api/orders", big, nil, []int{413}},
		{"not JSON", "POST", "/api/orders", "a=b", []string{"Content-Type", "application/x-www-form-urlencoded"}, []int{415}},
		{"idempotency key with a line break", "POST", "/api/orders", order(""), []string{"Idempotency-Key", strings.Repeat("k", 256)}, []int{400}},
		{"injection in a path", "GET", "/api/orders/1'%20OR%20'1'='1", "", nil, []int{404, 422, 400}},
		{"injection in a query", "GET", "/api/products?q=%25'%3B--&sort=name;drop", "", nil, []int{200, 400, 422}},
		{"nonsense cursor", "GET", "/api/orders?cursor=%00%ff", "", nil, []int{400, 422}},
		{"nonsense limit", "GET", "/api/orders?limit=-1", "", nil, []int{422}},
		{"nonsense time", "GET", "/api/orders/" + id + "?at=yesterday", "", nil, []int{404, 422}},
		{"path tricks", "GET", "/api/products/../orders", "", nil, []int{400, 404}},
		{"wrong method", "DELETE", "/api/orders", "", nil, []int{405}},
		{"no such path", "GET", "/api/nothing", "", nil, []int{404}},
		{"forged token", "GET", "/api/orders", "", []string{"Authorization", "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."}, []int{401}},
		{"identity by header", "GET", "/api/orders", "", []string{"Authorization", "", "X-User-Id", id, "X-User-Role", "admin"}, []int{401}},
	} {
		var body any
		if c.body != "" {
			body = c.body
		}
		a, err := admin.try(c.method, c.path, body, c.header...)
		if err != nil {
			if c.name == "10 MB body" {
				continue // the connection is cut before all is sent: as good a refusal
			}
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		ok := false
		for _, w := range c.want {
			ok = ok || a.Status == w
		}
		if !ok {
			t.Errorf("%s: status %d, want one of %v: %s", c.name, a.Status, c.want, a.Body)
		}
		if a.Status >= 400 {
			if ct := a.Header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("%s: content type %q", c.name, ct)
			}
			for _, leak := range []string{"goroutine", ".go:", "SQLSTATE", "sqlite3:", "4111111111111111", "DROP TABLE"} {
				if strings.Contains(string(a.Body), leak) {
					t.Errorf("%s: the answer shows %q: %s", c.name, leak, a.Body)
				}
			}
		}
	}
	var summary struct {
		Orders int `json:"orders"`
	}
	admin.do("GET", "/api/orders/reports/summary", nil).into(t, &summary)
	if summary.Orders != 0 {
		t.Errorf("%d orders were stored, want none", summary.Orders)
	}
}

// A request with an idempotency key is answered once and again the same, by whoever serves it.
func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	s := sqlite(t).start()
	admin := s.asAdmin()
	admin.stock(10, "MUG")
	id := admin.customer("1")
	body := map[string]any{"customer_id": id, "lines": []lineBody{{SKU: "MUG", Quantity: 1, Price: &priceBody{450, "GBP"}}}, "card": "tok_visa"}
	first := admin.do("POST", "/api/orders", body, "Idempotency-Key", "one")
	s.kill()
	s.start()
	again := admin.do("POST", "/api/orders", body, "Idempotency-Key", "one")
	if first.Status != 201 || again.Status != 201 || string(first.Body) != string(again.Body) || again.Header.Get("Location") != first.Header.Get("Location") {
		t.Errorf("first %d %s, again %d %s", first.Status, first.Body, again.Status, again.Body)
	}
	body["card"] = "tok_other"
	if a := admin.do("POST", "/api/orders", body, "Idempotency-Key", "one"); a.Status != 422 {
		t.Errorf("another body with the key: %d %s", a.Status, a.Body)
	}
	if a := admin.do("POST", "/api/orders", body, "Idempotency-Key", "two"); a.Status != 201 {
		t.Errorf("another key: %d %s", a.Status, a.Body)
	}
	eventually(t, "both orders settle", func() bool {
		var summary struct {
			Orders, Unsettled int
		}
		admin.do("GET", "/api/orders/reports/summary", nil).into(t, &summary)
		return summary.Orders == 2 && summary.Unsettled == 0
	})
}
