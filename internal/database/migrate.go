package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/ncruces/go-sqlite3/driver"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	"github.com/banyan-go/banyan/migrations"
)

// layer is a folder of migrations with the table that counts them.
type layer struct{ folder, table string }

// layers of a store: the platform's tables first, then the module's own.
func layers(module string) []layer {
	if module == Control {
		return []layer{{Control, "schema_version"}}
	}
	return []layer{{"platform", "platform_version"}, {module, "schema_version"}}
}

func (l layer) provider(db *sql.DB, dialect Dialect) (*goose.Provider, error) {
	files, err := fs.Sub(migrations.Files, l.folder+"/"+string(dialect))
	if err != nil {
		return nil, err
	}
	kind := database.DialectSQLite3
	if dialect == Postgres {
		kind = database.DialectPostgres
	}
	store, err := database.NewStore(kind, l.table)
	if err != nil {
		return nil, err
	}
	p, err := goose.NewProvider("", db, files, goose.WithStore(store), goose.WithDisableGlobalRegistry(true))
	if errors.Is(err, goose.ErrNoMigrations) {
		return nil, nil
	}
	return p, err
}

func migrate(ctx context.Context, db *sql.DB, dialect Dialect, module string) (applied int, err error) {
	for _, l := range layers(module) {
		p, err := l.provider(db, dialect)
		if err != nil {
			return applied, fmt.Errorf("migrations %s: %w", l.folder, err)
		}
		if p == nil {
			continue
		}
		results, err := p.Up(ctx)
		if err != nil {
			return applied, fmt.Errorf("migrate %s: %w", l.folder, err)
		}
		applied += len(results)
	}
	return applied, nil
}

// migrateSQLite brings a file up to date. A file made by a newer version is refused.
func migrateSQLite(ctx context.Context, path, module string) (err error) {
	// A connection of its own, with the driver's default form of times, which goose's own table needs. Its steps need not
	// wait for the disk one by one: closing it writes everything into the file and syncs that.
	db, err := driver.Open(sqliteURL(path, url.Values{}, []string{"journal_mode(wal)", "synchronous(normal)"}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	if _, err := migrate(ctx, db, SQLite, module); err != nil {
		return err
	}
	return checkNotNewer(ctx, db, SQLite, module)
}

// ErrNotMade: the process that writes the file has not made it yet, or not the version that this program needs.
var ErrNotMade = errors.New("the store is not there yet; start the shop with `banyan serve` first")

// checkMade says whether a file is as this program needs it, without changing anything.
func checkMade(ctx context.Context, path, module string) error {
	if _, err := os.Stat(path); err != nil {
		return ErrNotMade
	}
	db, err := driver.Open(sqliteURL(path, url.Values{}, []string{"query_only(1)"}))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	for _, l := range layers(module) {
		p, err := l.provider(db, SQLite)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		pending, err := p.HasPending(ctx)
		if err != nil || pending {
			return ErrNotMade // a table of versions that is not there cannot be told from other errors
		}
	}
	return checkNotNewer(ctx, db, SQLite, module)
}

func checkNotNewer(ctx context.Context, db *sql.DB, dialect Dialect, module string) error {
	for _, l := range layers(module) {
		p, err := l.provider(db, dialect)
		if err != nil || p == nil {
			return err
		}
		now, newest, err := p.GetVersions(ctx)
		if err != nil {
			return err
		}
		if now > newest {
			return fmt.Errorf("%s is at version %d, this program knows up to %d; start the newer program", l.folder, now, newest)
		}
	}
	return nil
}

// checkMigrated refuses a schema that this program does not fit.
func checkMigrated(ctx context.Context, db *sql.DB, module string) error {
	for _, l := range layers(module) {
		files, err := fs.Glob(migrations.Files, l.folder+"/postgres/*.sql")
		if err != nil {
			return err
		}
		newest := int64(0)
		for _, f := range files {
			v, err := goose.NumericComponent(f)
			if err != nil {
				return err
			}
			newest = max(newest, v)
		}
		if newest == 0 {
			continue
		}
		var now sql.NullInt64
		if err := db.QueryRowContext(ctx, "SELECT max(version_id) FROM "+pgx.Identifier{l.table}.Sanitize()+" WHERE is_applied").Scan(&now); err != nil {
			return fmt.Errorf("cannot read its version (run `banyan migrate` with database.postgres.admin_dsn first): %w", err)
		}
		if now.Int64 < newest {
			return fmt.Errorf("%s is at version %d of %d; run `banyan migrate`", l.folder, now.Int64, newest)
		}
		if now.Int64 > newest {
			return fmt.Errorf("%s is at version %d, this program knows up to %d; start the newer program", l.folder, now.Int64, newest)
		}
	}
	return nil
}

// migrationLock is the advisory lock around all migrations of a database.
const migrationLock = 0x62616e79616e // "banyan"

// Migrate makes the roles and schemas of the modules on PostgreSQL and brings them up to date: for each module an
// owner role without login, and a runtime role that may read and write the rows of its own schema and nothing else.
// It needs a role that may create roles and schemas. It can be run again, and by several processes at once. A schema that was there and is
// gone is ErrLost, unless startEmpty names it.
func Migrate(ctx context.Context, cfg PostgresConfig, modules []string, log *slog.Logger, startEmpty ...string) error {
	if cfg.AdminDSN == "" {
		return errors.New("database.postgres.admin_dsn: is empty; `banyan migrate` needs a role that may create roles and schemas")
	}
	if cfg.Secret == "" {
		return errors.New("database.postgres.secret: is empty; give a long random string, the same to every process")
	}
	admin, err := pgx.ParseConfig(cfg.AdminDSN.Reveal())
	if err != nil {
		return errors.New("database.postgres.admin_dsn: cannot be read; give it as in postgres://admin:password@127.0.0.1:5432/banyan")
	}
	c, err := pgx.ConnectConfig(ctx, admin)
	if err != nil {
		return fmt.Errorf("database.postgres.admin_dsn: %w", err)
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	if _, err := c.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(migrationLock)); err != nil {
		return err
	}
	for _, m := range append([]string{Control}, modules...) {
		if err := checkSchema(ctx, c, m, modules, startEmpty); err != nil {
			return err
		}
		if err := prepareSchema(ctx, c, cfg.Secret.Reveal(), m); err != nil {
			return fmt.Errorf("prepare schema %s: %w", m, err)
		}
		applied, err := migrateSchema(ctx, admin, m)
		if err != nil {
			return err
		}
		if m != Control {
			if err := noteSchema(ctx, c, m); err != nil {
				return fmt.Errorf("note schema %s: %w", m, err)
			}
		}
		log.Info("migrated", "schema", m, "applied", applied)
	}
	return nil
}

func prepareSchema(ctx context.Context, c *pgx.Conn, secret, module string) error {
	runtime := Role(c.Config().Database, module)
	owner := runtime + "_owner"
	quote := func(s string) string { return pgx.Identifier{s}.Sanitize() }
	for _, r := range []struct{ name, attributes string }{{owner, "NOLOGIN"}, {runtime, "LOGIN"}} {
		// Roles belong to the whole server: another database's migration may be making one at the same time.
		_, err := c.Exec(ctx, fmt.Sprintf(`DO $do$ BEGIN CREATE ROLE %s %s; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $do$`, quote(r.name), r.attributes))
		if err != nil {
			return err
		}
	}
	statements := []string{
		fmt.Sprintf("ALTER ROLE %s WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT PASSWORD '%s'", quote(runtime), Password(secret, runtime)),
		fmt.Sprintf("GRANT %s TO CURRENT_USER", quote(owner)),
		fmt.Sprintf("CREATE SCHEMA IF NOT EXISTS %s AUTHORIZATION %s", quote(module), quote(owner)),
		fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s", quote(module), quote(runtime)),
		fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s", quote(c.Config().Database), quote(runtime)),
		fmt.Sprintf("ALTER DEFAULT PRIVILEGES FOR ROLE %s IN SCHEMA %s GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO %s", quote(owner), quote(module), quote(runtime)),
		fmt.Sprintf("ALTER DEFAULT PRIVILEGES FOR ROLE %s IN SCHEMA %s GRANT USAGE ON SEQUENCES TO %s", quote(owner), quote(module), quote(runtime)),
	}
	for _, s := range statements {
		if _, err := c.Exec(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func migrateSchema(ctx context.Context, admin *pgx.ConnConfig, module string) (int, error) {
	c := admin.Copy()
	c.RuntimeParams["search_path"] = module
	c.RuntimeParams["role"] = Role(c.Database, module) + "_owner"
	db := stdlib.OpenDB(*c)
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	return migrate(ctx, db, Postgres, module)
}
