package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/banyan-go/banyan/config"
	"github.com/banyan-go/banyan/internal/cli"
	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/meter"
	"github.com/banyan-go/banyan/internal/operator"
	"github.com/banyan-go/banyan/internal/ownership"
	"github.com/banyan-go/banyan/internal/ownership/guard"
	"github.com/banyan-go/banyan/internal/preflight"
	"github.com/banyan-go/banyan/internal/rehearsal"
	"github.com/banyan-go/banyan/modules"
)

// observers look at the traffic between the modules: before a module leaves, as if it had left, and after it has.
type observers struct {
	meter      *meter.Meter
	rehearsals *rehearsal.Rehearsals
	guard      *guard.Guard
}

// observe makes the observers of the shop; its bus, stores and owners are there already.
func (s *shop) observe(cfg config.Config, registry *prometheus.Registry) {
	o := &s.observers
	o.meter = meter.New(registry, slices.Concat(preflight.Metrics(), rehearsal.Metrics(), guard.Metrics())...)
	o.rehearsals = rehearsal.New(rehearsal.Options{
		Modules: modules.Names(), Bus: s.bus, Meter: o.meter, Registry: registry, Log: s.log,
		Local: func(name string) bool {
			r := s.owners.Record(name)
			return r.Placement == ownership.Local && r.Owner == ownership.Home && r.Step == ownership.Settled
		},
	})
	g := guard.Options{
		Owners: s.owners, Modules: modules.All(), Stores: s.stores, Shared: cfg.Database.Driver == "postgres", Held: s.wishes.held, Meter: o.meter,
		Registry: registry, Log: s.log,
	}
	if s.broker != nil {
		g.Probe = s.broker.Publisher().Barrier
	}
	o.guard = guard.New(cfg.Ownership.Gates, g)
	s.runs = append(s.runs, o.meter.Run, o.guard.Run)
}

// input is what can be found out here for a plan.
func (s *shop) input(ctx context.Context, cfg config.Config) (preflight.Input, error) {
	at, err := s.observers.meter.Read()
	if err != nil {
		return preflight.Input{}, err
	}
	in := preflight.Input{
		Modules: modules.All(), Records: s.owners.Records(), Shared: cfg.Database.Driver == "postgres", Stores: map[string]preflight.Store{}, Held: map[string]bool{},
		Traffic: preflight.TrafficOf(meter.Between(s.observers.meter.Lately(5*time.Minute), at)),
		Limits:  preflight.Limits{Pause: cfg.Gateway.Pause.Time, Paused: cfg.Gateway.Pause.Requests},
	}
	_, in.Processes = s.owners.Status()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var mu sync.Mutex
	var all sync.WaitGroup
	for name, store := range s.stores {
		in.Held[name] = s.wishes.held(name)
		all.Go(func() {
			found := preflight.LookAt(ctx, store)
			breaches, err := preflight.StoreBreaches(ctx, store, in.Modules)
			if err != nil && found.Error == "" {
				found.Error = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			in.Stores[name] = found
			in.Breaches = append(in.Breaches, breaches...)
		})
	}
	all.Wait()
	slices.SortFunc(in.Breaches, func(a, b preflight.Breach) int { return strings.Compare(a.Module+a.What, b.Module+b.What) })
	in.Broker = s.brokerFor(ctx)
	return in, nil
}

func (s *shop) brokerFor(ctx context.Context) preflight.Broker {
	if s.broker == nil {
		return preflight.Broker{}
	}
	b := preflight.Broker{Configured: true, Waiting: map[string]int{}}
	state := s.broker.Status()
	if !state.Connected || state.Blocked != "" {
		b.Error = state.Error + state.Blocked
		return b
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var err error
	if b.RoundTrip, err = s.broker.RoundTrip(ctx); err != nil {
		b.Error = err.Error()
		return b
	}
	for _, m := range modules.Names() {
		if n, err := s.broker.Waiting(ctx, m); err == nil && n > 0 {
			b.Waiting[m] = n
		}
	}
	return b
}

// planAnswers are what operators may ask before a module moves, and change to see how it would be.
func (s *shop) planAnswers(cfg config.Config) map[string]operator.Answer {
	o := &s.observers
	return map[string]operator.Answer{
		"GET /placement/gates": func(*http.Request) (any, error) { return o.guard.Verdicts(), nil },
		"GET /placement/readiness": func(r *http.Request) (any, error) {
			in, err := s.input(r.Context(), cfg)
			if err != nil {
				return nil, err
			}
			return preflight.Table(in), nil
		},
		"GET /placement/{module}/plan": func(r *http.Request) (any, error) {
			q := r.URL.Query()
			w := ownership.Wish{Placement: ownership.Placement(q.Get("to"))}
			for name, into := range map[string]*int{"reads": &w.Reads, "writes": &w.Writes} {
				if text := q.Get(name); text != "" {
					n, err := strconv.Atoi(text)
					if err != nil {
						return nil, errs.New(errs.Invalid, "%s is no number of basis points", name).With("query."+name, "give a number from 0 to 10000")
					}
					*into = n
				}
			}
			name := r.PathValue("module")
			refusal := s.owners.Check(name, w)
			if errs.Is(refusal, errs.NotFound) || errs.Is(refusal, errs.Invalid) {
				return nil, refusal
			}
			in, err := s.input(r.Context(), cfg)
			if err != nil {
				return nil, err
			}
			return preflight.Plan(in, name, w, refusal), nil
		},
		"GET /rehearsal/{module}": func(r *http.Request) (any, error) { return o.rehearsals.Report(r.PathValue("module")) },
		"POST /rehearsal/{module}": func(r *http.Request) (any, error) {
			var body struct {
				Latency string  `json:"latency"`
				Errors  float64 `json:"errors"`
				For     string  `json:"for"`
			}
			d := json.NewDecoder(io.LimitReader(r.Body, 1<<16))
			d.DisallowUnknownFields()
			if err := d.Decode(&body); err != nil {
				return nil, errs.New(errs.Malformed, "the rehearsal cannot be read: %w", err)
			}
			settings := rehearsal.Settings{Errors: body.Errors}
			for field, one := range map[string]struct {
				text string
				into *time.Duration
			}{"latency": {body.Latency, &settings.Latency}, "for": {body.For, &settings.For}} {
				var err error
				if *one.into, err = time.ParseDuration(one.text); err != nil {
					return nil, errs.New(errs.Invalid, "%q is no duration", one.text).With("body."+field, "give a duration as in 5ms or 1m")
				}
			}
			if err := o.rehearsals.Start(r.PathValue("module"), settings); err != nil {
				return nil, err
			}
			return o.rehearsals.Report(r.PathValue("module"))
		},
		"POST /rehearsal/{module}/stop": func(r *http.Request) (any, error) {
			if err := o.rehearsals.Stop(r.PathValue("module")); err != nil {
				return nil, err
			}
			return o.rehearsals.Report(r.PathValue("module"))
		},
	}
}

func planCommand(s *settings) *cobra.Command {
	var to string
	percent, writes := share(5), share(0)
	c := &cobra.Command{Use: "plan [MODULE]", Short: "Say what a move would do, and what stands in its way", Args: cobra.MaximumNArgs(1),
		Long: `Say what a move of a module would do, step by step, and what stands in its way, with the way out of each. Nothing is changed.
The exit code is 1 if something blocks. What questions between processes cost is reckoned from the rates of the last five minutes
and two measured round trips to the broker, or 1 ms if there is none. Inside a checkout of the sources the module's imports are
looked at too.

Without MODULE: how ready each module is to leave, as banyan placement readiness prints it.`,
		Example: "  banyan placement plan payments\n  banyan placement plan payments --to canary --percent 5\n  banyan placement plan",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return s.readiness(cmd)
			}
			w := ownership.Wish{Placement: ownership.Placement(to)}
			if w.Placement == ownership.Canary {
				w.Reads, w.Writes = percent.points(), percent.points()
			}
			if cmd.Flags().Changed("writes") {
				w.Writes = writes.points()
			}
			if err := w.Check(); err != nil {
				return misused(cmd, err)
			}
			return s.plan(cmd, args[0], w)
		}}
	c.Flags().StringVar(&to, "to", string(ownership.Remote), "`placement` to go to")
	c.Flags().Var(&percent, "percent", "canary: `share` of the subjects whose requests go out, in percent")
	c.Flags().Var(&writes, "writes", "canary: `share` for everything but reads, in percent (default that of --percent)")
	return c
}

func (s *settings) plan(cmd *cobra.Command, module string, w ownership.Wish) error {
	a, err := s.admin(cmd)
	if err != nil {
		return err
	}
	var r preflight.Report
	query := cli.Query("to", string(w.Placement), "reads", number(w.Reads), "writes", number(w.Writes))
	if err := a.Get(cmd.Context(), cli.Path("placement", module, "plan")+query, &r); err != nil {
		return err
	}
	blocks := 0
	for _, b := range concerning(importBreaches("."), module) {
		r.Blocked = true
		r.Findings = append([]preflight.Finding{{Level: preflight.Blocks, What: b.Module + ": " + b.What, WayOut: b.WayOut}}, r.Findings...)
	}
	for _, f := range r.Findings {
		if f.Level == preflight.Blocks {
			blocks++
		}
	}
	out := s.output(cmd)
	if out.JSON {
		err = out.Print(r, nil, nil)
	} else {
		err = printPlan(out, r)
	}
	if err == nil && r.Blocked {
		err = fmt.Errorf("%s cannot go from %s to %s yet: %d in the way", module, r.From, r.To, blocks)
	}
	return err
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func printPlan(out cli.Output, r preflight.Report) error {
	var rows [][]any
	for i, st := range r.Steps {
		holds := st.Holds
		if st.AtMost > 0 {
			holds += " (at most " + st.AtMost.String() + ")"
		}
		rows = append(rows, []any{i + 1, st.Who, st.What, holds})
	}
	title := func(format string, args ...any) { _, _ = fmt.Fprintf(out.W, format+"\n", args...) }
	title("%s: %s -> %s", r.Module, r.From, r.To)
	if len(rows) > 0 {
		if err := out.Print(r, []string{"step", "who", "what", "holds"}, rows); err != nil {
			return err
		}
	}
	if len(r.Questions) > 0 {
		rows = nil
		for _, q := range r.Questions {
			rows = append(rows, []any{q.Caller, q.Message, fmt.Sprintf("%.1f", q.PerSecond), q.Now, q.Then.Round(10 * time.Microsecond), q.Added.Round(10 * time.Microsecond)})
		}
		title("\nquestions between processes then (rates of the last %s; broker round trip %s)", r.Window, measured(r.Broker))
		if err := out.Print(r, []string{"caller", "asks", "per second", "p50 now", "p50 then", "waiting more, per second"}, rows); err != nil {
			return err
		}
	}
	if len(r.Findings) == 0 {
		title("\nnothing stands in the way")
		return nil
	}
	rows = nil
	for _, f := range r.Findings {
		rows = append(rows, []any{f.Level, f.What, f.WayOut})
	}
	title("\nwhat stands in the way, and what to know")
	return out.Print(r, []string{"", "what", "way out"}, rows)
}

func measured(b preflight.Broker) string {
	if b.RoundTrip == 0 {
		return "not measured, 0.5 ms taken"
	}
	return b.RoundTrip.Round(time.Microsecond).String()
}

func readinessCommand(s *settings) *cobra.Command {
	return &cobra.Command{Use: "readiness", Short: "Print how ready each module is to leave, from live traffic", Args: cobra.NoArgs,
		Long: `Print how ready each module is to leave, the readiest first, from what the running shop has measured in the last five minutes.

The score goes from 0 to 100:
  50  for a clear boundary: it and others do not reach into each other's stores, nor, inside a checkout, past their contracts
  30  for little coupling: 30 / (1 + questions to and from other modules for each of its requests and messages)
      without traffic, the kinds of questions count that are declared
  20  for what leaving brings: half for its load, as a share of the busiest module's, and half for its changes, as a share of the
      most changed one's

Changes are the commits to its folder in the last 90 days, inside a checkout with its history; elsewhere load counts alone.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.readiness(cmd) }}
}

func (s *settings) readiness(cmd *cobra.Command) error {
	a, err := s.admin(cmd)
	if err != nil {
		return err
	}
	var list []preflight.Readiness
	if err := a.Get(cmd.Context(), cli.Path("placement", "readiness"), &list); err != nil {
		return err
	}
	imports := importBreaches(".")
	for i, r := range list {
		list[i].Breaches += len(concerning(imports, r.Module))
	}
	list = preflight.Score(list, changes(cmd.Context(), ".", 90))
	var rows [][]any
	for _, r := range list {
		boundary, changed := "clear", "-"
		if r.Breaches > 0 {
			boundary = fmt.Sprintf("%d breaches", r.Breaches)
		}
		if r.Changes != nil {
			changed = strconv.Itoa(*r.Changes)
		}
		rate := func(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }
		rows = append(rows, []any{r.Module, r.Score, r.Placement, boundary, changed, rate(r.Requests), rate(r.Messages),
			strconv.FormatFloat(r.CallsOut, 'f', 2, 64), strconv.FormatFloat(r.CallsIn, 'f', 2, 64), r.HearsFrom, r.HeardBy})
	}
	return s.output(cmd).Print(list, []string{"module", "score", "placement", "boundary", "changes", "requests/s", "messages/s", "asks", "is asked", "hears from", "heard by"}, rows)
}

// checkout is the root of the sources that a folder is in, and their import path; "" if it is in none.
func checkout(dir string) (root, path string) {
	dir, err := filepath.Abs(dir)
	for err == nil {
		if text, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil {
			line, _, _ := strings.Cut(string(text), "\n")
			path, _ := strings.CutPrefix(strings.TrimSpace(line), "module ")
			if _, err := os.Stat(filepath.Join(dir, "modules")); err != nil || path == "" {
				return "", ""
			}
			return dir, path
		}
		up := filepath.Dir(dir)
		if up == dir {
			break
		}
		dir = up
	}
	return "", ""
}

// concerning are the breaches in which a module has a part: it reaches into others, or they into it.
func concerning(all []preflight.Breach, module string) (some []preflight.Breach) {
	for _, b := range all {
		if b.Module == module || b.Other == module {
			some = append(some, b)
		}
	}
	return some
}

// importBreaches looks at the sources of all modules, if this is run among them.
func importBreaches(dir string) (all []preflight.Breach) {
	root, path := checkout(dir)
	if root == "" {
		return nil
	}
	modules := map[string]map[string][]string{} // module -> file -> imports
	_ = filepath.WalkDir(filepath.Join(root, "modules"), func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil // what cannot be read is found by the compiler
		}
		name, _ := filepath.Rel(root, file)
		name = filepath.ToSlash(name)
		parts := strings.Split(name, "/")
		if len(parts) < 3 {
			return nil // the list of the modules
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return nil
		}
		if modules[parts[1]] == nil {
			modules[parts[1]] = map[string][]string{}
		}
		for _, i := range parsed.Imports {
			if path, err := strconv.Unquote(i.Path.Value); err == nil {
				modules[parts[1]][name] = append(modules[parts[1]][name], path)
			}
		}
		return nil
	})
	for _, m := range slices.Sorted(maps.Keys(modules)) {
		all = append(all, preflight.ImportBreaches(path+"/modules", m, modules[m])...)
	}
	return all
}

// changes are the commits of the last days to the folder of each module; nil where there is no history.
func changes(ctx context.Context, dir string, days int) map[string]int {
	root, _ := checkout(dir)
	if root == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "git", "-C", root, "log", fmt.Sprintf("--since=%d.days", days), "--format=tformat:commit", "--name-only", "--relative", "--", "modules").Output()
	if err != nil {
		return nil
	}
	counts, seen := map[string]int{}, map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		parts := strings.Split(lines.Text(), "/")
		switch {
		case lines.Text() == "commit":
			clear(seen)
		case len(parts) > 2 && parts[0] == "modules" && !seen[parts[1]]:
			seen[parts[1]] = true
			counts[parts[1]]++
		}
	}
	return counts
}

func rehearseCommand(s *settings) *cobra.Command {
	var latency, lasts time.Duration
	lost := share(1)
	c := &cobra.Command{Use: "rehearse MODULE", Short: "Let a module behave as if it were remote while it is here, and report what becomes of that", Args: cobra.ExactArgs(1),
		Long: `Let a module of the running shop behave as if it were in another process: requests, questions and messages that cross its
boundary take longer, and some are lost on the way. Messages are sent again; questions fail as unavailable; requests are lost
only where the gateway may send them again.

Then it prints what has got slower or has failed, compared with the five minutes before. It ends by itself after --for, with
Ctrl-C, and with the process; meanwhile /readyz says degraded. It concerns the one process that is asked, and users notice it.`,
		Example: "  banyan placement rehearse payments --latency 5ms --errors 1% --for 1m",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := (rehearsal.Settings{Latency: latency, Errors: float64(lost) / 100, For: lasts}).Check(); err != nil {
				return misused(cmd, err)
			}
			return s.rehearse(cmd, args[0], latency, float64(lost)/100, lasts)
		}}
	c.Flags().DurationVar(&latency, "latency", 5*time.Millisecond, "`time` of the way there and back")
	c.Flags().Var(&lost, "errors", "`share` of what is lost on the way, in percent")
	c.Flags().DurationVar(&lasts, "for", time.Minute, "how `long`, at most 15m")
	return c
}

func (s *settings) rehearse(cmd *cobra.Command, module string, latency time.Duration, share float64, lasts time.Duration) error {
	a, err := s.admin(cmd)
	if err != nil {
		return err
	}
	path := cli.Path("rehearsal", module)
	var r rehearsal.Report
	if err := a.Post(cmd.Context(), path, map[string]any{"latency": latency.String(), "errors": share, "for": lasts.String()}, &r); err != nil {
		return err
	}
	for r.Ended == nil {
		select {
		case <-cmd.Context().Done():
			// Whoever is interrupted still ends what it has begun, and says what it has found.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 5*time.Second)
			defer cancel()
			if err := a.Post(ctx, path+"/stop", nil, &r); err != nil && !errs.Is(err, errs.NotFound) {
				return errors.Join(fmt.Errorf("it ends by itself at %s", r.Began.Add(lasts).Local().Format(time.TimeOnly)), err)
			}
			return printRehearsal(s.output(cmd), r)
		case <-time.After(max(50*time.Millisecond, min(time.Second, time.Until(r.Began.Add(lasts))))):
		}
		if err := a.Get(cmd.Context(), path, &r); err != nil && cmd.Context().Err() == nil {
			return err
		}
	}
	return printRehearsal(s.output(cmd), r)
}

func printRehearsal(out cli.Output, r rehearsal.Report) error {
	if out.JSON {
		return out.Print(r, nil, nil)
	}
	_, _ = fmt.Fprintf(out.W, "%s as if it were remote: %s; %s\n%d messages and questions crossed its boundary, %d were lost; %d requests, %d were lost\ncompared with the %s before\n",
		r.Module, r.Settings, r.Why, r.Crossed, r.Lost, r.Requests, r.Dropped, r.Before)
	var rows [][]any
	for _, l := range r.Lines {
		rows = append(rows, []any{l.Kind, l.Name, l.During.Count, l.Before.P50, l.During.P50, l.Before.P99, l.During.P99, percent(l.Before.Failed), percent(l.During.Failed), l.Worse})
	}
	if err := out.Print(r, []string{"what", "name", "times", "p50 before", "p50", "p99 before", "p99", "failed before", "failed", "worse"}, rows); err != nil || len(r.Counts) == 0 {
		return err
	}
	rows = nil
	for _, c := range r.Counts {
		rows = append(rows, []any{c.Module, c.What, strconv.FormatFloat(c.Before, 'f', 1, 64), strconv.FormatFloat(c.During, 'f', 1, 64)})
	}
	_, _ = fmt.Fprintln(out.W)
	return out.Print(r, []string{"module", "what", "per minute before", "per minute"}, rows)
}

func percent(share float64) string { return strconv.FormatFloat(100*share, 'f', 1, 64) + " %" }
