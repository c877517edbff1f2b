package shadow

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxPaths   = 256 // that are counted per route
	maxSamples = 20  // that are kept per route
	maxAlike   = 5   // of them with the same first path
	maxShown   = 8   // paths of a sample
)

// others counts what differs beyond maxPaths.
const others = "(other paths)"

// Report is what was found since a time.
type Report struct {
	Since  time.Time     `json:"since"`
	Routes []RouteReport `json:"routes"` // in the order of their names
}

// RouteReport is one route's. Compared is the sum of Equal, Noise, Skew and Mismatch.
type RouteReport struct {
	Route       string       `json:"route"`
	Compared    int64        `json:"compared"`
	Equal       int64        `json:"equal"`
	Noise       int64        `json:"noise"`       // local differs from itself in the same way
	Skew        int64        `json:"skew"`        // the difference went away
	Unexplained int64        `json:"unexplained"` // of Skew: local had not changed in between
	Mismatch    int64        `json:"mismatch"`
	Failed      int64        `json:"failed"`  // a side gave no answer
	Learned     int64        `json:"learned"` // taught what is noise, and counted for nothing else
	Controls    int64        `json:"controls"`
	Dropped     int64        `json:"dropped"`   // no room
	TooLarge    int64        `json:"too_large"` // not compared
	Unsafe      bool         `json:"unsafe"`    // tried to write: no longer mirrored
	Paths       []PathReport `json:"paths,omitempty"`
	Samples     []Sample     `json:"samples,omitempty"`
}

// PathReport counts the comparisons in which a path differed, by what that was.
type PathReport struct {
	Path     string `json:"path"`
	Mismatch int64  `json:"mismatch"`
	Skew     int64  `json:"skew"`
	Noise    int64  `json:"noise"`
	Control  int64  `json:"control"` // of the route's Controls
}

// Sample is one comparison. It holds no body.
type Sample struct {
	At          time.Time    `json:"at"`
	Result      string       `json:"result"`               // mismatch or skew
	RequestID   string       `json:"request_id,omitempty"` // of the client's request
	Differences []Difference `json:"differences"`
}

// The results that are sampled.
const (
	Mismatch = "mismatch"
	Skew     = "skew"
)

// route is what is known of one route. Work that began before a reset keeps the old one, and so counts no more.
type route struct {
	differ   *Differ
	unsafe   atomic.Bool
	dropped  atomic.Int64
	tooLarge atomic.Int64

	mu      sync.Mutex
	counts  RouteReport
	paths   map[string]*PathReport
	samples []Sample
}

// path is where a path is counted.
func (r *route) path(name string) *PathReport {
	if p := r.paths[name]; p != nil {
		return p
	}
	if len(r.paths) >= maxPaths {
		name = others
		if p := r.paths[name]; p != nil {
			return p
		}
	}
	p := &PathReport{Path: name}
	r.paths[name] = p
	return p
}

// noiseShare is the share of control runs, in percent, from which on a path is noisy. A difference that is seen twice while
// local agreed with itself is by chance at most once in 10,000 comparisons where local differs from itself in one of 100;
// so there it is no chance, and above it may be.
const noiseShare = 1

func (r *route) noisy(name string) bool {
	p := r.paths[name]
	if p == nil && len(r.paths) > maxPaths {
		p = r.paths[others]
	}
	return p != nil && p.Control > 0 && p.Control*100 >= r.counts.Controls*noiseShare
}

// learn takes what two answers of local differ in.
func (r *route) learn(control []Difference) {
	r.counts.Controls++
	for _, d := range control {
		r.path(d.Path).Control++
	}
}

func (r *route) sample(s Sample) {
	alike := 0
	for _, o := range r.samples {
		if o.Result == s.Result && o.Differences[0].Path == s.Differences[0].Path {
			alike++
		}
	}
	if alike >= maxAlike {
		return
	}
	s.Differences = slices.Clone(s.Differences[:min(len(s.Differences), maxShown)])
	if len(r.samples) < maxSamples {
		r.samples = append(r.samples, s)
		return
	}
	// A mismatch is worth more than skew.
	if i := slices.IndexFunc(r.samples, func(o Sample) bool { return o.Result != Mismatch }); i >= 0 && s.Result == Mismatch {
		r.samples[i] = s
	}
}

func (r *route) report(name string) RouteReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts
	c.Route, c.Dropped, c.TooLarge, c.Unsafe = name, r.dropped.Load(), r.tooLarge.Load(), r.unsafe.Load()
	c.Compared = c.Equal + c.Noise + c.Skew + c.Mismatch
	for _, p := range r.paths {
		c.Paths = append(c.Paths, *p)
	}
	slices.SortFunc(c.Paths, func(a, b PathReport) int {
		return cmp.Or(cmp.Compare(b.Mismatch, a.Mismatch), cmp.Compare(b.Skew, a.Skew), cmp.Compare(b.Noise, a.Noise), cmp.Compare(a.Path, b.Path))
	})
	c.Samples = slices.Clone(r.samples)
	return c
}

// restore takes up what was found before, by a process that has ended.
func (r *route) restore(from RouteReport) {
	r.counts, r.samples = from, from.Samples
	r.counts.Paths, r.counts.Samples = nil, nil
	for _, p := range from.Paths {
		r.paths[p.Path] = &p
	}
	r.unsafe.Store(from.Unsafe)
	r.dropped.Store(from.Dropped)
	r.tooLarge.Store(from.TooLarge)
}

// state is all that a reset forgets.
type state struct {
	since  time.Time
	routes map[string]*route
}

func (s *state) report() Report {
	r := Report{Since: s.since, Routes: make([]RouteReport, 0, len(s.routes))}
	for _, name := range slices.Sorted(maps.Keys(s.routes)) {
		r.Routes = append(r.Routes, s.routes[name].report(name))
	}
	return r
}
