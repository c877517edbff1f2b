package rest

import (
	"log/slog"
	"net/http"
	"runtime/debug"

	"github.com/banyan-go/banyan/internal/errs"
)

// Recover answers for a handler that panics: the log has it as an error, the client gets a 500 without the stack or, if a part of the
// answer is out already, a connection that is cut. http.ErrAbortHandler is how a handler asks for just that.
func Recover(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := &begun{ResponseWriter: w}
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v != http.ErrAbortHandler {
				log.ErrorContext(r.Context(), "panic", "panic", v, "method", r.Method, "path", r.URL.Path, "stack", string(debug.Stack()))
			}
			if v == http.ErrAbortHandler || begun.yes {
				panic(http.ErrAbortHandler)
			}
			p, retry := NewProblem(r.Context(), errs.New(errs.Internal, "internal error"))
			WriteProblem(w, p, retry)
		}()
		next.ServeHTTP(begun, r)
	})
}

// begun notices that an answer has begun.
type begun struct {
	http.ResponseWriter
	yes bool
}

func (b *begun) WriteHeader(status int) {
	b.yes = b.yes || status >= 200
	b.ResponseWriter.WriteHeader(status)
}

func (b *begun) Write(p []byte) (int, error) {
	b.yes = true
	return b.ResponseWriter.Write(p)
}

// Flush is for handlers that stream.
func (b *begun) Flush() {
	b.yes = true
	_ = http.NewResponseController(b.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (b *begun) Unwrap() http.ResponseWriter { return b.ResponseWriter }
