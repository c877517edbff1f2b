package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/internal/unit"
)

// await waits for something about a way, which is looked at under its lock.
func await(t *testing.T, l *leg, what string, so func() bool) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(time.Millisecond) {
		l.mu.Lock()
		ok := so()
		l.mu.Unlock()
		if ok {
			return
		}
	}
	t.Fatalf("in vain: %s", what)
}

// abreast is the way to beta, once it has read what there is and takes from memory.
func abreast(t *testing.T, r *Relay) *leg {
	t.Helper()
	for r.running() == nil {
		time.Sleep(time.Millisecond)
	}
	l := r.running()["beta"]
	await(t, l, "the way comes abreast of its outbox", func() bool { return l.abreast && l.caught })
	return l
}

// What is announced goes from memory if it is the next one of its key. None of these messages is in the outbox, so that what has to be
// read is not found.
func TestChain(t *testing.T) {
	t.Parallel()
	type word struct {
		key      string
		sequence int64
		to       string
	}
	for name, c := range map[string]struct {
		words []word
		taken []string
	}{
		"the first one":             {[]word{{"a", 1, "beta"}}, []string{"a1"}},
		"one after another":         {[]word{{"a", 1, "beta"}, {"a", 2, "beta"}, {"a", 3, "beta"}}, []string{"a1", "a2", "a3"}},
		"a key of others":           {[]word{{"a", 1, "beta"}, {"b", 1, "beta"}, {"a", 2, "beta"}}, []string{"a1", "b1", "a2"}},
		"never heard of":            {[]word{{"a", 7, "beta"}, {"a", 8, "beta"}}, nil},
		"a gap":                     {[]word{{"a", 1, "beta"}, {"a", 3, "beta"}, {"a", 4, "beta"}}, []string{"a1"}},
		"the wrong way round":       {[]word{{"a", 2, "beta"}, {"a", 1, "beta"}}, []string{"a1"}},
		"twice":                     {[]word{{"a", 1, "beta"}, {"a", 1, "beta"}, {"a", 2, "beta"}, {"a", 1, "beta"}}, []string{"a1", "a2"}},
		"for others":                {[]word{{"a", 1, "gamma"}, {"a", 2, ""}, {"a", 3, "beta"}}, []string{"a3"}},
		"for others behind a gap":   {[]word{{"a", 2, "gamma"}, {"a", 3, "beta"}}, nil},
		"for others, the wrong way": {[]word{{"a", 2, "beta"}, {"a", 1, "gamma"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, r, sent := alone(t)
			var taken []string
			for i, w := range c.words {
				l := abreast(t, r)
				m := &unit.Sent{ID: int64(100 + i), Message: &message.Message{ID: fmt.Sprint(w.key, w.sequence), Key: w.key, Sequence: w.sequence}}
				if w.to != "" {
					m.Subscribers = []string{w.to}
				}
				l.mu.Lock()
				before := l.from
				l.mu.Unlock()
				r.Sent([]*unit.Sent{m})
				l.mu.Lock()
				took := l.from > before
				l.mu.Unlock()
				if took {
					taken = append(taken, (<-sent).ID)
				}
			}
			if d := cmp.Diff(c.taken, taken); d != "" {
				t.Errorf("taken from memory (-want +got):\n%s", d)
			}
		})
	}
}

// A way that was closed, or whose window is full, has left messages unread: what comes after them is read, too.
func TestChainIsBroken(t *testing.T) {
	t.Parallel()
	_, r, sent := alone(t)
	l, id := abreast(t, r), int64(100)
	say := func(key string, sequence int64) (taken bool) {
		t.Helper()
		l.mu.Lock()
		before := l.from
		l.mu.Unlock()
		id++
		r.Sent([]*unit.Sent{{ID: id, Message: &message.Message{ID: fmt.Sprint(id), Key: key, Sequence: sequence}, Subscribers: []string{"beta"}}})
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.from > before
	}
	if !say("a", 1) || !say("a", 2) {
		t.Error("what nothing is before is read")
	}
	<-sent
	<-sent
	l.stop()
	if say("a", 3) {
		t.Error("a closed way takes a message")
	}
	l.start(l.limits)
	abreast(t, r)
	if say("a", 4) {
		t.Error("a message is taken although the way was closed before it")
	}
	full := l.limits
	l.stop()
	l.start(Limits{Workers: 1})
	if say("b", 1) {
		t.Error("a full way takes a message")
	}
	l.stop()
	l.start(full)
	abreast(t, r)
	if !say("c", 1) {
		t.Error("the first message of a key is read")
	}
}

// A word of what is on its way or was sent has nothing read.
func TestOldNews(t *testing.T) {
	t.Parallel()
	_, r, sent := alone(t)
	l := abreast(t, r)
	news := []*unit.Sent{{ID: 100, Message: &message.Message{ID: "1", Key: "a", Sequence: 1}, Subscribers: []string{"beta"}}}
	r.Sent(news)
	<-sent
	for _, when := range []string{"before", "after"} {
		r.Sent(news)
		l.mu.Lock()
		if !l.caught {
			t.Errorf("something has to be read because of a message that was sent, %s it is marked", when)
		}
		l.mu.Unlock()
		await(t, l, "it is marked", func() bool { _, known := l.open[100]; return !known })
	}
	select {
	case <-sent:
		t.Error("it was sent again")
	default:
	}
}

// gated is a relay on PostgreSQL to one subscriber with a window of eight, who takes one message at each next; after the test everything.
func gated(t *testing.T) (store *unit.Store, r *Relay, next <-chan string) {
	t.Helper()
	store = unit.New(databasetest.Postgres(t, "alpha").Store(t, "alpha"), unit.Options{Module: "alpha", Announces: []string{"alpha.beta.v1"}})
	store.Watch(unit.Hooks{Subscribers: func(string) []string { return []string{"beta"} }})
	taken := make(chan string)
	r = New(store, Config{Limits: Limits{Workers: 1, Window: 8}, Sweep: time.Hour}, func(_ context.Context, _ string, m message.Message) error {
		select {
		case taken <- m.Key:
		case <-t.Context().Done():
		}
		return nil
	}, telemetry.NewMessages(nil), slog.New(slog.DiscardHandler))
	runs(t, r)
	return store, r, taken
}

// publish commits messages of keys of their own, of which the relay does not hear.
func publish(t *testing.T, store *unit.Store, prefix string, many int, before func(w *unit.Work)) {
	t.Helper()
	if err := store.Do(t.Context(), func(_ context.Context, w *unit.Work) error {
		for n := range many {
			w.Publish(happened{"alpha.beta.v1", fmt.Sprint(prefix, n)})
		}
		before(w)
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// announce says that the first message of a key was committed, and tells whether it is taken from memory.
func (l *leg) announce(id int64) (taken bool) {
	l.relay.Sent([]*unit.Sent{{ID: id, Message: &message.Message{ID: fmt.Sprint(id), Key: fmt.Sprint("announced ", id), Sequence: 1}, Subscribers: []string{"beta"}}})
	l.mu.Lock()
	defer l.mu.Unlock()
	_, taken = l.open[id]
	return taken
}

// Who is behind reads, and does not get what was committed last before what waits.
func TestNewsWaitBehindABacklog(t *testing.T) {
	t.Parallel()
	store, r, next := gated(t)
	l := abreast(t, r)
	publish(t, store, "waits ", 20, func(*unit.Work) {})
	r.Wake(0)
	<-next
	<-next
	if l.announce(1000) {
		t.Error("a message was taken from memory while more wait unread than the window takes")
	}
}

// A full window leaves messages unread: what is announced later does not keep it full from memory.
func TestFullWindowIsBehind(t *testing.T) {
	t.Parallel()
	_, r, next := gated(t)
	l := abreast(t, r)
	for id := range int64(8) {
		if !l.announce(1000 + id) {
			t.Errorf("message %d of a window of 8 was not taken", id+1)
		}
	}
	if l.announce(1008) {
		t.Error("a ninth message was taken in a window of 8")
	}
	await(t, l, "the way finds itself behind", func() bool { return !l.abreast })
	<-next
	<-next
	if l.announce(1009) {
		t.Error("a message took the place of one before it")
	}
}

// What comes from memory during a read counts, too.
func TestWindowHolds(t *testing.T) {
	t.Parallel()
	store, r, _ := gated(t)
	l := abreast(t, r)
	publish(t, store, "unread ", 8, func(w *unit.Work) {
		if err := w.DB.Exec("LOCK TABLE delivery IN ACCESS EXCLUSIVE MODE").Error; err != nil {
			t.Error(err)
		}
		r.Wake(0)
		await(t, l, "a read begins", func() bool { return l.reading })
		for id := range int64(5) {
			if !l.announce(1000 + id) {
				t.Error("a message was not taken because a read is on its way")
			}
		}
	})
	await(t, l, "it ends", func() bool { return !l.reading })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending != 8 {
		t.Errorf("%d messages in a window of 8", l.pending)
	}
}

// The numbers of keys that were not heard of for long are forgotten, and those of the others are not.
func TestChainForgets(t *testing.T) {
	var c chain
	for n := range int64(10 * chainKeys) {
		c.take(fmt.Sprint("key ", n), 1)
		c.take("often", n+1)
		if len(c.recent)+len(c.older) > 2*chainKeys {
			t.Fatalf("%d keys are remembered", len(c.recent)+len(c.older))
		}
	}
	if got := c.next("often"); got != 10*chainKeys+1 {
		t.Errorf("the next of a key that is often heard of is %d", got)
	}
	if last, first := c.next(fmt.Sprint("key ", 10*chainKeys-1)), c.next("key 0"); last != 2 || first != 1 {
		t.Errorf("the next of the last key is %d, and that of the first one %d", last, first)
	}
	c.take("often", 3) // that nobody subscribed to before
	c.pass("often", 4)
	if got := c.next("often"); got != 10*chainKeys+1 {
		t.Errorf("an old message makes %d the next one", got)
	}
}

type happened struct{ name, key string }

func (h happened) MessageName() string { return h.name }
func (h happened) MessageKey() string  { return h.key }

// Two processes commit messages of the same keys, for this subscriber or that, and one of them relays. It hears of its own commits late, in
// any order or never, and of the other's by chance; its ways are closed and opened, and what they send is refused now and then. Each
// subscriber gets what is its own, and each key in order.
func TestRelayOfTwoProcesses(t *testing.T) {
	t.Parallel()
	subscribers := map[string][]string{"alpha.both.v1": {"beta", "gamma"}, "alpha.beta.v1": {"beta"}, "alpha.gamma.v1": {"gamma"}, "alpha.nobody.v1": nil}
	names := []string{"alpha.both.v1", "alpha.beta.v1", "alpha.gamma.v1", "alpha.nobody.v1"}
	e := databasetest.Postgres(t, "alpha")
	open := func() *unit.Store {
		return unit.New(e.Store(t, "alpha"), unit.Options{Module: "alpha", Announces: names})
	}
	here, there := open(), open()

	var mu sync.Mutex
	got, turn := map[string][]string{}, make(chan struct{})
	var r *Relay
	r = New(here, Config{Sweep: 20 * time.Millisecond, Guard: func(ctx context.Context, _ string, way *Way) {
		for ctx.Err() == nil {
			way.Open(Limits{Workers: 1 + rand.IntN(4), Window: 4 + rand.IntN(12)})
			for range rand.IntN(300) {
				mu.Lock()
				next := turn
				mu.Unlock()
				select {
				case <-next:
				case <-ctx.Done():
				}
			}
			way.Close()
		}
	}}, func(_ context.Context, subscriber string, m message.Message) error {
		l := r.running()[subscriber]
		l.mu.Lock()
		if l.pending > l.limits.Window {
			t.Errorf("%d messages in a window of %d", l.pending, l.limits.Window)
		}
		l.mu.Unlock()
		if rand.IntN(100) == 0 {
			return errors.New("not now")
		}
		mu.Lock()
		defer mu.Unlock()
		k := subscriber + " " + m.Key
		got[k] = append(got[k], fmt.Sprintf("%05d", m.Sequence))
		close(turn)
		turn = make(chan struct{})
		return nil
	}, telemetry.NewMessages(nil), slog.New(slog.DiscardHandler))

	want := map[string][]string{}
	note := func(messages []*unit.Sent) {
		mu.Lock()
		defer mu.Unlock()
		for _, m := range messages {
			for _, s := range m.Subscribers {
				k := s + " " + m.Message.Key
				want[k] = append(want[k], fmt.Sprintf("%05d", m.Message.Sequence))
			}
		}
	}
	to := func(name string) []string { return subscribers[name] }
	var held [][]*unit.Sent // not yet announced
	here.Watch(unit.Hooks{Subscribers: to, Sent: func(messages []*unit.Sent) {
		note(messages)
		var say [][]*unit.Sent
		mu.Lock()
		if rand.IntN(50) > 0 { // or nobody hears of it
			held = append(held, messages)
		}
		for len(held) > rand.IntN(4) {
			i := rand.IntN(len(held))
			if rand.IntN(2) == 0 {
				i = 0
			}
			say = append(say, held[i])
			held = slices.Delete(held, i, i+1)
		}
		mu.Unlock()
		for _, s := range say {
			r.Sent(s)
		}
	}})
	there.Watch(unit.Hooks{Subscribers: to, Sent: func(messages []*unit.Sent) {
		note(messages)
		if rand.IntN(4) == 0 {
			r.Wake(0)
		}
	}})

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, []string{"beta", "gamma"}) }()
	var producers sync.WaitGroup
	for p := range 6 {
		producers.Go(func() {
			store := here
			if p == 0 {
				store = there
			}
			for range 200 {
				if err := store.Do(t.Context(), func(_ context.Context, w *unit.Work) error {
					for range 1 + rand.IntN(3) {
						w.Publish(happened{names[rand.IntN(len(names))], fmt.Sprint("key ", rand.IntN(12))})
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	producers.Wait()
	for until := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		n, _, err := r.Pending(t.Context(), 1, "")
		if err != nil {
			t.Error(err)
		}
		if n == 0 {
			break
		}
		if time.Now().After(until) {
			t.Error("not everything was sent")
			break
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for k, all := range want {
		slices.Sort(all)
		var first []string // a message may come again
		seen := map[string]bool{}
		for _, s := range got[k] {
			if !seen[s] {
				seen[s], first = true, append(first, s)
			}
		}
		if d := cmp.Diff(all, first); d != "" {
			t.Errorf("%s (-want +got):\n%s", k, d)
		}
	}
}
