package config

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

// watchEvery is how often the file is looked at. The file is, not its directory entry: links that are switched, as Kubernetes does,
// are followed.
const watchEvery = time.Second

// Watch reads the configuration again whenever its file is no longer the one that c was read from, until ctx ends. changed gets each that is
// valid, refused what is wrong with one that is not: then the one before stays in force. Without a file it only waits.
//
// A file that is rewritten where it stands is empty for a moment, and then a part of itself, which may be valid: so a change counts when it
// was there twice in a row, and one that takes every key away does not count at all.
func Watch(ctx context.Context, o Options, c Config, changed func(Config), refused func(error)) error {
	path := o.path()
	if path == "" {
		<-ctx.Done()
		return nil
	}
	inForce, done := c.file, c.file.digest
	seen := done
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
		text, err := readFile(path)
		if err != nil {
			continue // it is being replaced
		}
		before := seen
		if seen = sha256.Sum256(text); seen != before || seen == done {
			continue
		}
		done = seen
		o.text = text
		next, err := Load(o)
		switch {
		case err != nil:
			refused(err)
		case next.file.keys == 0 && inForce.keys > 0:
			refused(fmt.Errorf("config file %s: has no keys any more; leave one in it, or start anew to have every default", path))
		default:
			inForce = next.file
			changed(next)
		}
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
