package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/banyan-go/banyan/internal/wholefile"
	"github.com/banyan-go/banyan/proxy/shadow"
)

// Reports keep what the comparison of a module has found, so that a restart does not begin it anew.
type Reports interface {
	// Load is nil if nothing is kept.
	Load(module string) (*shadow.Report, error)
	Save(module string, r shadow.Report) error
}

// ReportFiles keep reports in a folder, a file per module.
type ReportFiles string

func (f ReportFiles) path(module string) string {
	return filepath.Join(string(f), "shadow-"+module+".json")
}

// Load reads the file of a module.
func (f ReportFiles) Load(module string) (*shadow.Report, error) {
	raw, err := os.ReadFile(f.path(module))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r shadow.Report
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", f.path(module), err)
	}
	return &r, nil
}

// Save writes the file of a module, whole or not at all.
func (f ReportFiles) Save(module string, r shadow.Report) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return wholefile.Replace(f.path(module), raw)
}

// reportEvery is how much of a comparison a crash may cost.
const reportEvery = 10 * time.Second

// report keeps what is found, now and then and at the end.
func (g *Gateway) report(ctx context.Context) error {
	kept := map[string]int64{}
	for ended := false; !ended; {
		select {
		case <-ctx.Done():
			ended = true
		case <-time.After(reportEvery):
		}
		for name, r := range g.remotes {
			if r.mirror == nil {
				continue
			}
			found := r.mirror.Report()
			all := found.Since.UnixNano()
			for _, route := range found.Routes {
				all += route.Compared + route.Learned + route.Failed + route.Dropped + route.TooLarge
			}
			if _, known := kept[name]; kept[name] == all || !known && all == found.Since.UnixNano() {
				continue
			}
			if err := g.reports.Save(name, found); err != nil {
				g.log.Warn("what the comparison has found cannot be kept", "module", name, "error", err)
				continue
			}
			kept[name] = all
		}
	}
	return nil
}
