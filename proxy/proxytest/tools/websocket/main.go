// Command websocket is both ends of a WebSocket, by two libraries that have nothing in common.
//
//	websocket serve gorilla|coder     listens, and prints where; it echoes, and closes as it is told
//	websocket probe gorilla|coder URL tries everything that a client can see, and exits with 1 if something is wrong
//
// A message "close CODE REASON" has the server close so; all others come back as they are. The subprotocol "echo" is taken.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

// socket is what both libraries can do. A close is an error of Read that closed tells apart.
type socket interface {
	Read() (text bool, message []byte, err error)
	Write(text bool, message []byte) error
	Ping() error // returns when the pong is there; somebody must be reading
	Close(code int, reason string) error
	Subprotocol() string
}

const patience = 10 * time.Second

// closed is the code and the reason of a close that was received.
func closed(err error) (int, string) {
	var g *gorilla.CloseError
	if errors.As(err, &g) {
		return g.Code, g.Text
	}
	var c coder.CloseError
	if errors.As(err, &c) {
		return int(c.Code), c.Reason
	}
	return 0, fmt.Sprint(err)
}

type byGorilla struct {
	*gorilla.Conn
	pong chan struct{}
}

func newGorilla(c *gorilla.Conn) byGorilla {
	s := byGorilla{c, make(chan struct{}, 1)}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	c.SetPongHandler(func(string) error {
		s.pong <- struct{}{}
		return nil
	})
	return s
}

func (s byGorilla) Read() (bool, []byte, error) {
	kind, b, err := s.ReadMessage()
	return kind == gorilla.TextMessage, b, err
}

func (s byGorilla) Write(text bool, b []byte) error {
	if text {
		return s.WriteMessage(gorilla.TextMessage, b)
	}
	return s.WriteMessage(gorilla.BinaryMessage, b)
}

func (s byGorilla) Ping() error {
	if err := s.WriteControl(gorilla.PingMessage, []byte("p"), time.Now().Add(patience)); err != nil {
		return err
	}
	select {
	case <-s.pong:
		return nil
	case <-time.After(patience):
		return errors.New("no pong")
	}
}

func (s byGorilla) Close(code int, reason string) error {
	if err := s.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(code, reason), time.Now().Add(patience)); err != nil {
		return err
	}
	for { // the other side answers with the same
		if _, _, err := s.ReadMessage(); err != nil {
			if got, _ := closed(err); got != code {
				return fmt.Errorf("the close %d is answered with %w", code, err)
			}
			return s.Conn.Close()
		}
	}
}

type byCoder struct{ *coder.Conn }

func (s byCoder) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

func (s byCoder) Read() (bool, []byte, error) {
	ctx, cancel := s.context()
	defer cancel()
	kind, b, err := s.Conn.Read(ctx)
	return kind == coder.MessageText, b, err
}

func (s byCoder) Write(text bool, b []byte) error {
	ctx, cancel := s.context()
	defer cancel()
	kind := coder.MessageBinary
	if text {
		kind = coder.MessageText
	}
	return s.Conn.Write(ctx, kind, b)
}

func (s byCoder) Ping() error {
	ctx, cancel := s.context()
	defer cancel()
	return s.Conn.Ping(ctx)
}

func (s byCoder) Close(code int, reason string) error {
	return s.Conn.Close(coder.StatusCode(code), reason)
}

func accept(library string, w http.ResponseWriter, r *http.Request) (socket, error) {
	if library == "gorilla" {
		u := gorilla.Upgrader{Subprotocols: []string{"echo"}, EnableCompression: true, CheckOrigin: func(*http.Request) bool { return true }}
		c, err := u.Upgrade(w, r, nil)
		if err != nil {
			return nil, err
		}
		return newGorilla(c), nil
	}
	c, err := coder.Accept(w, r, &coder.AcceptOptions{Subprotocols: []string{"echo"}, InsecureSkipVerify: true, CompressionMode: coder.CompressionContextTakeover})
	if err != nil {
		return nil, err
	}
	c.SetReadLimit(-1)
	return byCoder{c}, nil
}

func dial(library, url string) (socket, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if library == "gorilla" {
		d := gorilla.Dialer{Subprotocols: []string{"other", "echo"}, EnableCompression: true}
		c, resp, err := d.DialContext(ctx, url, nil)
		if err != nil {
			return nil, fmt.Errorf("%w: %+v", err, resp)
		}
		return newGorilla(c), nil
	}
	c, resp, err := coder.Dial(ctx, url, &coder.DialOptions{Subprotocols: []string{"other", "echo"}, CompressionMode: coder.CompressionContextTakeover})
	if err != nil {
		return nil, fmt.Errorf("%w: %+v", err, resp)
	}
	c.SetReadLimit(-1)
	return byCoder{c}, nil
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "serve" && known(args[1]):
		return serve(args[1])
	case len(args) == 3 && args[0] == "probe" && known(args[1]):
		return probe(args[1], args[2])
	}
	return errors.New("usage: websocket serve gorilla|coder | probe gorilla|coder URL")
}

func known(library string) bool { return library == "gorilla" || library == "coder" }

// serve ends when the input does, with the process that has started it.
func serve(library string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := accept(library, w, r); err == nil {
			echo(c)
		}
	})}
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		_ = s.Close()
	}()
	fmt.Println(l.Addr())
	return s.Serve(l)
}

func echo(c socket) {
	for {
		text, b, err := c.Read()
		if err != nil {
			return // gorilla and coder answer a close by themselves
		}
		var code int
		var reason string
		if n, _ := fmt.Sscanf(string(b), "close %d %s", &code, &reason); text && n > 0 {
			_ = c.Close(code, reason)
			return
		}
		if c.Write(text, b) != nil {
			return
		}
	}
}

func probe(library, url string) error {
	for _, code := range []int{1000, 1001, 1003, 1008, 1011, 3000, 4999} {
		if err := serverCloses(library, url, code); err != nil {
			return fmt.Errorf("the server closes with %d: %w", code, err)
		}
		if err := clientCloses(library, url, code); err != nil {
			return fmt.Errorf("the client closes with %d: %w", code, err)
		}
	}
	return exchange(library, url)
}

func serverCloses(library, url string, code int) error {
	c, err := dial(library, url)
	if err != nil {
		return err
	}
	if err := c.Write(true, fmt.Appendf(nil, "close %d reason-%d", code, code)); err != nil {
		return err
	}
	_, _, err = c.Read()
	if got, reason := closed(err); got != code || reason != fmt.Sprintf("reason-%d", code) {
		return fmt.Errorf("got %d %q", got, reason)
	}
	return nil
}

// clientCloses: the libraries wait for the answer of the other side, and check it.
func clientCloses(library, url string, code int) error {
	c, err := dial(library, url)
	if err != nil {
		return err
	}
	return c.Close(code, "done")
}

// exchange sends messages of all sizes that frames have, and reads them back.
func exchange(library, url string) error {
	c, err := dial(library, url)
	if err != nil {
		return err
	}
	if c.Subprotocol() != "echo" {
		return fmt.Errorf("the subprotocol is %q", c.Subprotocol())
	}
	for _, size := range []int{0, 1, 125, 126, 127, 65535, 65536, 1 << 20} {
		for _, text := range []bool{true, false} {
			message := []byte(strings.Repeat("ab\u00e9d", size/5+1)[:size])
			if text {
				message = bytes.ToValidUTF8(message, []byte("?"))
			}
			if err := c.Write(text, message); err != nil {
				return fmt.Errorf("write %d: %w", size, err)
			}
			kind, got, err := c.Read()
			if err != nil || kind != text || !bytes.Equal(got, message) {
				return fmt.Errorf("of %d bytes, text %t, came back %d, text %t, %w", size, text, len(got), kind, err)
			}
		}
	}
	// A pong is seen by whoever reads.
	read := make(chan error, 1)
	go func() {
		_, got, err := c.Read()
		if err == nil && string(got) != "last" {
			err = fmt.Errorf("got %q", got)
		}
		read <- err
	}()
	if err := c.Ping(); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	if err := c.Write(true, []byte("last")); err != nil {
		return err
	}
	if err := <-read; err != nil {
		return err
	}
	return c.Close(1000, "")
}
