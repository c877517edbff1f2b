package database

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"gorm.io/gorm"
)

// ErrLost: a store that the shop has had is not there any more. It is not made again unless somebody says so: an empty store beside full
// ones is a shop whose payments know orders that it has never heard of.
var ErrLost = errors.New("was lost")

// lost names the store and the ways out.
func lost(name, what string) error {
	return fmt.Errorf("the store of %s %w: %s; put its backup there, together with those of the other stores from the same moment, "+
		"or have it made again with --start-empty %s: it is empty then", name, ErrLost, what, name)
}

func since(made time.Time) string {
	return "the shop has had it since " + made.UTC().Format(time.RFC3339)
}

// withControl is why the control store must have been there.
const withControl = "the signing keys and where each module is were in it, and the stores of modules are there"

// file is where a SQLite store is.
func (s *Stores) file(name string) string { return filepath.Join(s.dir, name+".db") }

// missing says that a SQLite store is not there, or has nothing in it: a first start that was killed leaves an empty file, too.
func (s *Stores) missing(name string) (bool, error) {
	info, err := os.Stat(s.file(name))
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	return err == nil && info.Size() == 0, err
}

// CheckControl is ErrLost if the control store is not there and one of a module is, unless startEmpty names it. On PostgreSQL Migrate looks.
func (s *Stores) CheckControl(modules, startEmpty []string) error {
	if s.Dialect() != SQLite || slices.Contains(startEmpty, Control) {
		return nil
	}
	if missing, err := s.missing(Control); err != nil || !missing {
		return err
	}
	for _, name := range modules {
		missing, err := s.missing(name)
		if err != nil {
			return err
		}
		if !missing {
			return lost(Control, s.file(Control)+" is missing or empty; "+withControl)
		}
	}
	return nil
}

// CheckMade is ErrLost if one of the stores is noted in the control store and not there, unless startEmpty names it. On PostgreSQL Migrate
// looks.
func (s *Stores) CheckMade(ctx context.Context, control *DB, names, startEmpty []string) error {
	if s.Dialect() != SQLite {
		return nil
	}
	made, err := control.made(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		at, noted := made[name]
		if !noted || slices.Contains(startEmpty, name) {
			continue
		}
		missing, err := s.missing(name)
		if err != nil {
			return err
		}
		if missing {
			return lost(name, s.file(name)+" is missing or empty; "+since(at))
		}
	}
	return nil
}

// NoteMade notes in the control store that these have been made. They are migrated by now: what a killed start has left half made is not
// noted.
func (s *Stores) NoteMade(ctx context.Context, control *DB, names []string) error {
	if s.Dialect() != SQLite {
		return nil
	}
	made, err := control.made(ctx)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { _, noted := made[name]; return noted })
	if len(names) == 0 {
		return nil
	}
	return control.Write(ctx, func(tx *gorm.DB) error {
		for _, name := range names {
			if err := tx.Exec("INSERT INTO store (name, made_at) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", name, tx.NowFunc()).Error; err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *DB) made(ctx context.Context) (map[string]time.Time, error) {
	var rows []struct {
		Name   string
		MadeAt time.Time
	}
	if err := d.Read(ctx).Raw("SELECT name, made_at FROM store").Scan(&rows).Error; err != nil {
		return nil, fmt.Errorf("stores that were made: %w", err)
	}
	made := map[string]time.Time{}
	for _, r := range rows {
		made[r.Name] = r.MadeAt
	}
	return made, nil
}

// checkSchema is ErrLost if a schema is not there and should be, unless startEmpty names it: one that is noted, and that of the control
// store if those of modules are there.
func checkSchema(ctx context.Context, c *pgx.Conn, name string, modules, startEmpty []string) error {
	if slices.Contains(startEmpty, name) {
		return nil
	}
	if there, err := migrated(ctx, c, name); err != nil || there {
		return err
	}
	const missing = "its schema is missing or empty; "
	if name != Control {
		made, err := noted(ctx, c, name)
		if err != nil || made.IsZero() {
			return err
		}
		return lost(name, missing+since(made))
	}
	for _, m := range modules {
		there, err := migrated(ctx, c, m)
		if err != nil {
			return err
		}
		if there {
			return lost(Control, missing+withControl)
		}
	}
	return nil
}

// migrated asks the catalogue, which whoever may connect can read.
func migrated(ctx context.Context, c *pgx.Conn, schema string) (there bool, err error) {
	err = c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2)",
		schema, layers(schema)[0].table).Scan(&there)
	return there, err
}

// noted is when a schema was noted in that of the control store; the zero time if it is not.
func noted(ctx context.Context, c *pgx.Conn, name string) (made time.Time, err error) {
	err = inControl(ctx, c, func() error {
		return c.QueryRow(ctx, "SELECT made_at FROM control.store WHERE name = $1", name).Scan(&made)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return made, err
}

func noteSchema(ctx context.Context, c *pgx.Conn, name string) error {
	return inControl(ctx, c, func() error {
		_, err := c.Exec(ctx, "INSERT INTO control.store (name, made_at) VALUES ($1, now()) ON CONFLICT (name) DO NOTHING", name)
		return err
	})
}

// inControl runs fn with the rights of the control store's owner, which the connection's own role may take but not have.
func inControl(ctx context.Context, c *pgx.Conn, fn func() error) error {
	owner := pgx.Identifier{Role(c.Config().Database, Control) + "_owner"}.Sanitize()
	if _, err := c.Exec(ctx, "SET ROLE "+owner); err != nil {
		return err
	}
	err := fn()
	_, reset := c.Exec(ctx, "RESET ROLE")
	return errors.Join(err, reset)
}
