package certs_test

import (
	"bufio"
	"io"
	"net/url"
	"testing"
	"time"
)

type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(len(p), 1)]) }

// newOneByteReader reads no further than it is asked to.
func newOneByteReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(oneByte{r}, 16) }

func parse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// eventually waits for what happens in another goroutine.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}
