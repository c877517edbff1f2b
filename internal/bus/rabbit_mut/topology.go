package rabbit

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	exchange       = "banyan"        // to subscribers of ours
	eventsExchange = "banyan.events" // to services that are not
)

func queueOf(module string) string    { return exchange + "." + module }
func requestsOf(module string) string { return queueOf(module) + ".requests" }

// queueArgs are the arguments of a subscriber's queue. Without a word about it, servers since 4.0 drop a message that was delivered
// twenty times; before, they know no -1, and take it for "none left".
func queueArgs(serverVersion string) amqp.Table {
	args := amqp.Table{"x-queue-type": "quorum", "x-single-active-consumer": true}
	major, _, _ := strings.Cut(serverVersion, ".")
	if n, err := strconv.Atoi(major); err == nil && n >= 4 {
		args["x-delivery-limit"] = int32(-1)
	}
	return args
}

// declare makes what a subscriber needs, or finds it as it should be.
func declare(conn *amqp.Connection, module string) error {
	if err := declareExchange(conn, exchange, amqp.ExchangeDirect); err != nil {
		return err
	}
	if err := declareQueue(conn, queueOf(module), module, queueArgs(version(conn))); err != nil {
		return err
	}
	return declareQueue(conn, requestsOf(module), module+".requests", nil)
}

func declareEvents(conn *amqp.Connection) error {
	return declareExchange(conn, eventsExchange, amqp.ExchangeTopic)
}

func declareExchange(conn *amqp.Connection, name, kind string) error {
	err := on(conn, func(ch *amqp.Channel) error { return ch.ExchangeDeclare(name, kind, true, false, false, false, nil) })
	if is(err, amqp.AccessRefused) { // others may have made it
		err = on(conn, func(ch *amqp.Channel) error {
			return ch.ExchangeDeclarePassive(name, kind, true, false, false, false, nil)
		})
	}
	switch {
	case err == nil:
		return nil
	case is(err, amqp.NotFound):
		return fmt.Errorf("exchange %s does not exist, and this user may not make it: give it the rights that the documentation lists: %w", name, err)
	case is(err, amqp.PreconditionFailed):
		return fmt.Errorf("exchange %s exists with another type: delete it at the broker (rabbitmqadmin delete exchange name=%s), and it is made anew: %w", name, name, err)
	}
	return fmt.Errorf("declare exchange %s: %w", name, err)
}

func declareQueue(conn *amqp.Connection, name, key string, args amqp.Table) error {
	err := on(conn, func(ch *amqp.Channel) error {
		if _, err := ch.QueueDeclare(name, true, false, false, false, args); err != nil {
			return err
		}
		return ch.QueueBind(name, key, exchange, false, nil)
	})
	if is(err, amqp.AccessRefused) { // it is another module's: that has bound it, or what is sent to it comes back
		err = on(conn, func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclarePassive(name, true, false, false, false, args)
			return err
		})
	}
	switch {
	case err == nil:
		return nil
	case is(err, amqp.NotFound):
		return fmt.Errorf("queue %s does not exist, and this user may not make it: start its module, which makes it, or give this user the right to: %w", name, err)
	case is(err, amqp.PreconditionFailed):
		return fmt.Errorf("queue %s exists with other arguments, so it is not used: let what it holds be handled or move it away, delete it at the broker "+
			"(rabbitmqctl delete_queue --if-empty %s), and it is made anew: %w", name, name, err)
	}
	return fmt.Errorf("declare queue %s: %w", name, err)
}

// on does something in a channel of its own: an error of the broker ends the channel it happens in.
func on(conn *amqp.Connection, f func(*amqp.Channel) error) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := f(ch); err != nil {
		_ = ch.Close() // most often it is closed already
		return err
	}
	return ch.Close()
}

func is(err error, code int) bool {
	var e *amqp.Error
	return errors.As(err, &e) && e.Code == code
}

// Permissions are the regular expressions for `rabbitmqctl set_permissions` of the user of a process that runs these modules: the
// module and more. It may publish to every module, and make and read the queues of its own alone.
func Permissions(module string, more []string) (configure, write, read string) {
	var own []string
	for _, m := range append([]string{module}, more...) {
		own = append(own, regexp.QuoteMeta(queueOf(m)), regexp.QuoteMeta(requestsOf(m)))
	}
	slices.Sort(own)
	both := append([]string{regexp.QuoteMeta(exchange), regexp.QuoteMeta(eventsExchange)}, slices.Compact(own)...)
	all := func(names ...string) string { return "^(" + strings.Join(names, "|") + ")$" }
	// amq.default is where replies go. Reading the exchange is what binding a queue to it needs.
	return all(both...), all(append([]string{`amq\.default`}, both...)...), all(append([]string{regexp.QuoteMeta(exchange)}, own...)...)
}
