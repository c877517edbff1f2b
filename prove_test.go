package main

import (
	"strings"
	"testing"
)

// What cannot be proved is refused with the way out, before anything is started.
func TestProofRefusals(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":                                "--module: name the module, or give --all; see banyan prove --help",
		"--all --module orders":           "leave --module out",
		"--module order":                  `there is no module "order"; there are users`,
		"--module orders --cycles 100000": "--cycles: 100000 is not between",
		"--module orders --clients -1":    "--clients: -1 is not between",
		"--module orders --rabbitmqctl rabbitmqctl": "name that too",
		"--module orders --out=":                    "--out: is empty",
		"--all --out=":                              "--out: is empty",
	} {
		_, code, err := run(t, append([]string{"prove"}, strings.Fields(line)...)...)
		if code != exitUsage || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("prove %s: exit code %d, %v; want %d and %q", line, code, err, exitUsage, want)
		}
	}
	_, code, err := run(t, "prove", "--module", "orders", "--out", t.TempDir(), "--postgres", "postgres://nobody:quiet@127.0.0.1:1/postgres")
	if code != exitFailed || err == nil || !strings.Contains(err.Error(), "--postgres: ") || strings.Contains(err.Error(), "quiet") {
		t.Errorf("a server that is not there: exit code %d, %v", code, err)
	}
}
