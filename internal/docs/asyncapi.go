package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
)

type object = map[string]any

// AsyncAPI is the AsyncAPI 3.0 document of all messages: a channel for each event, command and query, an operation
// for each module that sends or receives one.
func AsyncAPI(modules []module.Descriptor, version string) ([]byte, error) {
	g, err := conversations(modules)
	if err != nil {
		return nil, err
	}
	w := &asyncWriter{
		registry: huma.NewMapRegistry("#/components/schemas/", schemaName),
		channels: object{}, messages: object{}, operations: object{},
	}
	for _, m := range modules {
		w.contract(m.Contract)
	}
	for _, c := range g.calls {
		w.operation(c)
	}
	tags := make([]object, len(modules))
	for i, m := range modules {
		tags[i] = object{"name": m.Name, "description": m.Summary}
	}
	return encode(object{
		"asyncapi": "3.0.0",
		"info": object{
			"title": "Banyan messages", "version": version, "tags": tags,
			"description": "Events, commands and queries between the modules. Delivery is at least once, handling takes effect exactly once; " +
				"messages of one sender and key (ce_source, ce_partitionkey) arrive in the order of ce_sequence. A released version never changes: " +
				"what has to change gets a new version beside it. Unknown fields are to be ignored.",
			"license": object{"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
		},
		"defaultContentType": "application/json",
		"channels":           w.channels,
		"operations":         w.operations,
		"components": object{
			"messages": w.messages,
			"schemas":  w.schemas(),
			"messageTraits": object{
				"envelope": object{"headers": envelope(), "correlationId": object{
					"location": "$message.header#/ce_correlationid", "description": "Ties together everything that one request causes.",
				}},
				"request": object{"headers": object{"type": "object", "properties": object{
					"traceparent": object{"type": "string", "description": "W3C trace context."},
				}}},
			},
		},
	})
}

type asyncWriter struct {
	registry                       huma.Registry
	channels, messages, operations object
}

// envelope describes the headers of events and commands: CloudEvents 1.0 in binary mode.
func envelope() object {
	text := func(description string) object { return object{"type": "string", "description": description} }
	return object{
		"type": "object",
		"required": []string{"ce_id", "ce_type", "ce_source", "ce_specversion", "ce_time", "ce_partitionkey", "ce_sequence",
			"ce_correlationid", "content-type"},
		"properties": object{
			"ce_id":              text("Id of the message, a UUID. A repeat has the same."),
			"ce_type":            text("Wire name with its version."),
			"ce_source":          object{"type": "string", "pattern": "^/[a-z][a-z0-9]*$", "description": "Module that sent it, as in /orders."},
			"ce_specversion":     object{"type": "string", "const": "1.0"},
			"ce_time":            object{"type": "string", "format": "date-time"},
			"ce_partitionkey":    text("The aggregate. Messages of one source and key keep their order."),
			"ce_sequence":        object{"type": "string", "pattern": "^[1-9][0-9]*$", "description": "1, 2, 3 … for each source and key."},
			"ce_correlationid":   text("Ties together everything that one request causes."),
			"ce_causationid":     text("Id of the message that caused this one."),
			"ce_personalsubject": text("Id of the user whose personal data the payload holds."),
			"content-type":       object{"type": "string", "const": "application/json"},
			"traceparent":        text("W3C trace context."),
		},
	}
}

func (w *asyncWriter) contract(c message.Contract) {
	for _, e := range c.Events {
		w.channel(e.MessageName(), fmt.Sprintf("Event that %s announces.", c.Module), c.Module, w.message(e.MessageName(), e, "event", "envelope"))
	}
	for _, cmd := range c.Commands {
		w.channel(cmd.MessageName(), fmt.Sprintf("Command to %s, carried out once; an event answers it.", c.Module), c.Module,
			w.message(cmd.MessageName(), cmd, "command", "envelope"))
	}
	for _, x := range c.Queries {
		name := x.Query.MessageName()
		w.channel(name, fmt.Sprintf("Question to %s, answered before its deadline.", c.Module), c.Module, w.message(name, x.Query, "query", "request"))
		w.channel(replyName(name), fmt.Sprintf("Answer of %s to %s.", c.Module, name), c.Module, w.message(replyName(name), x.Reply, "reply", "request"))
	}
}

func replyName(query string) string { return query + ".reply" }

func (w *asyncWriter) message(name string, payload any, kind, trait string) string {
	t := reflect.TypeOf(payload)
	w.messages[name] = object{
		"name": name, "title": t.Name(), "summary": strings.ToUpper(kind[:1]) + kind[1:] + " " + t.Name(), "contentType": "application/json",
		"payload": w.registry.Schema(t, true, t.Name()),
		"traits":  []object{ref("components", "messageTraits", trait)},
		"tags":    []object{{"name": kind}},
	}
	return name
}

func (w *asyncWriter) channel(name, description, owner, msg string) {
	// The address of a reply is told by the request.
	var address any = name
	if strings.HasSuffix(name, ".reply") {
		address = nil
	}
	w.channels[name] = object{
		"address": address, "title": name, "description": description, "tags": []object{{"name": owner}},
		"messages": object{"message": ref("components", "messages", msg)},
	}
}

func (w *asyncWriter) operation(c call) {
	id := c.module + "." + c.action + "." + c.name
	if c.handler != "" {
		id = c.module + "." + c.action + "." + c.handler + "." + c.name
	}
	op := object{
		"action": c.action, "channel": ref("channels", c.name), "tags": []object{{"name": c.module}},
		"messages": []object{ref("channels", c.name, "messages", "message")},
		"summary":  c.summary(),
	}
	if c.kind == query {
		op["reply"] = object{"channel": ref("channels", replyName(c.name)), "messages": []object{ref("channels", replyName(c.name), "messages", "message")}}
	}
	w.operations[id] = op
}

func ref(parts ...string) object {
	escaped := make([]string, len(parts))
	for i, p := range parts {
		escaped[i] = strings.NewReplacer("~", "~0", "/", "~1").Replace(p)
	}
	return object{"$ref": "#/" + strings.Join(escaped, "/")}
}

// schemas are those of the payloads. Huma's are made for requests, where unknown fields are refused; messages
// ignore them.
func (w *asyncWriter) schemas() object {
	all := object{}
	for name, s := range w.registry.Map() {
		if s.AdditionalProperties == false {
			s.AdditionalProperties = nil
		}
		t := w.registry.TypeFromRef("#/components/schemas/" + name)
		for _, f := range reflect.VisibleFields(t) {
			property, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			p := s.Properties[property]
			if p == nil || f.Tag.Get("personal") != "true" {
				continue
			}
			p.Description = strings.TrimSpace(p.Description + " Personal: blanked everywhere when the user is erased.")
			p.Extensions = map[string]any{"x-personal": true}
		}
		all[name] = s
	}
	return all
}

// schemaName puts the module before the name of a type, which may be that of a type of another module: catalog.Product.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Name() == "" {
		return huma.DefaultSchemaNamer(t, hint)
	}
	return strings.TrimSuffix(path.Base(t.PkgPath()), "api") + "." + huma.DefaultSchemaNamer(t, hint)
}

// kind says what sort of message is meant.
type kind string

const (
	event   kind = "event"
	command kind = "command"
	query   kind = "query"
)

// call is a module's end of a conversation.
type call struct {
	module  string // who sends or receives
	action  string // "send" or "receive"
	kind    kind
	name    string // wire name
	owner   string // module whose contract it is
	handler string // of a subscription
}

func (c call) summary() string {
	switch {
	case c.kind == event && c.action == "send":
		return c.module + " announces it"
	case c.kind == event:
		return c.module + " hears of it"
	case c.kind == command && c.action == "send":
		return c.module + " asks for it"
	case c.kind == command:
		return c.module + " carries it out"
	case c.action == "send":
		return c.module + " asks"
	}
	return c.module + " answers"
}

// graph is who says what to whom.
type graph struct {
	calls []call // in the order of the modules and of their declarations
	kinds map[string]kind
}

// conversations reads the descriptors; a name that no contract has is an error.
func conversations(modules []module.Descriptor) (graph, error) {
	g := graph{kinds: map[string]kind{}}
	var events []string
	declare := func(name string, k kind) error {
		if g.kinds[name] != "" {
			return fmt.Errorf("%s is in two contracts", name)
		}
		g.kinds[name] = k
		if k == event {
			events = append(events, name)
		}
		return nil
	}
	for _, m := range modules {
		for name, k := range declared(m.Contract) {
			if err := declare(name, k); err != nil {
				return g, err
			}
		}
	}
	for _, m := range modules {
		add := func(action string, k kind, name, handler string) {
			g.calls = append(g.calls, call{module: m.Name, action: action, kind: k, name: name, owner: message.Module(name), handler: handler})
		}
		for _, e := range m.Contract.Events {
			add("send", event, e.MessageName(), "")
		}
		for _, c := range m.Contract.Commands {
			add("receive", command, c.MessageName(), "")
		}
		for _, x := range m.Contract.Queries {
			add("receive", query, x.Query.MessageName(), "")
		}
		for _, s := range m.Subscriptions {
			for _, pattern := range s.Events {
				matches := expand(pattern, events)
				if len(matches) == 0 {
					return g, fmt.Errorf("module %s: subscription %s: no contract has an event %q", m.Name, s.Handler, pattern)
				}
				for _, name := range matches {
					add("receive", event, name, s.Handler)
				}
			}
		}
		for _, use := range []struct {
			kind  kind
			names []string
		}{{command, m.Sends}, {query, m.Asks}} {
			for _, name := range use.names {
				if g.kinds[name] != use.kind {
					return g, fmt.Errorf("module %s: no contract has a %s %q", m.Name, use.kind, name)
				}
				add("send", use.kind, name, "")
			}
		}
	}
	return g, nil
}

func declared(c message.Contract) map[string]kind {
	kinds := map[string]kind{}
	for _, e := range c.Events {
		kinds[e.MessageName()] = event
	}
	for _, cmd := range c.Commands {
		kinds[cmd.MessageName()] = command
	}
	for _, x := range c.Queries {
		kinds[x.Query.MessageName()] = query
	}
	return kinds
}

// expand lists the events that a name or a prefix as in "payments.*" means.
func expand(pattern string, events []string) []string {
	prefix, wildcard := strings.CutSuffix(pattern, "*")
	var names []string
	for _, name := range events {
		if name == pattern || wildcard && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
