package rest_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/banyan-go/banyan/internal/rest"
)

func TestRecover(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		handler func(w http.ResponseWriter)
		status  int
		cut     bool
		logged  bool
	}{
		{"an answer", func(w http.ResponseWriter) { w.WriteHeader(204) }, 204, false, false},
		{"a panic", func(http.ResponseWriter) { panic("a nil store") }, 500, false, true},
		{"a panic in the middle of an answer", func(w http.ResponseWriter) { _, _ = w.Write([]byte("{")); panic("a nil store") }, 200, true, true},
		{"a panic in a stream", func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush(); panic("a nil store") }, 200, true, true},
		{"one that is to be cut", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, 200, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			h := rest.Recover(slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelError})),
				http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { c.handler(w) }))
			w := httptest.NewRecorder()
			cut := func() (cut bool) {
				defer func() { cut = recover() == http.ErrAbortHandler }()
				h.ServeHTTP(w, httptest.NewRequest("POST", "/admin/x", nil))
				return false
			}()
			if w.Code != c.status || cut != c.cut {
				t.Errorf("status %d, cut %v, want %d, %v", w.Code, cut, c.status, c.cut)
			}
			if got := strings.Contains(log.String(), `"level":"ERROR"`) && strings.Contains(log.String(), "a nil store") && strings.Contains(log.String(), "/admin/x"); got != c.logged {
				t.Errorf("logged %v, want %v: %s", got, c.logged, log.String())
			}
			if strings.Contains(w.Body.String(), "nil store") {
				t.Errorf("the answer shows the inside: %s", w.Body)
			}
		})
	}
}
