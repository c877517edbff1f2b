package compress

import (
	"errors"
	"fmt"
	"strings"
)

// Config says what is compressed.
type Config struct {
	Enabled bool     `mapstructure:"enabled"`
	MinSize int      `mapstructure:"min_size"` // bytes from which on it pays
	Types   []string `mapstructure:"types"`    // as in application/json, text/* or *+json
	Except  []string `mapstructure:"except"`   // paths whose answers, and those of all below, are sent as they are
}

// DefaultConfig suits an API and its pages.
func DefaultConfig() Config {
	return Config{
		Enabled: true, MinSize: 1024, Except: []string{"/api/auth"},
		Types: []string{"text/*", "application/json", "*+json", "application/javascript", "application/xml", "*+xml", "application/wasm"},
	}
}

// Validate names the wrong key, which lies below prefix, and the way out.
func (c Config) Validate(prefix string) error {
	var wrong []error
	note := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(prefix+format, args...)) }
	if c.MinSize < 256 || c.MinSize > 1<<20 {
		note(".min_size: %d is not between 256 and 1048576", c.MinSize)
	}
	for _, t := range c.Types {
		kind, sub, ok := strings.Cut(t, "/")
		suffix := strings.HasPrefix(t, "*+") && len(t) > 2 && !strings.ContainsAny(t[2:], "/*+")
		if !suffix && (!ok || kind == "" || sub == "" || kind == "*" || strings.Contains(kind, "*") || sub != "*" && strings.Contains(sub, "*")) ||
			t != strings.ToLower(t) || strings.ContainsAny(t, "; ,") {
			note(".types: %q is not a media type in lower case as in application/json, text/* or *+json", t)
		}
	}
	for _, p := range c.Except {
		if !strings.HasPrefix(p, "/") || p != "/" && strings.HasSuffix(p, "/") {
			note(".except: %q is not a path as in /api/auth", p)
		}
	}
	return errors.Join(wrong...)
}
