package testinfra

import (
	"math"
	"os"
	"testing"
)

// TestInMemory: temporary files go to memory where there is room, and only if nobody has said where they go.
func TestInMemory(t *testing.T) {
	for _, test := range []struct {
		name, tmp string
		need      uint64
		moves     bool
	}{
		{name: "room", need: 1, moves: true},
		{name: "no room", need: math.MaxUint64},
		{name: "chosen", tmp: t.TempDir(), need: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("TMPDIR", test.tmp)
			before := os.TempDir()
			end, err := InMemory(test.need)
			if err != nil {
				t.Fatal(err)
			}
			if test.moves && os.TempDir() == before {
				t.Skip("there is no folder in memory to run programs from")
			}
			if got := os.TempDir() != before; got != test.moves {
				t.Errorf("temporary files are in %s, before in %s", os.TempDir(), before)
			}
			if f, err := os.CreateTemp("", "memory"); err != nil {
				t.Error(err)
			} else if err := f.Close(); err != nil {
				t.Error(err)
			}
			if err := end(); err != nil {
				t.Error(err)
			}
		})
	}
}
