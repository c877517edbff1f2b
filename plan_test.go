package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// write makes files in a folder.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPlanFindsImports(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"go.mod":                          "module example.org/shop\n\ngo 1.26\n",
		"modules/orders/module.go":        "package orders\n\nimport (\n\t\"fmt\"\n\t\"example.org/shop/modules/orders/internal/order\"\n\tapi \"example.org/shop/modules/payments/paymentsapi\"\n)\n",
		"modules/orders/internal/o.go":    "package order\n\nimport _ \"example.org/shop/modules/payments\"\n",
		"modules/orders/orders_test.go":   "package orders\n\nimport _ \"example.org/shop/modules/payments\"\n",
		"modules/payments/module.go":      "package payments\n",
		"modules/modules.go":              "package modules\n\nimport _ \"example.org/shop/modules/payments\"\n",
		"elsewhere/below/nothing.go":      "package below\n",
		"modules/orders/testdata/not.txt": "import",
	})
	for _, at := range []string{dir, filepath.Join(dir, "elsewhere", "below")} {
		for _, m := range []string{"orders", "payments"} { // whichever of them leaves
			got := concerning(importBreaches(at), m)
			if len(got) != 1 || got[0].What != "modules/orders/internal/o.go imports example.org/shop/modules/payments" || got[0].Module != "orders" || got[0].Other != "payments" {
				t.Errorf("%s, from %s: %+v", m, at, got)
			}
		}
		if got := concerning(importBreaches(at), "users"); len(got) > 0 {
			t.Errorf("users, from %s: %+v", at, got)
		}
	}
	if got := importBreaches(t.TempDir()); len(got) > 0 {
		t.Errorf("outside of a checkout: %+v", got)
	}
}

// The modules of this repository keep their boundaries.
func TestPlanFindsNothingHere(t *testing.T) {
	t.Parallel()
	if root, _ := checkout("."); root == "" {
		t.Fatal("the sources are not found")
	}
	if got := importBreaches("."); len(got) > 0 {
		t.Errorf("%+v", got)
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	write(t, dir, map[string]string{"go.mod": "module example.org/shop\n", "modules/modules.go": "a", "modules/orders/a.go": "a", "modules/payments/a.go": "a"})
	if got := changes(t.Context(), dir, 90); got != nil {
		t.Errorf("without a history: %v", got)
	}
	git("init", "-q")
	git("add", ".")
	git("commit", "-q", "-m", "first", "--date", "2001-01-01T00:00:00Z")
	write(t, dir, map[string]string{"modules/orders/a.go": "b", "modules/orders/b.go": "b", "README.md": "b"})
	git("add", ".")
	git("commit", "-q", "-m", "second")
	write(t, dir, map[string]string{"README.md": "c"})
	git("commit", "-q", "-a", "-m", "third")
	if diff := cmp.Diff(changes(t.Context(), dir, 90), map[string]int{"orders": 2, "payments": 1}); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	if got := changes(t.Context(), t.TempDir(), 90); got != nil {
		t.Errorf("outside of a checkout: %v", got)
	}
}

func TestWrongPlans(t *testing.T) {
	t.Parallel()
	for line, hint := range map[string]string{
		"placement plan payments --to away":                   `"away" is not local, shadow, canary, remote or retired`,
		"placement plan payments --to remote --writes 5":      "remote has no share of reads or writes",
		"placement rehearse payments --errors many":           `"many" for "--errors" flag: it is 0, or a share in percent from 0.01 to 100, as in 5 or 5%; see banyan placement rehearse --help`,
		"placement rehearse payments --errors 60%":            "are not a share between 0 and 0.5",
		"placement rehearse payments --for 20m":               "20m0s is not between 1s and 15m0s",
		"placement rehearse payments --latency 0s --errors 0": "there is nothing to rehearse",
		"placement rehearse":                                  "see banyan placement rehearse --help",
		"placement readiness payments":                        "see banyan placement readiness --help",
	} {
		_, code, err := run(t, strings.Fields(line)...)
		if code != exitUsage || err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("banyan %s: exit code %d, %v; want %d and %q", line, code, err, exitUsage, hint)
		}
	}
}

// A share in percent is read in one way everywhere, before anything is reckoned with it.
func TestShares(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"5": 500, "5%": 500, "0": 0, "0%": 0, "0.01": 1, "0.29%": 29, "100": 10_000, "12.345": 1235, "1e1": 1000} {
		var s share
		if err := s.Set(text); err != nil || s.points() != want {
			t.Errorf("%q: %d, %v, want %d", text, s.points(), err, want)
		}
	}
	for _, text := range []string{"-1", "NaN", "nan%", "Inf", "-Inf", "+Inf%", "0.00001", "0.009%", "101", "100.01%", "5 %", "%", "", "5%%", "half"} {
		for _, flag := range []string{"placement set payments canary --percent=", "placement set payments canary --percent 5 --writes=", "placement plan payments --to canary --percent=", "placement rehearse payments --errors="} {
			line := strings.Fields(flag)
			line[len(line)-1] += text
			if _, code, err := run(t, line...); code != exitUsage || err == nil || !strings.Contains(err.Error(), "a share in percent from 0.01 to 100, as in 5 or 5%") {
				t.Errorf("banyan %s: exit code %d, %v", strings.Join(line, " "), code, err)
			}
		}
	}
}
