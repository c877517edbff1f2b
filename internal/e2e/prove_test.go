package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banyan-go/banyan/internal/testinfra"
)

// proof runs `banyan prove` and gives its report.
func proof(t *testing.T, within time.Duration, args ...string) (report struct {
	Lost, Doubled, Reordered, Failed, Other, Orders, Messages, Cycles int
	Faults                                                            map[string]int
	Flips                                                             []struct{ To string }
}) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(mustBinary(t), append([]string{"prove", "--out", dir}, args...)...)
	deadline := time.AfterFunc(within, func() { _ = cmd.Process.Kill() })
	out, err := cmd.CombinedOutput()
	if !deadline.Stop() {
		t.Fatalf("not through after %s: %s", within, out)
	}
	t.Logf("%s", out)
	b, readErr := os.ReadFile(filepath.Join(dir, "report.json"))
	if readErr != nil {
		t.Fatalf("%v: %v", err, readErr)
	}
	if err := json.Unmarshal(b, &report); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		text, _ := os.ReadFile(filepath.Join(dir, "report.md"))
		t.Errorf("%v\n%s", err, text)
		logs, _ := filepath.Glob(filepath.Join(dir, "run-*", "*.log"))
		for _, l := range logs {
			said, _ := os.ReadFile(l)
			lines := strings.Split(string(said), "\n")
			t.Logf("%s:\n%s", filepath.Base(l), strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	}
	return report
}

// A module goes out and comes home three times while the shop, its own process, the broker and the sessions of the database end at
// random moments. The seed leaves out the one fault that takes long, a broker that has to recover from kill -9.
func TestProof(t *testing.T) {
	t.Parallel()
	server := testinfra.Postgres(t)
	testinfra.Rabbit(t) // the proof starts a broker of its own, to end it; without one on this machine the test is skipped, or fails
	r := proof(t, 3*time.Minute, "--module", "payments", "--cycles", "3", "--kill", "--seed", "2315", "--postgres", server.Admin())
	if r.Lost+r.Doubled+r.Reordered+r.Failed+r.Other != 0 {
		t.Errorf("%+v", r)
	}
	if len(r.Faults) != 6 || len(r.Flips) < 6 || r.Orders < 24 || r.Messages < 5*r.Orders {
		t.Errorf("that is no proof: %+v", r)
	}
	if r.Faults["kill -9 of the broker"] != 0 {
		t.Error("another seed than thought: it kills the broker")
	}
}
