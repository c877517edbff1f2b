package e2e

import (
	"encoding/json"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/testinfra"
)

// placement runs `banyan placement` against the shop.
func (s *shop) placement(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(mustBinary(t), append([]string{"placement", "--data", s.dir, "--admin-addr", s.admin}, args...)...).CombinedOutput()
	if err != nil {
		status, _ := exec.Command(mustBinary(t), "placement", "status", "--json", "--data", s.dir, "--admin-addr", s.admin).CombinedOutput()
		t.Fatalf("placement %v: %v: %s\n%s", args, err, out, status)
	}
	return string(out)
}

// where is what `banyan placement status` says of a module.
func (s *shop) where(module string) (placement, step string) {
	out, err := exec.Command(mustBinary(s.t), "placement", "status", "--json", "--data", s.dir, "--admin-addr", s.admin).Output()
	if err != nil {
		return "", err.Error()
	}
	var st struct {
		Modules []struct{ Module, Placement, Step string } `json:"modules"`
	}
	if err := json.Unmarshal(out, &st); err != nil {
		s.t.Fatal(err)
	}
	for _, m := range st.Modules {
		if m.Module == module {
			return m.Placement, m.Step
		}
	}
	return "", "no such module"
}

// settled waits until a module is somewhere and every process follows.
func (s *shop) settled(module, placement string) {
	s.t.Helper()
	eventually(s.t, module+" is "+placement, func() bool {
		at, step := s.where(module)
		return at == placement && step == ""
	})
}

// A module goes to its own process and comes home, again and again, while customers order: nothing is lost, doubled or half done.
func TestModuleLeavesAndComesHome(t *testing.T) {
	t.Parallel()
	broker := testinfra.Rabbit(t)
	s := postgres(t, false, "BANYAN_BUS_RABBITMQ_URL="+broker.URL())
	o := s.standIn("payments")
	o.launch()
	s.start()
	s.sayWhatIsLeft(t, o)
	o.await()
	l := newLedger(t, s)
	flips := 0
	var one sync.Mutex
	l.run(4, 40, func(n int) {
		if n%20 != 10 {
			return
		}
		one.Lock()
		defer one.Unlock()
		to := "remote"
		if flips++; flips%2 == 0 {
			to = "local"
		}
		began := time.Now()
		out := s.placement(t, "set", "payments", to, "--json", "--wait", "8s")
		t.Logf("%s after %s", to, time.Since(began).Round(time.Millisecond))
		var r struct{ Owner, Placement string }
		if err := json.Unmarshal([]byte(out), &r); err != nil || r.Placement != to {
			t.Errorf("%v: %s", err, out)
		}
	})
	l.check()
	if flips < 2 {
		t.Errorf("only %d flips", flips)
	}
	t.Log("\n" + s.placement(t, "history", "payments") + s.placement(t, "status"))
}

// Whoever changes his mind in the middle of a change loses nothing: the last word stands.
func TestMindChanged(t *testing.T) {
	t.Parallel()
	broker := testinfra.Rabbit(t)
	s := postgres(t, false, "BANYAN_BUS_RABBITMQ_URL="+broker.URL())
	o := s.standIn("payments")
	o.launch()
	s.start()
	s.sayWhatIsLeft(t, o)
	o.await()
	l := newLedger(t, s)
	var one sync.Mutex
	l.run(4, 40, func(n int) {
		if n%20 != 10 {
			return
		}
		one.Lock()
		defer one.Unlock()
		s.placement(t, "set", "payments", "remote", "--wait", "10s")
		s.placement(t, "set", "payments", "local", "--wait", "0s")
		s.settled("payments", "local")
	})
	l.check()
	s.settled("payments", "local")
}

// On SQLite the file goes from one process to the other; requests wait for it, and none fails.
func TestModuleLeavesWithItsFile(t *testing.T) {
	t.Parallel()
	broker := testinfra.Rabbit(t)
	s := sqlite(t, "BANYAN_BUS_RABBITMQ_URL="+broker.URL())
	o := s.standIn("payments")
	o.launch()
	s.start()
	s.sayWhatIsLeft(t, o)
	o.await()
	l := newLedger(t, s)
	flips := 0
	var one sync.Mutex
	l.run(4, 40, func(n int) {
		if n%20 != 10 {
			return
		}
		one.Lock()
		defer one.Unlock()
		to := "remote"
		if flips++; flips%2 == 0 {
			to = "local"
		}
		began := time.Now()
		s.placement(t, "set", "payments", to, "--wait", "10s")
		t.Logf("%s after %s", to, time.Since(began).Round(time.Millisecond))
	})
	l.check()
	t.Log("\n" + s.placement(t, "history", "payments") + s.placement(t, "status"))
}
