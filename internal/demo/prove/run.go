package prove

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/module"
)

// Defaults of Options.
const (
	DefaultCycles  = 3
	DefaultClients = 4
	maxClients     = 64
	maxCycles      = 10_000
)

// ErrViolated says that something was lost, doubled, reordered or failed; the report says what.
var ErrViolated = errors.New("the proof has failed")

// Options say what to prove.
type Options struct {
	Module      string
	Cycles      int  // out and home; 0 for DefaultCycles
	Kill        bool // processes, broker and sessions end at random moments
	Seed        uint64
	Clients     int    // customers at the same time; 0 for DefaultClients
	Dir         string // for the reports and the logs of the processes
	PostgresDSN string // of a superuser; empty: a server is started
	RabbitURL   string // of an administrator; empty: a broker is started
	RabbitCtl   string // the command that administers the broker of RabbitURL; empty: it is not broken
	Binary      string // this program
	Program     string // its version, for the report
	Modules     []module.Descriptor
	Progress    io.Writer // nil for none

	password string
}

// Validate names the wrong option and the way out.
func (o Options) Validate() error {
	switch {
	case !slices.Contains(o.names(), o.Module):
		return fmt.Errorf("--module: there is no module %q; there are %s", o.Module, strings.Join(o.names(), ", "))
	case o.Cycles < 0 || o.Cycles > maxCycles:
		return fmt.Errorf("--cycles: %d is not between 1 and %d", o.Cycles, maxCycles)
	case o.Clients < 0 || o.Clients > maxClients:
		return fmt.Errorf("--clients: %d is not between 1 and %d", o.Clients, maxClients)
	case o.RabbitCtl != "" && o.RabbitURL == "":
		return errors.New("--rabbitmqctl: is for the broker of --rabbitmq; name that too")
	case o.Dir == "":
		return errors.New("--out: is empty; name a folder for the report")
	}
	return nil
}

func (o Options) names() []string {
	var names []string
	for _, d := range o.Modules {
		names = append(names, d.Name)
	}
	return names
}

// unordered says that a handler promises no order.
func (o Options) unordered(name, handler string) bool {
	for _, d := range o.Modules {
		if d.Name != name {
			continue
		}
		for _, s := range d.Subscriptions {
			if s.Handler == handler {
				return s.Unordered
			}
		}
	}
	return false
}

const (
	baseline     = 3 * time.Second // of traffic before anything moves
	settleWithin = 2 * time.Minute
)

// Run proves one module, and writes report.json and report.md into o.Dir. With ErrViolated the report is there as well.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Cycles == 0 {
		o.Cycles = DefaultCycles
	}
	if o.Clients == 0 {
		o.Clients = DefaultClients
	}
	if err := o.Validate(); err != nil {
		return Report{}, err
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return Report{}, err
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return Report{}, err
	}
	// Stores and mails are gone afterwards; what the processes said stays beside the report of what went wrong.
	work, err := os.MkdirTemp(dir, "run-")
	if err != nil {
		return Report{}, err
	}
	o.Dir, o.password = dir, rand.Text()
	r, err := prove(ctx, o, newPostgres(o, o.Module, work))
	err = errors.Join(err, os.RemoveAll(filepath.Join(work, "data")))
	if err != nil && !errors.Is(err, ErrViolated) {
		return r, fmt.Errorf("%w; the logs are in %s", err, work)
	}
	if err == nil {
		return r, errors.Join(os.RemoveAll(work), r.write(dir)) // nobody reads the logs of what went well
	}
	r.Logs = filepath.Base(work)
	return r, errors.Join(err, r.write(dir))
}

func (o Options) say(format string, args ...any) {
	if o.Progress != nil {
		_, _ = fmt.Fprintf(o.Progress, "%s %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
	}
}

func prove(ctx context.Context, o Options, top topology) (r Report, err error) {
	defer func() { err = errors.Join(err, top.close()) }()
	o.say("starting %s", o.Module)
	if err := top.start(ctx); err != nil {
		return r, err
	}
	t := newTraffic("http://"+top.shop().addr, o.password, o.Module, o.Clients, o.Seed)
	if err := t.prepare(ctx); err != nil {
		return r, fmt.Errorf("prepare the shop: %w", err)
	}
	began := time.Now()
	m := &mover{top: top, module: o.Module}
	var b breaker
	var faults []fault
	if o.Kill {
		faults = top.faults()
	}
	running, halt := context.WithCancel(ctx)
	defer halt()
	t.start(running)
	moving := errors.Join(wait(ctx, baseline), stay(ctx, t, 0))
	first := time.Now()
	if moving == nil {
		moving = b.run(ctx, plan(o.Cycles, faults, o.Seed), m, t, o.say)
	}
	if ctx.Err() != nil {
		halt()
		t.end()
		return r, context.Cause(ctx)
	}
	t.end()
	o.say("settling")
	r = Report{
		Module: o.Module, Topology: top.describe(), Program: o.Program, Cycles: o.Cycles, Kill: o.Kill, Seed: o.Seed, Clients: o.Clients,
		At: began.UTC().Truncate(time.Second), Seconds: time.Since(began).Seconds(), Violations: []Violation{},
	}
	r.requests(t.log, first, m.flips, b.broken)
	if moving != nil {
		r.add(Violation{Kind: Stuck, What: "change", Key: o.Module, Detail: moving.Error()})
	}
	settled := time.Now()
	var books Books
	var seen Testimony
	found, err := settle(ctx, func(last bool) (found []Violation, err error) {
		busy, err := top.busy(ctx)
		if err != nil {
			return nil, err
		}
		if busy != "" {
			found = append(found, Violation{Kind: Stuck, What: "shop", Key: o.Module, Detail: fmt.Sprintf("it does not settle in %s: %s", settleWithin, busy)})
			if !last {
				return found, nil
			}
		}
		r.SettledAfter = time.Since(settled).Seconds()
		books = Books{}
		if err := readBooks(ctx, top, t, &books); err != nil {
			return nil, fmt.Errorf("read the books: %w", err)
		}
		if seen, err = top.testimony(ctx); err != nil {
			return nil, fmt.Errorf("ask the witness: %w", err)
		}
		return slices.Concat(found, reconcile(t.told, books), examine(seen, o.unordered)), nil
	})
	if err != nil {
		return r, err
	}
	r.add(found...)
	r.figures(t.told, books, seen)
	if len(r.Violations) > 0 {
		return r, ErrViolated
	}
	return r, nil
}

// settle waits until nothing is wrong, and gives what still is when time is over: with the last look. What is between two stores, in a queue
// of the broker, no store shows, so that what does not agree yet is looked at again.
func settle(ctx context.Context, look func(last bool) ([]Violation, error)) ([]Violation, error) {
	for limit := time.Now().Add(settleWithin); ; {
		last := time.Now().After(limit)
		if found, err := look(last); last || err == nil && len(found) == 0 {
			return found, err
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// readBooks reads all books: rows, reports over HTTP, and the files of the provider and of the mails.
func readBooks(ctx context.Context, top topology, t *traffic, b *Books) error {
	return errors.Join(top.rows(ctx, b), t.reports(ctx, b), readProvider(filepath.Join(top.data(), "payments", "provider.jsonl"), b), readMails(filepath.Join(top.data(), "notifications", "mail"), b))
}

// reports asks the modules for their own figures.
func (t *traffic) reports(ctx context.Context, b *Books) error {
	r := Reports{Orders: map[string]string{}, Payments: map[string]int64{}, OnHand: map[string]int64{}, Shipments: map[string]string{}, Users: map[string]string{}, Notifications: map[string]int64{}}
	orders, err := pages[struct{ ID, Status string }](ctx, t.admin, "orders", "/api/orders")
	if err != nil {
		return err
	}
	for _, o := range orders {
		r.Orders[o.ID] = o.Status
	}
	payments, err := pages[struct {
		OrderID            string `json:"order_id"`
		Captured, Refunded price
	}](ctx, t.admin, "payments", "/api/payments")
	if err != nil {
		return err
	}
	for _, p := range payments {
		r.Payments[p.OrderID] += p.Captured.Amount - p.Refunded.Amount
	}
	stock, err := pages[struct {
		SKU    string `json:"sku"`
		OnHand int64  `json:"on_hand"`
	}](ctx, t.admin, "inventory", "/api/inventory/reports/stock")
	if err != nil {
		return err
	}
	for _, s := range stock {
		r.OnHand[s.SKU] = s.OnHand
	}
	shipments, err := pages[struct {
		OrderID string `json:"order_id"`
		State   string
	}](ctx, t.admin, "shipping", "/api/shipments")
	if err != nil {
		return err
	}
	for _, s := range shipments {
		r.Shipments[s.OrderID] = s.State
	}
	users, err := pages[struct{ ID, Name string }](ctx, t.admin, "users", "/api/users")
	if err != nil {
		return err
	}
	for _, u := range users {
		r.Users[u.ID] = u.Name
	}
	var told struct {
		Counts []struct {
			Kind, State string
			Count       int64
		}
	}
	var sums struct{ Unbalanced int64 }
	for path, v := range map[string]any{"/api/notifications/report": &told, "/api/payments/reports/summary": &sums} {
		a, err := t.admin.send(ctx, strings.Split(path, "/")[2], "GET", path, "", nil)
		if err == nil {
			err = a.into(v)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	for _, c := range told.Counts {
		r.Notifications[c.Kind+" "+c.State] = c.Count
	}
	r.Unbalanced = sums.Unbalanced
	for cursor := ""; ; {
		var page struct {
			Differences []json.RawMessage
			Next        string
		}
		a, err := t.admin.send(ctx, "payments", "GET", "/api/payments/reports/reconciliation?limit=500&cursor="+cursor, "", nil)
		if err == nil {
			err = a.into(&page)
		}
		if err != nil {
			return fmt.Errorf("reconciliation: %w", err)
		}
		r.Unreconciled += int64(len(page.Differences))
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	b.Reports = r
	return nil
}

func readProvider(path string, b *Books) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for l := range strings.Lines(string(text)) {
		var p ProviderBook
		if json.Unmarshal([]byte(l), &p) == nil { // a line that a kill tore did not happen
			b.Provider = append(b.Provider, p)
		}
	}
	return nil
}

func readMails(dir string, b *Books) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.eml"))
	if err != nil {
		return err
	}
	for _, path := range files {
		m, err := readMail(path)
		if err != nil {
			return fmt.Errorf("mail %s: %w", filepath.Base(path), err)
		}
		b.Mails = append(b.Mails, m)
	}
	return nil
}

func readMail(path string) (MailBook, error) {
	f, err := os.Open(path)
	if err != nil {
		return MailBook{}, err
	}
	defer func() { _ = f.Close() }()
	m, err := mail.ReadMessage(f)
	if err != nil {
		return MailBook{}, err
	}
	to, err := mail.ParseAddress(m.Header.Get("To"))
	if err != nil {
		return MailBook{}, err
	}
	return MailBook{ID: strings.TrimSuffix(filepath.Base(path), ".eml"), MessageID: strings.Trim(m.Header.Get("Message-ID"), "<>"), To: to.Address, Subject: m.Header.Get("Subject")}, nil
}
