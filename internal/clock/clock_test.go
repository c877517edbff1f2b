package clock_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/banyan-go/banyan/internal/clock"
)

func fired(ch <-chan time.Time) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func TestSimulated(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 3, 1, 9, 0, 0, 123456789, time.FixedZone("x", 3600))
	c := clock.NewSimulated(start)
	if got := c.Now(); got.Location() != time.UTC || got.Nanosecond() != 123456000 || !got.Equal(start.Truncate(time.Microsecond)) {
		t.Errorf("starts at %s", got)
	}
	past, now, soon, late := c.At(start.Add(-time.Hour)), c.At(c.Now()), c.At(c.Now().Add(time.Minute)), c.At(c.Now().Add(time.Hour))
	if !fired(past) || !fired(now) || fired(soon) || fired(late) {
		t.Error("before the clock moves: what is past is due, and nothing else")
	}
	c.Advance(time.Minute)
	if !fired(soon) || fired(late) {
		t.Error("after a minute: what is due then is due, and nothing else")
	}
	_ = c.At(c.Now().Add(time.Second)) // nobody reads it
	c.Advance(2 * time.Hour)
	if !fired(late) || fired(soon) {
		t.Error("after two hours: each is sent once")
	}
}

func TestSystem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c clock.System
		begin := c.Now()
		if begin.Location() != time.UTC || begin.Nanosecond()%1000 != 0 {
			t.Errorf("now is %s", begin)
		}
		<-c.At(begin.Add(90 * time.Minute))
		if d := c.Now().Sub(begin); d != 90*time.Minute {
			t.Errorf("woken after %s", d)
		}
		<-c.At(begin)
		if d := c.Now().Sub(begin); d != 90*time.Minute {
			t.Errorf("a moment that has passed was waited for: %s", d)
		}
	})
}
