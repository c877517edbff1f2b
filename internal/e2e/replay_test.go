package e2e

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/demo/replay"
	"github.com/banyan-go/banyan/internal/testinfra"
)

// retailDir is where the Online Retail files are, or the test is skipped.
func retailDir(t testing.TB) string {
	t.Helper()
	var tried []string
	if dir := os.Getenv("BANYAN_TEST_RETAIL_DATA"); dir != "" {
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
	t.Skipf("no Online Retail files in %s; say where they are with BANYAN_TEST_RETAIL_DATA", strings.Join(tried, ", "))
	return ""
}

var nineMonths = []string{"2010-12", "2011-01", "2011-02", "2011-03", "2011-04", "2011-05", "2011-06", "2011-07", "2011-08"}

// trouble is what happens to a shop meanwhile, n times, some time apart.
type trouble struct {
	n    int
	wait func() time.Duration // before each
	do   func(n int)
}

func none() trouble { return trouble{} }

// kills kill a shop at random moments.
func kills(s *shop, n int) trouble {
	return trouble{n, func() time.Duration { return time.Duration(200+rand.IntN(600)) * time.Millisecond }, func(int) { s.kill(); s.start() }}
}

// replayed replays months against a shop that runs, in trouble, and compares the figures and digests that the shop ends with.
func replayed(t *testing.T, s *shop, tr trouble, months ...string) {
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
	done := make(chan struct{})
	troubled := make(chan int, 1)
	go func() {
		n := 0
		defer func() { troubled <- n }()
		for n < tr.n {
			select {
			case <-done:
				return
			case <-time.After(tr.wait()):
			}
			tr.do(n)
			n++
		}
	}()
	var timing replay.Timing
	report, err := replay.Run(t.Context(), replay.Options{Target: "http://" + s.addr, Password: adminPassword, Files: files, Timing: &timing})
	close(done)
	n := <-troubled
	if err != nil {
		t.Errorf("replay: %v", err)
	}
	if n < tr.n {
		t.Errorf("only %d of %d troubles happened before the end", n, tr.n)
	}
	got, err := json.MarshalIndent(report, " ", " ")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(expected[name]), string(got)); d != "" {
		t.Errorf("%s on %s (-want +got):\n%s", name, s.Engine, d)
	}
	if s.server != nil {
		s.checkDeadlocks()
	}
	t.Logf("%s on %s: %.0f orders/s, %d troubles", name, s.Engine, timing.OrdersPerSecond(), n)
}

func (s *shop) started() *shop { s.start(); return s }

func TestReplaySurvivesKills(t *testing.T) {
	retailDir(t)
	s := sqlite(t).started()
	replayed(t, s, kills(s, 3), "2010-12")
}

// flips move a module out and home, each time as soon as the one before has settled and a while has passed.
func flips(s *shop, module string, n int) trouble {
	return trouble{n, func() time.Duration { return time.Second }, func(n int) {
		to := []string{"remote", "local"}[n%2]
		began := time.Now()
		out, err := exec.Command(mustBinary(s.t), "placement", "set", module, to, "--wait", "30s", "--data", s.dir, "--admin-addr", s.admin).CombinedOutput()
		if err != nil {
			s.t.Errorf("%s to %s: %v: %s", module, to, err, out)
		}
		s.t.Logf("%s is %s after %s", module, to, time.Since(began).Round(time.Millisecond))
	}}
}

// The figures are those of a shop at rest although a module leaves and comes home all the while.
func TestReplayWhileAModuleMoves(t *testing.T) {
	retailDir(t)
	s := postgres(t, false, "BANYAN_BUS_RABBITMQ_URL="+testinfra.Rabbit(t).URL())
	o := s.standIn("orders")
	o.launch()
	s.start()
	s.sayWhatIsLeft(t, o)
	o.await()
	replayed(t, s, flips(s, "orders", 6), "2010-12")
}

func TestReplaySoak(t *testing.T) {
	if os.Getenv("BANYAN_TEST_SOAK") == "" {
		t.Skip("takes long; `make soak` runs it")
	}
	retailDir(t)
	t.Run("sqlite, nine months", func(t *testing.T) { replayed(t, sqlite(t).started(), none(), nineMonths...) })
	t.Run("postgres, nine months", func(t *testing.T) { replayed(t, postgres(t, false).started(), none(), nineMonths...) })
	t.Run("sqlite, twenty kills", func(t *testing.T) { s := sqlite(t).started(); replayed(t, s, kills(s, 20), "2010-12") })
	t.Run("postgres, twenty kills", func(t *testing.T) { s := postgres(t, false).started(); replayed(t, s, kills(s, 20), "2010-12") })
}
