package rest

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humaecho"
	"github.com/labstack/echo/v4"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
)

// hook guards huma's own globals: how it makes errors, and that a key in other letters is another key, are variables of
// its package.
var hook sync.Once

// api adds the log to huma's API, for errors whose cause the client must not see.
type api struct {
	huma.API
	log *slog.Logger
}

// NewAPI is where modules mount their routes. Documentation is served elsewhere: huma's own page loads from a
// foreign host.
func NewAPI(title, version string, e *echo.Echo, log *slog.Logger) huma.API {
	hook.Do(func() {
		huma.ValidateStrictCasing = true
		huma.NewErrorWithContext = func(ctx huma.Context, status int, text string, causes ...error) huma.StatusError {
			return fromHuma(ctx.Context(), status, text, causes...)
		}
	})
	c := huma.DefaultConfig(title, version)
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "", "", ""
	c.CreateHooks = nil
	c.Formats = map[string]huma.Format{"application/json": strictJSON, "json": strictJSON}
	c.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"bearer": {Type: "http", Scheme: "bearer", BearerFormat: "JWT"}}
	return api{humaecho.NewV4(e, c), log}
}

// inModule finds the module in the name of a type or of its parameter.
var inModule = regexp.MustCompile(`/modules/([a-z]+)`)

// schemaName puts the module before the name of a type: two modules may each have a Line.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	found := inModule.FindStringSubmatch(t.PkgPath() + " " + t.Name())
	if found == nil {
		return name
	}
	module := strings.ToUpper(found[1][:1]) + found[1][1:]
	if strings.HasPrefix(name, module) {
		return name
	}
	return module + name
}

// NewEcho is the router behind the gateway: errors are problem+json, and no header decides who the client is.
func NewEcho(log *slog.Logger) *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.IPExtractor = echo.ExtractIPDirect()
	e.HTTPErrorHandler = func(err error, c echo.Context) {
		if c.Response().Committed {
			return
		}
		var he *echo.HTTPError
		if errors.As(err, &he) {
			err = errs.New(kindOf(he.Code), "%s", http.StatusText(he.Code))
		}
		p, _ := NewProblem(c.Request().Context(), err)
		if he != nil { // the router's own: it knows the status better than any kind
			p.Status, p.Title = he.Code, http.StatusText(he.Code)
		}
		if p.Status >= 500 {
			log.ErrorContext(c.Request().Context(), "request failed", "error", err)
		}
		WriteProblem(c.Response(), p, 0)
	}
	return e
}

// WriteProblem sends a problem.
func WriteProblem(w http.ResponseWriter, p *Problem, retryAfter int) {
	body, err := json.Marshal(p)
	if err != nil {
		http.Error(w, http.StatusText(p.Status), p.Status)
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	if retryAfter > 0 {
		w.Header().Set("Retry-After", itoa(retryAfter))
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n'))
}

// DefaultMaxBody is the size of a JSON body in bytes where a route says nothing else.
const DefaultMaxBody = 1 << 20

// Operation is a route in huma's words.
func Operation(name string, r module.Route) huma.Operation {
	op := huma.Operation{
		OperationID: r.ID, Method: r.Method, Path: r.Path, Summary: r.Summary, Tags: []string{name}, DefaultStatus: r.Status,
		MaxBodyBytes: r.MaxBody,
		Errors:       []int{400, 401, 403, 404, 409, 422, 429, 500, 503},
	}
	if op.MaxBodyBytes == 0 {
		op.MaxBodyBytes = DefaultMaxBody
	}
	if op.DefaultStatus == 0 {
		op.DefaultStatus = http.StatusOK
	}
	if r.Auth != identity.Anonymous {
		op.Security = []map[string][]string{{"bearer": {}}}
		op.Description = "Needs the role " + string(r.Auth) + "."
	}
	if r.KeepsAnswer() {
		op.Parameters = append(op.Parameters, &huma.Param{
			Name: "Idempotency-Key", In: "header", Schema: &huma.Schema{Type: "string", MaxLength: ptr(255)},
			Description: "Makes the request safe to send again: the same key gets the first answer.",
		})
	}
	return op
}

func ptr[T any](v T) *T { return &v }
