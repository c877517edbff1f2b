package rabbit

import (
	"crypto/tls"
	"fmt"
	"net/url"
	"regexp"
	"time"

	"github.com/banyan-go/banyan/internal/certs"
	"github.com/banyan-go/banyan/internal/secret"
)

// Config is the part bus.rabbitmq of the configuration.
type Config struct {
	URL            secret.Text   `mapstructure:"url"`             // amqp://user:password@host:5672/vhost, or amqps; "" for no broker
	TLS            TLSConfig     `mapstructure:"tls"`             // of amqps
	Heartbeat      time.Duration `mapstructure:"heartbeat"`       // a process or a broker that hangs is dropped after three
	Prefetch       int           `mapstructure:"prefetch"`        // messages of one subscription in memory
	Window         int           `mapstructure:"window"`          // unconfirmed messages to one subscriber
	RedialMin      time.Duration `mapstructure:"redial_min"`      // first pause before connecting again
	RedialMax      time.Duration `mapstructure:"redial_max"`      // longest pause
	ConfirmTimeout time.Duration `mapstructure:"confirm_timeout"` // then a message counts as not sent
	CloseTimeout   time.Duration `mapstructure:"close_timeout"`   // for messages that are being handled at the end of a subscription
	Calls          int           `mapstructure:"calls"`           // questions to one module at a time
	Breaker        BreakerConfig `mapstructure:"breaker"`         // of questions to one module
	Events         bool          `mapstructure:"events"`          // all events go to the exchange banyan.events too, for services that are not ours
}

// TLSConfig are PEM files; they are read at each connection, so that renewed ones are taken up.
type TLSConfig struct {
	CA         string `mapstructure:"ca"`          // who vouches for the broker; "" for the system's roots
	Cert       string `mapstructure:"cert"`        // by which the broker knows us; "" for none
	Key        string `mapstructure:"key"`         // of cert
	ServerName string `mapstructure:"server_name"` // in the broker's certificate; "" for the host of the URL
}

// BreakerConfig says when questions to a module that does not answer are refused at once.
type BreakerConfig struct {
	Failures int           `mapstructure:"failures"` // in a row, that open it; 0 for no breaker
	Open     time.Duration `mapstructure:"open"`     // until one question is let through to see
}

// DefaultConfig suits a small machine; it names no broker.
func DefaultConfig() Config {
	return Config{
		Heartbeat: 2 * time.Second, Prefetch: 256, Window: 512, RedialMin: 50 * time.Millisecond, RedialMax: 2 * time.Second,
		ConfirmTimeout: 10 * time.Second, CloseTimeout: 20 * time.Second, Calls: 256, Breaker: BreakerConfig{Failures: 10, Open: time.Second},
	}
}

// Validate names the wrong key and the way out. It never shows the URL.
func (c Config) Validate() error {
	if c.URL != "" {
		if err := c.validateURL(); err != nil {
			return err
		}
	}
	for _, v := range []struct {
		key string
		ok  bool
		way string
	}{
		{"tls.cert", (c.TLS.Cert == "") == (c.TLS.Key == ""), "give both bus.rabbitmq.tls.cert and bus.rabbitmq.tls.key, or neither"},
		{"heartbeat", c.Heartbeat >= time.Second && c.Heartbeat <= 2*time.Second, "give 1s or 2s: a consumer that hangs blocks its queue until it is noticed"},
		{"prefetch", c.Prefetch >= 1 && c.Prefetch <= 65535, "give 1 to 65535"},
		{"window", c.Window >= 1, "give at least 1"},
		{"redial_min", c.RedialMin > 0, "give a duration as in 50ms"},
		{"redial_max", c.RedialMax >= c.RedialMin, "give at least bus.rabbitmq.redial_min"},
		{"confirm_timeout", c.ConfirmTimeout > 0, "give a duration as in 10s"},
		{"close_timeout", c.CloseTimeout > 0, "give a duration as in 20s"},
		{"calls", c.Calls >= 1, "give at least 1"},
		{"breaker.failures", c.Breaker.Failures >= 0, "give a number, or 0 for no breaker"},
		{"breaker.open", c.Breaker.Failures == 0 || c.Breaker.Open > 0, "give a duration as in 1s"},
	} {
		if !v.ok {
			return fmt.Errorf("bus.rabbitmq.%s: is out of range; %s", v.key, v.way)
		}
	}
	return nil
}

func (c Config) validateURL() error {
	const form = "give it as in amqp://user:password@host:5672/vhost (amqps for TLS; other characters than letters and digits in a password as %40 and so on)"
	u, err := url.Parse(c.URL.Reveal())
	switch {
	case err != nil || u.Hostname() == "" || (u.Scheme != "amqp" && u.Scheme != "amqps"): // err shows the URL
		return fmt.Errorf("bus.rabbitmq.url: cannot be read; %s", form)
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("bus.rabbitmq.url: has parameters, which would override other keys; leave them out")
	case u.Scheme == "amqp" && c.TLS != (TLSConfig{}):
		return fmt.Errorf("bus.rabbitmq.tls: is set, and bus.rabbitmq.url is amqp; give an amqps URL, or leave bus.rabbitmq.tls empty")
	}
	return nil
}

// client is the TLS configuration of a new connection.
func (c TLSConfig) client() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if c.CA != "" {
		var err error
		if t.RootCAs, err = certs.Trusted(c.CA); err != nil {
			return nil, fmt.Errorf("bus.rabbitmq.tls.ca: %w", err)
		}
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("bus.rabbitmq.tls.cert: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

var moduleForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

func checkModule(name string) error {
	if !moduleForm.MatchString(name) {
		return fmt.Errorf("%q is not the name of a module", name)
	}
	return nil
}
