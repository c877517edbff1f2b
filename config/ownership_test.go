package config

import (
	"strings"
	"testing"
	"time"
)

func TestOwnershipGates(t *testing.T) {
	t.Parallel()
	if _, err := Load(Options{File: file(t, "ownership: {gates: {lag: 1ms}}")}); err == nil || !strings.Contains(err.Error(), "ownership.gates.lag: 1ms is not between 1s and 24h") {
		t.Errorf("got %v", err)
	}
	c, err := Load(Options{Environ: environ("BANYAN_OWNERSHIP_GATES_LAG=3s")})
	if err != nil || c.Ownership.Gates.Lag != 3*time.Second || !c.Ownership.Gates.Automatic {
		t.Errorf("%+v, %v", c.Ownership, err)
	}
}
