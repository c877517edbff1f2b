package bus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/banyan-go/banyan/internal/message"
)

// The metadata of a message on the wire: CloudEvents 1.0 in binary mode, as strings.
const (
	headerID          = "ce_id"
	headerType        = "ce_type"
	headerSource      = "ce_source"
	headerSpec        = "ce_specversion"
	headerTime        = "ce_time"
	headerKey         = "ce_partitionkey"
	headerSequence    = "ce_sequence"
	headerCorrelation = "ce_correlationid"
	headerCausation   = "ce_causationid"
	headerPersonal    = "ce_personalsubject"
	headerContentType = "content-type"
	headerTraceparent = "traceparent"
)

// encode gives the message the form in which it crosses a transport: with a payload of its own, as if it came from afar.
func encode(m message.Message) *wm.Message {
	w := wm.NewMessage(m.ID, bytes.Clone(m.Payload))
	w.Metadata = wm.Metadata{
		headerID: m.ID, headerType: m.Name, headerSource: "/" + m.Source, headerSpec: "1.0", headerTime: m.Time.UTC().Format(time.RFC3339Nano),
		headerKey: m.Key, headerSequence: strconv.FormatInt(m.Sequence, 10), headerCorrelation: m.CorrelationID, headerContentType: "application/json",
	}
	for k, v := range map[string]string{headerCausation: m.CausationID, headerPersonal: m.Subject, headerTraceparent: m.Traceparent} {
		if v != "" {
			w.Metadata[k] = v
		}
	}
	return w
}

// decode reads what encode wrote, and refuses anything else by naming the header: also what no store could keep, as somebody else may
// have put it into the queue.
func decode(w *wm.Message) (message.Message, error) {
	m := message.Message{
		ID: w.UUID, Name: w.Metadata[headerType], Key: w.Metadata[headerKey], CorrelationID: w.Metadata[headerCorrelation],
		CausationID: w.Metadata[headerCausation], Traceparent: w.Metadata[headerTraceparent], Subject: w.Metadata[headerPersonal], Payload: []byte(w.Payload),
	}
	if m.ID == "" || m.ID != w.Metadata[headerID] {
		return m, fmt.Errorf("header %s is not the id of the message", headerID)
	}
	if err := message.CheckName(m.Name); err != nil {
		return m, fmt.Errorf("header %s: %w", headerType, err)
	}
	source := w.Metadata[headerSource]
	if len(source) < 2 || source[0] != '/' {
		return m, fmt.Errorf(`header %s: %q is not "/<module>"`, headerSource, source)
	}
	m.Source = source[1:]
	if m.Key == "" {
		return m, fmt.Errorf("header %s is missing", headerKey)
	}
	var err error
	if m.Sequence, err = strconv.ParseInt(w.Metadata[headerSequence], 10, 64); err != nil || m.Sequence < 1 {
		return m, fmt.Errorf("header %s: %q is not a positive number", headerSequence, w.Metadata[headerSequence])
	}
	if m.Time, err = time.Parse(time.RFC3339Nano, w.Metadata[headerTime]); err != nil {
		return m, fmt.Errorf("header %s: %q is not a time", headerTime, w.Metadata[headerTime])
	}
	m.Time = m.Time.UTC()
	for _, h := range []struct{ name, value string }{
		{headerID, m.ID}, {headerSource, m.Source}, {headerKey, m.Key}, {headerCorrelation, m.CorrelationID}, {headerCausation, m.CausationID},
		{headerPersonal, m.Subject}, {headerTraceparent, m.Traceparent},
	} {
		if err := message.CheckText(h.value); err != nil {
			return m, fmt.Errorf("header %s %w", h.name, err)
		}
	}
	if !json.Valid(m.Payload) {
		return m, errors.New("the payload is no JSON")
	}
	return m, nil
}

// legible is all of a message for people, in JSON.
func legible(w *wm.Message) []byte {
	kept := struct {
		ID       string            `json:"id"`
		Metadata map[string]string `json:"metadata"`
		Payload  string            `json:"payload,omitempty"`
		Binary   []byte            `json:"payload_base64,omitempty"` // one that is no text
	}{ID: w.UUID, Metadata: w.Metadata}
	if utf8.Valid(w.Payload) {
		kept.Payload = string(w.Payload)
	} else {
		kept.Binary = w.Payload
	}
	text, _ := json.Marshal(kept) // strings and bytes alone
	return text
}
