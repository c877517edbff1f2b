package bus_test

import (
	"testing"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/databasetest"
)

func TestLocal(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		bustest.Run(t, func(t *testing.T) databasetest.Engine { return databasetest.SQLite(t) })
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		bustest.Run(t, func(t *testing.T) databasetest.Engine { return databasetest.Postgres(t, bustest.Modules...) })
	})
}
