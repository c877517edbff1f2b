package rabbit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/testinfra"
)

type handler func(context.Context, Request) ([]byte, error)

// serve answers for payments until the test or the function it gives ends it.
func serve(t testing.TB, b *Broker, concurrency int, fn handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.Serve(ctx, "payments", concurrency, fn); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func ask(b *Broker, body string, within time.Duration) (string, error) {
	answer, err := b.Call(context.Background(), "payments", Request{Name: "payments.question.v1", Body: []byte(body), Deadline: time.Now().Add(within)})
	return string(answer), err
}

// answered waits until somebody serves.
func answered(t testing.TB, b *Broker) {
	t.Helper()
	eventually(t, "an answer", func() bool { _, err := ask(b, "ping", time.Second); return err == nil })
}

func echo(_ context.Context, r Request) ([]byte, error) { return r.Body, nil }

func TestAnAnswerIsThatOfTheModule(t *testing.T) {
	t.Parallel()
	host := shared(t)
	caller, answerer := open(t, host.URL()), open(t, host.URL())
	serve(t, answerer, 4, func(ctx context.Context, r Request) ([]byte, error) {
		switch string(r.Body) {
		case "ping":
			return nil, nil
		case "conflict":
			e := errs.New(errs.Conflict, "order is paid")
			e.Fields = []errs.Field{{Path: "body.id", Message: "is paid"}}
			return nil, fmt.Errorf("pay: %w", e)
		case "secret":
			return nil, errors.New("the password is hunter2")
		case "panic":
			panic("hunter2")
		case "large":
			return make([]byte, maxBody+1), nil
		case "unavailable":
			return nil, errs.New(errs.Unavailable, "later")
		}
		d, ok := ctx.Deadline()
		return fmt.Appendf(nil, "%s|%s|%s|%s|%v|%v", r.Name, r.CommandID, r.Headers["traceparent"], r.Body, ok && d.Equal(r.Deadline), len(r.Headers)), nil
	})
	answered(t, caller)
	got, err := caller.Call(t.Context(), "payments", Request{
		Name: "payments.pay.v1", CommandID: "c1", Headers: map[string]string{"traceparent": "00-x", headerRequest: "forged"}, Body: []byte("b"), Deadline: time.Now().Add(5 * time.Second),
	})
	if want := "payments.pay.v1|c1|00-x|b|true|1"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for body, want := range map[string]errs.Kind{
		"conflict": errs.Conflict, "secret": errs.Unavailable, "panic": errs.Internal, "large": errs.TooLarge, "unavailable": errs.Unavailable,
	} {
		_, err := ask(caller, body, 5*time.Second)
		if errs.KindOf(err) != want || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v", body, err)
		}
		var e *errs.Error
		if body == "conflict" && (!errors.As(err, &e) || len(e.Fields) != 1 || e.Message != "order is paid") {
			t.Errorf("got %+v", e)
		}
	}
	for name, r := range map[string]struct {
		r    Request
		want errs.Kind
	}{
		"no deadline": {Request{Name: "q"}, errs.Invalid},
		"passed":      {Request{Name: "q", Deadline: time.Now().Add(-time.Second)}, errs.Timeout},
		"too large":   {Request{Name: "q", Deadline: time.Now().Add(time.Minute), Body: make([]byte, maxBody+1)}, errs.TooLarge},
	} {
		if _, err := caller.Call(t.Context(), "payments", r.r); errs.KindOf(err) != r.want {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := caller.Call(t.Context(), "payments", Request{Name: "q", Deadline: time.Now()}); !errors.Is(err, ErrUnsent) {
		t.Errorf("asked too late: got %v", err)
	}
	if _, err := caller.Call(t.Context(), "No Module", Request{}); !errs.Is(err, errs.Invalid) {
		t.Errorf("got %v", err)
	}
}

func TestManyQuestionsAtOnce(t *testing.T) {
	t.Parallel()
	host := shared(t)
	caller := open(t, host.URL())
	for range 2 {
		serve(t, open(t, host.URL()), 8, echo)
	}
	answered(t, caller)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			for j := range 20 {
				want := fmt.Sprint(i, " ", j)
				if got, err := ask(caller, want, 10*time.Second); err != nil || got != want {
					t.Errorf("got %q, %v, want %q", got, err, want)
				}
			}
		})
	}
	all.Wait()
}

// Without a queue or somebody who serves it, the caller learns it soon, and may ask again until its deadline.
func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b := open(t, host.URL(), func(c *Config) { c.Breaker.Failures = 0 })
	check := func(what string) {
		t.Helper()
		at := time.Now()
		if _, err := ask(b, "x", 20*time.Second); !errs.Is(err, errs.Unavailable) {
			t.Errorf("%s: got %v", what, err)
		}
		if d := time.Since(at); d > 5*time.Second {
			t.Errorf("%s: it took %s", what, d)
		}
	}
	check("no queue")
	if err := b.Declare(t.Context(), "payments"); err != nil {
		t.Fatal(err)
	}
	check("no consumer")
	stop := serve(t, b, 1, echo)
	answered(t, b)
	stop()
	check("no consumer any more")
}

func TestADeadlineIsKept(t *testing.T) {
	t.Parallel()
	host := shared(t)
	caller, answerer := open(t, host.URL()), open(t, host.URL())
	var seen atomic.Int32
	began, release := make(chan struct{}), make(chan struct{})
	serve(t, answerer, 1, func(ctx context.Context, r Request) ([]byte, error) {
		if string(r.Body) == "slow" {
			close(began)
			<-ctx.Done() // it ends with the question's deadline
			<-release
		}
		if string(r.Body) == "behind" {
			seen.Add(1)
		}
		return r.Body, nil
	})
	answered(t, caller)
	slow := make(chan error, 1)
	go func() { _, err := ask(caller, "slow", 150*time.Millisecond); slow <- err }()
	<-began
	at := time.Now()
	if _, err := ask(caller, "behind", 200*time.Millisecond); !errs.Is(err, errs.Timeout) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(at); d > 10*time.Second {
		t.Errorf("it took %s", d)
	}
	if err := <-slow; !errs.Is(err, errs.Timeout) {
		t.Errorf("got %v", err)
	}
	close(release) // the late reply finds nobody, and hurts nobody
	if got, err := ask(caller, "next", 5*time.Second); err != nil || got != "next" {
		t.Errorf("got %q, %v", got, err)
	}
	if n := seen.Load(); n != 0 {
		t.Error("a question was answered after its deadline")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := caller.Call(ctx, "payments", Request{Name: "q", Deadline: time.Now().Add(time.Minute)}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A question that somebody sends with a deadline in the past, or that is none, is refused unseen.
func TestAQuestionThatIsLateOrNone(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b := open(t, host.URL())
	var seen atomic.Int32
	serve(t, b, 1, func(_ context.Context, r Request) ([]byte, error) {
		if string(r.Body) != "ping" {
			seen.Add(1)
		}
		return nil, nil
	})
	answered(t, b)
	ch := channel(t, host.URL())
	replies, err := ch.Consume(replyTo, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		headers amqp.Table
		want    errs.Kind
	}{
		"late":    {amqp.Table{headerRequest: "q", headerDeadline: time.Now().Add(-time.Second).Format(time.RFC3339Nano)}, errs.Timeout},
		"no time": {amqp.Table{headerRequest: "q", headerDeadline: "soon"}, errs.Malformed},
		"nothing": {nil, errs.Malformed},
		"no text": {amqp.Table{headerRequest: amqp.Table{}, headerDeadline: int32(7)}, errs.Malformed},
	} {
		if err := ch.Publish("banyan", "payments.requests", true, false, amqp.Publishing{Headers: c.headers, ReplyTo: replyTo, CorrelationId: name}); err != nil {
			t.Fatal(err)
		}
		d := <-replies
		if a := read(&d); errs.KindOf(a.far) != c.want || d.CorrelationId != name {
			t.Errorf("%s: got %v", name, a.far)
		}
	}
	if seen.Load() > 0 {
		t.Error("it was seen")
	}
}

// Serve ends when what it took is answered; what it did not take goes to another.
func TestTheEndOfServe(t *testing.T) {
	t.Parallel()
	host := shared(t)
	caller, old, next := open(t, host.URL()), open(t, host.URL()), open(t, host.URL())
	began, release := make(chan struct{}, 10), make(chan struct{})
	stopOld := serve(t, old, 2, func(_ context.Context, r Request) ([]byte, error) {
		if string(r.Body) == "ping" {
			return nil, nil
		}
		began <- struct{}{}
		<-release
		return []byte("old"), nil
	})
	answered(t, caller)
	got := make(chan string, 4)
	send := func() {
		answer, err := ask(caller, "x", 20*time.Second)
		if err != nil {
			t.Error(err)
		}
		got <- answer
	}
	go send()
	<-began // the old one has room for another
	ended := make(chan struct{})
	go func() { defer close(ended); stopOld() }()
	serve(t, next, 2, func(context.Context, Request) ([]byte, error) { return []byte("next"), nil })
	for range 5 { // the old one takes nothing more
		if answer, err := ask(caller, "y", 10*time.Second); err != nil || answer != "next" {
			t.Errorf("got %q, %v", answer, err)
		}
	}
	select {
	case <-ended:
		t.Error("Serve ended with questions open")
	default:
	}
	close(release)
	<-ended
	if answer := <-got; answer != "old" {
		t.Errorf("got %q", answer)
	}
}

// A lost connection is an error that allows to ask again, and what is in work goes on.
func TestALostConnectionWhileAsking(t *testing.T) {
	t.Parallel()
	host := shared(t)
	line := testinfra.NewLine(t, host.Addr())
	caller, answerer := open(t, line.URL(host.URL())), open(t, line.URL(host.URL()))
	began, release, done := make(chan struct{}, 9), make(chan struct{}), make(chan error, 9)
	serve(t, answerer, 1, func(ctx context.Context, r Request) ([]byte, error) {
		if string(r.Body) == "slow" {
			began <- struct{}{}
			<-release
			done <- ctx.Err()
		}
		return r.Body, nil
	})
	answered(t, caller)
	failed := make(chan error, 1)
	go func() { _, err := ask(caller, "slow", 20*time.Second); failed <- err }()
	<-began
	line.Cut()
	if err := <-failed; !errs.Is(err, errs.Unavailable) {
		t.Errorf("got %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("the question in work was ended: %v", err)
	}
	answered(t, caller)
}

// A module that does not answer is asked no more for a while, others are; and a module that answers with errors is asked on.
func TestBreakerAndBulkhead(t *testing.T) {
	t.Parallel()
	host := shared(t)
	b, log := openLogged(t, host.URL(), func(c *Config) {
		c.Breaker = BreakerConfig{Failures: 3, Open: 300 * time.Millisecond}
		c.Calls = 2
	})
	for range 3 {
		if _, err := ask(b, "x", 5*time.Second); !errs.Is(err, errs.Unavailable) || strings.Contains(err.Error(), "in a moment") {
			t.Errorf("got %v", err)
		}
	}
	_, err := ask(b, "x", 5*time.Second)
	var e *errs.Error
	if !errors.As(err, &e) || e.Kind != errs.Unavailable || !strings.Contains(e.Message, "in a moment") || e.RetryAfter != 300*time.Millisecond {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(strings.Join(log.lines(), "\n"), "to=open") {
		t.Error("it is not logged")
	}
	release := make(chan struct{})
	serve(t, b, 4, func(_ context.Context, r Request) ([]byte, error) {
		switch string(r.Body) {
		case "error":
			return nil, errs.New(errs.Unavailable, "not now")
		case "wait":
			<-release
		}
		return r.Body, nil
	})
	answered(t, b)
	for range 10 {
		if _, err := ask(b, "error", 5*time.Second); err == nil || err.Error() != "not now" {
			t.Errorf("got %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 { // callers that leave say nothing about the module
		_, _ = b.Call(ctx, "payments", Request{Name: "q", Deadline: time.Now().Add(time.Minute)})
	}
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			if _, err := ask(b, "wait", 10*time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "a full house", func() bool { return len(b.caller.to("payments").places) == 2 })
	if _, err := ask(b, "x", 5*time.Second); !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "2 questions open") {
		t.Errorf("got %v", err)
	}
	close(release)
	all.Wait()
	if got, err := ask(b, "x", 5*time.Second); err != nil || got != "x" {
		t.Errorf("got %q, %v", got, err)
	}
}
