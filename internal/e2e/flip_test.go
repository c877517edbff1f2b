package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/testinfra"
)

// placement runs `banyan placement` against the shop.
func (s *shop) placement(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command(mustBinary(t), append([]string{"placement", "--data", s.dir, "--admin-addr", s.admin}, args...)...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		out = append(out, said.String()...)
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
	for _, transport := range []string{"rabbit", "local"} {
		half, all := switched(t, s, transport)
		t.Logf("messages of half the routes waited for %.3f s at most when they changed to %s, of all for %.3f s", half, transport, all)
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

// Whatever dies in the middle of a change, and whenever, is started again and goes on from the record.
func TestFlipsSurviveKills(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			broker := testinfra.Rabbit(t)
			env := []string{"BANYAN_BUS_RABBITMQ_URL=" + broker.URL(), "BANYAN_BUS_LEASE_TTL=2s"}
			var s *shop
			if engine == "sqlite" {
				s = sqlite(t, env...)
			} else {
				s = postgres(t, false, env...)
			}
			o := s.standIn("payments")
			o.launch()
			s.start()
			o.await()
			s.sayWhatIsLeft(t, o)
			l := newLedger(t, s)
			var one sync.Mutex
			round := 0
			l.run(4, 50, func(n int) {
				if n%20 != 10 {
					return
				}
				one.Lock()
				defer one.Unlock()
				to := []string{"remote", "local"}[round%2]
				victims := []string{"the module", "the shop", "connections", "sessions", "the shop", "the module", "nobody"}
				victim := victims[round%len(victims)]
				round++
				eventually(t, "the change before settles", func() bool { _, step := s.where("payments"); return step == "" })
				move := exec.Command(mustBinary(t), "placement", "set", "payments", to, "--wait", "20s", "--data", s.dir, "--admin-addr", s.admin)
				if err := move.Start(); err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = move.Wait() }() // who asked may have been cut off
				eventually(t, "the change begins", func() bool { at, _ := s.where("payments"); return at == to })
				<-time.After(time.Duration(rand.IntN(60)) * time.Millisecond)
				t.Logf("%s, %s dies", to, victim)
				if o.ended() {
					t.Errorf("the module's process has ended by itself: %s", o.errOut)
				}
				switch victim {
				case "the module":
					o.kill()
					<-time.After(time.Duration(rand.IntN(300)) * time.Millisecond)
					o.launch()
				case "the shop":
					s.kill()
					s.start()
				case "connections":
					broker.KillConnections()
				case "sessions":
					if s.server != nil {
						if err := s.server.TerminateSessions(s.dbName); err != nil {
							t.Error(err)
						}
					}
				}
			})
			l.check()
			s.placement(t, "set", "payments", "local", "--wait", "30s")
			t.Log("\n" + s.placement(t, "history", "payments") + s.placement(t, "status"))
		})
	}
}

// ended says whether a process has ended by itself.
func (s *shop) ended() bool {
	return s.cmd.Process.Signal(syscall.Signal(0)) != nil || zombie(s.cmd.Process.Pid)
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// A SQLite file has one writer, but two may read it: copies and a share of the reads go to the second process, writes stay.
func TestReadsOfAFileGoOut(t *testing.T) {
	t.Parallel()
	s := sqlite(t)
	o := s.standIn("inventory")
	o.launch()
	s.start()
	o.await()
	s.sayWhatIsLeft(t, o)
	l := newLedger(t, s)
	if out, err := exec.Command(mustBinary(t), "placement", "set", "inventory", "canary", "--percent", "100", "--data", s.dir, "--admin-addr", s.admin).CombinedOutput(); err == nil || !strings.Contains(string(out), "one writing process") {
		t.Errorf("a canary of writes: %v: %s", err, out)
	}
	for _, to := range [][]string{{"set", "inventory", "shadow"}, {"set", "inventory", "canary", "--percent", "100", "--writes", "0"}} {
		s.placement(t, to...)
		for range 20 {
			if a := l.admin.do("GET", "/api/inventory", nil); a.Status != 200 || !strings.Contains(string(a.Body), `"A"`) {
				t.Fatalf("%v: %d %s", to, a.Status, a.Body)
			}
		}
		l.run(2, 5, nil)
	}
	l.check()
}
