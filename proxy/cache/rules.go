package cache

import (
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pquerna/cachecontrol/cacheobject"
)

// wishes are what a request says about the use of what is kept.
type wishes struct {
	noStore, noCache, onlyIfCached bool
	maxAge, minFresh               time.Duration // -1 if unsaid
	maxStale                       time.Duration // 0 if nothing stale is wanted
	staleIfError                   time.Duration
}

const forever = 1<<31 - 1 // seconds: the most that RFC 9111 asks a cache to know

func seconds(d cacheobject.DeltaSeconds) time.Duration { return time.Duration(d) * time.Second }

// wishesOf reads Cache-Control of a request. What cannot be read asks for a fresh answer, which is always right.
func wishesOf(h http.Header) wishes {
	q := wishes{maxAge: -1, minFresh: -1}
	lines := h["Cache-Control"]
	if len(lines) == 0 {
		q.noCache = len(h["Pragma"]) > 0 && strings.Contains(strings.ToLower(h["Pragma"][0]), "no-cache")
		return q
	}
	d, err := cacheobject.ParseRequestCacheControl(strings.Join(lines, ", "))
	if err != nil {
		q.noCache = true
		return q
	}
	q.noStore, q.onlyIfCached = d.NoStore, d.OnlyIfCached
	q.noCache = d.NoCache || d.MaxAge == 0 // what is asked for in the same moment may be 0 seconds old; nobody who says max-age=0 means that
	if d.MaxAge > 0 {
		q.maxAge = seconds(d.MaxAge)
	}
	if d.MinFresh >= 0 {
		q.minFresh = seconds(d.MinFresh)
	}
	switch {
	case d.MaxStale >= 0:
		q.maxStale = seconds(d.MaxStale)
	case d.MaxStaleSet:
		q.maxStale = forever * time.Second
	}
	q.staleIfError = max(0, seconds(d.StaleIfError))
	return q
}

// terms are under what an answer may be kept and given.
type terms struct {
	vary       []string
	lifetime   time.Duration
	whileFresh time.Duration // stale-while-revalidate: how long stale while a fresh one is fetched
	ifError    time.Duration // stale-if-error
	shared     bool          // known callers may have it, and what they were answered may be kept
	noCache    bool          // not without asking its target
	strict     bool          // never stale
}

// kept are the statuses that are understood well enough to be given to somebody else.
var kept = []int{
	http.StatusOK, http.StatusNonAuthoritativeInfo, http.StatusNoContent, http.StatusMultipleChoices, http.StatusMovedPermanently,
	http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect, http.StatusNotFound, http.StatusGone,
}

const (
	maxVary   = 8
	maxTags   = 64
	maxTagLen = 128
)

// termsOf reads under what terms the answer to r may be kept; false if it may not.
func termsOf(status int, h http.Header, r *http.Request, known bool, received time.Time) (terms, bool) {
	var t terms
	said := h["Cache-Control"]
	if len(said) == 0 && len(h["Expires"]) == 0 || len(said) == 1 && said[0] == "no-store" {
		return t, false // as most answers
	}
	if !slices.Contains(kept, status) || len(h["Set-Cookie"]) > 0 || len(h["Content-Range"]) > 0 || len(h["Trailer"]) > 0 {
		return t, false
	}
	d, err := cacheobject.ParseResponseCacheControl(strings.Join(said, ", "))
	if err != nil || d.NoStore || d.PrivatePresent || twice(said) {
		return t, false
	}
	t.shared = d.Public || d.SMaxAge >= 0
	if known && !t.shared {
		return t, false
	}
	switch {
	case d.SMaxAge >= 0:
		t.lifetime = seconds(d.SMaxAge)
	case d.MaxAge >= 0:
		t.lifetime = seconds(d.MaxAge)
	case len(h["Expires"]) > 0:
		// A date that cannot be read, as in "0", has passed.
		if expires, err := http.ParseTime(h["Expires"][0]); err == nil {
			t.lifetime = min(forever*time.Second, max(0, expires.Sub(dateOf(h, received))))
		}
	case !d.Public:
		return t, false
	}
	t.whileFresh, t.ifError = max(0, seconds(d.StaleWhileRevalidate)), max(0, seconds(d.StaleIfError))
	t.noCache = d.NoCachePresent
	// s-maxage alone forbids a shared cache to give the answer stale. With stale-while-revalidate or stale-if-error
	// beside it, it means the common "so long in shared caches, and then so long stale": the one who says both wants both.
	t.strict = d.MustRevalidate || d.ProxyRevalidate || d.NoCachePresent || d.SMaxAge >= 0 && t.whileFresh+t.ifError == 0
	if t.strict {
		t.whileFresh, t.ifError = 0, 0
	}
	if (t.lifetime <= 0 || t.noCache) && t.whileFresh+t.ifError == 0 && len(h["Etag"]) == 0 && len(h["Last-Modified"]) == 0 {
		return t, false // it could never be used
	}
	var ok bool
	if t.vary, ok = varyOf(h, r, known); !ok {
		return t, false
	}
	// An answer to one origin alone is no answer for another.
	if origin := h["Access-Control-Allow-Origin"]; len(origin) > 0 && origin[0] != "*" && !slices.Contains(t.vary, "Origin") {
		return t, false
	}
	return t, true
}

// twice says whether a lifetime is given twice: nobody can tell which one is meant.
func twice(lines []string) bool {
	all := strings.ToLower(strings.Join(lines, ","))
	return strings.Count(all, "max-age=") > 1 || strings.Count(all, "s-maxage=") > 1
}

// varyOf are the headers by which the answer varies; false if it varies by something that must not be, or cannot be,
// part of what is compared.
func varyOf(h http.Header, r *http.Request, known bool) ([]string, bool) {
	var names []string
	for _, line := range h["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))
			switch {
			case name == "" || slices.Contains(names, name):
				continue
			case name == "*" || len(names) == maxVary || known && (name == "Authorization" || name == "Cookie"):
				return nil, false
			}
			names = append(names, name)
		}
	}
	size := 0
	for _, name := range names {
		size += len(varied(r.Header, name, known))
	}
	return names, size <= 2048
}

// varied is what the request says in a header that an answer varies by. The gateway has taken Authorization away, but
// whoever had one is known, and never matches what a stranger was answered.
func varied(h http.Header, name string, known bool) string {
	if known && (name == "Authorization" || name == "Cookie") {
		return "\x00"
	}
	switch lines := h[name]; len(lines) {
	case 0:
		return ""
	case 1:
		return strings.TrimSpace(lines[0])
	default:
		return strings.Join(lines, ",")
	}
}

func dateOf(h http.Header, received time.Time) time.Time {
	if lines := h["Date"]; len(lines) > 0 {
		if date, err := http.ParseTime(lines[0]); err == nil {
			return date
		}
	}
	return received
}

// initialAge is how old an answer was when it came (RFC 9111, 4.2.3).
func initialAge(h http.Header, requested, received time.Time) time.Duration {
	apparent := max(0, received.Sub(dateOf(h, received)))
	said := time.Duration(0)
	if lines := h["Age"]; len(lines) > 0 {
		if n, err := strconv.ParseUint(strings.TrimSpace(lines[0]), 10, 31); err == nil {
			said = time.Duration(n) * time.Second
		}
	}
	return max(apparent, said+received.Sub(requested))
}

// tagsOf are the tags of an answer; false if they are too many or too long to be purged by.
func tagsOf(h http.Header) ([]string, bool) {
	var tags []string
	for _, line := range h["Cache-Tag"] {
		for tag := range strings.FieldsFuncSeq(line, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
			if len(tags) == maxTags || len(tag) > maxTagLen {
				return nil, false
			}
			if !slices.Contains(tags, tag) {
				tags = append(tags, tag)
			}
		}
	}
	return tags, true
}

// ofOneRequest are headers that say something about the request, the connection or the caches that an answer came
// by, and nothing about the answer.
var ofOneRequest = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Proxy-Authentication-Info": true, "Authentication-Info": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"X-Request-Id": true, "Traceparent": true, "Tracestate": true, "Server-Timing": true, "Ratelimit-Limit": true, "Ratelimit-Remaining": true,
	"Ratelimit-Reset": true, "Ratelimit": true, "Ratelimit-Policy": true, "Idempotency-Replayed": true, "Alt-Svc": true, "Age": true,
	"Cache-Status": true, "Cache-Tag": true, "Set-Cookie": true,
}

// keptHeader is the part of an answer's header that goes with it to others. Its values are never changed, and have no
// room to append to.
func keptHeader(h http.Header, received time.Time) http.Header {
	var named []string
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			named = append(named, textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)))
		}
	}
	kept := make(http.Header, len(h)+1)
	for name, lines := range h {
		if ofOneRequest[name] || strings.HasPrefix(name, http.TrailerPrefix) || slices.Contains(named, name) {
			continue
		}
		kept[name] = slices.Clip(slices.Clone(lines))
	}
	if len(kept["Date"]) == 0 {
		kept["Date"] = []string{received.UTC().Format(http.TimeFormat)}
	}
	return kept
}

// notModified says whether the client of r has what is kept already (RFC 9110, 13.2.2).
func notModified(r *http.Request, status int, h http.Header) bool {
	if status != http.StatusOK {
		return false
	}
	if tags := r.Header["If-None-Match"]; len(tags) > 0 {
		tag := first(h["Etag"])
		for _, line := range tags {
			if namesTag(line, tag) {
				return true
			}
		}
		return false
	}
	since, modified := first(r.Header["If-Modified-Since"]), first(h["Last-Modified"])
	if since == "" || modified == "" {
		return false
	}
	a, err := http.ParseTime(since)
	b, err2 := http.ParseTime(modified)
	return err == nil && err2 == nil && !b.After(a)
}

// namesTag says whether a list of entity tags names the tag, compared weakly; "*" names any.
func namesTag(list, tag string) bool {
	tag = strings.TrimPrefix(tag, "W/")
	for {
		list = strings.TrimLeft(list, " \t,")
		if list == "" {
			return false
		}
		if list[0] == '*' {
			return true
		}
		list = strings.TrimPrefix(list, "W/")
		if list == "" || list[0] != '"' {
			return false
		}
		end := strings.IndexByte(list[1:], '"')
		if end < 0 {
			return false
		}
		if tag != "" && list[:end+2] == tag {
			return true
		}
		list = list[end+2:]
	}
}

func first(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return lines[0]
}
