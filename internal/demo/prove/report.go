package prove

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/ownership"
)

// Report is what a proof found.
type Report struct {
	Module   string    `json:"module"`
	Topology string    `json:"topology"`
	Program  string    `json:"program"`
	Cycles   int       `json:"cycles"`
	Kill     bool      `json:"kill"`
	Seed     uint64    `json:"seed"`
	Clients  int       `json:"clients"`
	At       time.Time `json:"at"`
	Seconds  float64   `json:"seconds"`
	Logs     string    `json:"logs,omitempty"` // folder beside the report

	Orders   int            `json:"orders"` // acknowledged
	ByStatus map[string]int `json:"by_status"`
	Messages int            `json:"messages"` // owed by one module to another
	Charges  int            `json:"charges"`  // that the card provider has made
	Mails    int            `json:"mails"`
	Requests int            `json:"requests"`
	OfModule int            `json:"requests_of_module"` // to the module's routes

	Lost      int `json:"lost"`
	Doubled   int `json:"doubled"`
	Reordered int `json:"reordered"`
	Failed    int `json:"failed"`
	Other     int `json:"other"` // ledgers that differ, work that does not end

	Faults      map[string]int     `json:"faults"`      // how often each was caused
	Interrupted map[string]int     `json:"interrupted"` // attempts without an answer on a killed process, all answered later
	Flips       []Flip             `json:"flips"`
	Latency     map[string]Latency `json:"latency"` // of requests, by when they were sent
	AddedP99    time.Duration      `json:"added_p99_ns"`
	Checkout    Pause              `json:"checkout"` // from the order to the outcome of its charge
	Message     Pause              `json:"message"`  // messages from and to the module
	// SettledAfter is how long the last work took after the last request, in seconds.
	SettledAfter float64 `json:"settled_after_seconds"`

	Violations []Violation `json:"violations"`
}

// Flip is a change of place as the report tells it.
type Flip struct {
	To      ownership.Placement `json:"to"`
	Took    time.Duration       `json:"took_ns"`
	Again   int                 `json:"asked"` // how often it had to be asked for
	Changed bool                `json:"changed_mind,omitempty"`
	InForce time.Duration       `json:"in_force_ns"`          // until the record said so; what follows is everybody's following
	Waits   string              `json:"waited_for,omitempty"` // the last that it waited for
	During  []string            `json:"during,omitempty"`     // what was broken meanwhile
}

// Latency is how long requests took that were answered.
type Latency struct {
	Requests int           `json:"requests"`
	P50      time.Duration `json:"p50_ns"`
	P99      time.Duration `json:"p99_ns"`
	Longest  time.Duration `json:"longest_ns"`
}

func (r *Report) add(found ...Violation) {
	for _, v := range found {
		n := max(1, v.Count)
		switch v.Kind {
		case Lost:
			r.Lost += n
		case Doubled:
			r.Doubled += n
		case Reordered:
			r.Reordered += n
		case Failed:
			r.Failed += n
		default:
			r.Other += n
		}
		r.Violations = append(r.Violations, v)
	}
}

// recovery is how long after a killed process is ready again a request may still meet what it has left: the gateway has to see that it
// is back.
const recovery = 5 * time.Second

// requests judges every attempt: one that got no answer is a failed request, unless it was sent to a process that was dead, or died
// under it. Whether it was answered in the end is another question, and settled by the clients.
func (r *Report) requests(log *requestLog, first time.Time, flips []flip, broken []span) {
	attempts, given, n := log.snapshot()
	r.Requests = n
	r.add(given...)
	r.Faults, r.Interrupted, r.Latency = map[string]int{}, map[string]int{}, map[string]Latency{}
	for _, b := range broken {
		r.Faults[b.What]++
	}
	for _, f := range flips {
		x := Flip{To: f.to, Took: f.To.Sub(f.From), Again: f.again, Changed: f.changed, InForce: f.inForce.Sub(f.From), Waits: f.waits}
		for _, b := range broken {
			if b.over(f.From, f.To) {
				x.During = append(x.During, b.What)
			}
		}
		r.Flips = append(r.Flips, x)
	}
	took := map[string][]time.Duration{}
	failures, order := map[[3]string][]attempt{}, [][3]string{}
	for _, a := range attempts {
		if a.module == r.Module {
			r.OfModule++
		}
		if a.failure == "" {
			when := "between changes"
			switch {
			case a.from.Before(first):
				when = "before"
			case slices.ContainsFunc(flips, func(f flip) bool { return f.over(a.from, a.to) }):
				when = "during changes"
			}
			took[when] = append(took[when], a.to.Sub(a.from))
			continue
		}
		i := slices.IndexFunc(broken, func(b span) bool { return b.kills && b.over(a.from.Add(-recovery), a.to) })
		if i >= 0 {
			r.Interrupted[broken[i].What]++
			continue
		}
		// The same thing many times is told once.
		meanwhile := map[string]bool{}
		for _, b := range broken {
			if b.over(a.from.Add(-recovery), a.to) {
				meanwhile[b.What] = true
			}
		}
		for _, f := range flips {
			if f.over(a.from, a.to) {
				meanwhile[f.What] = true
			}
		}
		same := [3]string{route(a.what), numbers.ReplaceAllString(a.failure, "N"), strings.Join(slices.Sorted(maps.Keys(meanwhile)), ", ")}
		if len(failures[same]) == 0 {
			order = append(order, same)
		}
		failures[same] = append(failures[same], a)
	}
	for _, same := range order {
		all := failures[same]
		first, last := all[0], all[len(all)-1]
		r.add(Violation{Kind: Failed, What: "request", Key: same[0], Count: len(all), Detail: fmt.Sprintf("%d from %s to %s, the first after %s: %s; meanwhile: %s",
			len(all), first.from.UTC().Format("15:04:05.000"), last.from.UTC().Format("15:04:05.000"), first.to.Sub(first.from).Round(time.Millisecond), first.failure, cmp.Or(same[2], "nothing"))})
	}
	for when, all := range took {
		r.Latency[when] = Latency{Requests: len(all), P50: quantile(all, 0.5), P99: quantile(all, 0.99), Longest: all[len(all)-1]}
	}
	r.AddedP99 = r.Latency["during changes"].P99 - r.Latency["before"].P99
}

var (
	numbers = regexp.MustCompile(`\d+`)
	ids     = regexp.MustCompile(`/[0-9a-f]{8}-[0-9a-f-]{27}|/[SP]\d+`)
)

// route is a request without the ids in its path.
func route(what string) string { return ids.ReplaceAllString(what, "/{id}") }

func (r *Report) figures(told *Told, b Books, t Testimony) {
	r.Orders, r.Messages, r.Mails, r.ByStatus = len(told.Orders), len(t.Owed), len(b.Mails), map[string]int{}
	var waited []time.Duration
	for _, o := range b.Orders {
		r.ByStatus[o.Status]++
		if o.Waited > 0 {
			if waited = append(waited, o.Waited); o.Waited > r.Checkout.Longest {
				r.Checkout.Longest, r.Checkout.Of = o.Waited, "order "+o.ID
			}
		}
	}
	for _, l := range b.Provider {
		if l.Op == "charge" {
			r.Charges++
		}
	}
	r.Checkout.Messages, r.Checkout.Median, r.Checkout.P99 = len(waited), quantile(waited, 0.5), quantile(waited, 0.99)
	r.Message = pauses(t, r.Module)
	// A proof in which nothing has happened proves nothing.
	for what, n := range map[string]int{"orders": r.Orders, "charges": r.Charges, "mails": r.Mails, "messages from or to the module": r.Message.Messages, "requests to the module": r.OfModule, "changes of place": len(r.Flips) / 2} {
		if n < r.Cycles {
			r.add(Violation{Kind: Stuck, What: "proof", Key: r.Module, Detail: fmt.Sprintf("%d %s in %d cycles: too few to prove anything", n, what, r.Cycles)})
		}
	}
}

func (r Report) write(dir string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "report.json"), append(b, '\n'), 0o644), os.WriteFile(filepath.Join(dir, "report.md"), []byte(r.Markdown()), 0o644))
}

// WriteSummary writes summary.md, a table of reports.
func WriteSummary(dir string, reports []Report) error {
	var b strings.Builder
	b.WriteString("# Modules out and home\n\n| module | cycles | faults | orders | messages | lost | doubled | reordered | failed requests | other | p99 before | p99 during changes | longest pause per key | longest change |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, r := range reports {
		longest := time.Duration(0)
		for _, f := range r.Flips {
			longest = max(longest, f.Took)
		}
		_, _ = fmt.Fprintf(&b, "| [%s](%s/report.md) | %d | %d | %d | %d | %d | %d | %d | %d | %d | %s | %s | %s | %s |\n", r.Module, r.Module, r.Cycles, total(r.Faults), r.Orders, r.Messages,
			r.Lost, r.Doubled, r.Reordered, r.Failed, r.Other, short(r.Latency["before"].P99), short(r.Latency["during changes"].P99), short(r.Message.Longest), short(longest))
	}
	return os.WriteFile(filepath.Join(dir, "summary.md"), []byte(b.String()), 0o644)
}

func total(m map[string]int) (n int) {
	for _, k := range m {
		n += k
	}
	return n
}

// Summary is the report on one line.
func (r Report) Summary() string {
	with := ""
	if r.Kill {
		with = fmt.Sprintf(" with %d faults", total(r.Faults))
	}
	return fmt.Sprintf("%s: %d cycles%s, %d orders, %d messages: %d lost, %d doubled, %d reordered, %d failed requests, %d other; added p99 %s, longest pause %s",
		r.Module, r.Cycles, with, r.Orders, r.Messages, r.Lost, r.Doubled, r.Reordered, r.Failed, r.Other, short(r.AddedP99), short(r.Message.Longest))
}

// shown is how many violations of a report are told to people; report.json has all.
const shown = 100

// Markdown is the report for people.
func (r Report) Markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format+"\n", args...) }
	p("# %s: out and home %d times", r.Module, r.Cycles)
	p("")
	p("%s, program %s, seed %d, %d clients, %.0f s. %s.", r.At.Format("2006-01-02 15:04:05 UTC"), r.Program, r.Seed, r.Clients, r.Seconds, r.Topology)
	p("")
	p("| lost | doubled | reordered per key | failed requests | other |")
	p("|---:|---:|---:|---:|---:|")
	p("| %d | %d | %d | %d | %d |", r.Lost, r.Doubled, r.Reordered, r.Failed, r.Other)
	p("")
	p("Compared: %d orders that clients were told of (%s), %d messages between modules, %d charges of the card provider, %d mails, %d requests (%d to %s).",
		r.Orders, counts(r.ByStatus), r.Messages, r.Charges, r.Mails, r.Requests, r.OfModule, r.Module)
	if r.Kill {
		p("")
		p("Broken on purpose: %s. Attempts that got no answer from a process that was killed, and were answered when they were sent again: %s.", counts(r.Faults), counts(r.Interrupted))
	}
	p("")
	p("| requests | number | p50 | p99 | longest |")
	p("|---|---:|---:|---:|---:|")
	for _, when := range []string{"before", "during changes", "between changes"} {
		l := r.Latency[when]
		p("| %s | %d | %s | %s | %s |", when, l.Requests, short(l.P50), short(l.P99), short(l.Longest))
	}
	p("")
	p("Added p99 during changes: %s.", short(r.AddedP99))
	p("")
	p("| pause per key | number | median | p99 | longest |")
	p("|---|---:|---:|---:|---:|")
	for _, x := range []struct {
		what string
		Pause
	}{{"order until its outcome", r.Checkout}, {"message from or to " + r.Module, r.Message}} {
		p("| %s | %d | %s | %s | %s (%s) |", x.what, x.Messages, short(x.Median), short(x.P99), short(x.Longest), x.Of)
	}
	took := map[ownership.Placement][]time.Duration{}
	for _, f := range r.Flips {
		took[f.To] = append(took[f.To], f.Took)
	}
	p("")
	p("| change | number | median | longest |")
	p("|---|---:|---:|---:|")
	for _, to := range slices.Sorted(maps.Keys(took)) {
		all := took[to]
		p("| to %s | %d | %s | %s |", to, len(all), short(quantile(all, 0.5)), short(all[len(all)-1]))
	}
	p("")
	p("Settled %.1f s after the last request.", r.SettledAfter)
	if len(r.Violations) > 0 {
		p("")
		p("## What is wrong")
		p("")
		for i, v := range r.Violations {
			if i == shown {
				p("- … and %d more in report.json", len(r.Violations)-shown)
				break
			}
			p("- **%s** %s `%s`: %s", v.Kind, v.What, v.Key, strings.ReplaceAll(v.Detail, "\n", " "))
		}
	}
	return b.String()
}

func counts(m map[string]int) string {
	if len(m) == 0 {
		return "none"
	}
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, fmt.Sprintf("%d %s", m[k], k))
	}
	return strings.Join(all, ", ")
}

func short(d time.Duration) string {
	switch {
	case d >= 10*time.Second || d <= -10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= 100*time.Millisecond || d <= -100*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}
