package proxytest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/proxy"
)

// orders is a module in two processes, beside an application that is being replaced.
func orders(t *testing.T, local, remote, old http.HandlerFunc) *door {
	t.Helper()
	return open(t, func(c *proxy.Config, o *proxy.Options) {
		c.Gates.Automatic.Rollback, c.Gates.Automatic.Advance = false, false
		c.Cache.Enabled = false
		o.Modules = []module.Descriptor{{Name: "orders", Routes: []module.Route{
			{ID: "list", Method: "GET", Path: "/api/orders", Class: module.Read},
			{ID: "mine", Method: "GET", Path: "/api/orders/mine", Class: module.Read, Auth: identity.Customer},
			{ID: "place", Method: "POST", Path: "/api/orders", Class: module.Write},
			{ID: "live", Method: "GET", Path: "/api/live", Class: module.Stream},
		}}}
		o.Local = local
		o.Endpoints = map[string][]string{"orders": {backend(t, remote)}}
		c.Upstreams = []proxy.Foreign{legacy(backend(t, old))}
	})
}

// placements is a way through all of them, and back.
func placements() [][]proxy.Placement {
	at := func(p proxy.Placement) []proxy.Placement {
		p.Module = "orders"
		return []proxy.Placement{p}
	}
	return [][]proxy.Placement{
		at(proxy.Placement{State: proxy.Local}), at(proxy.Placement{State: proxy.Shadow}), at(proxy.Placement{State: proxy.Canary, Reads: 5000}),
		at(proxy.Placement{State: proxy.Canary, Reads: 10_000, Writes: 5000}), at(proxy.Placement{State: proxy.Remote, Epoch: 1}), at(proxy.Placement{State: proxy.Local, Epoch: 2}),
	}
}

// change moves the module 100 times a second, as far as the machine lets it, until that is enough or takes too long.
func change(t *testing.T, d *door, enough func(changes int) bool) (changes int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	all := placements()
	for end := time.Now().Add(3 * patience); !enough(changes); changes++ {
		if <-tick.C; time.Now().After(end) {
			t.Errorf("%d changes in %s: that tries nothing", changes, 3*patience)
			break
		}
		if err := d.gate.Apply(all[changes%len(all)]); err != nil {
			t.Errorf("change %d: %v", changes, err)
		}
	}
	return changes
}

// TestNoRequestFailsWhileTheTableChanges: readers, writers and users with a token, at modules and at the old application.
func TestNoRequestFailsWhileTheTableChanges(t *testing.T) {
	t.Parallel()
	answer := func(side string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"side":%q,"got":%d}`, side, len(body))
		}
	}
	var sides [2]atomic.Int64
	counted := func(n int, h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			sides[n].Add(1)
			h(w, r)
		}
	}
	d := orders(t, counted(0, answer("local")), counted(1, answer("remote")), answer("old"))
	least := 300
	if testing.Short() {
		least = 100
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var failed, sent atomic.Int64
	var asking sync.WaitGroup
	for i := range 8 {
		bearer := "Bearer " + d.token([]identity.Role{identity.Customer, identity.Staff}[i%2])
		c := client(t, i%2 == 1)
		asking.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				var r *http.Request
				switch n % 4 {
				case 0:
					r = request(t, "GET", d.url+"/api/orders", "")
				case 1:
					r = request(t, "POST", d.url+"/api/orders", `{"a":1}`, "Content-Type", "application/json")
				case 2:
					r = request(t, "GET", d.url+"/api/orders/mine", "", "Authorization", bearer)
				case 3:
					r = request(t, "POST", d.url+"/old", strings.Repeat("a", 70<<10))
				}
				resp, err := c.Do(r)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				sent.Add(1)
				if err != nil || resp.StatusCode != 200 {
					failed.Add(1)
					t.Logf("%s %s: %v %+v", r.Method, r.URL, err, resp)
				}
			}
		})
	}
	begin := time.Now()
	changes := change(t, d, func(changes int) bool {
		return changes >= least && sent.Load() >= int64(3*least) && sides[0].Load() >= 50 && sides[1].Load() >= 50
	})
	took := time.Since(begin)
	cancel()
	asking.Wait()
	t.Logf("%d requests, %d changes in %s, %d local, %d remote", sent.Load(), changes, took, sides[0].Load(), sides[1].Load())
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed during %d changes", failed.Load(), sent.Load(), changes)
	}
	// At one epoch of the table nobody is answered at two sides.
	type at struct {
		epoch   uint64
		subject string
		method  string
	}
	seen := map[at]string{}
	for _, l := range d.access() {
		if l.Module != "orders" || l.Subject == "" {
			continue
		}
		key := at{l.Epoch, l.Subject, l.Method}
		if other, ok := seen[key]; ok && other != l.Target {
			t.Errorf("%+v is answered at two sides", key)
		}
		seen[key] = l.Target
	}
	if len(seen) < 10 {
		t.Errorf("only %d epochs were seen in the log", len(seen))
	}
}

// TestAWrongTableChangesNothing: the last good one stays in force, and it is told.
func TestAWrongTableChangesNothing(t *testing.T) {
	t.Parallel()
	d := orders(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, http.NotFound, http.NotFound)
	before := d.gate.Epoch()
	for _, wrong := range []proxy.Placement{
		{Module: "nobody", State: proxy.Remote}, {Module: "orders", State: "remot"}, {Module: "orders", State: proxy.Canary, Reads: 20_000}, {Module: "orders", State: proxy.Canary, Reads: 10, Writes: 20},
	} {
		if err := d.gate.Apply([]proxy.Placement{wrong}); err == nil || !strings.HasPrefix(err.Error(), "modules."+wrong.Module+".placement: ") {
			t.Errorf("%+v: got %v", wrong, err)
		}
	}
	if got := d.do("GET", "/api/orders", ""); got.status != http.StatusNoContent || d.gate.Epoch() != before || d.count("banyan_gateway_tables_refused_total") != 4 {
		t.Errorf("answered %d, epoch %d after %d, %v refused", got.status, d.gate.Epoch(), before, d.count("banyan_gateway_tables_refused_total"))
	}
}

// TestStreamsSurviveAChangeOfTheTable: one that has begun stays where it is.
func TestStreamsSurviveAChangeOfTheTable(t *testing.T) {
	t.Parallel()
	next := map[string]chan struct{}{"local": make(chan struct{}), "remote": make(chan struct{}), "old": make(chan struct{})}
	stream := func(side string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				echoSocket(w, r, side)
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			for {
				_, _ = fmt.Fprintf(w, "data: %s\n\n", side)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-next[side]:
				case <-r.Context().Done():
					return
				}
			}
		}
	}
	d := orders(t, stream("local"), stream("remote"), stream("old"))
	listen := func(path, want string) func() {
		resp, err := client(t, false).Do(request(t, "GET", d.url+path, ""))
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(resp.Body)
		hear := func() {
			t.Helper()
			if line, err := in.ReadString('\n'); err != nil || line != "data: "+want+"\n" {
				t.Fatalf("%s: got %q, %v, want %s", path, line, err, want)
			}
			_, _ = in.ReadString('\n')
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		hear()
		return func() {
			t.Helper()
			next[want] <- struct{}{}
			hear()
		}
	}
	talk := func(path, want string) func() {
		p := dial(t, d.addr)
		p.write("GET " + path + top + socket + "\r\n")
		if resp, _ := p.answer("GET"); resp == nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%s: got %+v", path, resp)
		}
		return func() {
			t.Helper()
			p.write("ping")
			got := make([]byte, len(want)+4)
			if _, err := io.ReadFull(p.in, got); err != nil || string(got) != want+"ping" {
				t.Fatalf("%s: got %q, %v, want %sping", path, got, err, want)
			}
		}
	}
	remote := placements()[4]
	if err := d.gate.Apply(remote); err != nil {
		t.Fatal(err)
	}
	clients := []func(){listen("/api/live", "remote"), listen("/old", "old"), talk("/api/live", "remote"), talk("/old", "old")}
	for n := range 300 {
		if err := d.gate.Apply(placements()[n%6]); err != nil {
			t.Fatal(err)
		}
		for _, goOn := range clients {
			goOn()
		}
	}
	// Who comes now goes where the module is now.
	if err := d.gate.Apply(placements()[0]); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it hears one event, and goes
	d.gate.ServeHTTP(w, httptest.NewRequest("GET", "/api/live", nil).WithContext(ctx))
	if !strings.Contains(w.Body.String(), "data: local") {
		t.Errorf("a new stream begins with %q", w.Body)
	}
}

// TestSocketsAreToldWhenAModuleIsPaused: the store of the module is about to change hands, so its streams end, and come back later.
func TestSocketsAreToldWhenAModuleIsPaused(t *testing.T) {
	t.Parallel()
	d := orders(t, http.NotFound, func(w http.ResponseWriter, r *http.Request) { echoSocket(w, r, "remote") }, http.NotFound)
	to := proxy.Placement{Module: "orders", State: proxy.Remote, Epoch: 1}
	if err := d.gate.Apply([]proxy.Placement{to}); err != nil {
		t.Fatal(err)
	}
	p := dial(t, d.addr)
	p.write("GET /api/live" + top + socket + "\r\n")
	if resp, _ := p.answer("GET"); resp == nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %+v", resp)
	}
	to.Paused = true
	if err := d.gate.Apply([]proxy.Placement{to}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := d.gate.Settle(ctx, "orders"); err != nil {
		t.Errorf("settle: %v", err)
	}
	last, err := io.ReadAll(p.in)
	if err != nil || !bytes.HasPrefix(last, []byte{0x88, 0x02}) || binary.BigEndian.Uint16(last[2:]) != 1001 {
		t.Errorf("the socket ends with % x, %v; want a close frame that says 1001, going away", last, err)
	}
}

// echoSocket answers the handshake, and each piece that comes with the side before it.
func echoSocket(w http.ResponseWriter, r *http.Request, side string) {
	c, in, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n"+strings.ReplaceAll(switched, "{accept}", accept(r.Header.Get("Sec-Websocket-Key")))+"\r\n")
	piece := make([]byte, 4)
	for {
		if _, err := io.ReadFull(in, piece); err != nil {
			return
		}
		_, _ = io.WriteString(c, side+string(piece))
	}
}

// TestBucketsGoByWhoIsProved: a canary looks at the subject of a verified token, and at nothing that a client can make up.
func TestBucketsGoByWhoIsProved(t *testing.T) {
	t.Parallel()
	answer := func(side string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, side) }
	}
	d := orders(t, answer("local"), answer("remote"), http.NotFound)
	if err := d.gate.Apply([]proxy.Placement{{Module: "orders", State: proxy.Canary, Reads: 10_000}}); err != nil {
		t.Fatal(err)
	}
	good := d.token(identity.Customer)
	forged := good[:strings.LastIndexByte(good, '.')] + "." + strings.Repeat("A", 86)
	for name, test := range map[string]struct {
		headers []string
		want    string
	}{
		"proved":              {[]string{"Authorization", "Bearer " + good}, "remote"},
		"nobody":              {nil, "local"},
		"forged":              {[]string{"Authorization", "Bearer " + forged}, "local"},
		"said so":             {[]string{"X-User-Id", "u1", "X-Forwarded-For", "1.2.3.4", "X-Real-Ip", "1.2.3.4", "Cookie", "user=u1"}, "local"},
		"wished by nobody":    {[]string{"X-Banyan-Route", "remote"}, "local"},
		"wished by a forgery": {[]string{"X-Banyan-Route", "remote", "Authorization", "Bearer " + forged}, "local"},
		"wished by no admin":  {[]string{"X-Banyan-Route", "local", "Authorization", "Bearer " + good}, "remote"},
		"wished by an admin":  {[]string{"X-Banyan-Route", "local", "Authorization", "Bearer " + d.token(identity.Admin)}, "local"},
	} {
		if got := d.do("GET", "/api/orders", "", test.headers...); got.body != test.want {
			t.Errorf("%s: answered by %s, want %s", name, got.body, test.want)
		}
	}
}

// TestDecisionsAreLogged: every line says where a request went, and why.
func TestDecisionsAreLogged(t *testing.T) {
	t.Parallel()
	d := orders(t, func(http.ResponseWriter, *http.Request) {}, func(http.ResponseWriter, *http.Request) {}, func(http.ResponseWriter, *http.Request) {})
	for i, p := range placements() {
		if err := d.gate.Apply(p); err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("try-%d", i)
		d.do("GET", "/api/orders/mine", "", "Authorization", "Bearer "+d.token(identity.Customer), "X-Request-Id", id)
		d.do("GET", "/old", "", "X-Request-Id", "old-"+id)
		got := d.logged(id, func(l line) bool { return l.ID == id })
		remote := got.Target == "remote"
		if got.Module != "orders" || got.Route != "/api/orders/mine" || got.Placement != string(p[0].State) || got.Epoch != d.gate.Epoch() || got.Reason == "" ||
			remote != (got.Attempt == 1) || remote != (got.Endpoint != "") || (p[0].State == proxy.Canary) != (got.Bucket != nil) || got.Subject != "u-customer" {
			t.Errorf("%s: logged as %+v", p[0].State, got)
		}
		got = d.logged("old", func(l line) bool { return l.ID == "old-"+id })
		if got.Module != "legacy" || got.Target != "remote" || got.Attempt != 1 || got.Endpoint == "" || got.Reason == "" || got.Epoch != d.gate.Epoch() {
			t.Errorf("the old application: logged as %+v", got)
		}
	}
}
