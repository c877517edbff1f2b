package main

import (
	"testing"

	"github.com/banyan-go/banyan/internal/bus/rabbit"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/testinfra"
	"github.com/banyan-go/banyan/modules"
)

const playbook = "docs/playbook.md"

// Every command of the playbook is run, against the real binary, PostgreSQL, and RabbitMQ with a user per process; what it prints is
// compared. After a change that is meant: go test -run TestPlaybook . -update
func TestPlaybook(t *testing.T) {
	t.Parallel()
	binary := program(t)
	users := func(t *testing.T) []string {
		broker, all := testinfra.Rabbit(t), modules.Names()
		return []string{
			"amqp://shop:secret@127.0.0.1:5672/banyan", "'" + broker.User(rabbit.Permissions(all[0], all[1:])) + "'",
			"amqp://payments:secret@127.0.0.1:5672/banyan", "'" + broker.User(rabbit.Permissions("payments", nil)) + "'",
			"127.0.0.1:8080", free(t), "127.0.0.1:9090", free(t), "127.0.0.1:9101", free(t), "127.0.0.1:9191", free(t),
		}
	}
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		dsn := testinfra.Postgres(t).Database(t)
		newShell(t, playbook, binary, append(users(t),
			"postgres://postgres:secret@127.0.0.1:5432/banyan", "'"+dsn+"'", "postgres://127.0.0.1:5432/banyan", databasetest.Bare(t, dsn))...).run(t, "playbook")
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		newShell(t, playbook, binary, users(t)...).run(t, "sqlite")
	})
}
