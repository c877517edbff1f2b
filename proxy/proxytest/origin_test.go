package proxytest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/banyan-go/banyan/internal/testinfra"
	"github.com/banyan-go/banyan/proxy"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// view is a request as somebody behind the gateway saw it.
type view struct {
	Layer  string // app, nginx or haproxy
	ID     string `json:"id"` // the gateway's X-Request-Id
	Method string `json:"method"`
	Target string `json:"target"` // path and query, as they came
	Path   string `json:"path"`   // as it was understood: decoded, normalised
	Host   string `json:"host"`
	Status int    `json:"status"`
	Length string `json:"length"` // Content-Length
	Coding string `json:"coding"` // Transfer-Encoding

	Body   string // of the app alone, as all that follows
	Broken bool   // the body did not end in order
	Header http.Header
}

// request is what was asked, in one line.
func (v view) request() string { return v.Method + " " + v.Target }

// recorder is an application that remembers the requests that reach it.
type recorder struct {
	mu    sync.Mutex
	views []view
}

func (a *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := view{
		Layer: "app", ID: r.Header.Get("X-Request-Id"), Method: r.Method, Target: r.RequestURI, Path: r.URL.Path, Host: r.Host, Header: r.Header.Clone(),
		Length: r.Header.Get("Content-Length"), Coding: strings.Join(r.TransferEncoding, ", "),
	}
	if !strings.HasSuffix(r.URL.Path, "/early") { // answers before it has read
		body, err := io.ReadAll(r.Body)
		v.Body, v.Broken = string(body), err != nil
	}
	a.mu.Lock()
	a.views = append(a.views, v)
	a.mu.Unlock()
	_, _ = io.WriteString(w, "seen\n")
}

func (a *recorder) seen() []view {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]view(nil), a.views...)
}

// origin is a web server behind the gateway, with an application behind it that remembers.
type origin struct {
	name, protocol, transport string
	h2only                    bool // it speaks nothing else on its port
	start                     func(t *testing.T, o origin, app *recorder) (endpoint string, logged func() []view)
}

// origins are all those that requests are tried against.
func origins() []origin {
	return []origin{
		{"net-http over h1", upstream.H1, upstream.Standard, false, startApp},
		{"net-http over h1 synchronous", upstream.H1, upstream.Synchronous, false, startApp},
		{"net-http over h2c", upstream.H2C, upstream.Standard, false, startApp},
		{"nginx over h1", upstream.H1, upstream.Standard, false, startNginx},
		{"nginx over h1 synchronous", upstream.H1, upstream.Synchronous, false, startNginx},
		{"nginx over h2c", upstream.H2C, upstream.Standard, true, startNginx},
		{"haproxy over h1", upstream.H1, upstream.Standard, false, startHAProxy},
		{"haproxy over h1 synchronous", upstream.H1, upstream.Synchronous, false, startHAProxy},
		{"haproxy over h2c", upstream.H2C, upstream.Standard, false, startHAProxy},
	}
}

// foreign is the origin as the gateway is told of it.
func (o origin) foreign(endpoint string, routes ...proxy.ForeignRoute) proxy.Foreign {
	f := legacy(endpoint, routes...)
	f.Protocol, f.Transport = o.protocol, o.transport
	return f
}

func startApp(t *testing.T, _ origin, app *recorder) (string, func() []view) {
	return backend(t, app.ServeHTTP), func() []view { return nil }
}

// nginxConf makes nginx as gullible as it can be: it passes on what it does not know.
const nginxConf = `
worker_processes 1;
pid %[1]s/pid;
user root;
events { worker_connections 512; }
http {
  log_format seen escape=json '{"id":"$http_x_request_id","method":"$request_method","target":"$request_uri","path":"$uri","host":"$http_host",'
    '"status":$status,"length":"$http_content_length","coding":"$http_transfer_encoding"}';
  access_log %[1]s/seen seen;
  underscores_in_headers on;
  ignore_invalid_headers off;
  client_max_body_size 0;
  keepalive_requests 1000000;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  server {
    listen %[2]s%[3]s;
    location / {
      proxy_pass %[4]s;
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_set_header Host $http_host;
      proxy_set_header Connection "";
    }
  }
}
`

func startNginx(t *testing.T, o origin, app *recorder) (string, func() []view) {
	behind, addr, h2 := backend(t, app.ServeHTTP), testinfra.FreeAddr(t), ""
	if o.protocol == upstream.H2C {
		h2 = " http2"
	}
	s := testinfra.StartNginx(t, addr, func(dir string) string { return fmt.Sprintf(nginxConf, dir, addr, h2, behind) })
	return "http://" + addr, func() []view { return logged(t, s, "nginx", "seen") }
}

// haproxyConf makes haproxy as gullible as it can be.
const haproxyConf = `
global
  nbthread 1
  hard-stop-after 5s
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout http-keep-alive 30s
frontend in
  bind %[1]s
  option accept-invalid-http-request
  option dontlognull
  log stdout format raw local0
  http-request set-var(txn.id) req.hdr(x-request-id)
  http-request set-var(txn.target) pathq
  http-request set-var(txn.path) path,url_dec
  http-request set-var(txn.host) req.hdr(host)
  http-request set-var(txn.length) req.hdr(content-length)
  http-request set-var(txn.coding) req.hdr(transfer-encoding)
  log-format '{"id":"%%[var(txn.id),json(utf8s)]","method":"%%HM","target":"%%[var(txn.target),json(utf8s)]","path":"%%[var(txn.path),json(utf8s)]","host":"%%[var(txn.host),json(utf8s)]","status":%%ST,"length":"%%[var(txn.length),json(utf8s)]","coding":"%%[var(txn.coding),json(utf8s)]"}'
  default_backend app
backend app
  server app %[2]s
`

func startHAProxy(t *testing.T, _ origin, app *recorder) (string, func() []view) {
	behind, addr := backend(t, app.ServeHTTP), testinfra.FreeAddr(t)
	to, err := url.Parse(behind)
	if err != nil {
		t.Fatal(err)
	}
	s := testinfra.StartHAProxy(t, addr, func(string) string {
		return fmt.Sprintf(haproxyConf, addr, net.JoinHostPort(to.Hostname(), to.Port()))
	})
	return "http://" + addr, func() []view { return logged(t, s, "haproxy", "stdout") }
}

// logged stops the server, so that everything is in its log, and reads it.
func logged(t *testing.T, s *testinfra.WebServer, name, file string) []view {
	t.Helper()
	s.Stop()
	var list []view
	for raw := range strings.Lines(s.File(file)) {
		if !strings.HasPrefix(raw, "{") {
			continue // of its start
		}
		v := view{Layer: name}
		if err := json.Unmarshal([]byte(raw), &v); err != nil {
			t.Fatalf("%s has logged %q: %v", name, raw, err)
		}
		for _, field := range []*string{&v.ID, &v.Target, &v.Path, &v.Host, &v.Length, &v.Coding} {
			if *field == "-" {
				*field = "" // as haproxy says that there is none
			}
		}
		list = append(list, v)
	}
	return list
}

// forbidden says whether a request is for what only admins may see, however the path is spelled.
func (v view) forbidden() bool {
	p := v.Path
	for range 3 { // somebody may decode again
		p = path.Clean("/" + strings.ReplaceAll(strings.ToLower(p), `\`, "/"))
		if p == "/admin" || strings.HasPrefix(p, "/admin/") || strings.HasPrefix(p, "/admin;") {
			return true
		}
		next, err := url.PathUnescape(p)
		if err != nil {
			break
		}
		p = next
	}
	return false
}
