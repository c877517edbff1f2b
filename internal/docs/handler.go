package docs

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed assets
var assets embed.FS

// policy lets the pages load from this server alone. Swagger UI sets style attributes; it needs no other exception.
const policy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the documents under /docs, and pages to read them: api with Swagger UI, messages.
func Handler(openapi, asyncapi []byte) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /docs", http.RedirectHandler("/docs/", http.StatusMovedPermanently))
	mux.Handle("GET /docs/openapi.json", content("application/json", openapi))
	mux.Handle("GET /docs/asyncapi.json", content("application/json", asyncapi))

	var doc infoDoc
	var page messagesPage
	err := json.Unmarshal(openapi, &doc)
	if err == nil {
		page, err = readMessages(asyncapi)
	}
	if err != nil {
		// Only a document that this package did not write comes here: the pages say so, the documents are served.
		text := []byte("The documents cannot be shown: " + err.Error() + "\n")
		for _, p := range []string{"{$}", "api", "messages"} {
			mux.Handle("GET /docs/"+p, content("text/plain; charset=utf-8", text))
		}
	} else {
		mux.Handle("GET /docs/{$}", render("index.html", doc.Info))
		mux.Handle("GET /docs/api", render("api.html", doc.Info))
		mux.Handle("GET /docs/messages", render("messages.html", page))
	}
	mux.Handle("GET /docs/assets/{name}", http.HandlerFunc(serveAsset))
	return guard(mux)
}

func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(w, r)
	})
}

// content serves bytes that do not change while the process runs.
func content(kind string, body []byte) http.Handler {
	sum := sha256.Sum256(body)
	tag := `"` + hex.EncodeToString(sum[:12]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("ETag", tag)
		w.Header().Set("Cache-Control", "no-cache") // ask each time; the tag saves the transfer
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	})
}

func render(name string, data any) http.Handler {
	var b bytes.Buffer
	t, err := template.ParseFS(assets, "assets/"+name)
	if err == nil {
		err = t.ExecuteTemplate(&b, name, data)
	}
	if err != nil {
		return content("text/plain; charset=utf-8", fmt.Appendf(nil, "This page cannot be shown: %v\n", err))
	}
	return content("text/html; charset=utf-8", b.Bytes())
}

// serveAsset serves a file of assets/. The large ones are kept compressed, and are unpacked for the rare client that
// cannot do that.
func serveAsset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if strings.HasSuffix(name, ".html") || strings.HasSuffix(name, ".gz") {
		http.NotFound(w, r)
		return
	}
	// Not mime.TypeByExtension: what that says depends on the machine.
	kind := "text/plain; charset=utf-8"
	switch path.Ext(name) {
	case ".js":
		kind = "text/javascript; charset=utf-8"
	case ".css":
		kind = "text/css; charset=utf-8"
	}
	if plain, err := fs.ReadFile(assets, "assets/"+name); err == nil {
		content(kind, plain).ServeHTTP(w, r)
		return
	}
	packed, err := fs.ReadFile(assets, "assets/"+name+".gz")
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Vary", "Accept-Encoding")
	if accepts(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		content(kind, packed).ServeHTTP(w, r)
		return
	}
	body, err := unpack(packed)
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	content(kind, body).ServeHTTP(w, r)
}

func accepts(header, coding string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, quality, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(strings.TrimSpace(name), coding) {
			return strings.TrimRight(strings.ReplaceAll(quality, " ", ""), "0.") != "q="
		}
	}
	return false
}

func unpack(packed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
