package cache

import (
	"bufio"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// mode is what becomes of an answer while it is written.
type mode byte

const (
	undecided  mode = iota
	passing         // to the client as it comes
	capturing       // into memory, to be kept
	swallowing      // away: the client gets what is kept
)

// recorder is what a target writes its answer to.
type recorder struct {
	w      http.ResponseWriter
	header http.Header // the target's own: what the gateway has set for this client must not be kept
	own    bool        // header is not that of w
	judge  judge
	mode   mode
	status int
	body   []byte
	limit  int64 // of body
	budget *budget
	note   []string // Cache-Status
}

// judge says what becomes of an answer.
type judge interface {
	// decide is asked once, when the header is complete and before the client sees it.
	decide(rec *recorder) mode
	// released hears that an answer is not captured after all.
	released()
}

// Header is the target's header.
func (rec *recorder) Header() http.Header { return rec.header }

// Unwrap lets http.ResponseController reach the connection, for what is not done here.
func (rec *recorder) Unwrap() http.ResponseWriter { return rec.w }

// WriteHeader decides what becomes of the answer.
func (rec *recorder) WriteHeader(status int) {
	switch {
	case rec.mode != undecided:
		return
	case status < 200 && status != http.StatusSwitchingProtocols:
		rec.inform(status)
		return
	}
	rec.status = status
	if rec.mode = rec.judge.decide(rec); rec.mode == passing {
		rec.commit()
	}
}

// inform passes on an answer of 1xx, which comes before the one that is meant.
func (rec *recorder) inform(status int) {
	if !rec.own {
		rec.w.WriteHeader(status)
		return
	}
	base := rec.w.Header()
	before := base.Clone()
	for name, lines := range rec.header {
		base[name] = lines
	}
	rec.w.WriteHeader(status)
	clear(base)
	for name, lines := range before {
		base[name] = lines
	}
}

// commit sends the header.
func (rec *recorder) commit() {
	rec.merge()
	rec.w.WriteHeader(rec.status)
}

// merge puts the target's header over what the gateway has set.
func (rec *recorder) merge() {
	base := rec.w.Header()
	if rec.own {
		mergeInto(base, rec.header)
	}
	delete(base, "Cache-Tag")
	if rec.note != nil {
		addStatus(base, rec.note)
	}
}

// mergeInto puts an answer's header over what the gateway has set. Vary alone is added to: the gateway's own answer to
// CORS varies, too.
func mergeInto(base, header http.Header) {
	for name, lines := range header {
		if name == "Vary" && len(base["Vary"]) > 0 {
			base["Vary"] = slices.Concat(base["Vary"], lines)
			continue
		}
		base[name] = lines
	}
}

func addStatus(base http.Header, note []string) {
	if before := base["Cache-Status"]; len(before) > 0 {
		note = slices.Concat(before, note)
	}
	base["Cache-Status"] = note
}

// Write takes a part of the body.
func (rec *recorder) Write(b []byte) (int, error) {
	if rec.mode == undecided {
		rec.WriteHeader(http.StatusOK)
	}
	switch rec.mode {
	case swallowing:
		return len(b), nil
	case capturing:
		if int64(len(rec.body)+len(b)) <= rec.limit && rec.budget.take(int64(len(b))) {
			rec.body = append(rec.body, b...)
			return len(b), nil
		}
		if err := rec.release(); err != nil {
			return 0, err
		}
	}
	return rec.w.Write(b)
}

// release gives up capturing: what there is goes to the client, and so does what follows.
func (rec *recorder) release() error {
	rec.mode = passing
	rec.judge.released()
	rec.commit()
	body := rec.body
	rec.drop()
	_, err := rec.w.Write(body)
	return err
}

// drop forgets what was captured.
func (rec *recorder) drop() {
	rec.budget.give(int64(len(rec.body)))
	rec.body = nil
}

// Flush sends what there is.
func (rec *recorder) Flush() { _ = rec.FlushError() }

// FlushError sends what there is: an answer that comes in parts is a stream, and not kept.
func (rec *recorder) FlushError() error {
	if rec.mode == undecided {
		rec.WriteHeader(http.StatusOK)
	}
	switch rec.mode {
	case swallowing:
		return nil
	case capturing:
		if err := rec.release(); err != nil {
			return err
		}
	}
	return http.NewResponseController(rec.w).Flush()
}

// Hijack hands over the connection.
func (rec *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if rec.mode == undecided {
		rec.mode = passing
		rec.merge() // whoever takes the connection writes the header of the writer
	}
	return http.NewResponseController(rec.w).Hijack()
}

// finish ends an answer that passed: what is known at its end alone follows.
func (rec *recorder) finish() {
	if rec.mode == undecided {
		rec.WriteHeader(http.StatusOK)
	}
	if rec.mode != passing || !rec.own {
		return
	}
	base := rec.w.Header()
	for name, lines := range rec.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			base[name] = lines
		}
	}
	for _, line := range rec.header["Trailer"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); rec.header[name] != nil {
				base[name] = rec.header[name]
			}
		}
	}
}

// complete says whether the body is as long as the header promised.
func (rec *recorder) complete() bool {
	length := first(rec.header["Content-Length"])
	if length == "" {
		return true
	}
	n, err := strconv.Atoi(length)
	return err == nil && n == len(rec.body)
}

// nowhere is where the answer goes that nobody waits for.
type nowhere http.Header

// Header is thrown away.
func (n nowhere) Header() http.Header { return http.Header(n) }

// Write throws away.
func (nowhere) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader throws away.
func (nowhere) WriteHeader(int) {}
