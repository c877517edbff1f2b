package bus_test

import (
	"testing"

	"github.com/banyan-go/banyan/internal/bustest"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/testinfra"
)

func TestLocal(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		bustest.Run(t, func(t *testing.T) databasetest.Engine { return databasetest.SQLite(t) }, nil)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		bustest.Run(t, func(t *testing.T) databasetest.Engine { return databasetest.Postgres(t, bustest.Modules...) }, nil)
	})
}

// The same promises between two processes.
func TestRabbitMQ(t *testing.T) {
	broker := func(t *testing.T) string { return testinfra.Rabbit(t).URL() }
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		bustest.Run(t, func(t *testing.T) databasetest.Engine { return databasetest.SQLite(t) }, broker)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		all := append([]string{database.Control}, bustest.Modules...)
		bustest.Run(t, func(t *testing.T) databasetest.Engine { return databasetest.Postgres(t, all...) }, broker)
	})
}
