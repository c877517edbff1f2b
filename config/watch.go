package config

import (
	"context"
	"crypto/sha256"
	"os"
	"strings"
	"time"
)

// watchEvery is how soon a changed file is noticed. The file is looked at, not its directory entry: links that are switched, as
// Kubernetes does, are followed.
const watchEvery = time.Second

// Watch reads the configuration again whenever its file has changed, until ctx ends. changed gets each that is valid, refused what is
// wrong with one that is not: then the one before stays in force. Without a file it only waits.
func Watch(ctx context.Context, o Options, changed func(Config), refused func(error)) error {
	path := o.path()
	if path == "" {
		<-ctx.Done()
		return nil
	}
	last, _ := digest(path)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
		now, err := digest(path)
		if err != nil || now == last {
			continue // it is being replaced, or nothing has changed
		}
		last = now
		c, err := Load(o)
		if err != nil {
			refused(err)
			continue
		}
		changed(c)
	}
}

// path is the file's, or "".
func (o Options) path() string {
	if o.File != "" {
		return o.File
	}
	if o.Environ == nil {
		return ""
	}
	path := ""
	for _, entry := range o.Environ() {
		if value, found := strings.CutPrefix(entry, "BANYAN_CONFIG="); found {
			path = value
		}
	}
	return path
}

func digest(path string) ([sha256.Size]byte, error) {
	text, err := os.ReadFile(path)
	return sha256.Sum256(text), err
}
