package docs

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
)

// Two small modules, whose types have the same names.
type (
	Line struct {
		SKU   string      `json:"sku"`
		Price money.Money `json:"price"`
	}
	Opened struct {
		ShopID string    `json:"shop_id"`
		Owner  string    `json:"owner" personal:"true"`
		Lines  []Line    `json:"lines,omitempty"`
		At     time.Time `json:"at"`
	}
	Closed struct {
		ShopID string `json:"shop_id"`
	}
	Close struct {
		ShopID string `json:"shop_id"`
	}
	GetShop struct {
		ShopID string `json:"shop_id"`
	}
	Shop struct {
		Open bool `json:"open"`
	}
	Noted struct {
		ID string `json:"id"`
	}
)

func (Opened) MessageName() string       { return "shops.opened.v1" }
func (Closed) MessageName() string       { return "shops.closed.v2" }
func (Close) MessageName() string        { return "shops.close.v1" }
func (GetShop) MessageName() string      { return "shops.get_shop.v1" }
func (Noted) MessageName() string        { return "notes.noted.v1" }
func (e Opened) MessageKey() string      { return e.ShopID }
func (e Closed) MessageKey() string      { return e.ShopID }
func (c Close) MessageKey() string       { return c.ShopID }
func (e Noted) MessageKey() string       { return e.ID }
func (e Opened) PersonalSubject() string { return e.ShopID }

func shops() module.Descriptor {
	return module.Descriptor{
		Name: "shops", Summary: `open and close "shops"`,
		Contract: message.Contract{
			Module: "shops", Events: []message.Event{Opened{}, Closed{}}, Commands: []message.Command{Close{}},
			Queries: []message.Exchange{{Query: GetShop{}, Reply: Shop{}}},
		},
		Routes: []module.Route{
			{ID: "open-shop", Method: "POST", Path: "/api/shops", Class: module.Write, Auth: identity.Staff, Status: 201, Summary: "Open a shop"},
			{ID: "get-shop", Method: "GET", Path: "/api/shops/{id}", Class: module.Read, Summary: "Read a shop"},
			{ID: "follow-shop", Method: "GET", Path: "/api/shops/{id}/live", Class: module.Stream, Summary: "Follow a shop"},
		},
	}
}

func notes() module.Descriptor {
	return module.Descriptor{
		Name: "notes", Summary: "write down what happens",
		Contract:      message.Contract{Module: "notes", Events: []message.Event{Noted{}}},
		Subscriptions: []module.Subscription{{Handler: "write", Events: []string{"shops.*"}}},
		Asks:          []string{"shops.get_shop.v1"},
		Sends:         []string{"shops.close.v1"},
		Routes:        []module.Route{{ID: "list-notes", Method: "GET", Path: "/api/notes", Class: module.Read, Summary: "List notes"}},
	}
}

func descriptors() []module.Descriptor { return []module.Descriptor{shops(), notes()} }

func modules(t *testing.T) []*module.Module {
	t.Helper()
	type item struct {
		Total int64 `json:"total" minimum:"0" maximum:"100000000000000"`
	}
	type list struct {
		Items []item `json:"items"`
	}
	type id struct {
		ID string `path:"id" maxLength:"36"`
	}
	type openInput struct{ Body list }
	s := module.New(shops())
	rest.Handle(s, "open-shop", func(context.Context, *openInput) (*rest.Answer[item], error) { return nil, nil })
	rest.Handle(s, "get-shop", func(context.Context, *id) (*rest.Answer[list], error) { return nil, nil })
	rest.Handle(s, "follow-shop", func(context.Context, *id) (*huma.StreamResponse, error) { return nil, nil })
	module.OnCommand(s, func(context.Context, *unit.Work, Close) error { return nil })
	module.OnQuery(s, func(context.Context, GetShop) (Shop, error) { return Shop{}, nil })
	return []*module.Module{s, notesModule()}
}

func notesModule() *module.Module {
	type item struct { // not the item of shops
		Text string `json:"text"`
	}
	type list struct { // the same text as the list of shops, and yet another list
		Items []item `json:"items"`
	}
	type input struct{ rest.Page }
	n := module.New(notes())
	rest.Handle(n, "list-notes", func(context.Context, *input) (*rest.Answer[list], error) { return nil, nil })
	module.OnEvent(n, "write", func(context.Context, *unit.Work, Opened) error { return nil })
	return n
}

// schema reads a schema of the specification from testdata.
func schema(t *testing.T, file string) *jsonschema.Schema {
	t.Helper()
	f, err := os.Open("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(r)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("spec.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("spec.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, document []byte) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

func decode(t *testing.T, document []byte) object {
	t.Helper()
	var doc object
	if err := json.Unmarshal(document, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// at follows a path of keys.
func at(t *testing.T, v any, keys ...string) any {
	t.Helper()
	for _, k := range keys {
		m, ok := v.(object)
		if !ok || m[k] == nil {
			t.Fatalf("nothing at %q of %q", k, keys)
		}
		v = m[k]
	}
	return v
}

// resolve checks that every reference leads somewhere.
func resolve(t *testing.T, doc object) {
	t.Helper()
	seen := 0
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				walk(item)
			}
		case object:
			for k, item := range v {
				target, ok := item.(string)
				if k != "$ref" || !ok {
					walk(item)
					continue
				}
				seen++
				var to any = doc
				for _, key := range strings.Split(strings.TrimPrefix(target, "#/"), "/") {
					m, _ := to.(object)
					to = m[key]
				}
				if to == nil {
					t.Errorf("%s leads nowhere", target)
				}
			}
		}
	}
	walk(doc)
	if seen == 0 {
		t.Error("no reference found: the check has seen nothing")
	}
}

func TestAsyncAPI(t *testing.T) {
	t.Parallel()
	body, err := AsyncAPI(descriptors(), "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	spec := schema(t, "asyncapi-3.0.0.json.gz")
	if err := validate(t, spec, body); err != nil {
		t.Errorf("not AsyncAPI 3.0: %v", err)
	}
	// The check has to be able to fail.
	if err := validate(t, spec, bytes.Replace(body, []byte(`"action": "send"`), []byte(`"action": "shout"`), 1)); err == nil {
		t.Error("the specification lets a wrong document pass")
	}
	doc := decode(t, body)
	resolve(t, doc)

	if got := at(t, doc, "channels", "shops.opened.v1", "address"); got != "shops.opened.v1" {
		t.Errorf("got the address %q", got)
	}
	for _, id := range []string{
		"shops.send.shops.opened.v1", "notes.receive.write.shops.opened.v1", "notes.receive.write.shops.closed.v2",
		"notes.send.shops.close.v1", "shops.receive.shops.close.v1", "notes.send.shops.get_shop.v1", "shops.receive.shops.get_shop.v1",
	} {
		at(t, doc, "operations", id, "channel", "$ref")
	}
	if got := len(at(t, doc, "operations").(object)); got != 9 {
		t.Errorf("got %d operations, want 9", got)
	}
	at(t, doc, "operations", "notes.send.shops.get_shop.v1", "reply", "channel")

	opened := at(t, doc, "components", "schemas", "docs.Opened").(object)
	if opened["additionalProperties"] != nil {
		t.Error("the schema refuses unknown fields, which messages ignore")
	}
	if got := at(t, opened, "properties", "owner", "x-personal"); got != true {
		t.Errorf("got x-personal %v, want true", got)
	}
	if required := opened["required"].([]any); slices.Contains(required, any("lines")) || !slices.Contains(required, any("shop_id")) {
		t.Errorf("got %v required, want shop_id and not lines", required)
	}
	again, err := AsyncAPI(descriptors(), "1.2.3")
	if err != nil || !bytes.Equal(body, again) {
		t.Error("two runs make two documents")
	}
}

func TestAsyncAPINamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*module.Descriptor)
		want   string
	}{
		{"wildcard without a match", func(d *module.Descriptor) { d.Subscriptions[0].Events = []string{"shop.*"} }, `"shop.*"`},
		{"unknown event", func(d *module.Descriptor) { d.Subscriptions[0].Events = []string{"shops.opened.v2"} }, `"shops.opened.v2"`},
		{"subscription to a command", func(d *module.Descriptor) { d.Subscriptions[0].Events = []string{"shops.close.v1"} }, `"shops.close.v1"`},
		{"unknown command", func(d *module.Descriptor) { d.Sends = []string{"shops.opened.v1"} }, `command "shops.opened.v1"`},
		{"unknown query", func(d *module.Descriptor) { d.Asks = []string{"shops.close.v1"} }, `query "shops.close.v1"`},
		{"name in two contracts", func(d *module.Descriptor) { d.Contract.Events = []message.Event{Opened{}} }, "two contracts"},
	} {
		n := notes()
		c.change(&n)
		if _, err := AsyncAPI([]module.Descriptor{shops(), n}, "1"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %s", c.name, err, c.want)
		}
	}
}

// The headers stand in internal/bus, which is not asked for them at run time.
func TestEnvelopeIsThatOfTheBus(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("../bus/envelope.go")
	if err != nil {
		t.Fatal(err)
	}
	described := envelope()["properties"].(object)
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`header[A-Z]\w+\s*=\s*"([^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		used[m[1]] = true
		if described[m[1]] == nil {
			t.Errorf("header %s of the bus is not described", m[1])
		}
	}
	for name := range described {
		if !used[name] {
			t.Errorf("header %s is described, but the bus does not send it", name)
		}
	}
}

func TestOpenAPI(t *testing.T) {
	t.Parallel()
	body, err := OpenAPI(modules(t), "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	spec := schema(t, "openapi-3.1.json.gz")
	if err := validate(t, spec, body); err != nil {
		t.Errorf("not OpenAPI 3.1: %v", err)
	}
	if err := validate(t, spec, bytes.Replace(body, []byte(`"in": "path"`), []byte(`"in": "air"`), 1)); err == nil {
		t.Error("the specification lets a wrong document pass")
	}
	doc := decode(t, body)
	resolve(t, doc)

	post := at(t, doc, "paths", "/api/shops", "post").(object)
	if !hasHeader(post, "Idempotency-Key") {
		t.Error("POST has no Idempotency-Key")
	}
	if get := at(t, doc, "paths", "/api/shops/{id}", "get").(object); hasHeader(get, "Idempotency-Key") {
		t.Error("GET has an Idempotency-Key")
	} else if get["security"] != nil {
		t.Error("a route for everybody asks for a token")
	}
	if len(post["security"].([]any)) == 0 {
		t.Error("a route for staff asks for no token")
	}
	at(t, doc, "components", "securitySchemes", "bearer")
	at(t, post, "responses", "201")
	problem := at(t, post, "responses", "422", "content", "application/problem+json", "schema", "$ref")
	if problem != "#/components/schemas/Problem" {
		t.Errorf("got the problem %v", problem)
	}
	at(t, doc, "components", "schemas", "Problem", "properties", "kind")
	at(t, post, "responses", "503", "headers", "Retry-After")
	at(t, doc, "paths", "/api/shops/{id}/live", "get", "responses", "200", "content", "text/event-stream")

	// Both modules have an Item of their own, and Lists that differ in nothing but what they refer to.
	schemas := at(t, doc, "components", "schemas").(object)
	for _, name := range []string{"ShopsItem", "NotesItem", "ShopsList", "NotesList"} {
		at(t, schemas, name)
	}
	if schemas["Item"] != nil || schemas["List"] != nil {
		t.Error("an ambiguous name is used")
	}
	if limit := at(t, schemas, "ShopsItem", "properties", "total", "maximum"); limit != 1e14 {
		t.Errorf("got the limit %v", limit)
	}
	again, err := OpenAPI(modules(t), "1.2.3")
	if err != nil || !bytes.Equal(body, again) {
		t.Error("two runs make two documents")
	}
}

func hasHeader(operation object, name string) bool {
	list, _ := operation["parameters"].([]any)
	return slices.ContainsFunc(list, func(p any) bool {
		m := p.(object)
		return m["in"] == "header" && m["name"] == name
	})
}

func TestOpenAPINamesTheModule(t *testing.T) {
	t.Parallel()
	if _, err := OpenAPI([]*module.Module{module.New(shops())}, "1"); err == nil || !strings.Contains(err.Error(), "shops") {
		t.Errorf("got %v for routes without handlers", err)
	}
	m := module.New(module.Descriptor{Name: "odd", Routes: []module.Route{{ID: "odd", Method: "GET", Path: "/api/odd"}}})
	type bad struct {
		Body struct {
			N int `json:"n" minimum:"much"`
		}
	}
	rest.Handle(m, "odd", func(context.Context, *struct{}) (*bad, error) { return nil, nil })
	if _, err := OpenAPI([]*module.Module{m}, "1"); err == nil || !strings.Contains(err.Error(), "odd") {
		t.Errorf("got %v for a tag that cannot be read", err)
	}
}

func TestContextMap(t *testing.T) {
	t.Parallel()
	got := ContextMap(descriptors())
	want := `flowchart LR
    shops["<b>shops</b><br/>open and close 'shops'"]
    notes["<b>notes</b><br/>write down what happens"]
    notes ==>|"close"| shops
    notes -->|"get shop"| shops
    shops -.->|"closed.v2<br/>opened"| notes
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	readme := "# Shop\n\n```mermaid\n" + want + "```\n"
	if err := CheckReadme([]byte(readme), got); err != nil {
		t.Error(err)
	}
	if err := CheckReadme([]byte(strings.Replace(readme, "get shop", "get shops", 1)), got); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v for an old README, want the map as it should be", err)
	}
}

func serve(t *testing.T, h http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("GET", path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestHandler(t *testing.T) {
	t.Parallel()
	openapi, err := OpenAPI(modules(t), "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	asyncapi, err := AsyncAPI(descriptors(), "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	h := Handler(openapi, asyncapi)
	for path, want := range map[string]struct{ kind, text string }{
		"/docs/":                                        {"text/html; charset=utf-8", "Banyan 1.2.3"},
		"/docs/api":                                     {"text/html; charset=utf-8", "swagger-ui-bundle.js"},
		"/docs/messages":                                {"text/html; charset=utf-8", "lines[].price.amount"},
		"/docs/openapi.json":                            {"application/json", `"openapi": "3.1.0"`},
		"/docs/asyncapi.json":                           {"application/json", `"asyncapi": "3.0.0"`},
		"/docs/assets/swagger-ui-bundle.js":             {"text/javascript; charset=utf-8", "SwaggerUIBundle"},
		"/docs/assets/swagger-ui.css":                   {"text/css; charset=utf-8", ".swagger-ui"},
		"/docs/assets/swagger-start.js":                 {"text/javascript; charset=utf-8", "openapi.json"},
		"/docs/assets/swagger-ui-bundle.js.LICENSE.txt": {"text/plain; charset=utf-8", "license"},
		"/docs/assets/docs.css":                         {"text/css; charset=utf-8", "body"},
	} {
		w := serve(t, h, path)
		if w.Code != 200 || w.Header().Get("Content-Type") != want.kind || !strings.Contains(w.Body.String(), want.text) {
			t.Errorf("%s: got %d, %s; want 200, %s and %q in it", path, w.Code, w.Header().Get("Content-Type"), want.kind, want.text)
		}
		if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "http") {
			t.Errorf("%s: got the policy %q", path, csp)
		}
		if again := serve(t, h, path, "If-None-Match", w.Header().Get("ETag")); again.Code != http.StatusNotModified {
			t.Errorf("%s: got %d for a known tag, want 304", path, again.Code)
		}
	}
	for path, code := range map[string]int{
		"/docs": 301, "/docs/nothing": 404, "/docs/assets/": 404, "/docs/assets/index.html": 404, "/docs/assets/swagger-ui.css.gz": 404,
		"/docs/assets/..%2fhandler.go": 404,
	} {
		if w := serve(t, h, path); w.Code != code {
			t.Errorf("%s: got %d, want %d", path, w.Code, code)
		}
	}
	w := serve(t, h, "/docs/assets/swagger-ui.css", "Accept-Encoding", "br, gzip;q=0.8")
	if w.Header().Get("Content-Encoding") != "gzip" {
		t.Error("a client that can unpack got it unpacked")
	}
	r, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	if css, err := io.ReadAll(r); err != nil || !bytes.Contains(css, []byte(".swagger-ui")) {
		t.Errorf("compressed style sheet: %v", err)
	}
	if w := serve(t, h, "/docs/assets/swagger-ui.css", "Accept-Encoding", "gzip;q=0"); w.Header().Get("Content-Encoding") != "" {
		t.Error("a client that refuses gzip got it")
	}
}

// Nothing on the pages comes from elsewhere.
func TestPagesLoadNothingFromElsewhere(t *testing.T) {
	t.Parallel()
	openapi, err := OpenAPI(modules(t), "1")
	if err != nil {
		t.Fatal(err)
	}
	asyncapi, err := AsyncAPI(descriptors(), "1")
	if err != nil {
		t.Fatal(err)
	}
	h := Handler(openapi, asyncapi)
	outside := regexp.MustCompile(`(?:src|href)="(?:https?:)?//`)
	for _, path := range []string{"/docs/", "/docs/api", "/docs/messages"} {
		if found := outside.FindString(serve(t, h, path).Body.String()); found != "" {
			t.Errorf("%s loads %s", path, found)
		}
	}
	if !outside.MatchString(`<script src="https://cdn.example/x.js">`) {
		t.Error("the check finds nothing")
	}
}

func TestHandlerSurvivesForeignDocuments(t *testing.T) {
	t.Parallel()
	h := Handler([]byte("{"), []byte("<"))
	if w := serve(t, h, "/docs/api"); w.Code != 200 || !strings.Contains(w.Body.String(), "cannot be shown") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}
