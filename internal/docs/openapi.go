package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/rest"
)

// OpenAPI is the OpenAPI 3.1 document of all routes. Mounting them opens nothing: modules made without any
// dependencies will do.
func OpenAPI(modules []*module.Module, version string) ([]byte, error) {
	paths, tags := object{}, []object{}
	parts := make([]part, 0, len(modules))
	for _, m := range modules {
		p, err := describe(m, version)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
		tags = append(tags, object{"name": m.Name, "description": m.Summary})
	}
	schemas := merge(parts)
	var security any
	for _, p := range parts {
		for route, operations := range p.paths {
			known, ok := paths[route].(object)
			if !ok {
				paths[route] = operations
				continue
			}
			maps.Copy(known, operations.(object))
		}
		security = p.security
	}
	return encode(object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Banyan", "version": version,
			"description": "The shop. Send an Idempotency-Key with every POST and PATCH that takes one: a repeat then gets the first answer and nothing happens " +
				"twice. Errors are problem+json (RFC 9457). Lists come in pages: pass `next` of one as `cursor` of the following.",
			"license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"servers":    []object{{"url": "/"}},
		"tags":       tags,
		"paths":      paths,
		"components": object{"schemas": schemas, "securitySchemes": security},
	})
}

// part is the document of one module. Modules are described apart, because two of them may have types of one name.
type part struct {
	module   string
	paths    object
	schemas  object
	security any
}

func describe(m *module.Module, version string) (p part, err error) {
	defer func() {
		// Huma panics on types it cannot describe; whoever wrote the type wants to know which module it is in.
		if cause := recover(); cause != nil {
			err = fmt.Errorf("describe the routes of %s: %v", m.Name, cause)
		}
	}()
	if err := m.Check(); err != nil {
		return part{}, err
	}
	log := slog.New(slog.DiscardHandler)
	api := rest.NewAPI("Banyan", version, rest.NewEcho(log), log)
	m.Register(api, func(r module.Route) huma.Operation {
		op := rest.Operation(m.Name, r)
		problems(api.OpenAPI().Components.Schemas, &op)
		if r.Class == module.Stream {
			op.Responses[strconv.Itoa(op.DefaultStatus)] = &huma.Response{
				Description: "Server-sent events, without end", Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: "string"}}},
			}
		}
		return op
	})
	body, err := json.Marshal(api.OpenAPI())
	if err != nil {
		return part{}, fmt.Errorf("describe the routes of %s: %w", m.Name, err)
	}
	var doc struct {
		Paths      object
		Components struct {
			Schemas         object
			SecuritySchemes any
		}
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // limits of amounts do not fit a float
	if err := d.Decode(&doc); err != nil {
		return part{}, fmt.Errorf("describe the routes of %s: %w", m.Name, err)
	}
	return part{module: m.Name, paths: doc.Paths, schemas: doc.Components.Schemas, security: doc.Components.SecuritySchemes}, nil
}

// problems describes the errors as rest sends them; left alone huma would describe its own model.
func problems(registry huma.Registry, op *huma.Operation) {
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	schema := registry.Schema(reflect.TypeFor[rest.Problem](), true, "Problem")
	for _, status := range op.Errors {
		r := &huma.Response{Description: http.StatusText(status), Content: map[string]*huma.MediaType{"application/problem+json": {Schema: schema}}}
		if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
			r.Headers = map[string]*huma.Param{"Retry-After": {Description: "Seconds to wait", Schema: &huma.Schema{Type: "integer"}}}
		}
		op.Responses[strconv.Itoa(status)] = r
	}
	op.Errors = nil
}

const schemaPrefix = "#/components/schemas/"

// merge puts the schemas of all modules together. Where two modules mean different things by one name, the name of
// the module is put before both, in the references too.
func merge(parts []part) object {
	texts := map[string]map[string]bool{} // name -> its definitions
	for _, p := range parts {
		for name, s := range p.schemas {
			if texts[name] == nil {
				texts[name] = map[string]bool{}
			}
			texts[name][text(s)] = true
		}
	}
	ambiguous := map[string]bool{}
	for name, definitions := range texts {
		ambiguous[name] = len(definitions) > 1
	}
	// What refers to an ambiguous name means different things too, though its text is the same everywhere.
	for changed := true; changed; {
		changed = false
		for _, p := range parts {
			for name, s := range p.schemas {
				if ambiguous[name] {
					continue
				}
				refs(s, func(to string) string {
					if ambiguous[to] {
						ambiguous[name], changed = true, true
					}
					return to
				})
			}
		}
	}
	all := object{}
	for _, p := range parts {
		rename := func(name string) string {
			if !ambiguous[name] {
				return name
			}
			return strings.ToUpper(p.module[:1]) + p.module[1:] + name
		}
		refs(p.paths, rename)
		for _, name := range slices.Sorted(maps.Keys(p.schemas)) {
			refs(p.schemas[name], rename)
			all[rename(name)] = p.schemas[name]
		}
	}
	return all
}

// refs replaces the names of the schemas that a part of the document refers to.
func refs(v any, rename func(string) string) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			refs(item, rename)
		}
	case object:
		for key, item := range v {
			if target, ok := item.(string); ok && key == "$ref" {
				if name, ok := strings.CutPrefix(target, schemaPrefix); ok {
					v[key] = schemaPrefix + rename(name)
				}
				continue
			}
			refs(item, rename)
		}
	}
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error() // decoded from JSON: it cannot happen
	}
	return string(b)
}
