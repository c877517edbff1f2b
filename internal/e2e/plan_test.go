package e2e

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/testinfra"
)

// ask runs `banyan placement` and gives its output and exit code.
func (s *shop) ask(t testing.TB, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(mustBinary(t), append([]string{"placement", "--data", s.dir, "--admin-addr", s.admin}, args...)...)
	cmd.Dir = t.TempDir() // no checkout
	var out, errOut lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		return out.String() + errOut.String(), code
	}
	return out.String(), 0
}

// What stands in the way of a module is said, and when it is out of the way, what the move would do.
func TestPlan(t *testing.T) {
	t.Parallel()
	broker := testinfra.Rabbit(t)
	s := postgres(t, false, "BANYAN_BUS_RABBITMQ_URL="+broker.URL())
	o := s.standIn("payments")
	s.start()
	if out, code := s.ask(t, "plan", "payments"); code != 1 || !strings.Contains(out, "no process serves payments alone") || !strings.Contains(out, "banyan serve --only payments") {
		t.Errorf("exit %d: %s", code, out)
	}
	for _, command := range []string{"history payment", "set payment local", "rollback payment", "rehearse payment --latency 5ms"} {
		if out, code := s.ask(t, strings.Fields(command)...); code != 1 || !strings.Contains(out, `there is no module "payment"`) {
			t.Errorf("%s: exit %d: %s", command, code, out)
		}
	}
	for _, command := range []string{"shadow report payment", "deadletters replay payment", "unsubscribed list --module payment"} {
		if out := s.says(strings.Fields(command)...); !strings.Contains(out, `there is no module "payment"`) {
			t.Errorf("%s: %s", command, out)
		}
	}
	if out, code := s.ask(t, "plan", "payment"); code != 1 || !strings.Contains(out, `there is no module "payment"`) {
		t.Errorf("exit %d: %s", code, out)
	}
	o.start()
	eventually(t, "nothing stands in the way", func() bool {
		_, code := s.ask(t, "plan", "payments")
		return code == 0
	})
	admin := s.asAdmin()
	admin.stock(100, "A")
	eventually(t, "the cart knows the product", func() bool {
		return admin.do("POST", "/api/carts/mine/lines", map[string]any{"sku": "A", "quantity": 1}).Status < 300
	})
	if a := admin.do("POST", "/api/orders", map[string]any{"cart": true, "card": "tok_visa"}); a.Status != 201 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	var plan struct {
		Blocked bool
		Steps   []struct{ Who, What string }
		Ways    []struct{ Publisher, Subscriber, From, To string }
		Broker  struct {
			RoundTrip int64 `json:"round_trip"`
		}
		Questions []struct {
			Caller, Message string
			PerSecond       float64 `json:"per_second"`
			Now, Then       int64
		}
	}
	out, code := s.ask(t, "plan", "payments", "--json")
	if err := json.Unmarshal([]byte(out), &plan); err != nil || code != 0 || plan.Blocked || len(plan.Steps) < 6 || len(plan.Ways) < 4 || plan.Broker.RoundTrip <= 0 {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
	out, code = s.ask(t, "plan", "carts", "--json")
	out, said, _ := strings.Cut(out, "\nbanyan: ")
	if err := json.Unmarshal([]byte(out), &plan); err != nil || code != 1 || !plan.Blocked || !strings.HasPrefix(said, "carts cannot go from local to remote yet") {
		t.Fatalf("exit %d, %v: %s", code, err, out)
	}
	asked := false
	for _, q := range plan.Questions {
		asked = asked || q.Caller == "orders" && q.Message == "carts.get_cart.v1" && q.PerSecond > 0 && q.Now > 0 && q.Then > q.Now
	}
	if !asked {
		t.Errorf("what orders asks carts is not counted: %s", out)
	}
	out, code = s.ask(t, "plan")
	for _, m := range moduleNames {
		if code != 0 || !strings.Contains(out, " "+m+" ") {
			t.Errorf("%s is not in the table, exit %d: %s", m, code, out)
		}
	}
	t.Log("\n" + out)
}

// While a module is rehearsed everything takes longer and some is lost on the way, and still no order is lost or done twice.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	s := sqlite(t).start()
	l := newLedger(t, s)
	degraded := func() bool {
		a := s.client().do("GET", "/readyz", nil)
		return a.Status == 200 && strings.Contains(string(a.Body), `"rehearsal":{"module":"payments"`) && strings.Contains(string(a.Body), `"status":"degraded"`)
	}
	var out lockedBuffer
	rehearsing := exec.Command(mustBinary(t), "placement", "rehearse", "payments", "--latency", "5ms", "--errors", "5%", "--for", "15m", "--json", "--data", s.dir, "--admin-addr", s.admin)
	rehearsing.Stdout, rehearsing.Stderr = &out, &out
	rehearsing.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := rehearsing.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rehearsal is to be seen", degraded)
	l.run(4, 20, nil)
	l.check()
	var report struct {
		Crossed, Lost int64
		Lines         []struct{ Kind, Name string }
	}
	if _, code := s.ask(t, "rehearse", "orders"); code != 1 {
		t.Errorf("a second rehearsal at a time: exit %d", code)
	}
	if err := rehearsing.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := rehearsing.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	text := out.String()
	if err := json.Unmarshal([]byte(text), &report); err != nil || report.Lost == 0 || report.Lost*2 > report.Crossed {
		t.Errorf("%v: %s", err, text)
	}
	seen := map[string]bool{}
	for _, line := range report.Lines {
		seen[line.Kind+" "+line.Name] = true
	}
	if !seen["message orders to payments"] || !seen["request POST /api/orders"] {
		t.Errorf("the report lacks what went on: %s", text)
	}
	eventually(t, "the rehearsal is over", func() bool { return !degraded() })
}

// A module whose process stands still after it was moved comes home by itself, with the evidence, and nothing is lost.
func TestGateBringsHome(t *testing.T) {
	t.Parallel()
	broker := testinfra.Rabbit(t)
	s := postgres(t, false, "BANYAN_BUS_RABBITMQ_URL="+broker.URL(), "BANYAN_OWNERSHIP_GATES_LAG=3s")
	o := s.standIn("payments")
	o.launch()
	s.start()
	s.sayWhatIsLeft(t, o)
	o.await()
	l := newLedger(t, s)
	s.placement(t, "set", "payments", "remote", "--wait", "10s")
	l.run(2, 20, func(n int) {
		if n == 20 {
			if err := o.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Error(err)
			}
		}
	})
	began := time.Now()
	s.settled("payments", "local")
	t.Logf("home after %s", time.Since(began).Round(100*time.Millisecond))
	if err := o.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Error(err)
	}
	l.check()
	var entries []struct {
		Caller, Reason string
		To             struct{ Placement string }
		Evidence       struct {
			Action   string
			Breaches []string
			Measures struct {
				Waiting []struct{ What string }
			}
		}
	}
	if err := json.Unmarshal([]byte(s.placement(t, "history", "payments", "--json")), &entries); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Caller == "gate" && e.To.Placement == "local" {
			if !strings.HasPrefix(e.Reason, "lag: ") || e.Evidence.Action != "home" || len(e.Evidence.Breaches) == 0 ||
				!slices.ContainsFunc(e.Evidence.Measures.Waiting, func(w struct{ What string }) bool { return w.What == "way through the broker to payments" }) {
				t.Errorf("%+v", e)
			}
			t.Log(e.Reason)
			return
		}
	}
	t.Errorf("no gate has brought it home: %+v", entries)
}
