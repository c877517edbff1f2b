package upstream_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/banyan-go/banyan/proxy/upstream"
)

// The benchmarks count the CPU time of the gateway alone: whoever asks and whoever answers are processes of their own,
// made of this same test binary.
const role = "BANYAN_UPSTREAM_BENCH"

func TestMain(m *testing.M) {
	var err error
	switch parts := strings.Fields(os.Getenv(role)); {
	case len(parts) == 0:
		os.Exit(m.Run())
	case parts[0] == "answer":
		err = answerAll()
	case parts[0] == "ask" && len(parts) == 3:
		err = ask(parts[1], parts[2])
	default:
		err = errors.New("unknown role")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var kibibyte = bytes.Repeat([]byte("x"), 1024)

func answerAll() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with whoever has started us
		os.Exit(0)
	}()
	return (&http.Server{Handler: http.HandlerFunc(kib), Protocols: protocols(true, true)}).Serve(l)
}

func kib(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h["Content-Type"], h["Content-Length"] = []string{"application/json"}, []string{"1024"}
	_, _ = w.Write(kibibyte)
}

// ask sends n requests over 32 connections.
func ask(addr, n string) error {
	total, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	const conns = 32
	faults := make(chan error, conns)
	var all sync.WaitGroup
	for i := range conns {
		share := total / conns
		if i < total%conns {
			share++
		}
		all.Go(func() { faults <- askOne(addr, share) })
	}
	all.Wait()
	close(faults)
	for fault := range faults {
		err = errors.Join(err, fault)
	}
	return err
}

func askOne(addr string, n int) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	in := bufio.NewReader(c)
	request := []byte("GET /api/catalog/products HTTP/1.1\r\nHost: shop.example\r\nAccept: application/json\r\nUser-Agent: bench\r\n\r\n")
	for range n {
		if _, err := c.Write(request); err != nil {
			return err
		}
		for {
			line, err := in.ReadSlice('\n')
			if err != nil {
				return err
			}
			if len(line) == 2 {
				break
			}
		}
		if _, err := in.Discard(1024); err != nil {
			return err
		}
	}
	return nil
}

func child(b *testing.B, what string) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), role+"="+what)
	c.Stderr = os.Stderr
	return c
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkProxied: 1 KiB from an upstream, over 32 connections. cpu-µs/op is the CPU time of the gateway's process,
// which does nothing but Serve; "local" answers by itself and is what a request costs without an upstream.
func BenchmarkProxied(b *testing.B) {
	backend := child(b, "answer")
	keep, err := backend.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := backend.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := backend.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = keep.Close()
		_ = backend.Wait()
	}()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ name, protocol, transport string }{
		{"local", "", ""}, {"h1", upstream.H1, upstream.Standard}, {"h2c", upstream.H2C, upstream.Standard}, {"synchronous", upstream.H1, upstream.Synchronous},
	} {
		b.Run(c.name, func(b *testing.B) {
			handler := http.HandlerFunc(kib)
			if c.protocol != "" {
				cfg := upstream.DefaultConfig()
				cfg.Endpoints, cfg.Protocol, cfg.Transport = []string{"http://" + strings.TrimSpace(addr)}, c.protocol, c.transport
				u, err := upstream.New(cfg, upstream.Options{Name: "catalog"})
				if err != nil {
					b.Fatal(err)
				}
				defer func() { _ = u.Close() }()
				handler = func(w http.ResponseWriter, r *http.Request) {
					if result := u.Serve(w, r, upstream.Call{Class: "read"}); result.Failure != upstream.None {
						b.Errorf("%+v", result)
					}
				}
			}
			at := strings.TrimPrefix(serve(b, &http.Server{Handler: handler}), "http://")
			if err := child(b, "ask "+at+" 1000").Run(); err != nil { // connections, buffers
				b.Fatal(err)
			}
			b.ResetTimer()
			b.ReportAllocs()
			before := cpu(b)
			if err := child(b, "ask "+at+" "+strconv.Itoa(b.N)).Run(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
		})
	}
}
