package gate

import (
	"net/http"
	"time"
)

// Sample is what became of one request of the module.
type Sample struct {
	At       time.Time     `json:"at"` // when it began
	Remote   bool          `json:"remote"`
	Route    string        `json:"route"`              // the pattern, never the path: there must be few
	Subject  uint64        `json:"-"`                  // hash of whom the canary sticks to; 0 if nobody is known
	Guest    bool          `json:"-"`                  // the subject is one who has not signed in: there can be any number of them for nothing
	Status   int           `json:"status,omitempty"`   // 0 if there was no answer
	Failure  string        `json:"failure,omitempty"`  // one of those below; "" is None
	Duration time.Duration `json:"duration,omitempty"` // to answer; 0 if that says nothing, as for a stream
	Trace    string        `json:"trace,omitempty"`
}

// The failures of a sample, as proxy/upstream names them. Any other name is judged by its status. Overload is what we
// ourselves refuse for want of room; what an open breaker keeps back is NotSent, or a module that is down would have
// no failures any more.
const (
	None        = "none"
	NotSent     = "not_sent"
	MaybeSent   = "maybe_sent"
	Answered5xx = "answered_5xx"
	Aborted     = "aborted"
	ClientAbort = "client_abort"
	Overload    = "overload"
)

// statusClientClosed is what some servers log for a client that went away.
const statusClientClosed = 499

// outcome is what a sample says of the side it was asked on.
type outcome int

const (
	nothing  outcome = iota // nothing: the client or we ourselves ended it
	answered                // it was answered
	failed                  // it was answered with a failure
	noAnswer                // it got no answer, or half of one
)

func (s *Sample) outcome() outcome {
	switch s.Failure {
	case ClientAbort, Overload:
		return nothing
	case NotSent, MaybeSent, Aborted:
		return noAnswer
	}
	switch {
	case s.Status == statusClientClosed:
		return nothing
	case s.Failure == Answered5xx, s.Status >= http.StatusInternalServerError:
		return failed
	}
	return answered
}

// known says whether the request was one of somebody who has signed in.
func (s *Sample) known() bool { return s.Subject != 0 && !s.Guest }

// The statuses that tell a client to change something, in the order in which they are kept.
var watched = [...]int{
	http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity,
}

// filter knows approximately what it has seen: it never takes for new what it knows, and seldom the other way round. When it
// is half full it forgets everything, so that it is never too full to find anything new.
type filter struct {
	bits [filterBits / 64]uint64
	set  int
}

const (
	filterBits = 1 << 16
	// maxSubjects is what min_subjects may be: well below the number at which a filter forgets.
	maxSubjects = 10_000
)

// first says whether it sees h for the first time.
func (f *filter) first(h uint64) bool {
	h = mix(h)
	i, bit := h%filterBits/64, uint64(1)<<(h&63)
	if f.bits[i]&bit != 0 {
		return false
	}
	if f.set >= filterBits/2 {
		f.clear()
	}
	f.bits[i] |= bit
	f.set++
	return true
}

func (f *filter) clear() { *f = filter{} }

// mix spreads what differs in few bits.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// ring keeps the newest samples.
type ring struct {
	kept [maxSamples]Sample
	n    int // ever kept
}

const maxSamples = 10

func (r *ring) keep(s *Sample) {
	r.kept[r.n%maxSamples] = *s
	r.n++
}

// newest are the last ones, at most n, oldest first.
func (r *ring) newest(n int) []Sample {
	n = min(n, r.n, maxSamples)
	list := make([]Sample, 0, n)
	for i := r.n - n; i < r.n; i++ {
		list = append(list, r.kept[i%maxSamples])
	}
	return list
}
