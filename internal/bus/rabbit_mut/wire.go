package rabbit

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/banyan-go/banyan/internal/errs"
)

const (
	headerUUID        = "_watermill_message_uuid"
	headerSource      = "ce_source"
	headerKey         = "ce_partitionkey"
	headerType        = "ce_type"
	headerCorrelation = "ce_correlationid"
	headerBarrier     = "banyan_barrier"

	maxBody    = 16 << 20 // the limit of a server since 4.0
	maxHeaders = 64 << 10 // they have to fit into one frame, of 128 KiB
	maxShort   = 255      // bytes of a name or a property
)

// marshal gives a message the form in which watermill-amqp sends it. What the broker would answer by closing the channel, and so
// fail other messages with it, is refused here.
func marshal(m *message.Message) (amqp.Publishing, error) {
	p := amqp.Publishing{
		Headers: amqp.Table{headerUUID: m.UUID}, Body: m.Payload, DeliveryMode: amqp.Persistent,
		MessageId: m.UUID, Type: short(m.Metadata[headerType]), CorrelationId: short(m.Metadata[headerCorrelation]), ContentType: short(m.Metadata["content-type"]),
	}
	if m.UUID == "" || len(m.UUID) > maxShort {
		return p, errs.New(errs.Invalid, "a message needs an id of 1 to %d bytes", maxShort)
	}
	size := 0
	for k, v := range m.Metadata {
		if k == "" || len(k) > maxShort {
			return p, errs.New(errs.Invalid, "message %s: the name of a header has %d bytes, not 1 to %d", m.UUID, len(k), maxShort)
		}
		size += len(k) + len(v) + 8
		p.Headers[k] = v
	}
	return p, fits(m.UUID, size, len(m.Payload))
}

func fits(what string, headers, body int) error {
	if headers > maxHeaders {
		return errs.New(errs.TooLarge, "message %s: its headers have %d bytes, more than %d", what, headers, maxHeaders)
	}
	if body > maxBody {
		return errs.New(errs.TooLarge, "message %s has %d bytes, more than %d", what, body, maxBody)
	}
	return nil
}

func short(s string) string {
	if len(s) > maxShort {
		return ""
	}
	return s
}

// unmarshal reads whatever somebody has sent: headers that are no text become one or are left out, so that no message is refused
// for ever.
func unmarshal(d *amqp.Delivery) *message.Message {
	meta := make(message.Metadata, len(d.Headers))
	for k, v := range d.Headers {
		if s, ok := text(v); ok {
			meta[k] = s
		}
	}
	id := meta[headerUUID]
	delete(meta, headerUUID)
	for _, other := range []string{d.MessageId, meta["ce_id"]} {
		if id == "" {
			id = other
		}
	}
	m := message.NewMessage(id, d.Body)
	m.Metadata = meta
	return m
}

func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case []byte:
		return string(v), utf8.Valid(v)
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano), true
	case bool, int, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float32, float64:
		return fmt.Sprint(v), true
	}
	return "", false
}

// keyOf is what the order of a message is kept within.
func keyOf(m *message.Message) string {
	return strings.Join([]string{m.Metadata[headerSource], m.Metadata[headerKey]}, "\x00")
}
