package proxytest_test

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2attack is a request in frames of HTTP/2, which can hold what no line of HTTP/1.1 can.
type h2attack struct {
	name   string
	fields [][2]string // of the header, as they are
	body   string
	want   int // status; 0: the stream or the connection ends without an answer
	seen   []string
	// moot: the body is not what its length says. Before that is known the request may have been sent on, with a body that ends
	// early or is empty; it may be answered or not.
	moot bool
}

// with is a header that is in order, and more; a pseudo header takes the place of the one that is there.
func with(more ...string) [][2]string {
	list := [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "shop.example"}, {":path", "/c{n}/x"}}
	for i := 0; i < len(more); i += 2 {
		if j := index(list[:4], more[i]); j >= 0 {
			list[j][1] = more[i+1]
		} else {
			list = append(list, [2]string{more[i], more[i+1]})
		}
	}
	return list
}

func index(list [][2]string, name string) int {
	for i, f := range list {
		if f[0] == name {
			return i
		}
	}
	return -1
}

func frames() []h2attack {
	x := []string{"GET /c{n}/x "}
	refused := func(name string, status int, fields ...string) h2attack {
		return h2attack{name: name, fields: with(fields...), want: status}
	}
	list := []h2attack{
		{name: "nothing special", fields: with(), want: 200, seen: x},
		{name: "body", fields: with(":method", "POST"), body: "hello", want: 200, seen: []string{"POST /c{n}/x hello"}},
		{name: "length", fields: with(":method", "POST", "content-length", "5"), body: "hello", want: 200, seen: []string{"POST /c{n}/x hello"}},
		{name: "body of a GET", fields: with(), body: admin, want: 200, seen: []string{"GET /c{n}/x {admin}"}},
		{name: "body is a request", fields: with(":method", "POST", "content-length", "{length}"), body: hidden, want: 200, seen: []string{"POST /c{n}/x " + hidden}},
		{name: "host beside the authority", fields: with("host", "evil.example"), want: 200, seen: x},
		{name: "cookies in pieces", fields: with("cookie", "a=b", "cookie", "c=d"), want: 200, seen: x},
		{name: "trailers are taken", fields: with("te", "trailers"), want: 200, seen: x},

		{name: "length too short", fields: with(":method", "POST", "content-length", "3"), body: "hello", moot: true},
		{name: "length too long", fields: with(":method", "POST", "content-length", "50"), body: "hello", moot: true},
		{name: "length nil", fields: with(":method", "POST", "content-length", "0"), body: admin, moot: true},
		{name: "length is no number", fields: with(":method", "POST", "content-length", "+5"), body: "hello", moot: true},
		{name: "two lengths in one", fields: with(":method", "POST", "content-length", "5, 5"), body: "hello", moot: true},
		{name: "two lengths, the first is right", fields: with(":method", "POST", "content-length", "5", "content-length", "6"), body: "hello", want: 200, seen: []string{"POST /c{n}/x hello"}},
		{name: "two lengths, the second is right", fields: with(":method", "POST", "content-length", "6", "content-length", "5"), body: "hello", moot: true},
		{name: "chunks", fields: with(":method", "POST", "transfer-encoding", "chunked"), body: hidden, want: 400},
	}
	for _, s := range []struct {
		name   string
		fields []string
	}{
		{"line break in a value", []string{"x-a", "b\r\nX-B: c"}},
		{"line break and a request in a value", []string{"x-a", "b\r\n\r\n" + admin}},
		{"LF in a value", []string{"x-a", "b\nX-B: c"}}, {"CR in a value", []string{"x-a", "b\rX-B: c"}}, {"NUL in a value", []string{"x-a", "b\x00c"}},
		{"line break in a name", []string{"x-a: b\r\nx-b", "c"}}, {"colon in a name", []string{"x-a:b", "c"}}, {"blank in a name", []string{"x a", "c"}},
		{"capital in a name", []string{"X-A", "c"}}, {"no name", []string{"", "c"}}, {"name of a coding", []string{"transfer-encoding: chunked\r\nx", "c"}},

		{"line break in the path", []string{":path", "/c{n}/x HTTP/1.1\r\nX-A: b"}}, {"line break in the method", []string{":method", "GET / HTTP/1.1\r\nX-A: b"}},
		{"line break in the authority", []string{":authority", "shop.example\r\nX-A: b"}}, {"unknown pseudo header", []string{":x", "y"}}, {"answer's pseudo header", []string{":status", "200"}},
		{"no path", []string{":path", ""}}, {"protocol", []string{":method", "CONNECT", ":protocol", "websocket"}},

		{"scheme with a line break", []string{":scheme", "http\r\nX-A: b"}},
	} {
		list = append(list, refused(s.name, 0, s.fields...))
	}
	list = append(list,
		refused("blank in the query", 400, ":path", "/c{n}/x? /admin"), refused("version in the query", 400, ":path", "/c{n}/x?a=b HTTP/1.1"),
		refused("version and blank in the query", 400, ":path", "/c{n}/x?a=b HTTP/1.0 "), refused("blank in the method", 400, ":method", "GET /admin/c{n}"),
		refused("request line in the method", 400, ":method", "GET /admin/c{n} HTTP/1.1"), refused("fragment", 400, ":path", "/c{n}/x?a#b"),
	)
	for _, p := range []string{
		"//admin/c{n}", "/c{n}/../admin", "/c{n}/%2e%2e/admin", "/c{n}%2fx", `/c{n}\x`, "/c{n}/x?a=%",
	} {
		list = append(list, refused("path "+p, 400, ":path", p))
	}
	list = append(list,
		refused("connection", 400, "connection", "x-a", "x-a", "b"), refused("keep-alive", 400, "keep-alive", "1"), refused("proxy-connection", 400, "proxy-connection", "close"),
		refused("upgrade", 400, "upgrade", "h2c"), refused("te", 400, "te", "chunked"), refused("everything", 400, ":path", "*"),
		refused("admin", 401, ":path", "/admin/c{n}"), refused("admin, absolute", 401, ":path", "http://shop.example/admin/c{n}"),
		refused("another host", 421, ":authority", "evil.example"), refused("no authority", 421, ":authority", ""),
		refused("no slash", 0, ":path", "c{n}/x"),
		h2attack{name: "absolute, of another host", fields: with(":path", "http://evil.example/c{n}/x"), want: 200, seen: x},
		h2attack{name: "method that nobody knows", fields: with(":method", "BREW"), want: 200, seen: []string{"BREW /c{n}/x "}},
		h2attack{name: "blank in the path", fields: with(":path", "/c{n}/a b"), want: 200, seen: []string{"GET /c{n}/a%20b "}},
	)
	twice := func(name, value string) h2attack {
		return h2attack{name: "two of " + name, fields: append(with()[:4:4], [2]string{name, value})}
	}
	late := h2attack{name: "pseudo header behind the others", fields: [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "shop.example"}, {"x-a", "b"}, {":path", "/c{n}/x"}}}
	return append(list, twice(":path", "/admin/c{n}"), twice(":method", "POST"), twice(":authority", "evil.example"), late)
}

func (j *jury) tryFrames(a h2attack) {
	j.t.Helper()
	if a.moot {
		a.seen = []string{moot}
	}
	n := j.next("h2: "+a.name, a.seen)
	c := dialH2(j.t, j.d.addr)
	defer func() { _ = c.Close() }()
	body := fill("\r\n\r\n"+a.body, n)[4:]
	fields := make([][2]string, len(a.fields))
	for i, f := range a.fields {
		fields[i] = [2]string{fill(f[0], n), fill(f[1], n)}
		if f[1] == "{length}" {
			fields[i][1] = strconv.Itoa(len(body))
		}
	}
	got, id := c.ask(fields, body)
	if got != a.want && !a.moot {
		j.t.Errorf("h2: %s: got %d, want %d", a.name, got, a.want)
	}
	j.answered("h2: "+a.name, got, id)
}

// h2peer is a client's end of a connection, frame by frame.
type h2peer struct {
	*peer
	framer *http2.Framer
}

func dialH2(t testing.TB, addr string) *h2peer {
	t.Helper()
	p := dial(t, addr)
	c := &h2peer{p, http2.NewFramer(p.Conn, p.in)}
	c.framer.AllowIllegalWrites = true
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.write(http2.ClientPreface)
	_ = c.framer.WriteSettings()
	return c
}

// ask sends one request, and waits for the status and the request's id, or for the end of the stream.
func (c *h2peer) ask(fields [][2]string, body string) (status int, id string) {
	c.t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range fields {
		if err := encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			c.t.Fatal(err)
		}
	}
	// A frame has its limit; what is longer goes on in others.
	first, rest := block.Next(16<<10), block.Len()
	_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndHeaders: rest == 0, EndStream: body == ""})
	for block.Len() > 0 {
		piece := block.Next(16 << 10)
		_ = c.framer.WriteContinuation(1, block.Len() == 0, piece)
	}
	if body != "" {
		_ = c.framer.WriteData(1, true, []byte(body))
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			if !errors.Is(err, io.EOF) && status == 0 {
				var timeout interface{ Timeout() bool }
				if errors.As(err, &timeout) && timeout.Timeout() {
					c.t.Errorf("nobody answers")
				}
			}
			return status, id
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if status == 0 {
				status, _ = strconv.Atoi(f.PseudoValue("status"))
				for _, field := range f.RegularFields() {
					if field.Name == "x-request-id" {
						id = field.Value
					}
				}
			}
			if f.StreamEnded() {
				return status, id
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				return status, id
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return status, id
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = c.framer.WriteSettingsAck()
			}
		}
	}
}
