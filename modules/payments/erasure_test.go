package payments

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/inbox"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

// TestGivenUpChargeOfAnErasedCustomer replays charges that were given up, without their cards: money that was taken is found,
// and none is taken that was not.
func TestGivenUpChargeOfAnErasedCustomer(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		s := openShop(t, open)
		s.line.cut.Store(true)
		s.Deliver(t, charge("unheard", "tok_visa"), charge("unasked", "tok_visa"))
		if _, err := s.line.Provider.Charge(t.Context(), ChargeRequest{ID: s.payment("unheard").ID, Amount: gbp(1000), CardToken: "tok_visa"}); err != nil {
			t.Fatal(err)
		}
		for range 400 {
			s.Advance(5 * time.Minute)
		}
		s.Deliver(t, usersapi.UserErased{UserID: customer, At: s.Clock.Now()})
		var rows []struct {
			ID      string
			Message []byte
		}
		if err := s.Store.Read(t.Context()).Raw("SELECT id, message FROM dead_letters ORDER BY id").Scan(&rows).Error; err != nil {
			t.Fatal(err)
		}
		if len(rows) != 2 {
			t.Fatalf("%d charges were given up, want 2", len(rows))
		}
		s.line.cut.Store(false)
		letters := inbox.New(s.Store, nil, inbox.Policy{}, telemetry.NewMessages(nil), slog.New(slog.DiscardHandler), func() {}, nil)
		for _, r := range rows {
			if strings.Contains(string(r.Message), "tok_visa") {
				t.Errorf("the letter keeps %s", r.Message)
			}
			if err := letters.Replay(t.Context(), r.ID); err != nil {
				t.Fatal(err)
			}
		}
		s.Clock.Advance(time.Minute) // the module looks for what was set behind its back
		s.finish()
		for order, want := range map[string][]string{"unheard": {"captured 1000"}, "unasked": {"declined no_card"}} {
			if diff := cmp.Diff(s.told(order), want); diff != "" {
				t.Errorf("%s: announced (-got +want):\n%s", order, diff)
			}
		}
		if charges, _, _ := s.seen(""); charges != 1 {
			t.Errorf("the provider saw %d charges, want 1", charges)
		}
		s.agrees()
	})
}
