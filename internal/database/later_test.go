package database_test

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
)

var errUnexpected = errors.New("somebody was faster")

// What is left for later is done, in its order, whoever makes it go: a statement that is waited for, or the commit.
func TestLater(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, []string{"alpha"}, func(t *testing.T, e databasetest.Engine) {
		db := open(t, e)
		counted := 0
		err := db.Write(t.Context(), func(tx *gorm.DB) error {
			later := database.Later(tx)
			for n := range 3 {
				if err := later.Exec("INSERT INTO thing (who, n) VALUES ('a', ?)", n).Error; err != nil {
					return err
				}
			}
			if err := database.Expect(tx, 3, errUnexpected).Exec("UPDATE thing SET n = n + 10 WHERE who = 'a'").Error; err != nil {
				return err
			}
			if err := tx.Raw("SELECT sum(n) FROM thing WHERE who = 'a'").Row().Scan(&counted); err != nil {
				return err
			}
			return database.Expect(later, 1, errUnexpected).Exec("DELETE FROM thing WHERE who = 'a' AND n = 12").Error
		})
		if err != nil || counted != 33 || count(t, db, "a") != 2 {
			t.Errorf("counted %d, left %d: %v", counted, count(t, db, "a"), err)
		}
	})
}

// A unit of work whose statement did not touch what it must ends with what was said about it, and leaves nothing, whatever the code around it
// makes of the failure.
func TestExpect(t *testing.T) {
	t.Parallel()
	read := func(tx *gorm.DB) error {
		var n int
		return tx.Raw("SELECT count(*) FROM thing").Row().Scan(&n)
	}
	for name, then := range map[string]func(tx *gorm.DB) error{
		"and the commit":          func(*gorm.DB) error { return nil },
		"and a query":             read,
		"and a query of rows":     func(tx *gorm.DB) error { var n []int; return tx.Raw("SELECT n FROM thing").Scan(&n).Error },
		"and a query, not heeded": func(tx *gorm.DB) error { _ = read(tx); return nil },
		"and two, not heeded":     func(tx *gorm.DB) error { _ = read(tx); _ = read(tx); return nil },
		"and a statement":         func(tx *gorm.DB) error { return insert("b", 1)(tx) },
		"and one not heeded":      func(tx *gorm.DB) error { _ = insert("b", 1)(tx); return nil },
		"and another reason":      func(tx *gorm.DB) error { _ = read(tx); return errors.New("something else") },
		"and a failure":           func(*gorm.DB) error { return errors.New("something else") },
		"and a panic":             func(*gorm.DB) error { panic("something else") },
		"and the next that is met": func(tx *gorm.DB) error {
			return database.Expect(tx, 1, errors.New("not this one")).Exec("INSERT INTO thing (who, n) VALUES ('b', 1)").Error
		},
	} {
		t.Run(name, func(t *testing.T) {
			databasetest.Each(t, []string{"alpha"}, func(t *testing.T, e databasetest.Engine) {
				db := open(t, e)
				runs := 0
				err := db.Write(t.Context(), func(tx *gorm.DB) error {
					runs++
					if err := insert("b", 0)(database.Later(tx)); err != nil {
						return err
					}
					if err := database.Expect(tx, 1, errUnexpected).Exec("UPDATE thing SET n = 1 WHERE who = 'nobody'").Error; err != nil {
						return err // on SQLite it is known at once
					}
					return then(tx)
				}, database.Repeatable)
				if !errors.Is(err, errUnexpected) || runs != 1 || count(t, db, "b") != 0 {
					t.Errorf("%v after %d runs, kept %d", err, runs, count(t, db, "b"))
				}
				if err := db.Write(t.Context(), insert("b", 2)); err != nil || count(t, db, "b") != 1 {
					t.Errorf("the next unit of work: %v", err)
				}
			})
		})
	}
}

// What the store refuses of what was left for later ends the unit of work, whoever heard of it first.
func TestLaterIsRefused(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, []string{"alpha"}, func(t *testing.T, e databasetest.Engine) {
		db := open(t, e)
		for name, then := range map[string]func(tx *gorm.DB) error{
			"by the commit": func(*gorm.DB) error { return nil },
			"by a query that nobody heeds": func(tx *gorm.DB) error {
				var n int
				_ = tx.Raw("SELECT count(*) FROM thing").Row().Scan(&n)
				return nil
			},
			"by a statement that nobody heeds": func(tx *gorm.DB) error { _ = insert("c", 3)(tx); return nil },
		} {
			err := db.Write(t.Context(), func(tx *gorm.DB) error {
				later := database.Later(tx)
				for range 2 {
					if err := later.Exec("INSERT INTO thing (id, who, n) VALUES (1, 'c', 1)").Error; err != nil {
						return err
					}
				}
				return then(tx)
			})
			if told := err != nil && strings.Contains(strings.ToLower(err.Error()), "key"); !told || count(t, db, "c") != 0 {
				t.Errorf("%s: %v, kept %d", name, err, count(t, db, "c"))
			}
		}
		if err := db.Write(t.Context(), insert("c", 2)); err != nil || count(t, db, "c") != 1 {
			t.Errorf("the next unit of work: %v", err)
		}
	})
}

// A query reads the same whether it goes alone or with what was left for later.
func TestQueryBehindOthers(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, []string{"alpha"}, func(t *testing.T, e databasetest.Engine) {
		db := e.Store(t, "alpha")
		bytes, instant := "BLOB", "TIMESTAMP"
		if e.Dialect == database.Postgres {
			bytes, instant = "BYTEA", "TIMESTAMPTZ"
		}
		e.Table(t, db, "kinds", "id INTEGER PRIMARY KEY, name TEXT, big BIGINT, done BOOLEAN, body "+bytes+", at "+instant)
		type row struct {
			ID   int64
			Name *string
			Big  int64
			Done bool
			Body []byte
			At   *time.Time
		}
		at := time.Date(2026, 3, 1, 9, 0, 0, 123_000, time.UTC)
		name := "größe 'x'"
		want := []row{{1, &name, 1 << 60, true, []byte{0, 255, 7}, &at}, {2, nil, -5, false, []byte{}, nil}}
		err := db.Write(t.Context(), func(tx *gorm.DB) error {
			for _, r := range want {
				if err := database.Later(tx).Exec("INSERT INTO kinds (id, name, big, done, body, at) VALUES (?, ?, ?, ?, ?, ?)", r.ID, r.Name, r.Big, r.Done, r.Body, r.At).Error; err != nil {
					return err
				}
			}
			var behind, alone []row
			if err := tx.Table("kinds").Order("id").Find(&behind).Error; err != nil {
				return err
			}
			if err := tx.Table("kinds").Order("id").Find(&alone).Error; err != nil {
				return err
			}
			for _, got := range [][]row{behind, alone} {
				for i := range got {
					if got[i].At != nil {
						*got[i].At = got[i].At.UTC()
					}
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("read %+v, want %+v", got, want)
				}
			}
			// Sums and other types that no column has; a row that is not there; rows that are not read to their end.
			var sum, text string
			if err := insertKind(tx, 3); err != nil {
				return err
			}
			if err := tx.Raw("SELECT CAST(sum(big) AS TEXT), 'a' || id FROM kinds WHERE id = 3 GROUP BY id").Row().Scan(&sum, &text); err != nil || sum != "4" || text != "a3" {
				t.Errorf("read %q, %q: %v", sum, text, err)
			}
			if err := insertKind(tx, 4); err != nil {
				return err
			}
			var none row
			if err := tx.Table("kinds").Where("id = 99").Take(&none).Error; !errors.Is(err, gorm.ErrRecordNotFound) {
				t.Errorf("a row that is not there: %v", err)
			}
			if err := insertKind(tx, 5); err != nil {
				return err
			}
			var first int64
			if err := tx.Raw("SELECT id FROM kinds ORDER BY id").Row().Scan(&first); err != nil || first != 1 {
				t.Errorf("the first of five: %d, %v", first, err)
			}
			return insertKind(tx, 6)
		})
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := db.Read(context.Background()).Raw("SELECT count(*) FROM kinds").Row().Scan(&n); err != nil || n != 6 {
			t.Errorf("%d rows, want 6: %v", n, err)
		}
	})
}

func insertKind(tx *gorm.DB, id int) error {
	return database.Later(tx).Exec("INSERT INTO kinds (id, big) VALUES (?, 4)", id).Error
}
