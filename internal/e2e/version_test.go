package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/banyan-go/banyan/internal/testinfra"
)

// newerContract makes the program of a release that says more about a capture: payments publishes a second version of the event beside
// the first, and orders handles both.
var newerContract = map[string][]string{ // what becomes of what, by file
	"modules/payments/paymentsapi/paymentsapi.go": {
		"PaymentCaptured{}, ", "PaymentCaptured{}, PaymentCapturedV2{}, ",
		"// PaymentDeclined: no", `// PaymentCapturedV2 says how, too.
type PaymentCapturedV2 struct {
	OrderID string ` + "`json:\"order_id\"`" + `
	Method  string ` + "`json:\"method\"`" + `
}

func (PaymentCapturedV2) MessageName() string  { return "payments.payment_captured.v2" }
func (e PaymentCapturedV2) MessageKey() string { return e.OrderID }

// PaymentDeclined: no`,
	},
	"modules/payments/store.go": {
		"w.Publish(told)\n", `w.Publish(told)
			if c, ok := told.(paymentsapi.PaymentCaptured); ok {
				w.Publish(paymentsapi.PaymentCapturedV2{OrderID: c.OrderID, Method: "card"})
			}
`,
		"import (", "import (\n\t\"github.com/banyan-go/banyan/modules/payments/paymentsapi\"",
	},
	"modules/orders/listen.go": {
		"func (o *orders) onPaymentDeclined(", `func (o *orders) onPaymentCapturedV2(context.Context, *unit.Work, paymentsapi.PaymentCapturedV2) error {
	return nil
}

func (o *orders) onPaymentDeclined(`,
	},
	"modules/orders/module.go": {
		`module.OnEvent(m, "payment", o.onPaymentDeclined)`, `module.OnEvent(m, "payment", o.onPaymentDeclined)
	module.OnEvent(m, "payment", o.onPaymentCapturedV2)`,
	},
}

// edited is the program with some of its text changed.
func edited(t *testing.T, edits map[string][]string) string {
	t.Helper()
	dir := t.TempDir()
	var overlay struct{ Replace map[string]string }
	overlay.Replace = map[string]string{}
	for name, pairs := range edits {
		file, err := filepath.Abs(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(pairs); i += 2 {
			if strings.Count(string(text), pairs[i]) != 1 {
				t.Fatalf("%s has %q not once", name, pairs[i])
			}
			text = []byte(strings.Replace(string(text), pairs[i], pairs[i+1], 1))
		}
		overlay.Replace[file] = filepath.Join(dir, fmt.Sprint(len(overlay.Replace), ".go"))
		if err := os.WriteFile(overlay.Replace[file], text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), list, 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "banyan")
	if out, err := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program, "github.com/banyan-go/banyan").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// handled is how many messages of a name a handler has handled in this process.
func (s *shop) handled(t *testing.T, handler, message string) int {
	t.Helper()
	for _, line := range s.metrics(t, "banyan_messages_handled_total{") {
		if strings.Contains(line, `handler="`+handler+`"`) && strings.Contains(line, `message="`+message+`"`) {
			n, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			return int(n)
		}
	}
	return 0
}

// Two processes whose contracts are one released version apart work together, whichever is ahead, and what only the newer one
// understands waits for it.
func TestVersionsApart(t *testing.T) {
	t.Parallel()
	newer := edited(t, newerContract)
	const second = "payments.payment_captured.v2"
	s := postgres(t, false, "BANYAN_BUS_RABBITMQ_URL="+testinfra.Rabbit(t).URL())
	o := s.standIn("payments")
	o.program = newer
	o.launch()
	s.start()
	s.sayWhatIsLeft(t, o)
	o.await()
	s.placement(t, "set", "payments", "remote")
	s.settled("payments", "remote")
	l := newLedger(t, s)
	captured := func() (n int) {
		l.check()
		for _, p := range pages[paymentView](t, s.asAdmin(), "/api/payments") {
			if p.Captured.Amount > 0 {
				n++
			}
		}
		return n
	}
	l.run(2, 10, nil) // the module's process is ahead
	told := captured()
	s.stop()
	s.program = newer
	s.start()
	l.run(2, 10, nil) // both are new
	both := captured()
	eventually(t, "the second version is handled", func() bool { return s.handled(t, "payment", second) == both-told })
	out, err := exec.Command(mustBinary(t), "unsubscribed", "replay", "payments", second, "--data", s.dir, "--admin-addr", s.admin).CombinedOutput()
	if err != nil || !strings.Contains(string(out), strconv.Itoa(told)) {
		t.Errorf("replay of the %d before: %v: %s", told, err, out)
	}
	eventually(t, "what was kept is handled", func() bool { return s.handled(t, "payment", second) == both })
	o.stop()
	o.program = ""
	o.launch()
	o.await()
	l.run(2, 10, nil) // the shop is ahead
	if captured() == both {
		t.Error("nothing was captured by the older process")
	}
	if n := s.handled(t, "payment", second); n != both {
		t.Errorf("%d of the second version were handled, want %d", n, both)
	}
	s.placement(t, "set", "payments", "local")
	l.run(2, 5, nil)
	s.placement(t, "set", "payments", "remote")
	l.run(2, 5, nil)
	s.settled("payments", "remote")
	l.check()
}

// newerTimers makes the program of a release in which payments looks at each payment again, a month later.
var newerTimers = map[string][]string{
	"modules/payments/module.go": {
		"Effects: []string{effectCharge, effectRefund},", "Effects: []string{effectCharge, effectRefund}, Timers: []string{\"audit\"},",
		`module.OnEvent(m, "erase", p.onUserErased)`, `module.OnEvent(m, "erase", p.onUserErased)
	module.OnTimer(m, "audit", func(context.Context, *unit.Work, string, int) error { return nil })`,
		"import (", "import (\n\t\"context\"",
	},
	"modules/payments/store.go": {"w.Publish(told)\n", "w.Publish(told)\n\t\t\tw.Schedule(\"audit\", p.ID, w.Now().AddDate(0, 1, 0), 0)\n"},
}

// A module comes home with its file from a newer version of the program, which has left rows that the shop does not know: the shop goes on
// without them.
func TestVersionsApartOnAFile(t *testing.T) {
	t.Parallel()
	s := sqlite(t, "BANYAN_BUS_RABBITMQ_URL="+testinfra.Rabbit(t).URL())
	o := s.standIn("payments")
	o.program = edited(t, newerTimers)
	o.launch()
	s.start()
	s.sayWhatIsLeft(t, o)
	o.await()
	l := newLedger(t, s)
	for _, to := range []string{"remote", "local", "remote"} {
		s.placement(t, "set", "payments", to)
		s.settled("payments", to)
		l.run(2, 5, nil)
	}
	l.check()
}
