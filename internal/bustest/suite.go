package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/unit"
)

// Run is the suite. With a broker (its URL) beta is apart, as in another process, and the engine must have the control store.
func Run(t *testing.T, engine func(t *testing.T) databasetest.Engine, broker func(t *testing.T) string) {
	open := func(t *testing.T, o Options) *World {
		t.Helper()
		if broker != nil {
			o.Apart = broker(t)
		}
		return Open(t, engine(t), o)
	}
	for _, c := range []struct {
		name string
		test func(t *testing.T, open func(t *testing.T, o Options) *World)
	}{
		{"an event reaches every subscriber once and in order", eachOnce},
		{"a rolled back unit of work sends nothing", rolledBack},
		{"order per key is commit order under 64 writers", commitOrder},
		{"a failing message parks its key and no other", parks},
		{"a transient failure is tried again, with backoff, until it is given up", backsOff},
		{"a permanent failure is a dead letter that blocks its key until replayed", deadBlocks},
		{"a discarded dead letter lets its key go on", discards},
		{"skip lets a key go on behind its dead letter", skips},
		{"an unordered handler overtakes", unordered},
		{"what is delivered twice has one effect, however late", duplicates},
		{"a failing handler stops no other subscriber", independent},
		{"a command reaches its module in order", commands},
		{"a query is answered before its deadline, and its error keeps its kind", queries},
		{"a command with an id is answered once", requests},
		{"calls are refused inside a unit of work", refusesInside},
		{"neither side sees what the other does to a payload", noSharing},
		{"a timer fires once, and can be moved and cancelled", timers},
		{"an effect is called until its outcome is committed", effects},
		{"follow-ups have the same ids on every run", derivedIDs},
		{"a message nobody subscribes to is kept", unsubscribed},
		{"what is left in the outbox goes out after a restart", restart},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open)
		})
	}
}

func want[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func eachOnce(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	w.Publish("a", Range(1, 50)...)
	w.Publish("b", Range(1, 50)...)
	w.Settle()
	for _, k := range []string{"a", "b"} {
		want(t, "beta "+k, w.Seen(w.Beta, "count", k), Range(1, 50))
		want(t, "gamma "+k, w.Seen(w.Gamma, "watch", k), Range(1, 50))
	}
}

func rolledBack(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	err := w.Alpha.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
		u.Publish(Counted{ID: "a", N: 1})
		return errs.New(errs.Conflict, "no")
	})
	if !errs.Is(err, errs.Conflict) {
		t.Errorf("error %v, want a conflict", err)
	}
	w.Publish("a", 2)
	w.Settle()
	want(t, "beta", w.Seen(w.Beta, "count", "a"), []int{2})
}

func commitOrder(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	e := w
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for range 5 {
				err := e.Alpha.Do(context.Background(), func(_ context.Context, u *unit.Work) error {
					// The aggregate's own counter says which commit came first.
					var n int
					if err := u.DB.Raw("INSERT INTO seen (position, handler, key, n, message_id) VALUES (1, 'counter', 'a', 1, '') ON CONFLICT (position) DO UPDATE SET n = seen.n + 1 RETURNING n").Scan(&n).Error; err != nil {
						return err
					}
					u.Publish(Counted{ID: "a", N: n})
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	w.Settle()
	want(t, "beta", w.Seen(w.Beta, "count", "a"), Range(1, 320))
	want(t, "gamma", w.Seen(w.Gamma, "watch", "a"), Range(1, 320))
}

func failOn(bad int, kind errs.Kind) func(int) error {
	return func(n int) error {
		if n == bad {
			return errs.New(kind, "message %d is not wanted", n)
		}
		return nil
	}
}

func parks(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	w.Fail("count", func(n int) error {
		if n == 2 {
			return errors.New("the machine below is down")
		}
		return nil
	})
	w.Publish("bad", 1, 2, 3, 4)
	w.Settle()
	for i := range 20 {
		w.Publish(Key(i), 1)
	}
	w.Settle()
	want(t, "the bad key", w.Seen(w.Beta, "count", "bad"), []int{1})
	for i := range 20 {
		want(t, Key(i), w.Seen(w.Beta, "count", Key(i)), []int{1})
	}
	w.Fail("count", nil)
	w.Advance(10 * time.Second)
	want(t, "the key after recovery", w.Seen(w.Beta, "count", "bad"), []int{1, 2, 3, 4})
	w.Publish("bad", 5)
	w.Settle()
	want(t, "the key when it is free again", w.Seen(w.Beta, "count", "bad"), []int{1, 2, 3, 4, 5})
}

// Advance lets time pass, in steps in which everything due runs.
func (w *World) Advance(d time.Duration) {
	w.T.Helper()
	w.Settle()
	w.Clock.Advance(d)
	w.Settle()
}

func backsOff(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	var mu sync.Mutex
	var at []time.Time
	w.Fail("count", func(int) error {
		mu.Lock()
		defer mu.Unlock()
		at = append(at, w.Clock.Now())
		return errors.New("down")
	})
	w.Publish("a", 1)
	w.Settle()
	w.Advance(time.Hour)
	letters := w.letters()
	want(t, "dead letters after an hour", len(letters), 0)
	for range 400 {
		w.Advance(5 * time.Minute)
	}
	letters = w.letters()
	if len(letters) != 1 {
		t.Fatalf("%d dead letters after a day and more, want 1", len(letters))
	}
	mu.Lock()
	defer mu.Unlock()
	if first, last := at[0], at[len(at)-1]; last.Sub(first) < 24*time.Hour || last.Sub(first) > 24*time.Hour+30*time.Minute {
		t.Errorf("given up after %s, want 24 h", last.Sub(first))
	}
	want(t, "effects", len(w.Seen(w.Beta, "count", "a")), 0)
}

func (w *World) letters() []string {
	w.T.Helper()
	in, err := w.Far.Inbox("beta")
	if err != nil {
		w.T.Fatal(err)
	}
	letters, err := in.DeadLetters(context.Background(), "", "", 100)
	if err != nil {
		w.T.Fatal(err)
	}
	ids := []string{}
	for _, l := range letters {
		ids = append(ids, l.ID)
	}
	return ids
}

func deadBlocks(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	w.Fail("count", failOn(1, errs.Invalid))
	w.Publish("a", 1, 2, 3)
	w.Publish("b", 7)
	w.Settle()
	want(t, "blocked key", len(w.Seen(w.Beta, "count", "a")), 0)
	want(t, "other key", w.Seen(w.Beta, "count", "b"), []int{7})
	ids := w.letters()
	if len(ids) != 1 {
		t.Fatalf("%d dead letters, want 1", len(ids))
	}
	in, _ := w.Far.Inbox("beta")
	letter, err := in.DeadLetter(t.Context(), ids[0])
	if err != nil || letter.Behind != 0 && letter.Behind != 2 || letter.Reason == "" || len(letter.Message) == 0 {
		t.Errorf("letter %+v, error %v", letter, err)
	}
	// Replayed while its cause is still there it dies again; replayed afterwards everything follows in order.
	if err := in.Replay(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	w.Settle()
	ids = w.letters()
	if len(ids) != 1 {
		t.Fatalf("%d dead letters after a replay in vain, want 1", len(ids))
	}
	w.Fail("count", nil)
	if err := in.Replay(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	w.Settle()
	want(t, "key after the replay", w.Seen(w.Beta, "count", "a"), []int{1, 2, 3})
	if err := in.Replay(t.Context(), ids[0]); !errs.Is(err, errs.NotFound) {
		t.Errorf("second replay: %v, want not found", err)
	}
}

func discards(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	w.Fail("count", failOn(1, errs.Invalid))
	w.Publish("a", 1, 2, 3)
	w.Settle()
	in, _ := w.Far.Inbox("beta")
	if err := in.Discard(t.Context(), w.letters()[0], "test"); err != nil {
		t.Fatal(err)
	}
	w.Settle()
	want(t, "key", w.Seen(w.Beta, "count", "a"), []int{2, 3})
	want(t, "dead letters", len(w.letters()), 0)
}

func skips(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{Handler: func(s *module.Subscription) { s.Skip = true }})
	w.Fail("count", failOn(1, errs.Invalid))
	w.Publish("a", 1, 2, 3)
	w.Settle()
	want(t, "key", w.Seen(w.Beta, "count", "a"), []int{2, 3})
	want(t, "dead letters", len(w.letters()), 1)
}

func unordered(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{Handler: func(s *module.Subscription) { s.Unordered = true }})
	w.Fail("count", failOn(1, errs.Unavailable))
	w.Publish("a", 1, 2, 3)
	w.Settle()
	want(t, "key", w.Seen(w.Beta, "count", "a"), []int{2, 3})
	w.Fail("count", nil)
	w.Advance(10 * time.Second)
	want(t, "key after recovery", w.Seen(w.Beta, "count", "a"), []int{2, 3, 1})
}

func duplicates(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	m := message.Message{ID: message.NewID(), Name: "alpha.counted.v1", Source: "alpha", Key: "a", Sequence: 1, Time: w.Clock.Now(), Payload: []byte(`{"id":"a","n":1}`)}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := w.Far.Deliver(context.Background(), "beta", m); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	w.Advance(60 * 24 * time.Hour)
	if err := w.Far.Deliver(context.Background(), "beta", m); err != nil {
		t.Error(err)
	}
	want(t, "effects", w.Seen(w.Beta, "count", "a"), []int{1})
}

func independent(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	w.Fail("watch", func(int) error { return errors.New("gamma is down") })
	for i := range 10 {
		w.Publish(Key(i), 1, 2)
	}
	w.Settle()
	want(t, "beta", len(w.Seen(w.Beta, "count", "")), 20)
	want(t, "gamma", len(w.Seen(w.Gamma, "watch", "")), 0)
	w.Fail("watch", nil)
	w.Advance(10 * time.Second)
	want(t, "gamma after recovery", len(w.Seen(w.Gamma, "watch", "")), 20)
}

func commands(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	for n := 1; n <= 20; n++ {
		if err := w.Alpha.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
			u.Send(Add{ID: "a", N: n})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	w.Settle()
	want(t, "beta", w.Seen(w.Beta, "add", "a"), Range(1, 20))
	err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
		u.Send(Add{ID: "a", N: 1})
		return nil
	})
	if err == nil {
		t.Error("a command that is not declared was sent")
	}
	err = w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
		u.Publish(Counted{ID: "a", N: 1})
		return nil
	})
	if err == nil {
		t.Error("another module's event was announced")
	}
}

func queries(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	w.Publish("a", 1, 2, 3)
	w.Settle()
	total, err := message.Ask[Total](t.Context(), w.Bus, Sum{ID: "a"})
	if err != nil || total.N != 12 && total.N != 6 {
		t.Errorf("total %+v, error %v", total, err)
	}
	for _, kind := range []errs.Kind{errs.NotFound, errs.Conflict, errs.Invalid, errs.Forbidden, errs.Unavailable} {
		w.Fail("sum", func(int) error {
			return errs.New(kind, "because of %s", kind).With("id", "is wrong").After(3 * time.Second)
		})
		_, err := message.Ask[Total](t.Context(), w.Bus, Sum{ID: "a"})
		var e *errs.Error
		if !errors.As(err, &e) || e.Kind != kind || len(e.Fields) != 1 || e.RetryAfter != 3*time.Second {
			t.Errorf("error %#v, want the kind %s with its field", err, kind)
		}
	}
	w.Fail("sum", func(int) error { return errors.New("password is hunter2") })
	if _, err := message.Ask[Total](t.Context(), w.Bus, Sum{ID: "a"}); err == nil || errs.KindOf(err) != errs.Unavailable || err.Error() == "password is hunter2" {
		t.Errorf("an unclassified error came through as %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := message.Ask[Total](ctx, w.Bus, Sum{ID: "a"}); !errs.Is(err, errs.Timeout) {
		t.Errorf("after the deadline: %v, want a timeout", err)
	}
}

func requests(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	id := message.NewID()
	var got []int
	for range 3 {
		total, err := message.Request[Total](t.Context(), w.Bus, Bump{ID: "a"}, id)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, total.N)
	}
	total, err := message.Request[Total](t.Context(), w.Bus, Bump{ID: "a"}, message.NewID())
	if err != nil {
		t.Fatal(err)
	}
	want(t, "replies", append(got, total.N), []int{1, 1, 1, 2})
	want(t, "effects", len(w.Seen(w.Beta, "bump", "a")), 2)
	if _, err := message.Ask[Total](t.Context(), w.Bus, Bump{ID: "a"}); !errs.Is(err, errs.Invalid) {
		t.Errorf("without a command id: %v, want invalid", err)
	}
}

func refusesInside(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	err := w.Alpha.Do(t.Context(), func(ctx context.Context, _ *unit.Work) error {
		_, err := message.Ask[Total](ctx, w.Bus, Sum{ID: "a"})
		return err
	})
	if !errs.Is(err, errs.Internal) {
		t.Errorf("error %v, want a refusal", err)
	}
	err = w.Alpha.Do(t.Context(), func(ctx context.Context, _ *unit.Work) error {
		return w.Beta.Do(ctx, func(context.Context, *unit.Work) error { return nil })
	})
	if err == nil {
		t.Error("a unit of work ran inside another one")
	}
}

func noSharing(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	body := []byte(`{"id":"a"}`)
	reply, err := w.Bus.Call(t.Context(), "beta.sum.v1", "", body)
	if err != nil {
		t.Fatal(err)
	}
	for i := range reply {
		reply[i] = 'x'
	}
	again, err := w.Bus.Call(t.Context(), "beta.sum.v1", "", body)
	if err != nil || again[0] != '{' {
		t.Errorf("reply %s, error %v", again, err)
	}
	want(t, "the caller's body", string(body), `{"id":"a"}`)
}

func timers(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	set := func(key string, after time.Duration, n int) {
		t.Helper()
		if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error {
			u.Schedule("later", key, u.Now().Add(after), n)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	set("a", time.Minute, 1)
	set("b", time.Minute, 1)
	set("c", time.Minute, 1)
	set("c", time.Hour, 2)
	if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error { u.Cancel("later", "b"); return nil }); err != nil {
		t.Fatal(err)
	}
	w.Advance(59 * time.Second)
	want(t, "too early", len(w.Seen(w.Beta, "later", "")), 0)
	w.Advance(2 * time.Second)
	want(t, "fired", w.Seen(w.Beta, "later", "a"), []int{1})
	w.Advance(2 * time.Hour)
	want(t, "a", w.Seen(w.Beta, "later", "a"), []int{1})
	want(t, "b", len(w.Seen(w.Beta, "later", "b")), 0)
	want(t, "c", w.Seen(w.Beta, "later", "c"), []int{2})
}

func effects(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	tries := 0
	var mu sync.Mutex
	w.Fail("call", func(int) error {
		mu.Lock()
		defer mu.Unlock()
		if tries++; tries < 3 {
			return errors.New("no answer")
		}
		return nil
	})
	if err := w.Beta.Do(t.Context(), func(_ context.Context, u *unit.Work) error { u.Effect("call", "a", 5); return nil }); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		w.Advance(time.Minute)
	}
	// The kit's outcome asks the same function: two failures, then one call, then its outcome.
	want(t, "outcome", w.Seen(w.Beta, "call", "a"), []int{5})
	var left int
	if err := w.Beta.Read(t.Context()).Raw("SELECT count(*) FROM timers").Row().Scan(&left); err != nil || left != 0 {
		t.Errorf("%d rows left, error %v", left, err)
	}
}

func derivedIDs(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{})
	cause := &message.Message{ID: message.NewID(), CorrelationID: "root"}
	var ids [2][]string
	for run := range ids {
		err := w.Alpha.Handle(t.Context(), cause, "h", func(_ context.Context, u *unit.Work) error {
			ids[run] = []string{u.NewID(), u.NewID()}
			return errs.New(errs.Conflict, "roll back")
		})
		if err == nil {
			t.Fatal("no error")
		}
	}
	want(t, "ids of two runs", ids[0], ids[1])
	if ids[0][0] == ids[0][1] {
		t.Error("two follow-ups have one id")
	}
}

func unsubscribed(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{Handler: func(s *module.Subscription) { s.Events = []string{"alpha.counted.v1"} }})
	if err := w.Alpha.Do(t.Context(), func(_ context.Context, u *unit.Work) error { u.Publish(Other{ID: "a", N: 1}); return nil }); err != nil {
		t.Fatal(err)
	}
	w.Settle()
	kept, err := w.Bus.Kept(t.Context(), "alpha")
	if err != nil || len(kept) != 1 || kept[0].Message != (Other{}).MessageName() || kept[0].Number != 1 || kept[0].Oldest.IsZero() || len(kept[0].Subscribers) != 0 {
		t.Errorf("kept %+v, error %v, want one that nobody subscribes to", kept, err)
	}
	if _, err := w.Bus.Replay(t.Context(), "alpha", (Other{}).MessageName()); !errs.Is(err, errs.Conflict) {
		t.Errorf("replayed to nobody: %v", err)
	}
	if _, err := w.Bus.Replay(t.Context(), "alpha", "alpha.another.v1"); !errs.Is(err, errs.NotFound) {
		t.Errorf("replayed nothing: %v", err)
	}
}

func restart(t *testing.T, open func(*testing.T, Options) *World) {
	w := open(t, Options{Config: func(c *bus.Config) { c.Workers, c.Window = 2, 4 }})
	first := errors.New("down")
	w.Fail("count", func(int) error { return first })
	var ns []int
	for i := range 30 {
		ns = append(ns, i)
		w.Publish(Key(i%3), i)
	}
	w.cancel()
	if err := <-w.done; err != nil {
		t.Fatal(err)
	}
	w.cancel = nil
	w.Fail("count", nil)
	w.Run()
	w.Advance(time.Minute)
	w.Advance(time.Minute)
	got := w.Seen(w.Beta, "count", "")
	slices.Sort(got)
	want(t, "handled", got, ns)
	for k := range 3 {
		if seen := w.Seen(w.Beta, "count", Key(k)); !slices.IsSorted(seen) {
			t.Errorf("%s: %v is out of order", Key(k), fmt.Sprint(seen))
		}
	}
}
