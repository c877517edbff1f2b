package proxy

import (
	"log/slog"
	"net"
	"net/http"
	"strings"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/rest"
)

// Server is an HTTP server for the gateway, with the limits that a handler cannot set. Serve it, and to end call
// Drain first and Shutdown then.
func (g *Gateway) Server() *http.Server {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // by prior knowledge alone: nobody upgrades to it
	return &http.Server{
		Handler:   g,
		Protocols: protocols,
		// What net/http would answer OPTIONS * with has none of our headers, and counts for nobody.
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            g.cfg.Limits.ReadHeader,
		WriteTimeout:                 g.cfg.Limits.Write, // of the whole answer; streams take it off again
		IdleTimeout:                  g.cfg.Limits.Idle,
		MaxHeaderBytes:               g.cfg.Limits.HeaderBytes,
		ErrorLog:                     slog.NewLogLogger(g.log.Handler(), slog.LevelDebug), // clients that break off, mostly
	}
}

// ToTLS is for a port of plain HTTP beside one of TLS: it sends everybody who reads to https at the port, and refuses the rest, whose
// body has been sent in the open already.
func (g *Gateway) ToTLS(port string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		host = strings.Trim(host, "[]")
		protect(w.Header(), false)
		refuse := func(status int, kind errs.Kind, detail string) {
			w.Header()["Connection"] = closing
			rest.WriteProblem(w, newProblem(r.Context(), status, kind, detail), 0)
		}
		switch {
		case host == "" || !g.allowsHost(r.Host):
			refuse(http.StatusMisdirectedRequest, errs.Malformed, "this host is not served here")
			return
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			refuse(http.StatusForbidden, errs.Forbidden, "this is answered over https alone")
			return
		}
		at := host
		if port != "443" {
			at = net.JoinHostPort(host, port)
		} else if strings.Contains(host, ":") {
			at = "[" + host + "]"
		}
		w.Header().Set("Location", "https://"+at+r.URL.RequestURI())
		w.WriteHeader(http.StatusPermanentRedirect)
	})
}
