package certs

import (
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/banyan-go/banyan/internal/clock"
)

// Options are what certificates in use need besides their files. All may be left out.
type Options struct {
	Clock   clock.Clock
	Log     *slog.Logger
	Metrics *Metrics
}

func (o Options) withDefaults() Options {
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	return o
}

// Metrics tell how certificates are, by the name of the identity, or for the public ones their domain or "public".
type Metrics struct {
	Failures *prometheus.CounterVec // certificate
	Until    *prometheus.GaugeVec   // certificate
}

// NewMetrics registers the metrics; a nil registry keeps them to themselves.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		Failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "banyan_certificate_failures_total", Help: "Certificates that could not be read or obtained; the one before stays in force.",
		}, []string{"certificate"}),
		Until: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "banyan_certificate_expiry_timestamp_seconds", Help: "End of the certificate in force, in Unix time.",
		}, []string{"certificate"}),
	}
	if reg != nil {
		reg.MustRegister(m.Failures, m.Until)
	}
	return m
}

const checkEvery = time.Second

// watched is what was read from files. It is read anew when they have changed, on behalf of whoever asks for it; nothing
// runs in between.
type watched[T any] struct {
	name  string
	files []string
	// read may give both a value and an error: the value is good, and something of the files is not.
	read    func(previous *T) (*T, error)
	inForce func(*T) (notBefore, notAfter time.Time)
	o       Options

	current atomic.Pointer[T]
	next    atomic.Int64 // when the files are looked at again, Unix time in ns
	mu      sync.Mutex   // held by whoever looks at them; guards the rest
	seen    []os.FileInfo
	failure string // of the last read; "" if it went well
	warned  time.Time
}

// open reads the files for the first time; then there is nothing to fall back to.
func (w *watched[T]) open() error {
	w.seen = stat(w.files)
	value, err := w.read(nil)
	if err != nil {
		return err
	}
	w.accept(value)
	w.next.Store(w.o.Clock.Now().Add(checkEvery).UnixNano())
	return nil
}

// get is what is in force. Once a second it looks at the files before; who comes meanwhile gets what is there and does
// not wait.
func (w *watched[T]) get() *T {
	now := w.o.Clock.Now()
	if now.UnixNano() >= w.next.Load() && w.mu.TryLock() {
		w.next.Store(now.Add(checkEvery).UnixNano())
		w.check(now)
		w.mu.Unlock()
	}
	return w.current.Load()
}

func (w *watched[T]) check(now time.Time) {
	// Before the files are read: a change during the read is a change at the next look. After a failure they are read
	// again although they look the same: a file that was half written may have its size and time already.
	seen := stat(w.files)
	if w.failure != "" || !same(w.seen, seen) {
		w.seen = seen
		value, err := w.read(w.current.Load())
		if value != nil {
			w.accept(value)
		}
		switch {
		case err != nil && err.Error() != w.failure:
			w.failure = err.Error()
			w.o.Metrics.Failures.WithLabelValues(w.name).Inc()
			w.o.Log.Error("certificate cannot be taken up; the one before stays in force", "certificate", w.name, "error", err)
		case err == nil:
			w.failure = ""
			_, until := w.inForce(value)
			w.o.Log.Info("certificate taken up", "certificate", w.name, "until", until)
		}
	}
	from, until := w.inForce(w.current.Load())
	if left := until.Sub(now); left < until.Sub(from)/5 && now.Sub(w.warned) >= 24*time.Hour {
		w.warned = now
		w.o.Log.Warn("certificate ends soon; renew it", "certificate", w.name, "until", until, "files", w.files)
	}
}

func (w *watched[T]) accept(value *T) {
	w.current.Store(value)
	_, until := w.inForce(value)
	w.o.Metrics.Until.WithLabelValues(w.name).Set(float64(until.Unix()))
}

// stat is nil for a file that cannot be seen.
func stat(files []string) []os.FileInfo {
	infos := make([]os.FileInfo, len(files))
	for i, name := range files {
		if info, err := os.Stat(name); err == nil {
			infos[i] = info
		}
	}
	return infos
}

// same says whether these are the files that were seen before, and unchanged.
func same(a, b []os.FileInfo) bool {
	for i := range a {
		if a[i] == nil || b[i] == nil {
			if a[i] != b[i] {
				return false
			}
			continue
		}
		if !os.SameFile(a[i], b[i]) || !a[i].ModTime().Equal(b[i].ModTime()) || a[i].Size() != b[i].Size() {
			return false
		}
	}
	return true
}
