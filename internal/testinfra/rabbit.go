package testinfra

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/sandbox"
)

// The environment of a test run with RabbitMQ.
const (
	EnvRabbit      = "BANYAN_TEST_RABBITMQ_URL"       // AMQP URL of an administrator: use this broker
	EnvRabbitAdmin = "BANYAN_TEST_RABBITMQ_ADMIN_URL" // of its management plugin; http://<user>:<password>@<host>:15672 if unset
)

// ErrNoRabbit says that this machine has no RabbitMQ to start.
var ErrNoRabbit = fmt.Errorf("%w, or name a running broker with %s=amqp://administrator:password@host:5672/", sandbox.ErrNoRabbit, EnvRabbit)

// RabbitServer is a running RabbitMQ with its management plugin.
type RabbitServer struct{ *sandbox.Rabbit }

// LaunchRabbit makes and starts a broker; Close ends it.
func LaunchRabbit() (*RabbitServer, error) {
	s, err := sandbox.StartRabbit()
	if errors.Is(err, sandbox.ErrNoRabbit) {
		return nil, ErrNoRabbit
	}
	return &RabbitServer{s}, err
}

var sharedRabbit = sync.OnceValues(func() (*RabbitServer, error) {
	if os.Getenv(EnvRabbit) == "" {
		return LaunchRabbit()
	}
	s, err := foreignRabbit(os.Getenv(EnvRabbit), os.Getenv(EnvRabbitAdmin))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Call(ctx, http.MethodGet, "/api/whoami", nil, nil); err != nil {
		return nil, fmt.Errorf("%s: its management plugin (%s): %w", EnvRabbit, EnvRabbitAdmin, err)
	}
	return s, nil
})

func foreignRabbit(broker, admin string) (*RabbitServer, error) {
	u, err := url.Parse(broker)
	if err != nil || u.Scheme != "amqp" || u.Host == "" || u.User == nil {
		return nil, fmt.Errorf("%s cannot be read; give it as in amqp://guest:guest@127.0.0.1:5672/", EnvRabbit)
	}
	a := &url.URL{Scheme: "http", User: u.User, Host: net.JoinHostPort(u.Hostname(), "15672")}
	if admin != "" {
		if a, err = url.Parse(admin); err != nil || a.Host == "" || a.User == nil {
			return nil, fmt.Errorf("%s cannot be read; give it as in http://guest:guest@127.0.0.1:15672", EnvRabbitAdmin)
		}
	}
	return &RabbitServer{sandbox.ConnectRabbit(u, a)}, nil
}

// Rabbit is a virtual host of its own in the broker that the tests of this process, or of a whole run, share. It is deleted when the
// test ends.
func Rabbit(tb testing.TB) *Broker {
	tb.Helper()
	s, err := sharedRabbit()
	needRabbit(tb, err)
	return s.host(tb)
}

// PrivateRabbit is a broker of this test alone, which may stop it, and is gone when the test ends.
func PrivateRabbit(tb testing.TB) *Broker {
	tb.Helper()
	s, err := LaunchRabbit()
	needRabbit(tb, err)
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close RabbitMQ: %v", err)
		}
	})
	return &Broker{tb: tb, server: s, vhost: "/"}
}

// needRabbit is Need for RabbitMQ.
func needRabbit(tb testing.TB, err error) {
	tb.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrNoRabbit) && os.Getenv(EnvRequire) == "":
		tb.Skipf("skipped: %v", err)
	default:
		tb.Fatalf("RabbitMQ for the test: %v", err)
	}
}

// Broker is a virtual host for a test.
type Broker struct {
	tb     testing.TB
	server *RabbitServer
	vhost  string
}

func (s *RabbitServer) host(tb testing.TB) *Broker {
	tb.Helper()
	random := make([]byte, 6)
	_, _ = rand.Read(random) // never fails: see crypto/rand
	b := &Broker{tb: tb, server: s, vhost: "t" + hex.EncodeToString(random)}
	_, err := s.CreateHost(context.Background(), b.vhost)
	b.check(err)
	tb.Cleanup(func() { b.check(s.DeleteHost(context.Background(), b.vhost)) })
	return b
}

func (b *Broker) must(method, path string, in, out any) {
	b.tb.Helper()
	if err := b.server.Call(context.Background(), method, path, in, out); err != nil {
		b.tb.Fatal(err)
	}
}

// URL is the AMQP URL of an administrator of the virtual host.
func (b *Broker) URL() string { return b.server.HostURL(b.server.User(), b.vhost) }

// Addr is where the broker listens.
func (b *Broker) Addr() string { return b.server.Addr() }

// User makes a user with these rights, until the test ends, and gives its AMQP URL.
func (b *Broker) User(configure, write, read string) string {
	b.tb.Helper()
	name, password := "u"+strings.ToLower(rand.Text()[:12]), rand.Text()
	b.must(http.MethodPut, "/api/users/"+name, map[string]string{"password": password, "tags": ""}, nil)
	b.tb.Cleanup(func() { b.must(http.MethodDelete, "/api/users/"+name, nil, nil) })
	b.check(b.server.Allow(context.Background(), b.vhost, name, sandbox.Permissions{Configure: configure, Write: write, Read: read}))
	return b.server.HostURL(url.UserPassword(name, password), b.vhost)
}

// Connections are the names of the connections to the virtual host.
func (b *Broker) Connections() []string {
	b.tb.Helper()
	names, err := b.server.Connections(context.Background(), b.vhost)
	b.check(err)
	return names
}

// KillConnections has the broker end all connections to the virtual host, and says how many there were.
func (b *Broker) KillConnections() int {
	b.tb.Helper()
	n, err := b.server.KillConnections(context.Background(), b.vhost)
	b.check(err)
	return n
}

// DeleteQueue deletes a queue with what it holds.
func (b *Broker) DeleteQueue(name string) {
	b.tb.Helper()
	b.must(http.MethodDelete, "/api/queues/"+url.PathEscape(b.vhost)+"/"+url.PathEscape(name), nil, nil)
}

// Private parts: of a broker that PrivateRabbit gave.

// Crash ends the broker as kill -9 does; Start starts it again with its data.
func (b *Broker) Crash() { b.check(b.server.Crash()) }

// Start starts the broker again after Crash.
func (b *Broker) Start() { b.check(b.server.Start()) }

// Listed says whether RabbitMQ has a quorum queue on disk, see sandbox.Rabbit.
func (b *Broker) Listed(queue string) bool {
	b.tb.Helper()
	listed, err := b.server.Listed(queue)
	b.check(err)
	return listed
}

// StopApp stops RabbitMQ in order and leaves its process.
func (b *Broker) StopApp() { b.check(b.server.StopApp()) }

// StartApp starts RabbitMQ again after StopApp.
func (b *Broker) StartApp() { b.check(b.server.StartApp()) }

// CutConnections ends all connections as a cable that is cut does, without a word.
func (b *Broker) CutConnections() { b.check(b.server.CutConnections()) }

// SetMemoryAlarm makes the broker believe that it is short of memory, or not.
func (b *Broker) SetMemoryAlarm(on bool) {
	if on {
		b.check(b.server.Eval("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []})"))
	} else {
		b.check(b.server.Eval("rabbit_alarm:clear_alarm({resource_limit, memory, node()})"))
	}
}

// Freeze stops the broker's process until the function it gives is called.
func (b *Broker) Freeze() (thaw func()) {
	b.tb.Helper()
	f, err := b.server.Freeze()
	b.check(err)
	return func() { b.check(f()) }
}

func (b *Broker) check(err error) {
	b.tb.Helper()
	if err != nil {
		b.tb.Fatal(err)
	}
}
