package transform

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Config says what is changed.
type Config struct {
	Rules []Rule `mapstructure:"rules"`
}

// Rule changes the requests that match.
type Rule struct {
	Match           string  `mapstructure:"match"`    // as in "GET /old/{id}", or without a method for all of them
	Path            string  `mapstructure:"path"`     // as in "/api/orders/{id}"; empty leaves it
	Redirect        int     `mapstructure:"redirect"` // 301, 302, 303, 307 or 308 sends the client to Path; 0 does not
	RequestHeaders  Headers `mapstructure:"request_headers"`
	ResponseHeaders Headers `mapstructure:"response_headers"`
}

// Headers is what becomes of headers, in this order. A header is written as "Name: value".
type Headers struct {
	Remove []string `mapstructure:"remove"` // names
	Set    []string `mapstructure:"set"`    // in place of what is there
	Add    []string `mapstructure:"add"`    // beside what is there
}

// DefaultConfig changes nothing.
func DefaultConfig() Config { return Config{Rules: []Rule{}} }

// Validate names the wrong key, which lies below prefix, and the way out. check is what the gateway holds every path
// against.
func (c Config) Validate(prefix string, check func(path string) error) error {
	_, err := c.compile(prefix, check)
	return err
}

// compile makes a table of the rules.
func (c Config) compile(prefix string, check func(path string) error) (*Table, error) {
	t := &Table{check: check}
	var wrong []error
	for i, r := range c.Rules {
		key := fmt.Sprintf("%s.rules[%d]", prefix, i)
		compiled, err := r.compile(key, check)
		if err == nil {
			compiled.key = key
			if other := t.add(compiled); other != "" {
				err = fmt.Errorf("%s.match: %q is taken by %s", key, r.Match, other)
			}
		}
		if err != nil {
			wrong = append(wrong, err)
		}
	}
	return t, errors.Join(wrong...)
}

func (r Rule) compile(key string, check func(path string) error) (*rule, error) {
	var wrong []error
	note := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(key+format, args...)) }
	c := &rule{redirect: r.Redirect}

	c.method, c.pattern = "", r.Match
	if method, path, ok := strings.Cut(r.Match, " "); ok {
		c.method, c.pattern = method, path
		if !slices.Contains(methods, method) {
			note(".match: %q is not one of %s; without one the rule is for all", method, strings.Join(methods, ", "))
		}
	}
	names, err := segments(c.pattern, check)
	if err != nil {
		note(".match: %w", err)
	}
	for i, s := range names {
		if s.kind != fixed && slices.ContainsFunc(names[:i], func(o segment) bool { return o.kind != fixed && o.text == s.text }) {
			note(".match: %q has two parts with the name %s", c.pattern, s.text)
		}
	}
	switch target, err := segments(r.Path, check); {
	case r.Path == "":
		if r.Redirect != 0 {
			note(".path: is empty, so there is nowhere to redirect to")
		}
	case err != nil:
		note(".path: %w", err)
	default:
		for _, s := range target {
			if s.kind == fixed {
				continue
			}
			at := slices.IndexFunc(names, func(n segment) bool { return n.kind == s.kind && n.text == s.text })
			if at < 0 {
				note(".path: %s is not in match, %q", s, r.Match)
			}
		}
		c.target, c.names = target, names
	}
	switch r.Redirect {
	case 0, http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		note(".redirect: %d is not 301, 302, 303, 307, 308 or 0 for none", r.Redirect)
	}
	if c.request, err = r.RequestHeaders.compile(key+".request_headers", refusedRequest); err != nil {
		wrong = append(wrong, err)
	}
	if c.response, err = r.ResponseHeaders.compile(key+".response_headers", refusedResponse); err != nil {
		wrong = append(wrong, err)
	}
	if r.Redirect != 0 && !c.request.empty() {
		note(".request_headers: nobody would see them, as the client is redirected")
	}
	if len(wrong) == 0 && c.target == nil && c.request.empty() && c.response.empty() {
		note(": changes nothing; give a path or headers, or remove the rule")
	}
	return c, errors.Join(wrong...)
}

// methods are those of routes; a rule for GET is for HEAD too.
var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// segments takes a pattern apart.
func segments(pattern string, check func(path string) error) ([]segment, error) {
	if !strings.HasPrefix(pattern, "/") {
		return nil, fmt.Errorf("%q does not start with /", pattern)
	}
	if strings.ContainsAny(pattern, "?#") {
		return nil, fmt.Errorf("%q has a query; rules are for paths, and keep the query", pattern)
	}
	var list []segment
	parts := strings.Split(pattern[1:], "/")
	for i, text := range parts {
		s, err := readSegment(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q: %w", pattern, err)
		case s.kind == rest && i < len(parts)-1:
			return nil, fmt.Errorf("%q: %s must come last", pattern, s)
		}
		list = append(list, s)
		if s.kind != fixed {
			parts[i] = "x"
		}
	}
	if err := check("/" + strings.Join(parts, "/")); err != nil {
		return nil, fmt.Errorf("%q: %w", pattern, err)
	}
	return list, nil
}

func readSegment(text string) (segment, error) {
	if !strings.ContainsAny(text, "{}*") {
		return segment{fixed, text}, nil
	}
	name, open := strings.CutPrefix(text, "{")
	name, closed := strings.CutSuffix(name, "}")
	s := segment{one, name}
	if short, all := strings.CutSuffix(name, "..."); all {
		s = segment{rest, short}
	}
	if !open || !closed || s.text == "" || strings.ContainsFunc(s.text, func(r rune) bool {
		return r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
	}) {
		return s, fmt.Errorf("%q is not a name, {name} or {name...}", text)
	}
	return s, nil
}

// Headers that no rule may touch, with the reason.
var (
	framing    = "frames the message"
	hop        = "belongs to one connection"
	who        = "carries identity, which the gateway alone does"
	whence     = "says where a request comes from, which the gateway alone does"
	traces     = "names the request, which the gateway alone does"
	refusedAny = map[string]string{
		"Connection": hop, "Proxy-Connection": hop, "Keep-Alive": hop, "Te": hop, "Trailer": hop, "Upgrade": hop, "Http2-Settings": hop, "Alt-Svc": hop,
		"Proxy-Authenticate": hop, "Proxy-Authorization": hop, "Proxy-Authentication-Info": hop,
		"Transfer-Encoding": framing, "Content-Length": framing, "Content-Encoding": framing, "Content-Range": framing, "Host": framing, "Expect": framing,
		"Authorization": who, "Cookie": who, "Set-Cookie": who, "Www-Authenticate": who, "Authentication-Info": who, "X-Shadow": who, "X-Tenant-Id": who,
		"Idempotency-Key": "decides whether a request is a repetition", "X-Request-Timeout": "is the deadline of the request, which the gateway alone sets",
		"Forwarded": whence, "Via": whence, "X-Real-Ip": whence, "X-Client-Ip": whence, "True-Client-Ip": whence, "X-Original-Url": whence, "X-Original-Uri": whence,
		"X-Rewrite-Url": whence, "X-Http-Method": whence, "X-Http-Method-Override": whence, "X-Method-Override": whence, "Origin": whence,
		"X-Request-Id": traces, "Traceparent": traces, "Tracestate": traces, "Baggage": traces,
		"Cache-Status": "is what the cache says of itself",
	}
	refusedPrefixes = map[string]string{
		"X-User-": who, "X-Banyan-": who, "X-Forwarded-": whence, "X-Accel-": "steers other proxies", "Trailer:": framing,
		"Access-Control-": "belongs to gateway.cors", "Ratelimit-": "belongs to gateway.rate", "Sec-": "is the browser's alone",
	}
)

func refusedRequest(name, _ string) string {
	if reason := refusedAny[name]; reason != "" {
		return reason
	}
	for prefix, reason := range refusedPrefixes {
		if strings.HasPrefix(name, prefix) {
			return reason
		}
	}
	return ""
}

func refusedResponse(name, what string) string {
	if name == "Vary" && what != "add" {
		return "tells caches what an answer depends on; it can only be added to"
	}
	return refusedRequest(name, what)
}

func (h Headers) compile(key string, refused func(name, what string) string) (headers, error) {
	var c headers
	var wrong []error
	note := func(what string, i int, format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("%s.%s[%d]: "+format, append([]any{key, what, i}, args...)...))
	}
	checkName := func(what string, i int, name string) string {
		canonical := http.CanonicalHeaderKey(name)
		if !token(name) {
			note(what, i, "%q is not the name of a header", name)
		} else if strings.Contains(name, "_") {
			note(what, i, "%q has an underscore, which some take for a hyphen; write -", name)
		} else if reason := refused(canonical, what); reason != "" {
			note(what, i, "%q %s; remove it here", name, reason)
		}
		return canonical
	}
	for i, name := range h.Remove {
		c.remove = append(c.remove, checkName("remove", i, name))
	}
	for _, list := range []struct {
		what  string
		lines []string
		to    *[]header
	}{{"set", h.Set, &c.set}, {"add", h.Add, &c.add}} {
		for i, line := range list.lines {
			name, value, ok := strings.Cut(line, ":")
			value = strings.Trim(value, " \t")
			switch {
			case !ok:
				note(list.what, i, "%q is not a header as in \"Name: value\"", name)
				continue
			case !plainText(value):
				note(list.what, i, "the value of %q has control characters or line breaks", name)
			}
			canonical := checkName(list.what, i, name)
			if list.what == "set" && slices.ContainsFunc(c.set, func(o header) bool { return o.name == canonical }) {
				note(list.what, i, "%q is set twice; use add for a second line", name)
			}
			*list.to = append(*list.to, header{canonical, slices.Clip([]string{value})})
		}
	}
	return c, errors.Join(wrong...)
}

func token(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

func plainText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
