package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/banyan-go/banyan/config"
	"github.com/banyan-go/banyan/internal/bus"
	"github.com/banyan-go/banyan/internal/bus/rabbit"
	"github.com/banyan-go/banyan/internal/cli"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/operator"
	"github.com/banyan-go/banyan/internal/ownership"
	"github.com/banyan-go/banyan/modules"
	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// processName is a process for people: where it runs, and what tells it from others there.
func processName(id string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), id[len(id)-6:])
}

// wireNames are the names of all messages that this version of the program knows.
func wireNames() []string {
	var names []string
	for _, d := range modules.All() {
		names = append(names, d.Contract.Names()...)
		for _, c := range d.Contract.Commands {
			names = append(names, c.MessageName())
		}
		for _, q := range d.Contract.Queries {
			names = append(names, q.Query.MessageName())
		}
	}
	slices.Sort(names)
	return names
}

// asking are the modules that ask others while they answer.
func asking() map[string]bool {
	all := map[string]bool{}
	for _, d := range modules.All() {
		all[d.Name] = len(d.Asks) > 0
	}
	return all
}

// openBroker prepares the connection to the broker, if there is one. Nothing waits for it.
func openBroker(cfg config.Config, what, replica string, registry prometheus.Registerer, log *slog.Logger) (*rabbit.Broker, error) {
	if cfg.Bus.RabbitMQ.URL == "" {
		return nil, nil
	}
	return rabbit.New(cfg.Bus.RabbitMQ, rabbit.Options{Name: "banyan " + what + " " + processName(replica), Log: log, Metrics: registry})
}

// declare makes the queues of modules as soon as the broker is there: what is sent to a module waits in the outbox until its queue is.
func declare(b *rabbit.Broker, names ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		for b.Declare(ctx, names...) != nil && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
		return nil
	}
}

// brokerState is how the broker is, in the words of a registration.
func brokerState(b *rabbit.Broker) func() string {
	if b == nil {
		return nil
	}
	return func() string {
		if s := b.Status(); !s.Connected {
			return s.Error
		}
		return ownership.BrokerReady
	}
}

// wishes are the placements that are configured, as of now.
type wishes struct {
	mu   sync.Mutex
	each map[string]config.Module
}

func newWishes(cfg config.Config) *wishes { return &wishes{each: cfg.Modules.Each()} }

// change takes the placements of a changed configuration; everything else of it is for the next start.
func (w *wishes) change(cfg config.Config) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.each = cfg.Modules.Each()
}

func (w *wishes) current() map[string]ownership.Wish {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]ownership.Wish{}
	for name, m := range w.each {
		wish := ownership.Wish{Placement: ownership.Placement(m.Placement)}
		if wish.Placement == ownership.Canary {
			wish.Reads, wish.Writes = m.Canary.Reads, m.Canary.Writes
		}
		all[name] = wish
	}
	return all
}

func (w *wishes) held(module string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.each[module].Hold
}

// placements are the control records as the gateway wants them.
type placements struct {
	owners   *ownership.Owners
	wishes   *wishes
	follower *ownership.Follower
	gateway  *proxy.Gateway

	mu      sync.Mutex
	changed chan struct{}
}

func newPlacements(owners *ownership.Owners, w *wishes) *placements {
	p := &placements{owners: owners, wishes: w, changed: make(chan struct{})}
	p.follower = owners.Follow(func([]ownership.Record) {
		p.mu.Lock()
		defer p.mu.Unlock()
		close(p.changed)
		p.changed = make(chan struct{})
	})
	return p
}

func (p *placements) of(r ownership.Record) proxy.Placement {
	return proxy.Placement{
		Module: r.Module, State: proxy.State(r.Placement), Reads: r.Reads, Writes: r.Writes, Epoch: r.Epoch, Held: p.wishes.held(r.Module), Paused: r.Held(),
	}
}

// Current are the placements in force.
func (p *placements) Current() []proxy.Placement {
	var list []proxy.Placement
	for _, r := range p.owners.Records() {
		list = append(list, p.of(r))
	}
	return list
}

// Watch tells the gateway of each change, and the records that it has put it in force.
func (p *placements) Watch(ctx context.Context, changed func([]proxy.Placement)) error {
	for {
		p.mu.Lock()
		next := p.changed
		p.mu.Unlock()
		records := p.owners.Records()
		list := make([]proxy.Placement, len(records))
		for i, r := range records {
			list[i] = p.of(r)
		}
		changed(list)
		now := p.gateway.Placements()
		for i, r := range records {
			switch {
			case !slices.Contains(now, list[i]): // refused
			case r.Step == ownership.Holding:
				go p.settle(ctx, r)
			default:
				p.follower.Done(r.Module, r.Version)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next:
		}
	}
}

// Refresh reads the records anew.
func (p *placements) Refresh(ctx context.Context) error { return p.owners.Refresh(ctx) }

// settle waits until no request of a held module is on its way, here or there, and says so. One that takes long is not waited for
// longer than clients wait for those that are held.
func (p *placements) settle(ctx context.Context, r ownership.Record) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	_ = p.gateway.Settle(ctx, r.Module)
	for ctx.Err() == nil {
		if here, away := p.gateway.InFlight(r.Module); here+away == 0 {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Millisecond):
		}
	}
	p.follower.Done(r.Module, r.Version)
}

const settleTime = 4 * time.Second

// Move is what a gate decides.
func (p *placements) Move(ctx context.Context, from, to proxy.Placement, evidence any) error {
	as := func(p proxy.Placement) ownership.Wish {
		return ownership.Wish{Placement: ownership.Placement(p.State), Reads: p.Reads, Writes: p.Writes}
	}
	_, err := p.owners.Replace(ctx, from.Module, as(from), as(to), from.Epoch, ownership.Cause{Caller: "gate", Reason: "see the evidence", Evidence: evidence})
	if errors.Is(err, ownership.ErrMoved) {
		return proxy.ErrMoved
	}
	return err
}

// registered are the processes of a module that have registered.
type registered struct {
	owners *ownership.Owners
	module string
}

const lookEvery = 250 * time.Millisecond

// Watch tells of them as they come and go.
func (r registered) Watch(ctx context.Context, update func([]upstream.Endpoint)) error {
	var before []upstream.Endpoint
	for first := true; ; first = false {
		_, live := r.owners.Status()
		var found []upstream.Endpoint
		for _, p := range live {
			if p.Module == r.module && p.Address != "" {
				found = append(found, upstream.Endpoint{Addr: p.Address})
			}
		}
		if first || !slices.Equal(found, before) {
			update(found)
			before = found
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookEvery):
		}
	}
}

// whereabouts finds another process that has the store of a module: its owner before others.
func whereabouts(owners *ownership.Owners) func(module string) (process, operators string) {
	return func(module string) (string, string) {
		var found ownership.Process
		_, live := owners.Status()
		for _, p := range live {
			side := ownership.Away
			if p.Module == "" {
				side = ownership.Home
			}
			switch {
			case p.ID == owners.Self().ID, p.Module != "" && p.Module != module, slices.Contains(p.Lacks, module):
			case found.ID == "", owners.Record(module).Owns(side):
				found = p
			}
		}
		if found.ID == "" {
			return "", ""
		}
		return found.Label(), found.Operators
	}
}

// PlacementStatus is where all modules are, for people and programs.
type PlacementStatus struct {
	Modules   []ownership.Status  `json:"modules"`
	Processes []ownership.Process `json:"processes"`
	Routes    []bus.Route         `json:"routes"` // of the modules whose relays run in the process that answers
	Broker    *rabbit.Status      `json:"broker,omitempty"`
	Trouble   string              `json:"trouble,omitempty"` // why nothing can change just now
}

// placementAnswers are what operators may ask and change of placements.
func placementAnswers(owners *ownership.Owners, store *ownership.Store, b *bus.Bus, broker *rabbit.Broker) map[string]operator.Answer {
	cause := func(r *http.Request, reason string) ownership.Cause {
		return ownership.Cause{Caller: r.UserAgent() + " from " + r.RemoteAddr, Reason: reason}
	}
	process := func(fn func(ctx context.Context, p ownership.Process) error) operator.Answer {
		return func(r *http.Request) (any, error) {
			var p ownership.Process
			if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&p); err != nil || p.ID == "" {
				return nil, errs.New(errs.Malformed, "the registration cannot be read: %w", err)
			}
			defer owners.Nudge()
			return struct{}{}, fn(r.Context(), p)
		}
	}
	return map[string]operator.Answer{
		// A process beside a shop on SQLite may not write the control store.
		"POST " + ownership.RegisterPath: process(store.Register),
		"POST " + ownership.LeavePath:    process(func(ctx context.Context, p ownership.Process) error { return store.Leave(ctx, p.ID) }),
		"GET /placement": func(*http.Request) (any, error) {
			s := PlacementStatus{Routes: b.Routes()}
			s.Modules, s.Processes = owners.Status()
			if broker != nil {
				state := broker.Status()
				s.Broker = &state
			}
			if err := owners.Trouble(); err != nil {
				s.Trouble = err.Error()
			}
			return s, nil
		},
		"POST /placement/{module}": func(r *http.Request) (any, error) {
			var body struct {
				ownership.Wish
				Reason string `json:"reason"`
			}
			d := json.NewDecoder(io.LimitReader(r.Body, 1<<16))
			d.DisallowUnknownFields()
			if err := d.Decode(&body); err != nil {
				return nil, errs.New(errs.Malformed, "the placement cannot be read: %w", err)
			}
			return owners.Set(r.Context(), r.PathValue("module"), body.Wish, cause(r, body.Reason))
		},
		"GET /placement/{module}/journal": func(r *http.Request) (any, error) {
			if err := known(r.PathValue("module")); err != nil {
				return nil, err
			}
			return owners.Journal(r.Context(), r.PathValue("module"), 100)
		},
	}
}

func merged(all ...map[string]operator.Answer) map[string]operator.Answer {
	one := map[string]operator.Answer{}
	for _, m := range all {
		maps.Copy(one, m)
	}
	return one
}

func placementCommand(s *settings) *cobra.Command {
	root := &cobra.Command{Use: "placement", Short: "Show and change where modules run",
		Long: `Show and change where modules run: local (in the shop), shadow and canary (a second process answers copies or a share of the requests),
remote (the second process owns the module), retired (remote, and the shop runs without the module's store and code).

These commands ask the running shop: --data is its data folder, --admin-addr the address of its operator's port.`}
	status := &cobra.Command{Use: "status", Short: "Print where each module is, and what a change waits for", Args: cobra.NoArgs,
		Long: "Print where each module is, who owns it, and what a change waits for. With --json: the processes, routes and the broker too.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := s.admin(cmd)
			if err != nil {
				return err
			}
			var st PlacementStatus
			if err := a.Get(cmd.Context(), cli.Path("placement"), &st); err != nil {
				return err
			}
			var rows [][]any
			for _, m := range st.Modules {
				step := "settled"
				if m.Step != ownership.Settled {
					step = string(m.Step)
				}
				waits := m.Waits
				if m.Refused != "" {
					waits = append(waits, "refused: "+m.Refused)
				}
				processes := 0
				for _, p := range st.Processes {
					if p.Module == m.Module {
						processes++
					}
				}
				rows = append(rows, []any{m.Module, m.Wish, m.Owner, m.Epoch, step, processes, strings.Join(waits, "; ")})
			}
			if st.Trouble != "" && !s.json {
				_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "nothing can change just now:", st.Trouble)
			}
			return s.output(cmd).Print(st, []string{"module", "placement", "owner", "epoch", "step", "processes", "waits for"}, rows)
		}}

	var percent, writes share
	var reason string
	var wait time.Duration
	set := &cobra.Command{Use: "set MODULE PLACEMENT", Short: "Move a module", Args: cobra.ExactArgs(2),
		Long: `Move a module, and wait until every live process follows. It stands until somebody sets another one, a gate takes it back, or the
configured value changes. Setting local always works, whether the other side, or the broker, lives or not.`,
		Example: "  banyan placement set payments canary --percent 5\n  banyan placement set payments remote\n  banyan placement set payments local",
		RunE: func(cmd *cobra.Command, args []string) error {
			w := ownership.Wish{Placement: ownership.Placement(args[1])}
			if cmd.Flags().Changed("percent") {
				w.Reads, w.Writes = percent.points(), percent.points()
			}
			if cmd.Flags().Changed("writes") {
				w.Writes = writes.points()
			}
			if w.Placement == ownership.Canary && w.Reads == 0 {
				return misused(cmd, errors.New("--percent: canary needs a share of the subjects, as in --percent 5"))
			}
			if err := w.Check(); err != nil {
				return misused(cmd, err)
			}
			return s.move(cmd, args[0], w, reason, wait)
		}}
	set.Flags().Var(&percent, "percent", "canary: `share` of the subjects whose requests go out, in percent")
	set.Flags().Var(&writes, "writes", "canary: `share` for everything but reads, in percent (default that of --percent)")
	rollback := &cobra.Command{Use: "rollback MODULE", Short: "Bring a module home, whatever is with the other side", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.move(cmd, args[0], ownership.Wish{Placement: ownership.Local}, reason, wait)
		}}
	for _, c := range []*cobra.Command{set, rollback} {
		c.Flags().StringVar(&reason, "reason", "", "why: a `text` for the journal")
		c.Flags().DurationVar(&wait, "wait", 30*time.Second, "how `long` to wait until everybody follows; 0s for not at all")
	}
	history := &cobra.Command{Use: "history MODULE", Short: "Print what has moved a module, the latest first", Args: cobra.ExactArgs(1),
		Long: "Print what has moved a module, the latest first. With --json: the records before and after, and the evidence of gates.",
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := s.admin(cmd)
			if err != nil {
				return err
			}
			var entries []ownership.Entry
			if err := a.Get(cmd.Context(), cli.Path("placement", args[0], "journal"), &entries); err != nil {
				return err
			}
			var rows [][]any
			for _, e := range entries {
				rows = append(rows, []any{e.At.Format("2006-01-02 15:04:05.000"), e.From.Wish, e.To.Wish, strconv.FormatUint(e.To.Epoch, 10), string(e.To.Step), e.Caller, e.Reason})
			}
			return s.output(cmd).Print(entries, []string{"at", "from", "to", "epoch", "step", "caller", "reason"}, rows)
		}}
	root.AddCommand(status, set, rollback, history, planCommand(s), readinessCommand(s), rehearseCommand(s))
	return root
}

// share is a flag for a share in percent: 5 and 5% are the same.
type share float64

// Set reads it.
func (s *share) Set(text string) error {
	f, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || !(f == 0 || f >= 0.01 && f <= 100) {
		return errors.New("it is 0, or a share in percent from 0.01 to 100, as in 5 or 5%")
	}
	*s = share(f)
	return nil
}

func (s *share) String() string { return strconv.FormatFloat(float64(*s), 'g', -1, 64) }

// Type is what help calls it.
func (s *share) Type() string { return "share" }

// points are basis points.
func (s share) points() int { return int(math.Round(100 * float64(s))) }

// move asks the running shop to move a module, and waits until everybody follows.
func (s *settings) move(cmd *cobra.Command, module string, w ownership.Wish, reason string, wait time.Duration) error {
	a, err := s.admin(cmd)
	if err != nil {
		return err
	}
	var r ownership.Record
	body := struct {
		ownership.Wish
		Reason string `json:"reason"`
	}{w, reason}
	began, said := time.Now(), ""
	for {
		err := a.Post(cmd.Context(), cli.Path("placement", module), body, &r)
		if err == nil {
			break
		}
		if !errs.Is(err, errs.Unavailable) || time.Since(began) >= wait {
			return err
		}
		if text := err.Error(); text != said {
			_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "waits:", text)
			said = text
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
	for r.Step != ownership.Settled && time.Since(began) < wait {
		var st PlacementStatus
		if err := a.Get(cmd.Context(), cli.Path("placement"), &st); err != nil {
			return err
		}
		i := slices.IndexFunc(st.Modules, func(m ownership.Status) bool { return m.Module == module })
		if i < 0 {
			return fmt.Errorf("module %s is not there any more", module)
		}
		now := st.Modules[i]
		if r = now.Record; now.Wish != w {
			return fmt.Errorf("%s was moved to %s meanwhile; see banyan placement history %s", module, now.Wish, module)
		}
		for _, route := range st.Routes {
			if route.Waits != "" && (route.Publisher == module || route.Subscriber == module) {
				now.Waits = append(now.Waits, route.Waits)
			}
		}
		if text := strings.Join(now.Waits, "; "); text != said && text != "" && time.Since(began) > time.Second {
			_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "waits for", text)
			said = text
		}
		if r.Step != ownership.Settled {
			select {
			case <-cmd.Context().Done():
				return cmd.Context().Err()
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	if r.Step != ownership.Settled && wait > 0 {
		return fmt.Errorf("%s is %s, but not everybody follows after %s: %s", module, r.Wish, wait, said)
	}
	return s.output(cmd).Print(r, []string{"module", "placement", "owner", "epoch", "took"}, [][]any{{r.Module, r.Wish, r.Owner, r.Epoch, time.Since(began).Round(time.Millisecond)}})
}
