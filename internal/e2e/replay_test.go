package e2e

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/demo/replay"
)

// retailDir is where the Online Retail files are, or the test is skipped.
func retailDir(t testing.TB) string {
	t.Helper()
	var tried []string
	if dir := os.Getenv("BANYAN_RETAIL_DATA"); dir != "" {
		tried = []string{dir}
	} else {
		for _, above := range []string{"", "..", "../.."} {
			tried = append(tried, filepath.Join("..", "..", above, "shared", "data", "online-retail"))
		}
	}
	for _, dir := range tried {
		if _, err := os.Stat(filepath.Join(dir, "expected.json")); err == nil {
			return dir
		}
	}
	t.Skipf("no Online Retail files in %s; say where they are with BANYAN_RETAIL_DATA", strings.Join(tried, ", "))
	return ""
}

var nineMonths = []string{"2010-12", "2011-01", "2011-02", "2011-03", "2011-04", "2011-05", "2011-06", "2011-07", "2011-08"}

// replayed replays months against a shop, killing it so many times at random moments, and compares the figures and digests
// that the shop ends with.
func replayed(t *testing.T, s *shop, kills int, months ...string) {
	t.Helper()
	dir := retailDir(t)
	raw, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var expected map[string]json.RawMessage
	if err := json.Unmarshal(raw, &expected); err != nil {
		t.Fatal(err)
	}
	name := months[0]
	if len(months) > 1 {
		name += ".." + months[len(months)-1]
	}
	var files []string
	for _, m := range months {
		files = append(files, filepath.Join(dir, m+".csv.gz"))
	}
	s.start()
	done := make(chan struct{})
	killed := make(chan int, 1)
	go func() {
		n := 0
		defer func() { killed <- n }()
		for n < kills {
			select {
			case <-done:
				return
			case <-time.After(time.Duration(1000+rand.IntN(3000)) * time.Millisecond):
			}
			s.kill()
			s.start()
			n++
		}
	}()
	var timing replay.Timing
	report, err := replay.Run(t.Context(), replay.Options{Target: "http://" + s.addr, Password: adminPassword, Files: files, Timing: &timing})
	close(done)
	n := <-killed
	if err != nil {
		t.Errorf("replay: %v", err)
	}
	if n < kills {
		t.Errorf("only %d of %d kills happened before the end", n, kills)
	}
	got, err := json.MarshalIndent(report, " ", " ")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(expected[name]), string(got)); d != "" {
		t.Errorf("%s on %s (-want +got):\n%s", name, s.Engine, d)
	}
	t.Logf("%s on %s: %.0f orders/s, %d kills", name, s.Engine, timing.OrdersPerSecond(), n)
}

func TestReplaySurvivesKills(t *testing.T) {
	retailDir(t)
	replayed(t, sqlite(t), 3, "2010-12")
}

func TestReplayOnPostgres(t *testing.T) {
	retailDir(t)
	replayed(t, postgres(t, false), 0, "2010-12")
}

func TestReplaySoak(t *testing.T) {
	if os.Getenv("BANYAN_SOAK") == "" {
		t.Skip("takes long; `make soak` runs it")
	}
	retailDir(t)
	t.Run("sqlite, nine months", func(t *testing.T) { replayed(t, sqlite(t), 0, nineMonths...) })
	t.Run("postgres, nine months", func(t *testing.T) { replayed(t, postgres(t, false), 0, nineMonths...) })
	t.Run("sqlite, twenty kills", func(t *testing.T) { replayed(t, sqlite(t), 20, "2010-12") })
	t.Run("postgres, twenty kills", func(t *testing.T) { replayed(t, postgres(t, false), 20, "2010-12") })
}
