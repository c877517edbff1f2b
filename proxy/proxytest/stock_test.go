package proxytest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
)

// front is a proxy before an origin: ours, or one of the usual building blocks as their documentation shows them. It gives its URL.
// All of them say in X-User-Id who asks, and let nobody see what is below /admin.
type front func(t *testing.T, origins ...string) string

// ours is the gateway.
func ours(t *testing.T, origins ...string) string {
	t.Helper()
	f := legacy(origins[0], guarded()...)
	f.Endpoints = origins
	return inFrontOf(t, f).url
}

func location(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// guard is the check that the stock proxies have before them.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/admin" || strings.HasPrefix(r.URL.Path, "/admin/") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

var quiet = log.New(io.Discard, "", 0)

// withDirector is httputil.ReverseProxy as it was used for ten years.
func withDirector(t *testing.T, origins ...string) string {
	t.Helper()
	p := httputil.NewSingleHostReverseProxy(location(t, origins[0]))
	//lint:ignore SA1019 what is wrong with it is shown here
	to := p.Director
	p.ErrorLog = quiet
	//lint:ignore SA1019 as above
	p.Director = func(r *http.Request) {
		to(r)
		r.Header.Set("X-User-Id", "u1")
	}
	return serve(t, &http.Server{Handler: guard(p)})
}

// withRewrite is httputil.ReverseProxy as it is to be used today.
func withRewrite(t *testing.T, origins ...string) string {
	t.Helper()
	p := &httputil.ReverseProxy{ErrorLog: quiet, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(location(t, origins[0]))
		r.SetXForwarded()
		r.Out.Header.Set("X-User-Id", "u1")
	}}
	return serve(t, &http.Server{Handler: guard(p)})
}

// withEcho is echo's middleware.Proxy.
func withEcho(t *testing.T, origins ...string) string {
	t.Helper()
	e := echo.New()
	e.Use(echo.WrapMiddleware(guard), func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			c.Request().Header.Set("X-User-Id", "u1")
			return next(c)
		}
	})
	var targets []*middleware.ProxyTarget
	for _, o := range origins {
		targets = append(targets, &middleware.ProxyTarget{URL: location(t, o)})
	}
	e.Use(middleware.ProxyWithConfig(middleware.ProxyConfig{Balancer: middleware.NewRoundRobinBalancer(targets), RetryCount: len(origins) - 1}))
	return serve(t, &http.Server{Handler: e})
}

// TestNoStockBlockInside: what the tests here show to be faulty stays out of the gateway.
func TestNoStockBlockInside(t *testing.T) {
	t.Parallel()
	files := 0
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "tools" || entry.Name() == "consultest"):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files++
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return err
		}
		for _, i := range parsed.Imports {
			if i.Path.Value == `"net/http/httputil"` || i.Path.Value == `"github.com/labstack/echo/v4/middleware"` {
				t.Errorf("%s imports %s", path, i.Path.Value)
			}
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if of, ok := s.X.(*ast.Ident); ok && of.Name == "http" {
				switch s.Sel.Name {
				case "DefaultTransport", "DefaultClient", "Get", "Post", "PostForm", "ProxyFromEnvironment":
					t.Errorf("%s uses http.%s", set.Position(s.Pos()), s.Sel.Name)
				}
			}
			return true
		})
		return nil
	})
	if err != nil || files < 50 {
		t.Errorf("%d files, %v", files, err)
	}
}
