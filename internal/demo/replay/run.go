package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/demo/retail"
)

// Defaults of Options.
const (
	DefaultClients  = 8
	DefaultPatience = 2 * time.Minute
)

const maxClients = 1000

// ErrDiffers says that the shop took everything and is settled, and its figures are not those of the files.
var ErrDiffers = errors.New("the shop's figures are not those of the files")

// Report is what the shop ended with.
type Report = retail.Report

// Options say what to replay, and against which shop.
type Options struct {
	Target   string        // as in http://localhost:8080
	Password string        // of the admin
	Clients  int           // how many requests at once; 0 for DefaultClients
	Patience time.Duration // how long to go on without any success; 0 for DefaultPatience
	Files    []string      // in the order of their dates
	Progress io.Writer     // nil for none
	Terminal bool          // Progress is a terminal: draw a bar
	Log      *slog.Logger  // nil for none
	Timing   *Timing       // filled in, unless nil
}

// Timing is how long the parts of a replay took.
type Timing struct {
	Prepare time.Duration // reading files; customers, products, stock
	Replay  time.Duration // from the first order until the last order or return was taken
	Settle  time.Duration // from then until all was settled
	Orders  int
	Returns int
}

// OrdersPerSecond is the pace from the first order until all was settled.
func (t Timing) OrdersPerSecond() float64 {
	if took := t.Replay + t.Settle; took > 0 {
		return float64(t.Orders) / took.Seconds()
	}
	return 0
}

// Validate names the wrong option and the way out.
func (o Options) Validate() error {
	_, err := o.validate()
	return err
}

func (o Options) validate() (*url.URL, error) {
	u, err := url.Parse(o.Target)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("target: %q is not the address of a shop, as in http://localhost:8080", o.Target)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	switch {
	case o.Password == "":
		return nil, errors.New("the admin's password is missing; set BANYAN_ADMIN_PASSWORD")
	case o.Clients < 0 || o.Clients > maxClients:
		return nil, fmt.Errorf("clients: %d is not between 1 and %d", o.Clients, maxClients)
	case o.Patience != 0 && o.Patience < time.Second:
		return nil, fmt.Errorf("patience: %s is not at least 1s", o.Patience)
	}
	return u, nil
}

// replay is one run.
type replay struct {
	plan     *retail.Plan
	client   *client
	clients  int
	patience time.Duration
	log      *slog.Logger
	progress *progress
	users    map[string]string // ids by customer number
}

// Run replays files and returns the figures that the shop ended with. With ErrDiffers the report is there as well.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Clients == 0 {
		o.Clients = DefaultClients
	}
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Timing == nil {
		o.Timing = new(Timing)
	}
	target, err := o.validate()
	if err != nil {
		return Report{}, err
	}
	began := time.Now()
	plan, err := retail.Load(o.Files)
	if err != nil {
		return Report{}, err
	}
	o.Log.Info("files read", "plan", plan.String())
	r := &replay{
		plan: plan, client: newClient(target, o.Password, o.Clients, o.Patience, o.Log), clients: o.Clients, patience: o.Patience,
		log: o.Log, progress: newProgress(o.Progress, o.Terminal), users: make(map[string]string, len(plan.Customers)),
	}
	defer r.progress.stop()
	defer r.client.close()

	for _, prepare := range []func(context.Context) error{r.enterCustomers, r.enterProducts, r.deliverStock} {
		if err := prepare(ctx); err != nil {
			return Report{}, err
		}
	}
	prepared := time.Now()
	if err := r.takeSteps(ctx); err != nil {
		return Report{}, err
	}
	taken := time.Now()
	if err := r.settle(ctx); err != nil {
		return Report{}, err
	}
	*o.Timing = Timing{
		Prepare: prepared.Sub(began), Replay: taken.Sub(prepared), Settle: time.Since(taken),
		Orders: len(plan.Orders), Returns: len(plan.Steps) - len(plan.Orders),
	}
	o.Log.Info("everything is settled", "orders", o.Timing.Orders, "returns", o.Timing.Returns, "seconds", (o.Timing.Replay + o.Timing.Settle).Seconds(),
		"orders_per_second", o.Timing.OrdersPerSecond())
	report, err := r.readBack(ctx)
	if err != nil {
		return Report{}, err
	}
	if wrong := report.Differences(plan.Expected()); len(wrong) > 0 {
		return report, fmt.Errorf("%w: %s", ErrDiffers, strings.Join(wrong, "; "))
	}
	return report, nil
}
