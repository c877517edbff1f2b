package e2e

import (
	"encoding/json"
	"log/slog"
	"os/exec"
	"strings"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/testinfra"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

// bury puts dead letters into the store of payments that its handler takes when they are replayed; no process runs. It returns their ids.
func (s *shop) bury(t *testing.T, number int) []string {
	t.Helper()
	c := database.DefaultConfig()
	if s.server != nil {
		c.Driver, c.Postgres.DSN, c.Postgres.Secret = string(database.Postgres), databasetest.Bare(t, s.server.DSN(s.dbName)), databasetest.Secret
	}
	stores, err := database.Open(c, s.dir, 1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stores.Close() }()
	db, err := stores.Store(t.Context(), "payments")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for range number {
		user, now := message.NewID(), time.Now().UTC()
		payload, err := json.Marshal(usersapi.UserErased{UserID: user})
		if err != nil {
			t.Fatal(err)
		}
		m := message.Message{ID: message.NewID(), Name: usersapi.UserErased{}.MessageName(), Source: "users", Key: user, Sequence: 1, Time: now, Payload: payload}
		body, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		id := message.NewID()
		if err := db.Write(t.Context(), func(tx *gorm.DB) error {
			return tx.Exec(`INSERT INTO dead_letters (id, position, handler, key, message_id, name, subject, message, reason, attempts, first_at, died_at)
				VALUES (?, 1, 'erase', ?, ?, ?, '', ?, 'buried by a test', 1, ?, ?)`, id, m.Key, m.ID, m.Name, body, now, now).Error
		}); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// says is what a command prints that asks the process, whatever comes of it.
func (s *shop) says(args ...string) string {
	out, _ := exec.Command(mustBinary(s.t), append(args, "--data", s.dir, "--admin-addr", s.admin)...).CombinedOutput()
	return string(out)
}

// The dead letters of a module that is out are listed, shown, replayed and discarded at whoever has its store, and the shop says who that is.
func TestDeadLettersOfAModuleThatIsOut(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			env := "BANYAN_BUS_RABBITMQ_URL=" + testinfra.Rabbit(t).URL()
			var s *shop
			if engine == "sqlite" {
				s = sqlite(t, env)
			} else {
				s = postgres(t, false, env)
			}
			s.start().stop()
			letters := s.bury(t, 3)
			o := s.standIn("payments")
			o.launch()
			s.start()
			o.await()
			s.sayWhatIsLeft(t, o)
			says := func(p *shop, want string, args ...string) {
				t.Helper()
				if out := p.says(args...); !strings.Contains(out, want) {
					t.Errorf("%v is answered %q, want %q", args, out, want)
				}
			}
			gone := func(p *shop, id string) {
				t.Helper()
				if out := p.says("deadletters", "list"); strings.Contains(out, id) {
					t.Errorf("the letter is still there: %s", out)
				}
			}
			there := "--admin-addr " + o.admin
			back := "--admin-addr " + s.admin
			if engine == "sqlite" {
				says(o, back, "deadletters", "replay", "payments", letters[0]) // the shop writes the file
			}
			s.placement(t, "set", "payments", "remote")
			says(s, letters[0], "deadletters", "list")
			says(s, "buried by a test", "deadletters", "show", "payments", letters[0])
			who := s
			if engine == "sqlite" {
				says(s, there, "deadletters", "replay", "payments", letters[0])
				says(s, there, "deadletters", "discard", "payments", letters[0], "--reason", "a test")
				says(s, there, "deadletters", "replay", "payments")
				who = o
			}
			says(who, "REPLAYED", "deadletters", "replay", "payments", letters[0])
			gone(who, letters[0])

			s.placement(t, "set", "payments", "retired")
			if code := s.stop(); code != 0 {
				t.Fatalf("the shop ended with %d: %s", code, s.errOut)
			}
			s.start()
			for _, what := range []string{"deadletters", "unsubscribed"} {
				says(s, "not looked at: payments; ask payments ", what, "list")
				says(s, there, what, "list")
				says(s, there, what, "list", "--module", "payments")
				says(o, "not looked at: users, catalog, carts, ", what, "list")
				says(o, back, what, "list")
			}
			for _, args := range [][]string{{"show", "payments", letters[1]}, {"replay", "payments", letters[1]}, {"replay", "payments"}, {"discard", "payments", letters[1], "--reason", "a test"}} {
				says(s, there, append([]string{"deadletters"}, args...)...)
			}
			says(s, there, "unsubscribed", "replay", "payments", "payments.payment_captured.v1")
			says(s, `there is no module "payment", only `, "deadletters", "list", "--module", "payment")
			says(o, letters[1], "deadletters", "list")
			says(o, "buried by a test", "deadletters", "show", "payments", letters[1])
			says(o, "REPLAYED", "deadletters", "replay", "payments", letters[1])
			gone(o, letters[1])
			says(o, "DISCARDED", "deadletters", "discard", "payments", letters[2], "--reason", "a test")
			gone(o, letters[2])
		})
	}
}
