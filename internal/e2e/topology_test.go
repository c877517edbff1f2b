package e2e

import (
	"os"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/banyan-go/banyan/internal/testinfra"
)

// The shop is the same wherever its modules are: the same orders, cancellations, returns, mails and books.
func TestTopologies(t *testing.T) {
	for _, c := range []struct {
		name     string
		engine   string
		out      []string
		replicas int  // of the shop and of each module
		soak     bool // only in make soak
	}{
		{"four modules out, on files", "sqlite", []string{"payments", "inventory", "shipping", "notifications"}, 1, false},
		{"four modules out", "postgres", []string{"payments", "orders", "carts", "notifications"}, 1, true},
		{"every module alone", "postgres", moduleNames, 1, false},
		{"every module alone, on files", "sqlite", moduleNames, 1, true},
		{"two of each", "postgres", []string{"payments"}, 2, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.soak && os.Getenv("BANYAN_TEST_SOAK") == "" {
				t.Skip("one of the topologies that make soak adds")
			}
			env := []string{"BANYAN_BUS_RABBITMQ_URL=" + testinfra.Rabbit(t).URL(), "BANYAN_DATABASE_POSTGRES_MAX_CONNECTIONS=16"}
			var s *shop
			if c.engine == "sqlite" {
				s = sqlite(t, env...)
			} else {
				s = postgres(t, false, env...)
			}
			shops := []*shop{s.start()}
			var others []*shop
			for _, m := range c.out {
				for range c.replicas {
					o := s.replica()
					o.dir, o.args = s.dir, []string{"--only", m}
					o.start()
					others = append(others, o)
				}
			}
			for len(shops) < c.replicas {
				o := s.replica()
				o.env = append(slices.Clone(s.env), "BANYAN_MODULES_PAYMENTS_PROVIDER_FILE="+s.dir+"/payments/provider.jsonl", "BANYAN_MODULES_NOTIFICATIONS_FOLDER_DIR="+s.dir+"/notifications/mail")
				shops = append(shops, o.start())
			}
			s.sayWhatIsLeft(t, others...)
			l := newLedger(t, s)
			var n atomic.Int64
			l.any = func() *shop { return shops[int(n.Add(1))%len(shops)] }
			for _, m := range c.out {
				s.placement(t, "set", m, "remote")
			}
			l.run(4, 15, nil)
			l.check()
			for _, m := range c.out {
				s.placement(t, "rollback", m)
			}
			l.run(2, 5, nil)
			l.check()
			for _, p := range append(others, shops...) {
				if code := p.stop(); code != 0 {
					t.Errorf("%v ended with %d: %s", p.args, code, p.errOut)
				}
			}
		})
	}
}
