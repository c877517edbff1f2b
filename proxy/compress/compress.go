package compress

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Compressor compresses answers.
type Compressor struct {
	cfg      Config
	types    map[string]bool
	kinds    []string // as in "text/"
	suffixes []string // as in "+json"
	gzip     sync.Pool
	zstd     sync.Pool
}

// encoder writes one coding.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(w io.Writer)
}

// zstdWindow is how far back zstd looks. Answers are rarely larger, and an encoder keeps about twice as much in memory.
const zstdWindow = 256 << 10

// New makes a compressor.
func New(cfg Config) *Compressor {
	c := &Compressor{cfg: cfg, types: map[string]bool{}}
	for _, t := range cfg.Types {
		if suffix, ok := strings.CutPrefix(t, "*+"); ok {
			c.suffixes = append(c.suffixes, "+"+suffix)
		} else if kind, ok := strings.CutSuffix(t, "*"); ok {
			c.kinds = append(c.kinds, kind)
		} else {
			c.types[t] = true
		}
	}
	c.gzip.New = func() any {
		w, _ := gzip.NewWriterLevel(io.Discard, 5) // only an unknown level is an error
		return w
	}
	c.zstd.New = func() any {
		// One goroutine: an answer is small, and there are others to work on. Only unknown options are an error.
		w, _ := zstd.NewWriter(io.Discard, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow), zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
		return w
	}
	return c
}

func (c *Compressor) encoder(coding Coding, w io.Writer) encoder {
	pool := &c.gzip
	if coding == Zstd {
		pool = &c.zstd
	}
	e, _ := pool.Get().(encoder)
	e.Reset(w)
	return e
}

func (c *Compressor) release(coding Coding, e encoder) {
	e.Reset(io.Discard) // keeps nobody's connection
	if coding == Zstd {
		c.zstd.Put(e)
	} else {
		c.gzip.Put(e)
	}
}

// Serve lets next answer r, and compresses what it answers if the client takes that and it pays.
func (c *Compressor) Serve(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) {
	if !c.cfg.Enabled || len(r.Header["Upgrade"]) > 0 || c.excepted(r.URL.Path) {
		next(w, r)
		return
	}
	a := &writer{ResponseWriter: w, c: c, r: r, coding: Negotiate(r.Header), promised: -1}
	// After a panic nothing is written: an answer that broke off must not get its proper end.
	defer a.release()
	next(a, r)
	a.end()
}

func (c *Compressor) excepted(path string) bool {
	for _, p := range c.cfg.Except {
		if rest, ok := strings.CutPrefix(path, p); ok && (rest == "" || rest[0] == '/' || p == "/") {
			return true
		}
	}
	return false
}

// packs says whether answers of the type are worth it. An event stream is text, and never is.
func (c *Compressor) packs(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	if kind == "" || kind == "text/event-stream" || strings.HasPrefix(kind, "application/grpc") {
		return false
	}
	return c.types[kind] || slices.ContainsFunc(c.kinds, func(p string) bool { return strings.HasPrefix(kind, p) }) ||
		slices.ContainsFunc(c.suffixes, func(s string) bool { return strings.HasSuffix(kind, s) })
}

// state is what becomes of an answer.
type state byte

const (
	waiting state = iota // for its header
	holding              // the first bytes back, until there are enough
	plain                // it goes as it is
	packing
)

// writer is what the handler answers to.
type writer struct {
	http.ResponseWriter
	c        *Compressor
	r        *http.Request
	coding   Coding
	state    state
	status   int
	held     []byte
	encoder  encoder
	promised int64 // Content-Length, or -1
	written  int64
}

// Unwrap lets http.ResponseController reach the connection.
func (a *writer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader decides what becomes of the answer.
func (a *writer) WriteHeader(status int) {
	if a.state != waiting {
		return
	}
	if status < 200 {
		a.ResponseWriter.WriteHeader(status) // not the one that is meant
		return
	}
	a.status = status
	h := a.Header()
	if status == http.StatusNotModified {
		a.match(h)
		a.pass()
		return
	}
	if !a.suits(h) {
		a.pass()
		return
	}
	vary(h)
	if length := h["Content-Length"]; len(length) == 1 {
		if n, err := strconv.ParseInt(length[0], 10, 64); err == nil {
			a.promised = n
		}
	}
	switch {
	case a.coding == Identity, a.promised >= 0 && a.promised < int64(a.c.cfg.MinSize):
		a.pass()
	case a.promised >= 0:
		a.pack()
	default:
		a.state = holding
	}
}

// suits says whether the answer may be encoded, for a client that takes it.
func (a *writer) suits(h http.Header) bool {
	switch {
	case a.status == http.StatusNoContent, a.status == http.StatusPartialContent, len(h["Content-Range"]) > 0, len(h["Set-Cookie"]) > 0,
		len(h["Content-Digest"]) > 0, len(h["Digest"]) > 0, len(h["Content-Md5"]) > 0,
		!a.c.packs(h.Get("Content-Type")), has(h["Cache-Control"], "no-transform"), has(a.r.Header["Cache-Control"], "no-transform"):
		return false
	}
	for _, e := range h["Content-Encoding"] {
		if e != "" && !strings.EqualFold(e, "identity") {
			return false
		}
	}
	return len(a.r.Header["Cookie"]) == 0 || has(h["Cache-Control"], "public")
}

// has says whether a list of directives holds one.
func has(lines []string, directive string) bool {
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(item), directive) {
				return true
			}
		}
	}
	return false
}

// vary says that the answer depends on Accept-Encoding.
func vary(h http.Header) {
	if !has(h["Vary"], "Accept-Encoding") && !has(h["Vary"], "*") {
		h["Vary"] = append(slices.Clip(h["Vary"]), "Accept-Encoding")
	}
}

// weaken makes a strong ETag a weak one: it still names the version, but promises no bytes.
func weaken(h http.Header) {
	if tag := h["Etag"]; len(tag) == 1 && strings.HasPrefix(tag[0], `"`) {
		h["Etag"] = []string{"W/" + tag[0]}
	}
}

// match gives a 304 the ETag that the client has: if that is the weak one of the encoded form, a strong one would not
// find what the client keeps.
func (a *writer) match(h http.Header) {
	if has(h["Cache-Control"], "no-transform") {
		return
	}
	vary(h)
	tag := h["Etag"]
	if len(tag) != 1 || !strings.HasPrefix(tag[0], `"`) {
		return
	}
	for _, line := range a.r.Header["If-None-Match"] {
		if strings.Contains(line, "W/"+tag[0]) {
			weaken(h)
		}
	}
}

// pass sends the answer as it is, with what was held back.
func (a *writer) pass() {
	a.state = plain
	a.ResponseWriter.WriteHeader(a.status)
}

func (a *writer) give() error {
	held := a.held
	a.held = nil
	a.pass()
	if len(held) == 0 {
		return nil
	}
	_, err := a.ResponseWriter.Write(held)
	return err
}

// pack starts to encode.
func (a *writer) pack() {
	h := a.Header()
	delete(h, "Content-Length")
	delete(h, "Accept-Ranges")
	weaken(h)
	if a.r.Method == http.MethodHead {
		a.pass() // there is nothing to encode, but this is what a GET would say
		return
	}
	h["Content-Encoding"] = []string{string(a.coding)}
	a.state = packing
	a.ResponseWriter.WriteHeader(a.status)
	a.encoder = a.c.encoder(a.coding, a.ResponseWriter)
}

// Write takes a part of the body.
func (a *writer) Write(b []byte) (int, error) {
	if a.state == waiting {
		a.WriteHeader(http.StatusOK)
	}
	if a.state == holding {
		if len(a.held)+len(b) < a.c.cfg.MinSize {
			a.held = append(a.held, b...)
			return len(b), nil
		}
		held := a.held
		a.held = nil
		a.pack()
		if _, err := a.put(held); err != nil {
			return 0, err
		}
	}
	return a.put(b)
}

func (a *writer) put(b []byte) (int, error) {
	if a.state == plain {
		return a.ResponseWriter.Write(b)
	}
	a.written += int64(len(b))
	return a.encoder.Write(b)
}

// Flush sends what there is.
func (a *writer) Flush() { _ = a.FlushError() }

// FlushError sends what there is. What is flushed before there is enough is a stream, and goes as it is from then on.
func (a *writer) FlushError() error {
	if a.state == waiting {
		a.WriteHeader(http.StatusOK)
	}
	switch a.state {
	case holding:
		if err := a.give(); err != nil {
			return err
		}
	case packing:
		if err := a.encoder.Flush(); err != nil {
			return err
		}
	}
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// end ends an answer whose handler has returned.
func (a *writer) end() {
	switch a.state {
	case holding:
		_ = a.give() // the client is gone: there is nobody to tell
	case packing:
		if a.promised >= 0 && a.written != a.promised {
			// Without encoding the server itself would notice.
			panic(http.ErrAbortHandler)
		}
		_ = a.encoder.Close()
	}
}

// release gives the encoder back. It writes nothing.
func (a *writer) release() {
	if a.encoder != nil {
		a.c.release(a.coding, a.encoder)
		a.encoder = nil
	}
}
