package proxytest_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/proxy"
)

// attack is what a client writes on one connection. {n} is the number of the attack, {admin} a whole request for what nobody
// here may see, {length} how long everything is that follows the empty line.
type attack struct {
	name  string
	bytes string
	want  []int    // the answers, in order; none: the gateway waits for more
	seen  []string // what reaches the application: method, target and body, which is ! if it breaks off
	moot  bool     // the body is broken, and who finds that out first is chance: there is one answer at most, whatever it says
}

const (
	top    = " HTTP/1.1\r\nHost: shop.example\r\n"
	post   = "POST /c{n}/x" + top
	admin  = "GET /admin/c{n}" + top + "\r\n"
	hidden = "0\r\n\r\n{admin}"
	socket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

func tried(name, bytes string, want []int, seen ...string) attack {
	return attack{name: name, bytes: bytes, want: want, seen: seen}
}

// framing is about where a request ends.
func framing() []attack {
	inner := "GET /admin/c000" + top + "\r\n"
	list := []attack{
		tried("nothing special", "GET /c{n}/x"+top+"\r\n", []int{200}, "GET /c{n}/x "),
		tried("length", post+"Content-Length: 5\r\n\r\nhello", []int{200}, "POST /c{n}/x hello"),
		tried("chunks", post+"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", []int{200}, "POST /c{n}/x hello"),
		tried("two requests", "GET /c{n}/a"+top+"\r\nGET /c{n}/b"+top+"\r\n", []int{200, 200}, "GET /c{n}/a ", "GET /c{n}/b "),
		tried("body of a GET", "GET /c{n}/x"+top+"Content-Length: {length}\r\n\r\n{admin}", []int{200}, "GET /c{n}/x {admin}"),
		tried("body of a HEAD", "HEAD /c{n}/x"+top+"Content-Length: {length}\r\n\r\n{admin}", []int{200}, "HEAD /c{n}/x {admin}"),
		tried("body that nobody reads", "POST /c{n}/early"+top+"Content-Length: {length}\r\n\r\n{admin}", []int{200}, "POST /c{n}/early "),
		tried("chunks that nobody reads", "POST /c{n}/early"+top+"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n{admin}", []int{200, 401}, "POST /c{n}/early "),
		tried("expectation", post+"Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n{admin}", []int{200}, "POST /c{n}/x {admin}"),
		tried("expectation of something else", post+"Expect: 200-ok\r\nContent-Length: 5\r\n\r\nhello", []int{417}),
		tried("expectation in small letters", post+"Expect: 100-CONTINUE\r\nContent-Length: 5\r\n\r\nhello", []int{200}, "POST /c{n}/x hello"),

		// Length and chunks: the chunks count, and what follows them is a request of its own, which is judged.
		tried("length covers chunks", post+"Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n"+hidden, []int{200, 401}, "POST /c{n}/x "),
		tried("chunks before length", post+"Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n"+hidden, []int{200, 401}, "POST /c{n}/x "),
		tried("length within chunks", post+"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"+strconv.FormatInt(int64(len(inner)), 16)+"\r\n"+inner+"\r\n0\r\n\r\n",
			[]int{200}, "POST /c{n}/x "+inner),
		tried("length nil and chunks", post+"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", []int{200}, "POST /c{n}/x hello"),
		tried("chunks of HTTP/1.0", "POST /c{n}/x HTTP/1.0\r\nHost: shop.example\r\nConnection: keep-alive\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n"+hidden,
			[]int{200}, "POST /c{n}/x "+hidden),

		{name: "broken chunks that nobody reads", bytes: "POST /c{n}/early" + top + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello?\r\n\r\n{admin}", moot: true},
		{name: "chunks without end that nobody reads", bytes: "POST /c{n}/early" + top + "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n{admin}", moot: true},

		// Whoever is refused has perhaps not been read to the end.
		tried("body of a refused request", "POST /admin/c{n}"+top+"Content-Length: {length}\r\n\r\nGET /c{n}/x"+top+"\r\n", []int{401}),
		tried("chunks of a refused request", "POST /admin/c{n}"+top+"Transfer-Encoding: chunked\r\n\r\n"+hidden, []int{401, 401}),
		tried("expectation of a refused request", "POST /admin/c{n}"+top+"Expect: 100-continue\r\nContent-Length: {length}\r\n\r\nGET /c{n}/x"+top+"\r\n", []int{401}),
		tried("body of an ambiguous request", "POST /c{n}//x"+top+"Content-Length: {length}\r\n\r\nGET /c{n}/x"+top+"\r\n", []int{400}),
		tried("body of another host's request", "POST /c{n}/x HTTP/1.1\r\nHost: evil.example\r\nContent-Length: {length}\r\n\r\nGET /c{n}/x"+top+"\r\n", []int{421}),
	}

	// Spellings of Transfer-Encoding beside a length that covers everything: taken for chunks they hide a request. Whoever takes
	// the coding answers twice, and whoever does not take it has a long body.
	type spelling struct {
		name, line string
		want       []int
		seen       []string
	}
	chunked, whole := []string{"POST /c{n}/x "}, []string{"POST /c{n}/x " + hidden}
	for _, s := range []spelling{
		{"capitals", "Transfer-Encoding: CHUNKED", []int{200, 401}, chunked},
		{"small letters", "transfer-encoding: chunked", []int{200, 401}, chunked},
		{"tab before", "Transfer-Encoding:\tchunked", []int{200, 401}, chunked},
		{"blanks after", "Transfer-Encoding: chunked \t ", []int{200, 401}, chunked},
		{"fold", "Transfer-Encoding:\r\n chunked", []int{200, 401}, chunked},
		{"fold with tab", "Transfer-Encoding:\r\n\tchunked", []int{200, 401}, chunked},
		{"behind a bare LF", "X-A: b\nTransfer-Encoding: chunked", []int{200, 401}, chunked},
		{"fold of another line", "X-A: b\r\n Transfer-Encoding: chunked", []int{200}, whole},
		{"unknown", "Transfer-Encoding: xchunked", []int{501}, nil},
		{"identity", "Transfer-Encoding: identity", []int{501}, nil},
		{"gzip and chunked", "Transfer-Encoding: gzip, chunked", []int{501}, nil},
		{"chunked and identity", "Transfer-Encoding: chunked, identity", []int{501}, nil},
		{"identity and chunked", "Transfer-Encoding: identity, chunked", []int{501}, nil},
		{"chunked twice", "Transfer-Encoding: chunked, chunked", []int{501}, nil},
		{"two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", []int{501}, nil},
		{"two lines, one unknown", "Transfer-Encoding: x\r\nTransfer-Encoding: chunked", []int{501}, nil},
		{"two lines, the other way", "Transfer-Encoding: chunked\r\nTransfer-Encoding: x", []int{501}, nil},
		{"quotes", `Transfer-Encoding: "chunked"`, []int{501}, nil},
		{"parameter", "Transfer-Encoding: chunked;q=1", []int{501}, nil},
		{"comma before", "Transfer-Encoding: ,chunked", []int{501}, nil},
		{"comma after", "Transfer-Encoding: chunked,", []int{501}, nil},
		{"empty", "Transfer-Encoding:", []int{501}, nil},
		{"vertical tab", "Transfer-Encoding: \x0bchunked", []int{400}, nil},
		{"form feed", "Transfer-Encoding: \x0cchunked", []int{400}, nil},
		{"NUL after", "Transfer-Encoding: chunked\x00", []int{400}, nil},
		{"no-break space", "Transfer-Encoding:\xa0chunked", []int{501}, nil},
		{"dotless letter", "Transfer-Encod\u0131ng: chunked", []int{400}, nil},
		{"blank before the colon", "Transfer-Encoding : chunked", []int{400}, nil},
		{"tab before the colon", "Transfer-Encoding\t: chunked", []int{400}, nil},
		{"colon on the next line", "Transfer-Encoding\r\n : chunked", []int{400}, nil},
		{"blank before the name", "X-A: b\r\n\r Transfer-Encoding: chunked", []int{400}, nil},
		{"behind a bare CR", "X-A: b\rTransfer-Encoding: chunked", []int{400}, nil},
		{"underscore", "Transfer_Encoding: chunked", []int{200}, whole},
		{"other names", "X-Transfer-Encoding: chunked\r\nTe: chunked\r\nContent-Encoding: chunked", []int{200}, whole},
		{"named in Connection", "Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding", []int{200, 401}, chunked},
		{"length named in Connection", "Connection: Content-Length", []int{200}, whole},
	} {
		list = append(list, tried("coding: "+s.name, post+"Content-Length: {length}\r\n"+s.line+"\r\n\r\n"+hidden, s.want, s.seen...))
	}

	hello := []string{"POST /c{n}/x hello"}
	for _, s := range []spelling{
		{"twice the same", "Content-Length: 5\r\nContent-Length: 5", []int{200}, hello},
		{"twice", "Content-Length: 5\r\nContent-Length: 0", []int{400}, nil},
		{"twice, the other way", "Content-Length: 0\r\nContent-Length: 5", []int{400}, nil},
		{"list of the same", "Content-Length: 5, 5", []int{400}, nil},
		{"list", "Content-Length: 5, 0", []int{400}, nil},
		{"plus", "Content-Length: +5", []int{400}, nil},
		{"minus", "Content-Length: -5", []int{400}, nil},
		{"minus nil", "Content-Length: -0", []int{400}, nil},
		{"blanks", "Content-Length: \t 5 \t ", []int{200}, hello},
		{"inner blank", "Content-Length: 5 0", []int{400}, nil},
		{"fold", "Content-Length:\r\n 5", []int{200}, hello},
		{"fold of digits", "Content-Length: 5\r\n 0", []int{400}, nil},
		{"zeros before", "Content-Length: 0000000005", []int{200}, hello},
		{"hexadecimal", "Content-Length: 0x5", []int{400}, nil},
		{"letters after", "Content-Length: 5a", []int{400}, nil},
		{"fraction", "Content-Length: 5.0", []int{400}, nil},
		{"exponent", "Content-Length: 5e0", []int{400}, nil},
		{"underscore within", "Content-Length: 0_5", []int{400}, nil},
		{"other digits", "Content-Length: \u0665", []int{400}, nil},
		{"semicolon", "Content-Length: 5;", []int{400}, nil},
		{"quotes", `Content-Length: "5"`, []int{400}, nil},
		{"empty", "Content-Length:", []int{400}, nil},
		{"too long for a number", "Content-Length: 18446744073709551621", []int{400}, nil},
		{"vertical tab", "Content-Length: \x0b5", []int{400}, nil},
		{"NUL", "Content-Length: 5\x00", []int{400}, nil},
		{"blank before the colon", "Content-Length : 5", []int{400}, nil},
		{"underscore", "Content-Length: 5\r\nContent_Length: 50", []int{200}, hello},
		{"another name", "Content-Length: 5\r\nX-Content-Length: 50", []int{200}, hello},
		{"behind a bare LF", "X-A: b\nContent-Length: 5", []int{200}, hello},
		{"behind a bare CR", "Content-Length: 5\rContent-Length: 50", []int{400}, nil},
	} {
		list = append(list, tried("length: "+s.name, post+s.line+"\r\n\r\nhello", s.want, s.seen...))
	}

	for _, s := range []struct {
		name, body string
		want       []int
		seen       string // of the body; "-" is nothing of it all, "!" a body that breaks off
	}{
		{"extension", "5;a=b\r\nhello\r\n0\r\n\r\n", []int{200}, "hello"},
		{"extension without value", "5;a\r\nhello\r\n0;b\r\n\r\n", []int{200}, "hello"},
		{"extension in quotes", "5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", []int{200}, "hello"},
		{"blank before the extension", "5 ;a=b\r\nhello\r\n0\r\n\r\n", []int{400}, "!"},
		{"blank after the size", "5 \r\nhello\r\n0\r\n\r\n", []int{200}, "hello"},
		{"capital", "0A\r\nhellohello\r\n0\r\n\r\n", []int{200}, "hellohello"},
		{"zeros before", "0005\r\nhello\r\n000\r\n\r\n", []int{200}, "hello"},
		{"trailer", "5\r\nhello\r\n0\r\nX-A: b\r\n\r\n", []int{200}, "hello"},
		{"extension with a bare LF", "5;a\nhello\r\n0\r\n\r\n", []int{400}, "!"},
		{"extension with a bare CR", "5;a\rb\r\nhello\r\n0\r\n\r\n", []int{400}, "!"},
		{"extension with LF in quotes", "5;a=\"\nb\"\r\nhello\r\n0\r\n\r\n", []int{400}, "!"},
		{"bare LF after the size", "5\nhello\r\n0\r\n\r\n", []int{400}, "!"},
		{"bare CR after the size", "5\rhello\r\n0\r\n\r\n", []int{400}, "!"},
		{"bare LF after the data", "5\r\nhello\n0\r\n\r\n", []int{400}, "!"},
		{"bare LF at the end", "5\r\nhello\r\n0\n\n", []int{400}, "!"},
		{"data too long", "5\r\nhelloo\r\n0\r\n\r\n", []int{400}, "!"},
		{"blank before the size", " 5\r\nhello\r\n0\r\n\r\n", []int{400}, "!"},
		{"hexadecimal prefix", "0x5\r\nhello\r\n0\r\n\r\n", []int{400}, "!"},
		{"plus", "+5\r\nhello\r\n0\r\n\r\n", []int{400}, "!"},
		{"minus", "-5\r\nhello\r\n0\r\n\r\n", []int{400}, "!"},
		{"underscore", "0_5\r\nhello\r\n0\r\n\r\n", []int{400}, "!"},
		{"no size", "\r\nhello\r\n0\r\n\r\n", []int{400}, "!"},
		{"overflow", "10000000000000005\r\nhello\r\n0\r\n\r\n", []int{400}, "!"},
		{"longer than anything", "ffffffffffffffff\r\nhello\r\n0\r\n\r\n", nil, "!"},
		{"endless extension", "5;" + strings.Repeat("a", 20<<10) + "\r\nhello\r\n0\r\n\r\n", []int{400}, "!"},
		{"trailer without colon", "5\r\nhello\r\n0\r\nGET /admin/c{n} HTTP/1.1\r\n\r\n", []int{400}, "!"},
		{"trailer with blank before the colon", "5\r\nhello\r\n0\r\nX-A : b\r\n\r\n", []int{200}, "hello"},
	} {
		list = append(list, tried("chunk: "+s.name, post+"Transfer-Encoding: chunked\r\n\r\n"+s.body, s.want, "POST /c{n}/x "+s.seen))
	}
	return list
}

// lines is about request lines and headers.
func lines() []attack {
	whole := func(name, bytes string, want int, seen ...string) attack {
		return tried(name, bytes, []int{want}, seen...)
	}
	get := func(name, target string, want int, seen ...string) attack {
		return whole(name, "GET "+target+top+"\r\n", want, seen...)
	}
	const x = "GET /c{n}/x "
	return []attack{
		// The line itself.
		whole("bare LF all over", "GET /c{n}/x HTTP/1.1\nHost: shop.example\n\n", 200, x),
		whole("bare LF at the end", "GET /c{n}/x HTTP/1.1\r\nHost: shop.example\r\n\n", 200, x),
		whole("bare CR all over", "GET /c{n}/x HTTP/1.1\rHost: shop.example\r\r\n\r\n", 400),
		whole("two CR", "GET /c{n}/x HTTP/1.1\r\r\nHost: shop.example\r\n\r\n", 400),
		whole("empty line before", "\r\nGET /c{n}/x"+top+"\r\n", 400),
		whole("blank before", " GET /c{n}/x"+top+"\r\n", 400),
		whole("two blanks", "GET  /c{n}/x"+top+"\r\n", 400),
		whole("two blanks before the version", "GET /c{n}/x  HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
		whole("tab", "GET\t/c{n}/x\tHTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
		whole("blank in the target", "GET /c{n}/x /admin HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
		whole("version in the target", "GET /c{n}/x HTTP/1.1 HTTP/1.1\r\nHost: shop.example\r\n\r\n", 400),
		whole("HTTP/0.9", "GET /c{n}/x\r\n\r\n", 400),
		whole("HTTP/1.0", "GET /c{n}/x HTTP/1.0\r\nHost: shop.example\r\n\r\n", 200, x),
		whole("HTTP/1.2", "GET /c{n}/x HTTP/1.2\r\nHost: shop.example\r\n\r\n", 200, x),
		whole("HTTP/2.0", "GET /c{n}/x HTTP/2.0\r\nHost: shop.example\r\n\r\n", 505),
		whole("HTTP/01.1", "GET /c{n}/x HTTP/01.1\r\nHost: shop.example\r\n\r\n", 400),
		whole("http/1.1", "GET /c{n}/x http/1.1\r\nHost: shop.example\r\n\r\n", 400),
		whole("no version", "GET /c{n}/x HTTP\r\nHost: shop.example\r\n\r\n", 400),
		whole("method that nobody knows", "BREW /c{n}/x"+top+"\r\n", 200, "BREW /c{n}/x "),
		whole("method with a colon", "GET: /c{n}/x"+top+"\r\n", 400),
		whole("method with NUL", "GE\x00T /c{n}/x"+top+"\r\n", 400),
		whole("CONNECT with a path", "CONNECT /c{n}/x"+top+"\r\n", 405),
		whole("CONNECT", "CONNECT shop.example:443"+top+"\r\n", 400),
		whole("TRACE", "TRACE /c{n}/x"+top+"\r\n", 405),
		whole("everything", "OPTIONS *"+top+"\r\n", 400),
		whole("everything, of another method", "GET *"+top+"\r\n", 400),
		whole("preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 400),

		// Headers.
		whole("fold", "GET /c{n}/x"+top+"X-A: b\r\n c\r\n\r\n", 200, x),
		whole("fold of the host", "GET /c{n}/x HTTP/1.1\r\nHost:\r\n shop.example\r\n\r\n", 200, x),
		whole("fold of the first line", "GET /c{n}/x HTTP/1.1\r\n Host: shop.example\r\n\r\n", 400),
		whole("no colon", "GET /c{n}/x"+top+"X-A\r\n\r\n", 400),
		whole("no name", "GET /c{n}/x"+top+": b\r\n\r\n", 400),
		whole("blank before the colon", "GET /c{n}/x"+top+"X-A : b\r\n\r\n", 400),
		whole("blank in a name", "GET /c{n}/x"+top+"X A: b\r\n\r\n", 400),
		whole("slash in a name", "GET /c{n}/x"+top+"X/A: b\r\n\r\n", 400),
		whole("umlaut in a name", "GET /c{n}/x"+top+"X-\u00c4: b\r\n\r\n", 400),
		whole("NUL in a name", "GET /c{n}/x"+top+"X-\x00A: b\r\n\r\n", 400),
		whole("NUL in a value", "GET /c{n}/x"+top+"X-A: b\x00c\r\n\r\n", 400),
		whole("CR in a value", "GET /c{n}/x"+top+"X-A: b\rc\r\n\r\n", 400),
		whole("ESC in a value", "GET /c{n}/x"+top+"X-A: b\x1bc\r\n\r\n", 400),
		whole("no host", "GET /c{n}/x HTTP/1.1\r\n\r\n", 400),
		whole("two hosts", "GET /c{n}/x"+top+"Host: evil.example\r\n\r\n", 400),
		whole("two hosts alike", "GET /c{n}/x"+top+"Host: shop.example\r\n\r\n", 400),
		whole("empty host", "GET /c{n}/x HTTP/1.1\r\nHost:\r\n\r\n", 421),
		whole("another host", "GET /c{n}/x HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
		whole("host with a user", "GET /c{n}/x HTTP/1.1\r\nHost: shop.example@evil.example\r\n\r\n", 400),
		whole("host with a path", "GET /c{n}/x HTTP/1.1\r\nHost: shop.example/admin\r\n\r\n", 400),
		whole("host with a blank", "GET /c{n}/x HTTP/1.1\r\nHost: shop.example evil\r\n\r\n", 400),
		whole("list of hosts", "GET /c{n}/x HTTP/1.1\r\nHost: shop.example, evil.example\r\n\r\n", 400),
		whole("host with a port", "GET /c{n}/x HTTP/1.1\r\nHost: shop.example:8080\r\n\r\n", 200, x),
		whole("host with a port that is none", "GET /c{n}/x HTTP/1.1\r\nHost: shop.example:evil.example\r\n\r\n", 421),
		whole("host in brackets", "GET /c{n}/x HTTP/1.1\r\nHost: [shop.example]\r\n\r\n", 421),
		whole("host below another", "GET /c{n}/x HTTP/1.1\r\nHost: shop.example.evil.example\r\n\r\n", 421),

		// The absolute form names a host of its own, which is the one that counts.
		get("absolute", "http://shop.example/c{n}/x", 200, x),
		get("absolute, of another host", "http://evil.example/c{n}/x", 421),
		get("absolute, with a user", "http://admin:x@shop.example/c{n}/x", 200, x),
		get("absolute, of another scheme", "ftp://shop.example/c{n}/x", 200, x),
		get("absolute without path", "http://shop.example", 400),
		get("absolute to the admin", "http://shop.example/admin/c{n}", 401),
		get("absolute with two slashes", "http://shop.example//admin/c{n}", 400),
		get("no scheme", "//shop.example/c{n}/x", 400),
		get("scheme alone", "http:/c{n}/x", 200, x),
		get("no slash", "c{n}/x", 400),

		// Upgrades.
		whole("upgrade to h2c", "GET /c{n}/x"+top+"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n", 200, x),
		tried("websocket that nobody opens", "GET /c{n}/x"+top+socket+"\r\n{admin}", []int{200, 401}, x),
		tried("websocket with a body", "GET /c{n}/x"+top+socket+"Content-Length: {length}\r\n\r\n{admin}", []int{200}, x),
		whole("websocket without a key", "GET /c{n}/x"+top+"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
		whole("websocket by POST", "POST /c{n}/x"+top+"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n", 200, "POST /c{n}/x "),
	}
}

// paths is about targets that two readers could take for different things. What is not refused is sent on in one form.
func paths() []attack {
	refused := []string{
		"/c{n}//admin", "//admin/c{n}", "///admin/c{n}", "/c{n}/../admin", "/c{n}/./x", "/c{n}/..", "/c{n}/.", "/c{n}/..;/admin", "/c{n};/admin", "/c{n}/x;a=b",
		"/c{n}/%2e%2e/admin", "/c{n}/%2E%2E/admin", "/c{n}/.%2e/admin", "/c{n}/%2e./admin", "/c{n}/%2e/x", "/c{n}%2f..%2fadmin", "/c{n}%2Fx", "/admin%2fc{n}",
		"/c{n}%2f%2fadmin", `/c{n}\..\admin`, `/c{n}/..\admin`, "/c{n}%5cx", "/c{n}%5C..%5Cadmin", "/c{n}/%00", "/c{n}/x%00.html", "/admin%00/c{n}", "/c{n}/x%0a", "/c{n}/x%0d%0aX-A:%20b",
		"/c{n}/%252e%252e/admin", "/c{n}%252fadmin", "/c{n}/%25", "/c{n}/x%3b", "/c{n}/%c0%ae%c0%ae/admin", "/c{n}/%c0%afadmin", "/c{n}/%ff", "/c{n}/%u002e", "/c{n}/%", "/c{n}/%2", "/c{n}/%zz",
		"/c{n}/...", "/c{n}/x.", "/c{n}/x./y", "/c{n}/..%00/admin", "/c{n}/%09", "/c{n}/%7f", "/c{n}/%c2%80", "/c{n}/..%2fadmin", "/c{n}/%2e%2e%2fadmin", "/c{n}/x//",
		// Queries.
		"/c{n}/x?a=1;b=2", "/c{n}/x?a=%", "/c{n}/x?a=%zz", "/c{n}/x?a=%00",
	}
	fragments := []string{"/c{n}/x?a=b#/../admin", "/c{n}/x?#"}
	sent := map[string]string{
		"/c{n}/x/": "/c{n}/x/", "/c{n}/%78": "/c{n}/x", "/c{n}/%7Ex": "/c{n}/~x", "/c{n}/a%20b": "/c{n}/a%20b", "/c{n}/a+b": "/c{n}/a+b", "/c{n}/%c3%a9": "/c{n}/%C3%A9", "/c{n}/\u00e9": "/c{n}/%C3%A9",
		"/c{n}/%3f": "/c{n}/%3F", "/c{n}/%23": "/c{n}/%23", "/c{n}/a:b@c": "/c{n}/a:b@c", "/c{n}/x%3Fa=b": "/c{n}/x%3Fa=b", "/c{n}/..x": "/c{n}/..x", "/c{n}/x..y": "/c{n}/x..y",
		"/c{n}/.well-known": "/c{n}/.well-known", "/c{n}/%41%64%6d": "/c{n}/Adm", `/c{n}/"<>`: "/c{n}/%22%3C%3E", "/c{n}/x|y": "/c{n}/x%7Cy", "/c{n}/x#y": "/c{n}/x%23y",
		"/c{n}/x?": "/c{n}/x?", "/c{n}/x?a=b": "/c{n}/x?a=b", "/c{n}/x?a=%2e%2e%2fadmin": "/c{n}/x?a=%2e%2e%2fadmin", "/c{n}/x?a=../admin": "/c{n}/x?a=../admin", "/c{n}/x?/../admin": "/c{n}/x?/../admin",
		"/c{n}/x?a=b?c": "/c{n}/x?a=b?c", "/c{n}/x?a=%0d%0aX-A:b": "/c{n}/x?a=%0d%0aX-A:b", "/c{n}/x??": "/c{n}/x??", "/c{n}/x?a&a&=": "/c{n}/x?a&a&=",
	}
	barred := []string{"/admin/c{n}", "/admin", "/admin/", "/%61dmin/c{n}", "/adm%69n/c{n}", "/admin?c{n}", "/admin/c{n}/%41", "/admin/%63{n}"}
	var list []attack
	for _, p := range refused {
		list = append(list, tried("refused: "+p, "GET "+p+top+"\r\n", []int{400}))
	}
	for _, p := range fragments {
		list = append(list, tried("refused: "+p, "GET "+p+top+"\r\n", []int{400}))
	}
	for _, p := range slices.Sorted(maps.Keys(sent)) {
		list = append(list, tried("sent: "+p, "GET "+p+top+"\r\n", []int{200}, "GET "+sent[p]+" "))
	}
	for _, p := range barred {
		list = append(list, tried("barred: "+p, "GET "+p+top+"\r\n", []int{401}))
		list = append(list, tried("barred, absolute: "+p, "GET http://shop.example"+p+top+"\r\n", []int{401}))
	}
	return list
}

// fill puts the number of the attack, and what depends on it, in its place.
func fill(s string, n int) string {
	s = strings.ReplaceAll(s, "{admin}", admin)
	s = strings.ReplaceAll(s, "{n}", strconv.Itoa(n))
	_, body, _ := strings.Cut(s, "\r\n\r\n")
	return strings.ReplaceAll(s, "{length}", strconv.Itoa(len(body)))
}

// guarded are routes of which a part is for admins alone; everything else goes to the same application.
func guarded() []proxy.ForeignRoute {
	return []proxy.ForeignRoute{
		{Match: "/admin", Class: "stream", Auth: "admin"}, {Match: "/admin/{rest...}", Class: "stream", Auth: "admin"}, {Match: "/{rest...}", Class: "stream"},
	}
}

// TestNobodyDisagrees tries every way to have a request understood differently by the gateway and by what stands behind it. The
// gateway's own log says what it has let pass; the application, and nginx or haproxy before it, say what they got.
func TestNobodyDisagrees(t *testing.T) {
	t.Parallel()
	for _, o := range origins() {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			app := &recorder{}
			endpoint, logged := o.start(t, o, app)
			d := open(t, func(c *proxy.Config, _ *proxy.Options) {
				c.Hosts = []string{"shop.example"}
				c.Upstreams = []proxy.Foreign{o.foreign(endpoint, guarded()...)}
			})
			j := &jury{t: t, d: d, app: app, refused: map[string]string{}}
			for _, a := range slices.Concat(framing(), lines(), paths()) {
				if o.h2only && strings.Contains(a.bytes, socket) {
					continue // a WebSocket needs an origin that speaks HTTP/1.1 too
				}
				j.try(a)
			}
			for _, a := range frames() {
				j.tryFrames(a)
			}
			d.stop()
			j.judge(o, logged())
		})
	}
}

// jury remembers what was tried.
type jury struct {
	t     *testing.T
	d     *door
	app   *recorder
	names []string
	seen  [][]string
	// refused are the ids of the requests that were answered with a failure. None of the origins gives any.
	refused map[string]string
}

func (j *jury) next(name string, seen []string) int {
	n := len(j.names)
	j.names, j.seen = append(j.names, name), append(j.seen, nil)
	for _, s := range seen {
		j.seen[n] = append(j.seen[n], fill(s, n))
	}
	return n
}

func (j *jury) try(a attack) {
	j.t.Helper()
	if a.moot {
		a.seen, a.want = []string{moot}, []int{0}
	}
	n := j.next(a.name, a.seen)
	p := dial(j.t, j.d.addr)
	defer func() { _ = p.Close() }()
	bytes := fill(a.bytes, n)
	method, _, _ := strings.Cut(bytes, " ")
	p.write(bytes)
	var got []int
	for range a.want {
		resp, _ := p.answer(method)
		method = "GET"
		if resp == nil {
			break
		}
		got = append(got, resp.StatusCode)
		j.answered(a.name, resp.StatusCode, resp.Header.Get("X-Request-Id"))
		if resp.Close {
			a.want = a.want[:len(got)] // what follows is not read, which is as good
			break
		}
	}
	rest := p.rest()
	if diff := cmp.Diff(got, a.want); diff != "" && !a.moot {
		j.t.Errorf("%s: the answers (-got +want)\n%s", a.name, diff)
	} else if rest != "" && len(a.want) > 0 {
		j.t.Errorf("%s: one more answer: %q", a.name, rest)
	}
}

// moot stands for a request that may be seen or not, with a body that is empty or breaks off.
const moot = "moot !"

// broken says whether the body of an attack does not end in order.
func (j *jury) broken(n int) bool {
	return len(j.seen[n]) == 1 && strings.HasSuffix(j.seen[n][0], " !")
}

func (j *jury) answered(name string, status int, id string) {
	if status >= 400 && id != "" {
		j.refused[id] = name
	}
}

// judge holds against each other what was let pass and what was seen.
func (j *jury) judge(o origin, logged []view) {
	j.t.Helper()
	passed := map[string]line{}
	for _, l := range j.d.access() {
		if l.Target != "remote" {
			continue
		}
		if _, twice := passed[l.ID]; twice {
			j.t.Errorf("the gateway has let pass two requests as %s", l.ID)
		}
		passed[l.ID] = l
		if name, refused := j.refused[l.ID]; refused && l.Failure == "" {
			j.t.Errorf("%s was refused by the origin: the gateway has let it pass", name)
		}
	}
	app := j.app.seen()
	times := map[string]int{}
	got := make([][]string, len(j.names))
	for _, v := range slices.Concat(app, logged) {
		at := v.Layer + ": " + v.request()
		l, known := passed[v.ID]
		n, ok := number(v.Target)
		if !ok || n >= len(got) {
			j.t.Errorf("%s (id %q) belongs to nothing that was tried", at, v.ID)
			continue
		}
		broken := j.broken(n)
		switch {
		case !known:
			j.t.Errorf("%s was not let pass by the gateway (id %q)", at, v.ID)
		case l.Method != v.Method:
			j.t.Errorf("%s has the method %s, the gateway took it for %s", at, v.Method, l.Method)
		case l.Route != "/{rest...}":
			j.t.Errorf("%s was let pass by the route %s", at, l.Route)
		case v.Coding != "" && v.Length != "":
			j.t.Errorf("%s has both a length and chunks", at)
		case v.Layer != "app" && v.Status >= 400 && !broken:
			j.t.Errorf("%s is answered with %d", at, v.Status)
		}
		if v.forbidden() {
			j.t.Errorf("%s is for admins alone, and there was none", at)
		}
		if times[v.Layer+v.ID]++; times[v.Layer+v.ID] > max(1, l.Attempt) {
			j.t.Errorf("%s was seen %d times", at, times[v.Layer+v.ID])
		}
		if v.Layer != "app" {
			if !broken && !slices.ContainsFunc(app, func(a view) bool {
				return a.ID == v.ID && a.request() == v.request() && (a.Path == v.Path || v.Path == "")
			}) {
				j.t.Errorf("%s, understood as %s, is not what the application got (%s)", at, v.Path, j.names[n])
			}
			continue
		}
		body := v.Body
		if v.Broken {
			body = "!"
		}
		got[n] = append(got[n], v.request()+" "+body)
	}
	for id, l := range passed {
		if l.Status == 200 && times["app"+id] != 1 {
			j.t.Errorf("%s %s was let pass and answered as %s, and the application has seen it %d times", l.Method, l.Route, id, times["app"+id])
		}
	}
	for n, name := range j.names {
		if j.broken(n) && (len(got[n]) == 0 || j.seen[n][0] == moot && len(got[n]) == 1 && (strings.HasSuffix(got[n][0], " ") || strings.HasSuffix(got[n][0], " !"))) {
			continue // what breaks off need not arrive at all
		}
		if diff := cmp.Diff(got[n], j.seen[n]); diff != "" {
			j.t.Errorf("%s: the application got (-got +want)\n%s", name, diff)
		}
	}
	if len(app) < 60 {
		j.t.Errorf("%s: only %d requests have passed: the tests do not try what they should", o.name, len(app))
	}
}

// number is that of the attack which a target belongs to.
func number(target string) (int, bool) {
	_, rest, found := strings.Cut(target, "/c")
	if !found {
		return 0, false
	}
	var n int
	_, err := fmt.Sscanf(rest, "%d", &n)
	return n, err == nil
}
