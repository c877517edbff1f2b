// Package migrations holds the SQL of every store, embedded: <context>/<dialect>/NNNN_name.sql, with platform/
// (outbox, inbox and the like) applied to every module's store before its own.
package migrations

import "embed"

// Files is the tree of all migrations.
//
//go:embed */*/*.sql
var Files embed.FS
