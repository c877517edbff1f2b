package prove

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/banyan-go/banyan/internal/sandbox"
)

// broker is a virtual host of RabbitMQ, and what can be broken about it.
type broker interface {
	url() string
	faults() []fault
	describe() string
	close() error
}

func openBroker(ctx context.Context, o Options, host string) (broker, error) {
	if o.RabbitURL != "" {
		return openGiven(ctx, o, host)
	}
	s, err := sandbox.StartRabbit()
	if errors.Is(err, sandbox.ErrNoRabbit) {
		return nil, fmt.Errorf("%w, or name a running broker with --rabbitmq amqp://user:password@host:5672/", err)
	}
	if err != nil {
		return nil, err
	}
	b := &ownBroker{server: s, host: host}
	if b.at, err = s.CreateHost(ctx, host); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return b, nil
}

// ownBroker was started here: it can be killed.
type ownBroker struct {
	server   *sandbox.Rabbit
	host, at string
}

func (b *ownBroker) url() string      { return b.at }
func (b *ownBroker) describe() string { return "a broker of its own" }
func (b *ownBroker) close() error     { return b.server.Close() }

func (b *ownBroker) faults() []fault {
	return []fault{
		{name: "broker stopped (stop_app, start_app)", cause: func(_ context.Context, pause func()) error {
			if err := b.server.StopApp(); err != nil {
				return err
			}
			pause()
			return b.server.StartApp()
		}},
		{name: "kill -9 of the broker", cause: func(_ context.Context, pause func()) error {
			if err := b.server.Crash(); err != nil {
				return err
			}
			pause()
			return b.server.Start()
		}},
		{name: "broker connections closed", cause: func(ctx context.Context, _ func()) error {
			_, err := b.server.KillConnections(ctx, b.host)
			return err
		}},
		{name: "broker connections cut", cause: func(context.Context, func()) error { return b.server.CutConnections() }},
	}
}

// givenBroker runs already. What can be broken about it goes through rabbitmqctl.
type givenBroker struct {
	at, host string
	ctl      []string
	made     bool // the virtual host is ours
}

func openGiven(ctx context.Context, o Options, host string) (broker, error) {
	u, err := amqp.ParseURI(o.RabbitURL)
	if err != nil {
		return nil, errors.New("--rabbitmq: cannot be read; give it as in amqp://user:password@127.0.0.1:5672/")
	}
	b := &givenBroker{at: o.RabbitURL, host: u.Vhost, ctl: strings.Fields(o.RabbitCtl)}
	if len(b.ctl) > 0 {
		at, err := url.Parse(o.RabbitURL)
		if err != nil {
			return nil, errors.New("--rabbitmq: cannot be read; give it as in amqp://user:password@127.0.0.1:5672/")
		}
		at.Path = "/" + host
		b.at, b.host, b.made = at.String(), host, true
		if err := b.run(ctx, "add_vhost", host); err != nil {
			return nil, err
		}
		return b, b.run(ctx, "set_permissions", "-p", host, u.Username, ".*", ".*", ".*")
	}
	conn, err := amqp.Dial(b.at)
	if err != nil {
		return nil, fmt.Errorf("--rabbitmq: %w", err)
	}
	defer func() { _ = conn.Close() }()
	for _, m := range o.names() {
		ch, err := conn.Channel()
		if err != nil {
			return nil, err
		}
		if _, err := ch.QueueDeclarePassive("banyan."+m, true, false, false, false, nil); err == nil {
			return nil, fmt.Errorf("--rabbitmq: the virtual host %q has queues of a shop; name an empty one, or give --rabbitmqctl", b.host)
		}
		_ = ch.Close() // the broker has closed it when there is no such queue
	}
	return b, nil
}

func (b *givenBroker) run(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, b.ctl[0], append(b.ctl[1:len(b.ctl):len(b.ctl)], args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", strings.Join(b.ctl, " "), args[0], err, out)
	}
	return nil
}

func (b *givenBroker) url() string { return b.at }

func (b *givenBroker) describe() string {
	if len(b.ctl) == 0 {
		return "a broker that was given, and is not broken: there is no --rabbitmqctl"
	}
	return "a broker that was given"
}

func (b *givenBroker) close() error {
	if !b.made {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyWithin)
	defer cancel()
	return b.run(ctx, "delete_vhost", b.host)
}

func (b *givenBroker) faults() []fault {
	if len(b.ctl) == 0 {
		return nil
	}
	return []fault{
		{name: "broker stopped (stop_app, start_app)", cause: func(ctx context.Context, pause func()) error {
			if err := b.run(ctx, "stop_app"); err != nil {
				return err
			}
			pause()
			return b.run(context.WithoutCancel(ctx), "start_app")
		}},
		{name: "broker connections closed", cause: func(ctx context.Context, _ func()) error {
			return b.run(ctx, "close_all_connections", "--vhost", b.host, "the proof")
		}},
	}
}
