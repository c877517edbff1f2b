package ownership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
)

// Options say what a process is, and what it brings.
type Options struct {
	Self    Process                // ID, Module, Program, Names, Address
	Modules []string               // all there are
	Asks    map[string]bool        // modules that ask others while they answer
	Shared  bool                   // a store can be open on both sides: PostgreSQL
	Needed  map[string]string      // modules that cannot be retired, and why
	Wishes  func() map[string]Wish // what is configured; nil for a process that has no say
	Broker  func() string          // how the broker is; nil for none
	TTL     time.Duration          // how soon a process that does not register counts as gone
	Log     *slog.Logger
}

// Owners is what a process knows of the records, and its part in changing them.
type Owners struct {
	registry  Registry
	o         Options
	followers []*Follower
	nudge     chan struct{}
	reading   chan struct{} // holds who reads: of two reads at once the older might come last

	mu      sync.Mutex
	current Snapshot
	sight   sightings
	trouble error
	said    map[string]string // module -> why its wish waits
}

// Follower is a part of the process that puts records in force.
type Follower struct {
	owners *Owners
	fn     func([]Record)
	mu     sync.Mutex
	done   map[string]uint64
	waits  map[string]string // module -> why its record is not in force yet
}

// Open reads the records. Run keeps them fresh.
func Open(ctx context.Context, registry Registry, o Options) (*Owners, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.TTL == 0 {
		o.TTL = 3 * time.Second
	}
	own := &Owners{registry: registry, o: o, nudge: make(chan struct{}, 1), reading: make(chan struct{}, 1), said: map[string]string{}}
	own.o.Self.StartedAt = time.Now().UTC()
	snap, err := registry.Read(ctx)
	own.sight.ttl = o.TTL
	if err == nil {
		own.sight.look(snap.Processes, time.Now())
	}
	own.current = snap
	for _, m := range o.Modules {
		if own.o.Self.Module == "" && snap.record(m).Placement == Retired {
			own.o.Self.Lacks = append(own.o.Self.Lacks, m)
		}
	}
	return own, err
}

// Self is this process.
func (o *Owners) Self() Process { return o.o.Self }

// Follow has fn called with all records before Run begins to change anything and at each change, one call at a time. The follower says
// which of them are in force. Before Run.
func (o *Owners) Follow(fn func([]Record)) *Follower {
	f := &Follower{owners: o, fn: fn, done: map[string]uint64{}, waits: map[string]string{}}
	o.followers = append(o.followers, f)
	return f
}

// Done says that a version of a module's record is in force in this part of the process.
func (f *Follower) Done(module string, version uint64) {
	f.mu.Lock()
	news := f.done[module] < version
	f.done[module] = max(f.done[module], version)
	f.mu.Unlock()
	if news {
		f.owners.Nudge()
	}
}

// Waits says why the record of a module is not in force yet in this part of the process, for people; "" for nothing.
func (f *Follower) Waits(module, why string) {
	f.mu.Lock()
	news := f.waits[module] != why
	if f.waits[module] = why; why == "" {
		delete(f.waits, module)
	}
	f.mu.Unlock()
	if news {
		f.owners.Nudge()
	}
}

func (f *Follower) version(module string) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done[module]
}

// Nudge has the process look, and register, now.
func (o *Owners) Nudge() {
	select {
	case o.nudge <- struct{}{}:
	default:
	}
}

// Record is where a module is, as far as is known here.
func (o *Owners) Record(module string) Record {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.current.record(module)
}

// Records are all of them, by name of the module.
func (o *Owners) Records() []Record {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.current.records(o.o.Modules)
}

func (s Snapshot) record(module string) Record {
	if r, ok := s.Records[module]; ok {
		return r
	}
	return first(module)
}

func (s Snapshot) records(modules []string) []Record {
	list := make([]Record, len(modules))
	for i, m := range modules {
		list[i] = s.record(m)
	}
	slices.SortFunc(list, func(a, b Record) int { return cmp.Compare(a.Module, b.Module) })
	return list
}

// pollEvery is how often it looks at the records, and oftener where a registration lasts for less than three times that.
const pollEvery = time.Second

// Run follows the records, registers the process and does its part until ctx ends; then the process is known to be gone.
func (o *Owners) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() {
		if err := o.registry.Watch(ctx, o.Nudge); err != nil && ctx.Err() == nil {
			o.o.Log.Warn("placements are not watched, only looked at now and then", "error", err)
		}
	})
	followed := o.Records()
	o.follow(followed)
	registered := time.Time{}
	var last Process
	for ctx.Err() == nil {
		err := o.read(ctx)
		if err == nil {
			// Not what this read has changed: others of the process read too.
			if records := o.Records(); !slices.Equal(records, followed) {
				followed = records
				o.follow(records)
			}
			now := o.present()
			if time.Since(registered) >= o.o.TTL/3 || !maps.Equal(now.Follows, last.Follows) || !maps.Equal(now.Wishes, last.Wishes) || !maps.Equal(now.Waits, last.Waits) || now.Broker != last.Broker {
				if err = o.registry.Register(ctx, now); err == nil {
					registered, last = time.Now(), now
					o.Nudge() // the next step may have waited for this
				}
			}
		}
		if err == nil && o.o.Self.Module == "" {
			err = o.decide(ctx)
		}
		o.note(ctx, err)
		select {
		case <-ctx.Done():
		case <-o.nudge:
		case <-time.After(min(pollEvery, o.o.TTL/3)):
		}
	}
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := o.registry.Leave(leaving, o.o.Self.ID); err != nil {
		o.o.Log.Warn("registration not taken back, it will run out", "error", err)
	}
	return nil
}

// Refresh reads the records now, and has the process follow them.
func (o *Owners) Refresh(ctx context.Context) error {
	defer o.Nudge()
	return o.read(ctx)
}

func (o *Owners) read(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case o.reading <- struct{}{}:
		defer func() { <-o.reading }()
	}
	snap, err := o.registry.Read(ctx)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sight.look(snap.Processes, time.Now())
	snap.keep(o.current, alive(snap.Processes, o.o.TTL), o.o.Self.ID)
	o.current = snap
	return nil
}

// keep has nothing go back where the store has: it was restored from a backup. What this process knows later it keeps, and it looks whether
// others know later still.
func (s *Snapshot) keep(before Snapshot, live []Process, self string) {
	s.lost, s.told = map[string]uint64{}, map[string]bool{}
	for m, r := range before.Records {
		if r.Version <= s.record(m).Version {
			continue
		}
		if s.Records == nil {
			s.Records = map[string]Record{}
		}
		s.Records[m], s.lost[m] = r, r.Version
	}
	for _, p := range live {
		for m, version := range p.Follows {
			switch {
			case version <= s.record(m).Version:
			case p.Module != "":
				s.lost[m] = max(s.lost[m], version)
			case p.ID != self:
				s.told[m] = true
			}
		}
	}
}

func (o *Owners) follow(records []Record) {
	for _, f := range o.followers {
		f.fn(records)
	}
}

// follows is what all parts of the process have in force.
func (o *Owners) follows() map[string]uint64 {
	all := map[string]uint64{}
	for _, m := range o.o.Modules {
		version := o.Record(m).Version
		for _, f := range o.followers {
			version = min(version, f.version(m))
		}
		if version > 0 {
			all[m] = version
		}
	}
	return all
}

// present is this process as it is now.
func (o *Owners) present() Process {
	p := o.o.Self
	p.Follows, p.Broker, p.Waits = o.follows(), o.broker(), map[string]string{}
	for _, f := range o.followers {
		f.mu.Lock()
		maps.Copy(p.Waits, f.waits)
		f.mu.Unlock()
	}
	if o.o.Wishes != nil {
		p.Wishes = map[string]string{}
		for m, w := range o.o.Wishes() {
			p.Wishes[m] = w.String()
		}
	}
	return p
}

func (o *Owners) broker() string {
	if o.o.Broker == nil {
		return BrokerNone
	}
	return o.o.Broker()
}

// note says once that the records cannot be reached, and that they can be again.
func (o *Owners) note(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	o.mu.Lock()
	before := o.trouble
	o.trouble = err
	o.mu.Unlock()
	switch {
	case err != nil && before == nil:
		o.o.Log.Warn("the control store cannot be reached; everything stays where it is", "error", err)
	case err == nil && before != nil:
		o.o.Log.Info("the control store can be reached again")
	}
}

// Trouble is why nothing can change just now; nil if it can.
func (o *Owners) Trouble() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.trouble
}

func (o *Owners) situation(s Snapshot) situation {
	return situation{shared: o.o.Shared, broker: o.broker(), asks: o.o.Asks, needed: o.o.Needed, processes: alive(s.Processes, o.o.TTL), self: o.o.Self}
}

func (o *Owners) snapshot() Snapshot {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.current
}

// forgetAfter is how long a process that is gone is remembered.
const forgetAfter = time.Hour

// decide takes the next step of each change, and makes configured values wishes when they have changed.
func (o *Owners) decide(ctx context.Context) error {
	snap := o.snapshot()
	s := o.situation(snap)
	o.mu.Lock()
	sure := o.sight.settled()
	o.mu.Unlock()
	var failed []error
	for _, p := range snap.Processes {
		if p.Age > forgetAfter {
			failed = append(failed, o.registry.Leave(ctx, p.ID))
		}
	}
	for _, m := range o.o.Modules {
		r := snap.record(m)
		if snap.told[m] {
			continue // that one writes what it knows
		}
		if version := snap.lost[m]; version > 0 {
			from := r
			from.Version = version
			failed = append(failed, o.move(ctx, from, r, Cause{Caller: o.o.Self.Label(), Reason: "the control store was older than what is in force, as one from a backup"}))
			continue
		}
		if sure && abandoned(r, s.processes) && time.Since(r.ChangedAt) > o.o.TTL {
			to, err := plan(s, r, Wish{Placement: Local})
			if err == nil {
				err = o.move(ctx, r, to, Cause{Caller: o.o.Self.Label(), Reason: "no process of " + m + " lives to take it"})
			}
			failed = append(failed, err)
			continue
		}
		if to, ok := next(r, s.processes); ok {
			failed = append(failed, o.move(ctx, r, to, Cause{Caller: o.o.Self.Label(), Reason: "every live process follows"}))
			continue
		}
		if o.o.Wishes != nil {
			failed = append(failed, o.wish(ctx, s, r))
		}
	}
	return errors.Join(failed...)
}

// move is a change of this process's own accord: another one may be faster.
func (o *Owners) move(ctx context.Context, from, to Record, cause Cause) error {
	err := o.registry.Move(ctx, from, to, cause)
	if errors.Is(err, ErrMoved) {
		return nil // the next look finds what it was
	}
	if err == nil {
		o.Nudge()
	}
	return err
}

func (o *Owners) wish(ctx context.Context, s situation, r Record) error {
	w, configured := o.o.Wishes()[r.Module]
	if !configured || w.String() == cmp.Or(r.Wished, string(Local)) {
		o.say(r.Module, "")
		return nil
	}
	cause := Cause{Caller: "configuration of " + o.o.Self.Label(), Reason: "modules." + r.Module + ".placement is " + w.String()}
	if others := disagreement(r.Module, w.String(), s.processes, o.o.Self.ID); others != "" {
		o.say(r.Module, "the processes of the shop are configured differently: "+others+"; here it is "+w.String())
		return nil
	}
	to, err := plan(s, r, w)
	switch {
	case err == nil:
		o.say(r.Module, "")
		to.Refused = ""
	case errs.Is(err, errs.Unavailable):
		o.say(r.Module, err.Error())
		return nil
	default:
		o.say(r.Module, "")
		o.o.Log.Error("configured placement refused", "module", r.Module, "wish", w.String(), "error", err)
		to = r
		to.Refused, cause.Reason = err.Error(), cause.Reason+": refused"
	}
	to.Wished = w.String()
	return o.move(ctx, r, to, cause)
}

// say notes why a wish waits, and logs it once.
func (o *Owners) say(module, why string) {
	o.mu.Lock()
	news := o.said[module] != why
	o.said[module] = why
	o.mu.Unlock()
	if news && why != "" {
		o.o.Log.Warn("configured placement waits", "module", module, "why", why)
	}
}

// Set changes where a module is.
func (o *Owners) Set(ctx context.Context, module string, w Wish, cause Cause) (Record, error) {
	return o.change(ctx, module, cause, func(Record) (Wish, error) { return w, nil })
}

// Replace is Set if the module is still where somebody has seen it; else ErrMoved.
func (o *Owners) Replace(ctx context.Context, module string, seen, w Wish, epoch uint64, cause Cause) (Record, error) {
	return o.change(ctx, module, cause, func(r Record) (Wish, error) {
		if r.Wish != seen || r.Epoch != epoch {
			return w, ErrMoved
		}
		return w, nil
	})
}

// Outrun brings the epoch of a module that this side owns past a term by which its lease was taken. The record that gave that term is gone with
// what the control store was before it was restored from a backup, and by an earlier one nobody gets the lease.
func (o *Owners) Outrun(ctx context.Context, module string, term uint64) error {
	if err := o.Refresh(ctx); err != nil {
		return err
	}
	side := Home
	if o.o.Self.Module != "" {
		side = Away
	}
	from := o.Record(module)
	if from.Epoch >= term || !from.Owns(side) {
		return nil
	}
	to := from
	to.Epoch = term + 1
	return o.move(ctx, from, to, Cause{Caller: o.o.Self.Label(), Reason: fmt.Sprintf("its lease was taken by epoch %d, which the control store does not know, as one from a backup", term)})
}

// Check says what stands in the way of a change, and makes none: the error is that of Set.
func (o *Owners) Check(module string, w Wish) error {
	if !slices.Contains(o.o.Modules, module) {
		return errs.New(errs.NotFound, "there is no module %q, only %v", module, o.o.Modules)
	}
	snap := o.snapshot()
	_, err := plan(o.situation(snap), snap.record(module), w)
	return err
}

func (o *Owners) change(ctx context.Context, module string, cause Cause, wish func(Record) (Wish, error)) (Record, error) {
	if !slices.Contains(o.o.Modules, module) {
		return Record{}, errs.New(errs.NotFound, "there is no module %q, only %v", module, o.o.Modules)
	}
	if err := o.read(ctx); err != nil {
		return Record{}, err
	}
	snap := o.snapshot()
	from := snap.record(module)
	w, err := wish(from)
	if err != nil {
		return from, err
	}
	to, err := plan(o.situation(snap), from, w)
	if err != nil || to == from {
		return from, err
	}
	if err := o.registry.Move(ctx, from, to, cause); err != nil {
		return from, err
	}
	defer o.Nudge()
	if err := o.read(ctx); err != nil {
		return to, err
	}
	return o.Record(module), nil
}

// Status is how a module is doing on its way.
type Status struct {
	Record
	Configured string   `json:"configured,omitempty"`
	Waits      []string `json:"waits,omitempty"` // what the change waits for, or the wish
}

// Status is that of each module, and the processes that live.
func (o *Owners) Status() ([]Status, []Process) {
	snap := o.snapshot()
	live := alive(snap.Processes, o.o.TTL)
	var list []Status
	for _, r := range snap.records(o.o.Modules) {
		s := Status{Record: r}
		if r.Step != Settled {
			s.Waits = waitsFor(r, live)
		}
		if o.o.Wishes != nil {
			s.Configured = o.o.Wishes()[r.Module].String()
		}
		o.mu.Lock()
		if why := o.said[r.Module]; why != "" {
			s.Waits = append(s.Waits, why)
		}
		o.mu.Unlock()
		list = append(list, s)
	}
	return list, live
}

// Alone says that, as far as is known here, no other process lives that has a module: neither of the shop nor beside it.
func (o *Owners) Alone(module string) bool {
	return !slices.ContainsFunc(alive(o.snapshot().Processes, o.o.TTL), func(p Process) bool {
		return p.ID != o.o.Self.ID && (p.Module == "" || p.Module == module)
	})
}

// Journal is what has happened to a module, the latest first.
func (o *Owners) Journal(ctx context.Context, module string, limit int) ([]Entry, error) {
	return o.registry.Journal(ctx, module, limit)
}
