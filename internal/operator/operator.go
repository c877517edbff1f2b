// Package operator is what an operator may ask of a running process and change in it, as JSON over the admin port.
package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/inbox"
	"github.com/banyan-go/banyan/internal/relay"
	"github.com/banyan-go/banyan/internal/rest"
)

// Rebuild rebuilds a projection and reports how far it is.
type Rebuild = func(ctx context.Context, progress func(done, total int)) error

// Options are what operators work on.
type Options struct {
	Bus         *bus.Bus
	Modules     []string                                        // that there are, here or elsewhere; those of the bus if nil
	Where       func(module string) (process, operators string) // another process that has a module and the address of its port; "" for none
	Projections map[string]Rebuild                              // by module
	Spans       func() any                                      // recent spans
	More        map[string]Answer                               // others, by method and path below /admin
	Config      func() string                                   // what is in force, secrets masked
}

// Answer answers a request with what is encoded as JSON.
type Answer = func(r *http.Request) (any, error)

// Handler serves everything under /admin/.
func Handler(o Options) http.Handler {
	mux := http.NewServeMux()
	get := func(pattern string, fn func(r *http.Request) (any, error)) {
		mux.HandleFunc("GET "+pattern, answer(fn))
	}
	post := func(pattern string, fn func(r *http.Request) (any, error)) {
		mux.HandleFunc("POST "+pattern, answer(fn))
	}
	get("/admin/modules", func(r *http.Request) (any, error) {
		modules, _ := o.Bus.Status(r.Context())
		return modules, nil
	})
	get("/admin/spans", func(*http.Request) (any, error) { return o.Spans(), nil })
	get("/admin/config", func(*http.Request) (any, error) { return map[string]string{"yaml": o.Config()}, nil })
	get("/admin/deadletters", o.list)
	get("/admin/deadletters/{module}/{id}", o.show)
	post("/admin/deadletters/{module}/{id}/replay", o.replay)
	post("/admin/deadletters/{module}/{id}/discard", o.discard)
	post("/admin/deadletters/{module}/replay", o.replayAll)
	get("/admin/unsubscribed", o.unsubscribed)
	post("/admin/unsubscribed/{module}/{message}/replay", o.replayUnsubscribed)
	post("/admin/projections/{module}/rebuild", o.rebuild)
	for pattern, fn := range o.More {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /admin"+path, answer(fn))
	}
	return mux
}

// List is a page of dead letters.
type List struct {
	Items     []inbox.DeadLetter `json:"items"`
	Elsewhere []Elsewhere        `json:"elsewhere,omitempty"`
}

// Elsewhere is a module whose store this process does not have, and who has it.
type Elsewhere struct {
	Module    string `json:"module"`
	Process   string `json:"process,omitempty"`
	Operators string `json:"operators,omitempty"`
}

// Way is the way to the process that has it.
func (e Elsewhere) Way() string {
	switch {
	case e.Process == "":
		return fmt.Sprintf("no process that lives has %s; start one with `banyan serve --only %s`, and ask that", e.Module, e.Module)
	case e.Operators == "":
		return fmt.Sprintf("ask %s, with its --admin-addr and --data", e.Process)
	}
	return fmt.Sprintf("ask %s with --admin-addr %s, and its --data", e.Process, e.Operators)
}

func (o Options) elsewhere(module string) Elsewhere {
	e := Elsewhere{Module: module}
	if o.Where != nil {
		e.Process, e.Operators = o.Where(module)
	}
	return e
}

// reach refuses a module that is not there, and one whose store another process has, which it names. To be changed a store has to be
// written here; one that is just coming or going says so itself.
func (o Options) reach(module string, change bool) error {
	here := o.Bus.Modules()
	has, e := slices.Contains(here, module), o.elsewhere(module)
	switch {
	case has && (!change || o.Bus.Writes(module) || e.Process == ""):
		return nil
	case has || slices.Contains(o.Modules, module):
		return errs.New(errs.Conflict, "the store of %s is not with this process; %s", module, e.Way())
	case o.Modules != nil:
		here = o.Modules
	}
	return errs.New(errs.NotFound, "there is no module %q, only %s", module, strings.Join(here, ", "))
}

func (o Options) list(r *http.Request) (any, error) {
	q := r.URL.Query()
	limit := 100
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 1000 {
			return nil, errs.New(errs.Invalid, "limit is not between 1 and 1000").With("query.limit", "give a number from 1 to 1000")
		}
		limit = n
	}
	list := List{Items: []inbox.DeadLetter{}}
	modules, elsewhere, err := o.named(q.Get("module"))
	if err != nil {
		return nil, err
	}
	list.Elsewhere = elsewhere
	for _, m := range modules {
		in, err := o.Bus.Inbox(m)
		if err != nil {
			return nil, err
		}
		letters, err := in.DeadLetters(r.Context(), q.Get("handler"), q.Get("after"), limit-len(list.Items))
		if err != nil {
			return nil, err
		}
		if list.Items = append(list.Items, letters...); len(list.Items) == limit {
			break
		}
	}
	return list, nil
}

// named is the module that somebody has named, or all if nobody has: those that are here, and where the others are.
func (o Options) named(module string) (here []string, elsewhere []Elsewhere, err error) {
	if module != "" {
		return []string{module}, nil, o.reach(module, false)
	}
	here = o.Bus.Modules()
	for _, m := range o.Modules {
		if !slices.Contains(here, m) {
			elsewhere = append(elsewhere, o.elsewhere(m))
		}
	}
	return here, elsewhere, nil
}

func (o Options) inbox(module string, change bool) (*inbox.Inbox, error) {
	if err := o.reach(module, change); err != nil {
		return nil, err
	}
	return o.Bus.Inbox(module)
}

func (o Options) show(r *http.Request) (any, error) {
	in, err := o.inbox(r.PathValue("module"), false)
	if err != nil {
		return nil, err
	}
	return in.DeadLetter(r.Context(), r.PathValue("id"))
}

func (o Options) replay(r *http.Request) (any, error) {
	in, err := o.inbox(r.PathValue("module"), true)
	if err != nil {
		return nil, err
	}
	return map[string]int{"replayed": 1}, in.Replay(r.Context(), r.PathValue("id"))
}

// replayAll replays the dead letters of a module, or of one of its handlers. Those that cannot be replayed now are left, and counted.
func (o Options) replayAll(r *http.Request) (any, error) {
	in, err := o.inbox(r.PathValue("module"), true)
	if err != nil {
		return nil, err
	}
	counts, after := map[string]int{"replayed": 0}, ""
	for {
		letters, err := in.DeadLetters(r.Context(), r.URL.Query().Get("handler"), after, 100)
		if err != nil {
			return nil, err
		}
		if len(letters) == 0 {
			return counts, nil
		}
		for _, l := range letters {
			after = l.ID
			switch err := in.Replay(r.Context(), l.ID); {
			case err == nil:
				counts["replayed"]++
			case errs.Is(err, errs.Conflict):
				counts["left"]++
			case !errs.Is(err, errs.NotFound): // else somebody else has just taken it
				return nil, err
			}
		}
	}
}

func (o Options) discard(r *http.Request) (any, error) {
	in, err := o.inbox(r.PathValue("module"), true)
	if err != nil {
		return nil, err
	}
	var body struct {
		Reason string `json:"reason"`
	}
	d := json.NewDecoder(io.LimitReader(r.Body, 1<<16))
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil || body.Reason == "" {
		return nil, errs.New(errs.Invalid, "a reason is needed to discard a message").With("body.reason", "say why")
	}
	return map[string]int{"discarded": 1}, in.Discard(r.Context(), r.PathValue("id"), body.Reason)
}

// Unsubscribed is what is kept although nobody subscribed to it.
type Unsubscribed struct {
	Items     []relay.Kept `json:"items"`
	Elsewhere []Elsewhere  `json:"elsewhere,omitempty"`
}

func (o Options) unsubscribed(r *http.Request) (any, error) {
	modules, elsewhere, err := o.named(r.URL.Query().Get("module"))
	if err != nil {
		return nil, err
	}
	list := Unsubscribed{Items: []relay.Kept{}, Elsewhere: elsewhere}
	for _, m := range modules {
		kept, err := o.Bus.Kept(r.Context(), m)
		if err != nil {
			return nil, err
		}
		list.Items = append(list.Items, kept...)
	}
	return list, nil
}

func (o Options) replayUnsubscribed(r *http.Request) (any, error) {
	module := r.PathValue("module")
	if err := o.reach(module, true); err != nil {
		return nil, err
	}
	n, err := o.Bus.Replay(r.Context(), module, r.PathValue("message"))
	return map[string]int64{"replayed": n}, err
}

func (o Options) rebuild(r *http.Request) (any, error) {
	fn := o.Projections[r.PathValue("module")]
	if fn == nil {
		names := slices.Sorted(maps.Keys(o.Projections))
		return nil, errs.New(errs.NotFound, "module %q has no read models to rebuild, only %s", r.PathValue("module"), strings.Join(names, ", "))
	}
	if err := o.reach(r.PathValue("module"), true); err != nil {
		return nil, err
	}
	total := 0
	err := fn(r.Context(), func(_, n int) { total = n })
	return map[string]int{"rebuilt": total}, err
}

func answer(fn func(r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := fn(r)
		if err == nil {
			var b []byte
			if b, err = json.MarshalIndent(body, "", "  "); err == nil {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Cache-Control", "no-store")
				_, _ = w.Write(append(b, '\n'))
				return
			}
		}
		var known *errs.Error
		if !errors.As(err, &known) {
			err = errs.New(errs.Internal, "%s", fmt.Sprint(err))
		}
		p, retry := rest.NewProblem(r.Context(), err)
		if p.Detail == "" {
			p.Detail = err.Error() // the operator may see the cause
		}
		rest.WriteProblem(w, p, retry)
	}
}
