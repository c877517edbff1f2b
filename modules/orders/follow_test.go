package orders

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/moduletest"
)

// followed are the events of a stream as "id:event:type", and the comments.
func followed(text string) (events, comments []string) {
	for block := range strings.SplitSeq(text, "\n\n") {
		var id, name, kind string
		for l := range strings.SplitSeq(block, "\n") {
			key, value, _ := strings.Cut(l, ": ")
			switch key {
			case "id":
				id = value
			case "event":
				name = value
			case "data":
				_, rest, _ := strings.Cut(value, `"type":"`)
				kind, _, _ = strings.Cut(rest, `"`)
			case "":
				comments = append(comments, value)
			}
		}
		if name != "" {
			events = append(events, id+":"+name+":"+kind)
		}
	}
	return events, comments
}

func TestFollowEndsAndResumes(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		o := s.jars()
		s.Deliver(t, reserved(o.ID), declined(o.ID), released(o.ID))
		all := []string{"1:change:placed", "2:change:reserved", "3:change:rejection_begun", "4:change:rejected", ":end:"}
		for seen := range 5 {
			r := s.Do("GET", "/api/orders/"+o.ID+"/events", ann, nil, "Last-Event-ID", fmt.Sprint(seen)).Want(t, 200)
			got, _ := followed(string(r.Body))
			if !slices.Equal(got, all[seen:]) {
				t.Errorf("after %d: %v, want %v", seen, got, all[seen:])
			}
			if strings.Contains(string(r.Body), "Leeds") {
				t.Error("the stream tells the address")
			}
		}
		s.Do("GET", "/api/orders/"+o.ID+"/events", ann, nil, "Last-Event-ID", "x").Want(t, 422)
	})
}

func TestFollowLive(t *testing.T) {
	t.Parallel()
	s := openShop(t, moduletest.NewSQLite)
	o := s.jars()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Handler().ServeHTTP(w, r.WithContext(identity.With(r.Context(), ann)))
	}))
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/api/orders/"+o.ID+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if got := res.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatalf("content type %q", got)
	}
	blocks := make(chan string)
	go func() {
		defer close(blocks)
		in := bufio.NewScanner(res.Body)
		for in.Scan() {
			blocks <- in.Text()
		}
	}()
	// next waits for the next line with a prefix; the clock stands still, so commits alone wake the stream.
	next := func(prefix string) string {
		t.Helper()
		for {
			select {
			case l, ok := <-blocks:
				if !ok {
					t.Fatalf("the stream ended before %q", prefix)
				}
				if strings.HasPrefix(l, prefix) {
					return l
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("no %q came", prefix)
			}
		}
	}
	next("id: 1")
	s.Deliver(t, reserved(o.ID))
	next("id: 2")
	for heartbeat := false; !heartbeat; { // time goes by until the silence is broken
		s.Clock.Advance(time.Second)
		select {
		case l := <-blocks:
			heartbeat = l == ": still here"
		case <-time.After(time.Millisecond):
		}
		if s.Clock.Now().After(moduletest.Start.Add(2 * time.Hour)) {
			t.Fatal("no heartbeat came")
		}
	}
	s.Do("POST", "/api/orders/"+o.ID+"/cancel", ann, map[string]any{}).Want(t, 200)
	next("id: 3")
	s.Deliver(t, settled(o.ID), released(o.ID))
	next("id: 4")
	next("id: 5")
	next("event: end")
	for range blocks {
		// the stream ends by itself
	}
}

// TestFollowSilence: a stream lives through a silence that is longer than a client may take to read, over HTTP/1 and HTTP/2.
func TestFollowSilence(t *testing.T) {
	t.Parallel()
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("HTTP %d", version), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var protocols http.Protocols
				protocols.SetHTTP1(version == 1)
				protocols.SetUnencryptedHTTP2(version == 2)
				pipes := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
				server := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					out := newEventWriter(w)
					for range 3 {
						if err := out.write(": still here\n\n"); err != nil {
							t.Errorf("write: %v", err)
						}
						select {
						case <-time.After(followHeartbeat):
						case <-r.Context().Done():
						}
					}
				})}
				go func() { _ = server.Serve(pipes) }()
				client := &http.Transport{Protocols: &protocols, DialContext: pipes.dial}
				res, err := (&http.Client{Transport: client}).Get("http://orders.test/")
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(res.Body)
				if want := strings.Repeat(": still here\n\n", 3); err != nil || string(got) != want || res.ProtoMajor != version {
					t.Errorf("HTTP %d: %q, %v, want %q", res.ProtoMajor, got, err, want)
				}
				_ = res.Body.Close()
				client.CloseIdleConnections()
				_ = server.Close()
			})
		})
	}
}

// pipeListener connects a client and a server without a network, so that a test can let time pass.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	l.conns <- far
	return near, nil
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	close(l.closed)
	return nil
}

func (*pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func TestBell(t *testing.T) {
	t.Parallel()
	b := newBell()
	ring, unhang := b.hang("o1")
	other, unhangOther := b.hang("o1")
	b.ring("o2")
	b.ring("o1")
	b.ring("o1") // nobody has listened yet: once is enough
	for _, r := range []<-chan struct{}{ring, other} {
		if len(r) != 1 {
			t.Errorf("%d rings", len(r))
		}
	}
	unhang()
	unhangOther()
	if len(b.hung) != 0 {
		t.Errorf("still hung: %v", b.hung)
	}
}
