package cache

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// key names what is asked for, and of whom.
type key struct {
	side              uint64
	secure            bool
	host, path, query string
}

// entry is an answer that is kept. Nothing of it changes once it is in the store, but its place there.
type entry struct {
	key     key
	varied  []string // what the request said in the headers of terms.vary
	status  int
	header  http.Header
	body    []byte
	tags    []string
	epoch   uint64
	born    time.Time // when its age was 0
	terms   terms
	etag    string
	changed string // Last-Modified
	size    int64

	// Guarded by the store.
	queue      *queue // nil once it is forgotten
	prev, next *entry
}

func (e *entry) age(now time.Time) time.Duration { return max(0, now.Sub(e.born)) }

// answers says whether the entry is an answer for a request with these headers.
func (e *entry) answers(h http.Header, known bool) bool {
	if known && !e.terms.shared {
		return false
	}
	for i, name := range e.terms.vary {
		if varied(h, name, known) != e.varied[i] {
			return false
		}
	}
	return true
}

// overhead is about what an entry takes beside its text: the entry, its places in the indexes, its header.
const overhead = 1024

func (e *entry) weigh() {
	n := overhead + len(e.key.host) + len(e.key.path) + len(e.key.query) + len(e.body)
	for name, lines := range e.header {
		n += len(name) + 64
		for _, l := range lines {
			n += len(l)
		}
	}
	for _, s := range slices.Concat(e.tags, e.varied) {
		n += len(s) + 64
	}
	e.size = int64(n)
}

// queue is a list of entries, the one used last at its front.
type queue struct {
	front, back *entry
	bytes       int64
}

func (q *queue) push(e *entry) {
	e.queue, e.prev, e.next = q, nil, q.front
	if q.front != nil {
		q.front.prev = e
	} else {
		q.back = e
	}
	q.front = e
	q.bytes += e.size
}

func (q *queue) remove(e *entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		q.front = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		q.back = e.prev
	}
	q.bytes -= e.size
	e.queue, e.prev, e.next = nil, nil, nil
}

// store keeps entries up to a number of bytes. What was asked for once waits in young, what was asked for again in old,
// which has most of the room: questions that are made up to be new each time push out each other, not what is wanted.
type store struct {
	mu         sync.Mutex
	max        int64
	young, old queue
	places     map[key][]*entry // newest first
	labels     map[label]map[*entry]struct{}
	purges     [4096]label // the last ones, by number
	purged     uint64      // so many there were
	entries    int
	evicted    uint64
}

// label is what entries are forgotten by.
type label struct {
	kind labelKind
	name string
}

type labelKind byte

const (
	byPath labelKind = iota
	byTag
	byPrefix // of the path; not in the index
)

func newStore(bytes int64) *store {
	return &store{max: bytes, places: map[key][]*entry{}, labels: map[label]map[*entry]struct{}{}}
}

const maxVariants = 16

// get is the entry for a request. Without one it says whether there is one for another request to the same place, and
// by what headers that one varies.
func (s *store) get(k key, h http.Header, known bool) (found *entry, others bool, vary []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.places[k] {
		if e.answers(h, known) {
			if found == nil {
				found = e
			}
			continue
		}
		if !known || e.terms.shared {
			others, vary = true, e.terms.vary
		}
	}
	if found == nil {
		return nil, others, vary
	}
	found.queue.remove(found)
	s.old.push(found)
	for s.old.bytes > s.max/5*4 {
		e := s.old.back
		s.old.remove(e)
		s.young.push(e)
	}
	return found, false, found.terms.vary
}

// put keeps an entry that was asked for when so many purges had been; false if one of those since then, or an entry of
// a newer epoch, forbids it. It takes the place of those that answer the same request.
func (s *store) put(e *entry, h http.Header, known bool, purged uint64) bool {
	e.weigh()
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.size > s.max/2 || s.purgedSince(e, purged) {
		return false
	}
	used := false
	for _, o := range slices.Clone(s.places[e.key]) {
		if !o.answers(h, known) {
			continue
		}
		if o.epoch > e.epoch {
			return false
		}
		used = used || o.queue == &s.old
		s.forget(o)
	}
	for n := len(s.places[e.key]); n >= maxVariants; n-- {
		s.forget(s.places[e.key][n-1])
	}
	s.places[e.key] = slices.Insert(s.places[e.key], 0, e)
	s.entries++
	for _, l := range e.labels() {
		if s.labels[l] == nil {
			s.labels[l] = map[*entry]struct{}{}
		}
		s.labels[l][e] = struct{}{}
	}
	if used {
		s.old.push(e)
	} else {
		s.young.push(e)
	}
	for s.young.bytes+s.old.bytes > s.max {
		last := s.young.back
		if last == nil || last == e && s.old.back != nil {
			last = s.old.back
		}
		s.forget(last)
		s.evicted++
	}
	return true
}

func (e *entry) labels() []label {
	labels := make([]label, 0, 1+len(e.tags))
	labels = append(labels, label{byPath, e.key.path})
	for _, t := range e.tags {
		labels = append(labels, label{byTag, t})
	}
	return labels
}

func (s *store) forget(e *entry) {
	e.queue.remove(e)
	s.entries--
	if rest := slices.DeleteFunc(s.places[e.key], func(o *entry) bool { return o == e }); len(rest) > 0 {
		s.places[e.key] = rest
	} else {
		delete(s.places, e.key)
	}
	for _, l := range e.labels() {
		if delete(s.labels[l], e); len(s.labels[l]) == 0 {
			delete(s.labels, l)
		}
	}
}

// drop forgets one entry, if it is still there.
func (s *store) drop(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.queue != nil {
		s.forget(e)
	}
}

// holds says whether the entry is there.
func (s *store) holds(e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.queue != nil
}

// purge forgets what has the label, and what is on its way here and will have it. It says how many it has forgotten.
func (s *store) purge(l label) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.purges[s.purged%uint64(len(s.purges))] = l
	s.purged++
	var found []*entry
	if l.kind == byPrefix {
		for k, entries := range s.places {
			if below(k.path, l.name) {
				found = append(found, entries...)
			}
		}
	} else {
		for e := range s.labels[l] {
			found = append(found, e)
		}
	}
	for _, e := range found {
		s.forget(e)
	}
	return len(found)
}

// below says whether path is prefix or lies below it: /api/orders has /api/orders/1 below it, and not /api/orders2.
func below(path, prefix string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(prefix, "/"))
}

func (s *store) purgeCount() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.purged
}

// purgedSince says whether a purge since then means the entry; when too many were to remember, it says yes.
func (s *store) purgedSince(e *entry, then uint64) bool {
	if s.purged-then > uint64(len(s.purges)) {
		return true
	}
	for ; then < s.purged; then++ {
		switch l := s.purges[then%uint64(len(s.purges))]; l.kind {
		case byPath:
			if e.key.path == l.name {
				return true
			}
		case byTag:
			if slices.Contains(e.tags, l.name) {
				return true
			}
		case byPrefix:
			if below(e.key.path, l.name) {
				return true
			}
		}
	}
	return false
}

func (s *store) usage() (entries int, bytes int64, evicted uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries, s.young.bytes + s.old.bytes, s.evicted
}
