package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/testinfra"
)

// drill is a shop with payments out, and a broker of its own.
func drill(t *testing.T, engine string) (s, o *shop, broker *testinfra.Broker) {
	t.Helper()
	broker = testinfra.PrivateRabbit(t)
	// The gates would bring payments home; here it shall stay where it is.
	env := []string{"BANYAN_BUS_RABBITMQ_URL=" + broker.URL(), "BANYAN_BUS_LEASE_TTL=2s", "BANYAN_OWNERSHIP_GATES_AUTOMATIC=false"}
	if engine == "sqlite" {
		s = sqlite(t, env...)
	} else {
		s = postgres(t, false, env...)
	}
	o = s.standIn("payments")
	o.launch()
	s.start()
	o.await()
	s.sayWhatIsLeft(t, o)
	s.placement(t, "set", "payments", "remote")
	return s, o, broker
}

// Orders are taken while the broker is down and the shop dies: they wait in the outbox, and are charged once it is back.
func TestBrokerDownAndShopKilled(t *testing.T) {
	t.Parallel()
	s, _, broker := drill(t, "postgres")
	l := newLedger(t, s)
	broker.StopApp()
	l.run(4, 10, nil)
	if r := s.asAdmin().do("GET", "/readyz", nil); r.Status != 200 || !strings.Contains(string(r.Body), "degraded") {
		t.Errorf("while the broker is down: %d %s", r.Status, r.Body)
	}
	s.kill()
	s.start()
	l.run(2, 5, nil)
	broker.StartApp()
	t.Logf("connected %s after the return", s.connected(t).Round(time.Millisecond))
	l.check()
}

// connected is how long it takes from now until messages go again.
func (s *shop) connected(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	eventually(t, "messages go again", func() bool {
		out, err := exec.Command(mustBinary(t), "placement", "status", "--json", "--data", s.dir, "--admin-addr", s.admin).Output()
		return err == nil && strings.Contains(string(out), `"connected": true`)
	})
	return time.Since(began)
}

// The broker is down for as long as it takes the best-known example of this kind to lose orders. The shop sells all the while, and
// messages go again within five seconds of the return.
func TestBrokerDownFor140Seconds(t *testing.T) {
	if os.Getenv("BANYAN_TEST_SOAK") == "" {
		t.Skip("takes three minutes; `make soak` runs it")
	}
	t.Parallel()
	s, _, broker := drill(t, "postgres")
	l := newLedger(t, s)
	broker.StopApp()
	over := time.After(140 * time.Second)
	pace := time.NewTicker(time.Second)
	defer pace.Stop()
	for down := true; down; {
		l.run(2, 5, nil)
		select {
		case <-over:
			down = false
		case <-pace.C:
		}
	}
	broker.StartApp()
	took := s.connected(t)
	t.Logf("connected %s after the return", took.Round(time.Millisecond))
	if took > 5*time.Second {
		t.Errorf("messages go again %s after the return, want 5s", took)
	}
	l.check()
}

// The same with the broker killed and the module's process killed, on files.
func TestBrokerAndModuleKilled(t *testing.T) {
	t.Parallel()
	s, o, broker := drill(t, "sqlite")
	l := newLedger(t, s)
	l.run(4, 15, func(n int) {
		if n != 20 {
			return
		}
		// A broker that is killed before forgets the queues, and with them what it has confirmed.
		eventually(t, "RabbitMQ has the queues on its disk", func() bool { return broker.Listed("banyan.orders") && broker.Listed("banyan.payments") })
		broker.Crash()
		o.kill()
		o.launch()
		broker.Start()
	})
	l.check()
}

// A dead far side and a dead broker do not block the way home: requests and owner-only work come home at once, and only what the
// broker still holds is waited for.
func TestHomeWithoutBrokerAndFarSide(t *testing.T) {
	t.Parallel()
	s, o, broker := drill(t, "postgres")
	l := newLedger(t, s)
	l.run(2, 10, nil)
	broker.StopApp()
	o.kill()
	s.placement(t, "rollback", "payments", "--wait", "0s")
	eventually(t, "payments answers at home", func() bool { return s.asAdmin().do("GET", "/api/payments", nil).Status == 200 })
	at, step := s.where("payments")
	if at != "local" {
		t.Errorf("payments is %s (%s)", at, step)
	}
	l.run(2, 5, nil)
	broker.StartApp()
	s.settled("payments", "local")
	l.check()
}

// A second process of a module by mistake, and one with another configuration, do no harm.
func TestStartedTwiceByMistake(t *testing.T) {
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
			l.run(4, 15, func(n int) {
				if n != 10 && n != 30 {
					return
				}
				if n == 30 {
					s.placement(t, "set", "payments", "remote")
				}
				again := s.replica() // with the placement of a file that is out of date
				again.dir, again.args = s.dir, []string{"--only", "payments"}
				again.env = append(append([]string(nil), s.env...), "BANYAN_MODULES_PAYMENTS_PLACEMENT=local")
				again.launch()
				if engine == "sqlite" {
					_ = again.cmd.Wait()
					if out := again.errOut.String(); !strings.Contains(out, "another process serves payments alone") {
						t.Errorf("a second process on the same file says %s", out)
					}
					return
				}
				again.await()
				t.Cleanup(func() { again.stop() })
			})
			l.check()
		})
	}
}
