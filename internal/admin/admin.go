// Package admin serves the operator's port: metrics, probes, profiles and everything that changes a running process.
//
// It listens on loopback unless told otherwise. Metrics and probes are open to whoever reaches the port; the rest needs
// the token in the token file, which only the owner of the data directory can read. Requests that a browser sends on
// behalf of another site are refused, as are foreign Host headers, and each change is logged with its caller.
package admin

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/wholefile"
)

// TokenFile is the file in the data directory that holds the token.
const TokenFile = "admin.token"

// Token reads the token of a data directory, or makes one: readable by its owner alone.
func Token(dataDir string) (string, error) {
	path := filepath.Join(dataDir, TokenFile)
	if b, err := os.ReadFile(path); err == nil {
		if t := strings.TrimSpace(string(b)); t != "" {
			return t, nil
		}
		return "", fmt.Errorf("%s is empty; remove it, and a new one is made", path)
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return "", err
	}
	token := base64.RawURLEncoding.EncodeToString(raw)
	if err := wholefile.Create(path, []byte(token+"\n")); errors.Is(err, os.ErrExist) {
		return Token(dataDir) // another process was faster
	} else if err != nil {
		return "", err
	}
	return token, nil
}

// AddrFile is the file in the data directory that says where the shop's port is, for processes beside it.
const AddrFile = "admin.addr"

// Announce says where the port is.
func Announce(dataDir string, addr net.Addr) error {
	return wholefile.Replace(filepath.Join(dataDir, AddrFile), []byte(addr.String()+"\n"))
}

// Announced is where the port of the shop with this data directory is, or was last.
func Announced(dataDir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, AddrFile))
	if err != nil {
		return "", fmt.Errorf("no shop has been started with this data directory: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Options are what the port serves.
type Options struct {
	Token    string
	Hosts    []string // allowed Host headers besides loopback names and addresses
	Registry *prometheus.Registry
	Open     map[string]http.Handler // without the token: probes
	Guarded  map[string]http.Handler // with it, by pattern
	Quiet    []string                // paths of requests that processes make by themselves all the time: no news
	Log      *slog.Logger
}

// Server is the operator's server.
func Server(o Options) *http.Server {
	mux := http.NewServeMux()
	if o.Registry != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(o.Registry, promhttp.HandlerOpts{}))
	}
	for pattern, h := range o.Open {
		mux.Handle(pattern, h)
	}
	guarded := http.NewServeMux()
	for pattern, h := range o.Guarded {
		guarded.Handle(pattern, h)
	}
	guarded.HandleFunc("GET /debug/pprof/", pprof.Index)
	guarded.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	guarded.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.Handle("/", o.guard(guarded))
	return &http.Server{
		Handler:           http.NewCrossOriginProtection().Handler(o.checkHost(rest.Recover(o.Log, mux))),
		ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
}

// checkHost refuses names that are not this port's: a page that has its own name resolve to loopback reaches nothing.
func (o Options) checkHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		ok := host == "localhost" || ip != nil
		for _, h := range o.Hosts {
			ok = ok || strings.EqualFold(host, h)
		}
		if !ok {
			refuse(w, r, errs.New(errs.Forbidden, "this host name is not served here"))
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

func (o Options) guard(next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(o.Token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		got := sha256.Sum256([]byte(given))
		if !found || o.Token == "" || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(w, r, errs.New(errs.Unauthenticated, "give the token of the file %s in the data directory", TokenFile))
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead && !slices.Contains(o.Quiet, r.URL.Path) {
			o.Log.InfoContext(r.Context(), "operator changes something", "method", r.Method, "path", r.URL.Path, "caller", r.RemoteAddr, "agent", r.UserAgent())
		}
		next.ServeHTTP(w, r)
	})
}

func refuse(w http.ResponseWriter, r *http.Request, err error) {
	p, retry := rest.NewProblem(r.Context(), err)
	rest.WriteProblem(w, p, retry)
}

// CheckAddr refuses an address that others than this machine can reach, unless that is wanted.
func CheckAddr(addr string, anywhere bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("admin_addr: %q is not host:port", addr)
	}
	ip := net.ParseIP(host)
	if anywhere || host == "localhost" || (ip != nil && ip.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("admin_addr: %q can be reached from other machines; use 127.0.0.1, or set admin_anywhere: true if a firewall stands before it", addr)
}
