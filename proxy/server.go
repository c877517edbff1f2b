package proxy

import (
	"log/slog"
	"net/http"
)

// Server is an HTTP server for the gateway, with the limits that a handler cannot set. Serve it, and to end call
// Drain first and Shutdown then.
func (g *Gateway) Server() *http.Server {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // by prior knowledge alone: nobody upgrades to it
	return &http.Server{
		Handler:           g,
		Protocols:         protocols,
		ReadHeaderTimeout: g.cfg.Limits.ReadHeader,
		WriteTimeout:      g.cfg.Limits.Write, // of the whole answer; streams take it off again
		IdleTimeout:       g.cfg.Limits.Idle,
		MaxHeaderBytes:    g.cfg.Limits.HeaderBytes,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug), // clients that break off, mostly
	}
}
