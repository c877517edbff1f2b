package bus_test

import (
	"context"
	"strings"
	"testing"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/unit"
)

func listener(name string) bustest.Part {
	return bustest.Listener(name, module.Subscription{Handler: "count", Events: []string{"alpha.counted.v1"}}, func(_ context.Context, u *unit.Work, m message.Message) error {
		return bustest.Keep(u, "count", m.Key, bustest.Number(m))
	})
}

// Nobody writes to a module that the program has no more. If messages wait for it the program does not start without it.
func TestRemovedModule(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		o := bustest.StageOptions{Control: true}
		s := bustest.OpenStage(t, e, o, bustest.Alpha(), listener("beta"), listener("gamma"))
		s.Announce("alpha", bustest.Counted{ID: "a", N: 1})
		s.Settle()
		s.Stop()
		s.Announce("alpha", bustest.Counted{ID: "a", N: 2})
		s.Close()
		if _, err := bustest.SetStage(t, e, o, bustest.Alpha(), listener("beta")); err == nil || !strings.Contains(err.Error(), "gamma") {
			t.Errorf("started while a message waits for a module that is gone, error %v", err)
		}
	})
}

// A module that is gone with nothing waiting for it leaves nothing behind.
func TestRemovedModuleIsForgotten(t *testing.T) {
	each(t, func(t *testing.T, e databasetest.Engine) {
		o := bustest.StageOptions{Control: true}
		s := bustest.OpenStage(t, e, o, bustest.Alpha(), listener("beta"), listener("gamma"))
		s.Announce("alpha", bustest.Counted{ID: "a", N: 1})
		s.Settle()
		s.Close()
		s = bustest.OpenStage(t, e, o, bustest.Alpha(), listener("beta"))
		s.Announce("alpha", bustest.Counted{ID: "a", N: 2})
		s.Eventually("the other module has it", func() bool { return len(s.Seen("beta", "count", "a")) == 2 })
		want(t, "left in the outbox", s.Count("alpha", "SELECT count(*) FROM delivery WHERE subscriber = 'gamma'"), 0)
	})
}
