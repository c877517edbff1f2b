package cache

import (
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/rest"
)

// Info is what the gateway knows of a request beside the request itself.
type Info struct {
	Subject string // verified; "" for a stranger
	Module  string // a change by one of its routes may change what all the others answer; "" only what lies at the same path
	Route   string // pattern, as in "/api/products/{sku}"; their number is bounded
	Side    uint64 // who answers: what one side has answered is nothing to those whom another one answers
	Epoch   uint64 // of the route's module: grows when somebody else answers for it
	Secure  bool   // the client came over TLS
}

// Options are what a cache may be given. All of it may be nil.
type Options struct {
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// Cache keeps answers for those who ask the same.
type Cache struct {
	cfg     Config
	log     *slog.Logger
	store   *store
	flights flights
	budget  budget
	results map[result]prometheus.Counter
	purged  prometheus.Counter

	// unkept are the routes whose last good answer could not be kept. Nobody waits for such an answer, and it is not
	// looked at twice.
	unkept sync.Map // of habit

	refreshing chan struct{} // bounds the refreshes in the background
	life       sync.Mutex
	closed     bool
	background sync.WaitGroup
	ctx        context.Context // ends with the cache
	cancel     context.CancelFunc
}

type habit struct {
	route string
	known bool
}

// result is what the cache did for a request.
type result string

const (
	resultHit         result = "hit"
	resultStale       result = "stale"
	resultRevalidated result = "revalidated"
	resultCollapsed   result = "collapsed"
	resultOnError     result = "stale_on_error"
	resultMiss        result = "miss"
	resultBypass      result = "bypass"
)

const maxRefreshes = 16

// New makes a cache; Close ends it.
func New(cfg Config, o Options) (*Cache, error) {
	c := &Cache{
		cfg: cfg, log: o.Log, store: newStore(cfg.Bytes), flights: flights{all: map[flightKey]*flight{}},
		results: map[result]prometheus.Counter{}, refreshing: make(chan struct{}, maxRefreshes),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	// What is captured at one time is not in the store yet, and bounded beside it.
	c.budget.left.Store(cfg.Bytes / 2)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := c.measure(o.Registry); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Cache) measure(r prometheus.Registerer) error {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "banyan_cache_requests_total", Help: "Requests that could have been answered from the response cache, by what it did.",
	}, []string{"result"})
	for _, name := range []result{resultHit, resultStale, resultRevalidated, resultCollapsed, resultOnError, resultMiss, resultBypass} {
		c.results[name] = requests.WithLabelValues(string(name))
	}
	c.purged = prometheus.NewCounter(prometheus.CounterOpts{Name: "banyan_cache_purged_total", Help: "Answers forgotten because what they tell has changed."})
	if r == nil {
		return nil
	}
	usage := func(pick func(entries int, bytes int64, evicted uint64) float64) func() float64 {
		return func() float64 { return pick(c.store.usage()) }
	}
	for _, m := range []prometheus.Collector{requests, c.purged,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "banyan_cache_entries", Help: "Answers kept."},
			usage(func(entries int, _ int64, _ uint64) float64 { return float64(entries) })),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "banyan_cache_bytes", Help: "Size of the answers kept."},
			usage(func(_ int, bytes int64, _ uint64) float64 { return float64(bytes) })),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "banyan_cache_evicted_total", Help: "Answers forgotten because others needed the room."},
			usage(func(_ int, _ int64, evicted uint64) float64 { return float64(evicted) })),
	} {
		if err := r.Register(m); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the refreshes in the background and waits for them.
func (c *Cache) Close() {
	c.life.Lock()
	c.closed = true
	c.life.Unlock()
	c.cancel()
	c.background.Wait()
}

// Purge forgets the answers with one of the tags, also those that are on their way. It says how many it had.
func (c *Cache) Purge(tags ...string) int {
	n := 0
	for _, t := range tags {
		n += c.store.purge(label{byTag, t})
	}
	c.purged.Add(float64(n))
	return n
}

// PurgePrefix forgets the answers of the path and of all below it, also those that are on their way. It says how many
// it had.
func (c *Cache) PurgePrefix(path string) int {
	n := c.store.purge(label{byPrefix, path})
	c.purged.Add(float64(n))
	return n
}

// Serve answers r from what is kept, or lets next answer and keeps that. next gets a writer and a request of its own
// and uses no others: it may run again for the same r, and on another goroutine after Serve has returned, to refresh
// what was given stale. A panic of next in the goroutine of the request is not recovered.
func (c *Cache) Serve(w http.ResponseWriter, r *http.Request, info Info, next func(http.ResponseWriter, *http.Request)) {
	x := &exchange{c: c, w: w, r: r, info: info, next: next}
	switch {
	case !c.cfg.Enabled || r.Method == http.MethodOptions || r.Method == http.MethodTrace:
		x.pass(unheard, nil)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		x.read()
	default:
		x.change()
	}
}

// exchange is one request.
type exchange struct {
	c      *Cache
	w      http.ResponseWriter
	r      *http.Request
	info   Info
	next   func(http.ResponseWriter, *http.Request)
	key    key
	known  bool
	wishes wishes
	quiet  bool // a refresh: no request of a client, so none is counted

	passes passes
	told   bool     // the answer to a change has come
	rec    recorder // of an answer that passes
}

func (x *exchange) count(what result) {
	if !x.quiet {
		x.c.results[what].Inc()
	}
}

// passes is what an answer that passes tells us.
type passes byte

const (
	unheard passes = iota
	watched        // whether the route's answers can be kept by now
	changed        // that something is not what it was
)

// pass lets the target answer; nothing is kept.
func (x *exchange) pass(what passes, note []string) {
	x.passes = what
	x.rec = recorder{w: x.w, header: x.w.Header(), note: note, judge: x}
	x.next(&x.rec, x.r)
	x.rec.finish()
}

// decide lets the answer pass.
func (x *exchange) decide(rec *recorder) mode {
	switch x.passes {
	case watched:
		if _, ok := termsOf(rec.status, rec.header, x.r, x.known, time.Now()); ok {
			x.c.unkept.Delete(habit{x.info.Route, x.known})
		}
	case changed:
		x.told = true
		if rec.status < 400 || rec.status >= 500 {
			x.forget(rec.header)
		}
	}
	return passing
}

func (x *exchange) released() {}

// change lets the target answer a request that may change something. What it may have changed is forgotten before the
// client hears of it.
func (x *exchange) change() {
	defer func() {
		if !x.told { // a panic: nobody knows how far it came
			x.forget(nil)
		}
	}()
	x.pass(changed, nil)
}

func (x *exchange) forget(h http.Header) {
	n := x.c.store.purge(label{byPath, x.r.URL.Path})
	if x.info.Module != "" {
		n += x.c.store.purge(label{byTag, x.info.Module})
	}
	for _, name := range []string{"Location", "Content-Location"} {
		line := first(h[name])
		if line == "" {
			continue
		}
		u, err := x.r.URL.Parse(line)
		// What lies on another host is not this target's to change.
		if err == nil && (u.Host == "" || canonicalHost(u.Host, x.info.Secure) == canonicalHost(x.r.Host, x.info.Secure)) && u.Path != x.r.URL.Path {
			n += x.c.store.purge(label{byPath, u.Path})
		}
	}
	x.c.purged.Add(float64(n))
}

// canonicalHost is the host in lower case, without the port that goes without saying.
func canonicalHost(host string, secure bool) string {
	host = strings.ToLower(host)
	if secure {
		return strings.TrimSuffix(host, ":443")
	}
	return strings.TrimSuffix(host, ":80")
}

// bypasses says whether the request is one that only its target can answer: for a part, for a version that the client
// has seen, for another protocol, or with a body.
func bypasses(r *http.Request) bool {
	h := r.Header
	return len(h["Range"]) > 0 || len(h["If-Range"]) > 0 || len(h["If-Match"]) > 0 || len(h["If-Unmodified-Since"]) > 0 || len(h["Upgrade"]) > 0 ||
		r.ContentLength != 0
}

// read answers a GET or HEAD.
func (x *exchange) read() {
	c, r := x.c, x.r
	x.wishes = wishesOf(r.Header)
	if bypasses(r) || x.wishes.noStore {
		x.count(resultBypass)
		x.pass(unheard, bypass)
		return
	}
	x.known = x.info.Subject != "" || len(r.Header["Authorization"]) > 0 || len(r.Header["Cookie"]) > 0
	x.key = key{side: x.info.Side, secure: x.info.Secure, host: canonicalHost(r.Host, x.info.Secure), path: r.URL.Path, query: r.URL.RawQuery}
	until := time.Time{}
	for {
		e, others, vary := c.store.get(x.key, r.Header, x.known)
		now := time.Now()
		switch x.judge(e, now) {
		case fresh:
			x.serve(e, now, resultHit, nil)
			return
		case staleWhileFetching:
			x.refresh(e)
			x.serve(e, now, resultStale, nil)
			return
		case staleForClient:
			x.serve(e, now, resultStale, nil)
			return
		}
		why := &uriMiss
		switch {
		case e != nil && x.wishes.noCache:
			why = &asked
		case e != nil:
			why = &stale
		case others:
			why = &varyMiss
		}
		if x.wishes.onlyIfCached {
			x.count(resultMiss)
			addStatus(x.w.Header(), onlyIfCached)
			p, _ := rest.NewProblem(r.Context(), errs.New(errs.Timeout, "nothing is kept that answers this, and no more than that was asked for"))
			rest.WriteProblem(x.w, p, 0)
			return
		}
		unkept := false
		if x.info.Route != "" && e == nil {
			_, unkept = c.unkept.Load(habit{x.info.Route, x.known})
		}
		if unkept || r.Method == http.MethodHead {
			x.count(resultMiss)
			if unkept {
				x.pass(watched, why.plain)
			} else {
				x.pass(unheard, why.plain)
			}
			return
		}
		fk := x.flightKey(vary)
		if x.wishes.noCache {
			x.fetch(e, why, nil, fk)
			return
		}
		fl, lead := c.flights.join(fk)
		if lead {
			x.lead(e, why, fl, fk)
			return
		}
		if until.IsZero() {
			until = now.Add(c.cfg.Wait)
		}
		landed := fl.wait(r.Context(), until)
		if landed && fl.again {
			continue // each time it is another one who leads, and the time that is left grows shorter
		}
		if !landed || !x.follow(fl, why) {
			x.fetch(e, why, nil, fk)
		}
		return
	}
}

// lead fetches for all who wait for the flight, unless the flight before has landed since the look into the store.
func (x *exchange) lead(e *entry, why *reason, fl *flight, fk flightKey) {
	n, _, _ := x.c.store.get(x.key, x.r.Header, x.known)
	if now := time.Now(); n != e && x.judge(n, now) == fresh {
		fl.entry = n
		x.c.flights.land(fk, fl)
		x.serve(n, now, resultHit, nil)
		return
	}
	x.fetch(e, why, fl, fk)
}

func (x *exchange) flightKey(vary []string) flightKey {
	fk := flightKey{key: x.key, known: x.known}
	for _, name := range vary {
		fk.varied += varied(x.r.Header, name, x.known) + "\n"
	}
	return fk
}

// verdict is what may be done with an entry.
type verdict byte

const (
	unusable           verdict = iota
	fresh                      // as it is
	staleWhileFetching         // as it is, and it is fetched anew in the background
	staleForClient             // the client takes it stale
)

func (x *exchange) judge(e *entry, now time.Time) verdict {
	if e == nil || e.terms.noCache || x.wishes.noCache {
		return unusable
	}
	age, q := e.age(now), x.wishes
	late := age - e.terms.lifetime
	switch {
	case q.maxAge >= 0 && age > q.maxAge:
		return unusable
	case late < 0 && (q.minFresh < 0 || -late >= q.minFresh):
		return fresh
	case e.terms.strict || q.minFresh >= 0:
		return unusable
	case late <= e.terms.whileFresh && q.maxAge < 0 && e.terms.whileFresh > 0:
		return staleWhileFetching
	case late <= q.maxStale && q.maxStale > 0:
		return staleForClient
	}
	return unusable
}

// mayOnError says whether the client may have the entry because the target has failed.
func (x *exchange) mayOnError(e *entry, now time.Time) bool {
	q := x.wishes
	if e == nil || e.terms.strict || q.noCache || q.maxAge >= 0 || q.minFresh >= 0 {
		return false
	}
	return e.age(now)-e.terms.lifetime <= max(e.terms.ifError, q.staleIfError)
}

// failed are the statuses for which stale-if-error was made (RFC 5861).
func failed(status int) bool {
	switch status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// follow answers with what another request has brought, if that is an answer to this one too.
func (x *exchange) follow(fl *flight, why *reason) bool {
	now := time.Now()
	e := fl.entry
	switch {
	case e == nil || !e.answers(x.r.Header, x.known) || !x.c.store.holds(e): // it may have been forgotten since it was kept
		return false
	case fl.onError && x.mayOnError(e, now):
		x.serve(e, now, resultOnError, why.collapsed)
		return true
	case fl.onError || x.judge(e, now) == unusable:
		return false
	}
	x.serve(e, now, resultCollapsed, why.collapsed)
	return true
}

// fetch asks the target, and keeps its answer if that says so.
func (x *exchange) fetch(e *entry, why *reason, fl *flight, fk flightKey) {
	f := &fetch{x: x, e: e, why: why, flight: fl, key: fk}
	defer f.land(nil, false, true) // after a panic; else it has landed by then
	for f.try() {
	}
}

// fetch is a request to a target.
type fetch struct {
	x          *exchange
	e          *entry // what is kept already, or nil
	why        *reason
	flight     *flight // of those who wait, or nil
	key        flightKey
	validating bool   // the target is asked only whether e is right still
	purged     uint64 // so many purges there had been when it was asked
	requested  time.Time
	received   time.Time
	terms      terms
	tags       []string
}

// land tells those who wait, as soon as it is clear, what they get.
func (f *fetch) land(e *entry, onError, again bool) {
	if f.flight != nil {
		f.flight.entry, f.flight.onError, f.flight.again = e, onError, again
		f.x.c.flights.land(f.key, f.flight)
		f.flight = nil
	}
}

func (f *fetch) gone() bool { return f.x.r.Context().Err() != nil }

// released tells those who wait that this answer is for one alone. If it says no more than that its client has gone,
// one of them asks again.
func (f *fetch) released() { f.land(nil, false, f.gone()) }

// decide says what becomes of the answer.
func (f *fetch) decide(rec *recorder) mode {
	x, c := f.x, f.x.c
	f.received = time.Now()
	if f.validating && rec.status == http.StatusNotModified || failed(rec.status) && x.mayOnError(f.e, f.received) {
		return swallowing
	}
	if f.gone() {
		f.released()
		return passing
	}
	var keep, few bool
	f.terms, keep = termsOf(rec.status, rec.header, x.r, x.known, f.received)
	f.tags, few = tagsOf(rec.header)
	c.learn(habit{x.info.Route, x.known}, rec.status, keep)
	length, err := strconv.ParseInt(first(rec.header["Content-Length"]), 10, 64)
	if keep && few && (err != nil || length <= rec.limit) {
		return capturing
	}
	if f.e != nil && (rec.status < 400 || rec.status == http.StatusNotFound || rec.status == http.StatusGone) {
		c.store.drop(f.e) // it is something else by now, which nobody may keep
	}
	f.released()
	return passing
}

// try asks once; again is true if what came says nothing.
func (f *fetch) try() (again bool) {
	x, c := f.x, f.x.c
	f.validating = f.e != nil && f.e.epoch == x.info.Epoch && (f.e.etag != "" || f.e.changed != "")
	f.purged, f.requested = c.store.purgeCount(), time.Now()
	rec := &recorder{w: x.w, header: make(http.Header, 8), own: true, note: f.why.plain, limit: c.cfg.MaxBody, budget: &c.budget, judge: f}
	defer rec.drop()
	x.next(rec, f.request())
	rec.finish()
	switch {
	case rec.mode == passing:
		x.count(resultMiss)
	case rec.mode == capturing:
		f.keep(rec)
	case rec.status == http.StatusNotModified:
		return !f.confirm(rec.header)
	default:
		f.land(f.e, true, false)
		x.serve(f.e, time.Now(), resultOnError, []string{f.why.plain[0] + "; fwd-status=" + strconv.Itoa(rec.status)})
	}
	return false
}

// request is what the target is asked: for all of the answer, or whether what is kept is right still.
func (f *fetch) request() *http.Request {
	r := f.x.r.WithContext(f.x.r.Context())
	r.Header = make(http.Header, len(f.x.r.Header)+2)
	for name, lines := range f.x.r.Header {
		if name != "If-None-Match" && name != "If-Modified-Since" {
			r.Header[name] = lines
		}
	}
	if f.validating && f.e.etag != "" {
		r.Header["If-None-Match"] = []string{f.e.etag}
	}
	if f.validating && f.e.changed != "" {
		r.Header["If-Modified-Since"] = []string{f.e.changed}
	}
	return r
}

// keep keeps an answer that was captured, and gives it to the client.
func (f *fetch) keep(rec *recorder) {
	x := f.x
	x.count(resultMiss)
	if f.gone() || !rec.complete() {
		// What did not come to its end is passed on as it is, for the server to break off.
		f.land(nil, false, true)
		x.deliver(rec)
		return
	}
	n := x.entry(rec.status, keptHeader(rec.header, f.received), f.terms, f.tags, f.born(rec.header))
	n.body = append(make([]byte, 0, len(rec.body)), rec.body...) // without the room that capturing has left
	if len(n.body) > 0 {
		n.header["Content-Length"] = []string{strconv.Itoa(len(n.body))}
	}
	if f.put(n) {
		rec.note = f.why.stored
	}
	x.deliver(rec)
}

// put keeps the entry, and hands it to those who wait. If something was changed meanwhile they have to ask again.
func (f *fetch) put(n *entry) bool {
	if !f.x.c.store.put(n, f.x.r.Header, f.x.known, f.purged) {
		f.land(nil, false, true)
		return false
	}
	f.land(n, false, false)
	return true
}

// confirm answers with what is kept, made fresh by a 304 with header h; false if that means something else.
func (f *fetch) confirm(h http.Header) bool {
	x, e := f.x, f.e
	if tag := first(h["Etag"]); tag != "" && strings.TrimPrefix(tag, "W/") != strings.TrimPrefix(e.etag, "W/") {
		x.c.store.drop(e)
		f.e = nil
		return false
	}
	header := e.header.Clone()
	for name, lines := range keptHeader(h, f.received) {
		if name != "Etag" && !strings.HasPrefix(name, "Content-") || name == "Content-Security-Policy" {
			header[name] = slices.Clip(lines)
		}
	}
	t, keep := termsOf(e.status, header, x.r, x.known, f.received)
	tags, few := e.tags, true
	if len(h["Cache-Tag"]) > 0 {
		tags, few = tagsOf(h)
	}
	n := x.entry(e.status, header, t, tags, f.born(h))
	n.body = e.body
	if keep && few {
		f.put(n)
	} else {
		x.c.store.drop(e)
		f.land(nil, false, false)
	}
	x.serve(n, time.Now(), resultRevalidated, f.why.validated)
	return true
}

// born is when the answer was 0 seconds old.
func (f *fetch) born(h http.Header) time.Time {
	return f.received.Add(-initialAge(h, f.requested, f.received))
}

func (x *exchange) entry(status int, h http.Header, t terms, tags []string, born time.Time) *entry {
	if m := x.info.Module; m != "" && !slices.Contains(tags, m) {
		tags = append(slices.Clip(tags), m)
	}
	e := &entry{
		key: x.key, status: status, header: h, tags: tags, epoch: x.info.Epoch, born: born, terms: t,
		etag: first(h["Etag"]), changed: first(h["Last-Modified"]), varied: make([]string, len(t.vary)),
	}
	for i, name := range t.vary {
		e.varied[i] = varied(x.r.Header, name, x.known)
	}
	return e
}

// learn remembers whether the good answers of a route can be kept.
func (c *Cache) learn(h habit, status int, keep bool) {
	if h.route == "" || status != http.StatusOK {
		return
	}
	if _, unkept := c.unkept.Load(h); unkept == keep {
		if keep {
			c.unkept.Delete(h)
		} else {
			c.unkept.Store(h, struct{}{})
		}
	}
}

// refresh fetches anew what is given stale, in the background, once at a time.
func (x *exchange) refresh(e *entry) {
	c := x.c
	select {
	case c.refreshing <- struct{}{}:
	default:
		return // a later request will do it, or wait for it
	}
	fk := x.flightKey(e.terms.vary)
	fl, lead := c.flights.join(fk)
	if !lead {
		<-c.refreshing
		return
	}
	c.life.Lock()
	defer c.life.Unlock()
	if c.closed {
		fl.again = true
		c.flights.land(fk, fl)
		<-c.refreshing
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.r.Context()), c.cfg.Refresh)
	stop := context.AfterFunc(c.ctx, cancel)
	// The client's request is changed by others once it is answered.
	own := &exchange{
		c: c, w: nowhere{}, r: x.r.Clone(ctx), info: x.info, next: x.next, key: x.key, known: x.known,
		wishes: wishes{maxAge: -1, minFresh: -1}, quiet: true,
	}
	own.r.Method = http.MethodGet
	c.background.Go(func() {
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				c.log.LogAttrs(ctx, slog.LevelError, "panic while an answer was refreshed", slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
			}
			stop()
			cancel()
			<-c.refreshing
		}()
		own.fetch(e, &stale, fl, fk)
	})
}

// serve answers with an entry.
func (x *exchange) serve(e *entry, now time.Time, what result, note []string) {
	x.count(what)
	base := x.w.Header()
	mergeInto(base, e.header)
	age := e.age(now)
	base["Age"] = []string{strconv.FormatInt(int64(age/time.Second), 10)}
	if note == nil {
		note = []string{"banyan; hit; ttl=" + strconv.FormatInt(int64((e.terms.lifetime-age)/time.Second), 10)}
	}
	addStatus(base, note)
	x.send(base, e.status, e.header, e.body)
}

// deliver answers with what was captured.
func (x *exchange) deliver(rec *recorder) {
	rec.merge()
	x.send(x.w.Header(), rec.status, rec.header, rec.body)
}

func (x *exchange) send(base http.Header, status int, h http.Header, body []byte) {
	if notModified(x.r, status, h) {
		for _, name := range []string{"Content-Type", "Content-Length", "Content-Encoding", "Content-Language"} {
			delete(base, name)
		}
		x.w.WriteHeader(http.StatusNotModified)
		return
	}
	x.w.WriteHeader(status)
	if x.r.Method != http.MethodHead && len(body) > 0 {
		_, _ = x.w.Write(body) // the client is gone: there is nobody to tell
	}
}

// reason is why a request went to the target, as Cache-Status says it.
type reason struct{ plain, stored, collapsed, validated []string }

func reasonOf(text string) reason {
	text = "banyan; fwd=" + text
	return reason{
		plain: []string{text}, stored: []string{text + "; stored"}, collapsed: []string{text + "; collapsed"},
		validated: []string{text + "; fwd-status=304; stored"},
	}
}

// Values that every answer shares. Nobody changes them in place: what is added goes to a copy.
var (
	uriMiss      = reasonOf("uri-miss")
	varyMiss     = reasonOf("vary-miss")
	stale        = reasonOf("stale")
	asked        = reasonOf("request")
	bypass       = []string{"banyan; fwd=bypass"}
	onlyIfCached = []string{"banyan; detail=only-if-cached"}
)
