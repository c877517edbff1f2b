package bus_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/testinfra"
)

// An outage of the broker that lasts longer than a module is waited for delays a question while its caller has time, and is what is
// said when there is none.
func TestAQuestionInAnOutage(t *testing.T) {
	t.Parallel()
	host := testinfra.Rabbit(t)
	line := testinfra.NewLine(t, host.Addr())
	w := bustest.Open(t, databasetest.SQLite(t), bustest.Options{Apart: line.URL(host.URL()), Config: func(c *bus.Config) {
		c.RequestTimeout = 2 * time.Second
		c.RabbitMQ.RedialMax = 100 * time.Millisecond // both sides are back well within that
	}})
	w.Publish("a", 1, 2, 3)
	w.Settle()
	line.Shut()
	type outcome struct {
		total bustest.Total
		err   error
	}
	ask := func(within time.Duration) <-chan outcome {
		done := make(chan outcome, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			total, err := message.Ask[bustest.Total](ctx, w.Bus, bustest.Sum{ID: "a"})
			done <- outcome{total, err}
		}()
		return done
	}
	patient, hurried := ask(time.Minute), ask(4*time.Second)
	if o := <-hurried; !errs.Is(o.err, errs.Unavailable) || !strings.Contains(o.err.Error(), "RabbitMQ") {
		t.Errorf("whose time is over was told %v", o.err)
	}
	select {
	case o := <-patient:
		t.Fatalf("whose time is not over was told %v", o.err)
	default:
	}
	line.Open()
	if o := <-patient; o.err != nil || o.total.N == 0 {
		t.Errorf("after the outage: %+v, error %v", o.total, o.err)
	}
}
