package notifications

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/moduletest"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
	"github.com/banyan-go/banyan/modules/notifications/internal/mail"
	"github.com/banyan-go/banyan/modules/notifications/notificationsapi"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

func quick() Config {
	c := DefaultConfig()
	c.Folder.Sync = false
	return c
}

func usual(d module.Deps) *module.Module { return New(d, quick()) }

func ada() usersapi.UserRegistered {
	return usersapi.UserRegistered{UserID: "ada", Name: "Ada Lovelace", Email: "ada@example.com", Role: "customer"}
}

func confirmed(order, customer string) ordersapi.OrderConfirmed {
	return ordersapi.OrderConfirmed{OrderID: order, CustomerID: customer, Total: money.Of(765, "GBP"),
		Lines: []ordersapi.Line{{SKU: "85123A", Name: "PINK £1 JAR", Quantity: 3, Price: money.Of(255, "GBP")}}}
}

// mails are the .eml files.
func mails(t testing.TB, h *moduletest.Harness) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(h.Files, "mail", "*.eml"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range found {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(b))
	}
	return all
}

func counts(t testing.TB, h *moduletest.Harness) map[string]int64 {
	t.Helper()
	var r Report
	h.Do("GET", "/api/notifications/report", moduletest.Staff, nil).Into(t, &r)
	got := map[string]int64{}
	for _, c := range r.Counts {
		got[c.Kind+" "+c.State] = c.Count
	}
	return got
}

func seen(t testing.TB, h *moduletest.Harness, who, query string) rest.List[Notification] {
	t.Helper()
	var list rest.List[Notification]
	h.Do("GET", "/api/notifications"+query, moduletest.Customer(who), nil).Into(t, &list)
	return list
}

// advance lets time pass until something has come true, or the test has waited long enough. One step may be too
// little: an effect that fails is put off, each time for longer.
func advance(h *moduletest.Harness, until func() bool) {
	for range 50 {
		if h.Advance(time.Hour); until() {
			return
		}
	}
}

func TestStoryOfAnOrder(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, usual)
		h.Deliver(t, ada(), confirmed("o1", "ada"), shippingapi.ShipmentDispatched{OrderID: "o1", CustomerID: "ada", Carrier: "DHL", Tracking: "JD014"},
			shippingapi.ShipmentDelivered{OrderID: "o1", CustomerID: "ada"}, ordersapi.OrderRejected{OrderID: "o2", CustomerID: "ada", Reason: "payment_declined"},
			ordersapi.OrderCancelled{OrderID: "o3", CustomerID: "ada"}, paymentsapi.PaymentRefunded{OrderID: "o3", CustomerID: "ada", Amount: money.Of(765, "GBP")},
			paymentsapi.PaymentRefunded{OrderID: "o1", CustomerID: "ada", Amount: money.Of(0, "GBP")}) // nothing was left to pay back
		h.Settle()
		want := map[string]int64{"welcome sent": 1, "receipt sent": 1, "tracking sent": 1, "delivered sent": 1, "rejected sent": 1, "cancelled sent": 1, "refund sent": 1}
		if diff := cmp.Diff(counts(t, h), want); diff != "" {
			t.Error(diff)
		}
		all := mails(t, h)
		if len(all) != 7 || !strings.Contains(strings.Join(all, ""), "PINK =C2=A31 JAR") {
			t.Errorf("got %d mails: %s", len(all), all)
		}
		sent := h.Announced("notifications.notification_sent.v1")
		if len(sent) != 7 {
			t.Fatalf("announced %d mails", len(sent))
		}
		ids := map[string]bool{}
		for _, m := range sent {
			e := moduletest.Decode[notificationsapi.NotificationSent](t, m)
			ids[e.NotificationID] = true
			if _, err := os.Stat(filepath.Join(h.Files, "mail", e.NotificationID+"@banyan.eml")); err != nil || e.UserID != "ada" {
				t.Errorf("announced %+v: %v", e, err)
			}
		}
		if len(ids) != 7 {
			t.Errorf("got %d different mails", len(ids))
		}
	})
}

func TestDeliveredTwice(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, usual)
		h.Deliver(t, ada())
		m := h.Envelope(t, confirmed("o1", "ada"))
		for range 3 {
			h.DeliverMessage(t, m)
		}
		h.Settle()
		if diff := cmp.Diff(counts(t, h), map[string]int64{"welcome sent": 1, "receipt sent": 1}); diff != "" {
			t.Error(diff)
		}
	})
}

func TestInTheApp(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, usual)
		h.Deliver(t, usersapi.UserRegistered{UserID: "c1", Name: "Customer 1", Role: "customer"}, usersapi.PreferencesChanged{UserID: "c1", Mail: true, Language: "de-AT"})
		for i := range 3 {
			h.Deliver(t, confirmed(fmt.Sprintf("o%d", i), "c1"))
			h.Clock.Advance(time.Minute)
		}
		h.Deliver(t, confirmed("foreign", "c2"))
		h.Settle()
		if got := mails(t, h); len(got) != 0 {
			t.Errorf("got mails of who has no address: %q", got)
		}
		first := seen(t, h, "c1", "?limit=2")
		if len(first.Items) != 2 || first.Items[0].OrderID != "o2" || first.Items[1].OrderID != "o1" {
			t.Fatalf("got %+v", first)
		}
		if n := first.Items[0]; n.Subject != "Ihre Bestellung o2 ist bestätigt" || n.Text != "Ihre Bestellung über 7,65 GBP ist bestätigt und bezahlt." || n.Read {
			t.Errorf("got %+v", n)
		}
		if rest := seen(t, h, "c1", "?limit=2&cursor="+first.Next); len(rest.Items) != 1 || rest.Items[0].OrderID != "o0" || rest.Next != "" {
			t.Errorf("got %+v", rest)
		}
		h.WantCursors(t, "/api/notifications", moduletest.Customer("c1"))
		var n Notification
		id := first.Items[0].ID
		h.Do("POST", "/api/notifications/"+id+"/read", moduletest.Customer("c2"), nil).Want(t, 404)
		h.Do("POST", "/api/notifications/"+id+"/read", moduletest.Staff, nil).Want(t, 404)
		for range 2 {
			h.Do("POST", "/api/notifications/"+id+"/read", moduletest.Customer("c1"), nil).Into(t, &n)
			if !n.Read || n.ID != id {
				t.Errorf("got %+v", n)
			}
		}
		var unread Unread
		h.Do("GET", "/api/notifications/unread", moduletest.Customer("c1"), nil).Into(t, &unread)
		if unread.Unread != 2 || len(seen(t, h, "c1", "?unread=true").Items) != 2 {
			t.Errorf("got %d unread", unread.Unread)
		}
		var marked Marked
		h.Do("POST", "/api/notifications/read-all", moduletest.Customer("c1"), nil).Into(t, &marked)
		if marked.Read != 2 || len(seen(t, h, "c1", "?unread=true").Items) != 0 || len(seen(t, h, "c2", "?unread=true").Items) != 1 {
			t.Errorf("marked %d", marked.Read)
		}
	})
}

func TestWhoWantsNoMail(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, usual)
		h.Deliver(t, ada())
		h.Settle()
		h.Deliver(t, usersapi.PreferencesChanged{UserID: "ada", Mail: false, Language: "en"}, confirmed("o1", "ada"))
		h.Settle()
		h.Deliver(t, usersapi.PreferencesChanged{UserID: "ada", Mail: true, Language: "de"}, usersapi.ProfileChanged{UserID: "ada", Name: "Ada K.", Email: "new@example.com"}, confirmed("o2", "ada"))
		h.Settle()
		if diff := cmp.Diff(counts(t, h), map[string]int64{"welcome sent": 1, "receipt in_app": 1, "receipt sent": 1}); diff != "" {
			t.Error(diff)
		}
		last := ""
		for _, m := range mails(t, h) {
			if strings.Contains(m, "o2") {
				last = m
			}
		}
		if !strings.Contains(last, "new@example.com") || !strings.Contains(last, "Guten Tag Ada K.,") {
			t.Errorf("got %s", last)
		}
		if got := seen(t, h, "ada", ""); len(got.Items) != 3 {
			t.Errorf("got %+v", got)
		}
	})
}

// TestOrderOvertakesItsCustomer: modules announce independently, so an order can be heard of before its customer.
func TestOrderOvertakesItsCustomer(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, usual)
		h.Deliver(t, confirmed("o1", "ada"), confirmed("o2", "nameless"))
		h.Settle()
		if diff := cmp.Diff(counts(t, h), map[string]int64{"receipt waiting": 2}); diff != "" {
			t.Error(diff)
		}
		if got := seen(t, h, "ada", ""); len(got.Items) != 1 {
			t.Errorf("got %+v", got)
		}
		h.Deliver(t, ada(), usersapi.UserRegistered{UserID: "nameless", Role: "customer"})
		h.Settle()
		if diff := cmp.Diff(counts(t, h), map[string]int64{"receipt sent": 1, "receipt in_app": 1, "welcome sent": 1}); diff != "" {
			t.Error(diff)
		}
		if got := strings.Join(mails(t, h), ""); !strings.Contains(got, "3 x PINK") {
			t.Errorf("the receipt has lost its lines: %s", got)
		}
	})
}

func TestInvitation(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, usual)
		e := usersapi.UserInvited{InvitationID: "i1", Email: "grace@example.com", Role: "staff", Token: "t0k/en", ExpiresAt: moduletest.Start.Add(time.Hour)}
		late := e
		late.InvitationID, late.ExpiresAt = "i2", moduletest.Start.Add(-time.Hour)
		h.Deliver(t, e, late)
		h.Settle()
		all := mails(t, h)
		if len(all) != 1 || !strings.Contains(all[0], "#invitation=3Dt0k%2Fen") || !strings.Contains(all[0], "To: <grace@example.com>") {
			t.Errorf("got %q", all)
		}
		var rows []notificationRow
		if err := h.Store.Read(context.Background()).Find(&rows).Error; err != nil || len(rows) != 1 || strings.Contains(rows[0].Data, "t0k") {
			t.Errorf("the token was kept: %+v, %v", rows, err)
		}
		if got := seen(t, h, "i1", ""); len(got.Items) != 0 {
			t.Errorf("got %+v", got)
		}
		// Accepted, then erased: the invitation goes with the user.
		h.Deliver(t, usersapi.UserRegistered{UserID: "i1", Name: "Grace", Email: "grace@example.com", Role: "staff"}, usersapi.UserErased{UserID: "i1"})
		h.Settle()
		if got := counts(t, h); len(got) != 0 || len(mails(t, h)) != 0 {
			t.Errorf("got %v and %d mails", got, len(mails(t, h)))
		}
	})
}

func TestStaffAreAlerted(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, usual)
		h.Deliver(t, ada(), usersapi.UserRegistered{UserID: "s1", Email: "s1@example.com", Role: "staff"}, usersapi.UserRegistered{UserID: "s2", Role: "admin"},
			usersapi.UserRegistered{UserID: "s3", Role: "customer"}, usersapi.RoleChanged{UserID: "s3", Role: "staff"},
			usersapi.UserRegistered{UserID: "s4", Role: "staff"}, usersapi.UserErased{UserID: "s4"},
			inventoryapi.StockLevelChanged{SKU: "85123A", Available: 4, Low: true}, inventoryapi.StockLevelChanged{SKU: "85123A", Available: 40, Low: false})
		h.Clock.Advance(time.Second) // so that the order of the list is known
		h.Deliver(t, paymentsapi.RefundRefused{OrderID: "o1", CustomerID: "ada", RefundID: "r1", Amount: money.Of(765, "GBP"), Reason: "account_closed"})
		h.Settle()
		if diff := cmp.Diff(counts(t, h), map[string]int64{"welcome sent": 2, "alert in_app": 3, "refund_refused in_app": 3}); diff != "" {
			t.Error(diff)
		}
		got := seen(t, h, "s3", "")
		if len(got.Items) != 2 || got.Items[1].Subject != "Stock of 85123A is low" || got.Items[1].SKU != "85123A" {
			t.Fatalf("got %+v", got)
		}
		if n := got.Items[0]; n.OrderID != "o1" || n.Kind != "refund_refused" || n.Text != "7.65 GBP could not go back to the card: account_closed. Pay it back in another way." {
			t.Errorf("got %+v", n)
		}
	})
}

func TestErasure(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, usual)
		h.Deliver(t, ada(), usersapi.UserRegistered{UserID: "bob", Name: "Bob", Email: "bob@example.com", Role: "customer"}, confirmed("o1", "ada"), confirmed("o2", "bob"))
		h.Settle()
		h.Deliver(t, usersapi.UserErased{UserID: "ada"}, confirmed("o3", "ada"), paymentsapi.PaymentRefunded{OrderID: "o1", CustomerID: "ada"}, usersapi.ProfileChanged{UserID: "ada", Name: "Ada", Email: "ada@example.com"})
		h.Settle()
		if diff := cmp.Diff(counts(t, h), map[string]int64{"welcome sent": 1, "receipt sent": 1}); diff != "" {
			t.Error(diff)
		}
		all := strings.Join(mails(t, h), "")
		if strings.Contains(all, "ada@example.com") || !strings.Contains(all, "bob@example.com") {
			t.Errorf("got %s", all)
		}
		var row recipientRow
		if err := h.Store.Read(context.Background()).Where("id = 'ada'").Take(&row).Error; err != nil || row != (recipientRow{ID: "ada", Known: true, Erased: true}) {
			t.Errorf("got %+v, %v", row, err)
		}
	})
}

// broken is a sender that hands the mail over and then fails, as if the process had died before it could keep the outcome.
type broken struct {
	mail.Sender
	failing *atomic.Bool
	calls   *atomic.Int32
}

func (b broken) Send(ctx context.Context, m mail.Mail) error {
	b.calls.Add(1)
	if err := b.Sender.Send(ctx, m); err != nil {
		return err
	}
	if b.failing.Load() {
		return errors.New("lost")
	}
	return nil
}

func TestDeathBetweenSendingAndTheOutcome(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		var failing atomic.Bool
		var calls atomic.Int32
		failing.Store(true)
		h := open(t, func(d module.Deps) *module.Module {
			return build(d, quick(), broken{quick().sender(d), &failing, &calls})
		})
		h.Deliver(t, ada())
		h.Settle()
		if got := counts(t, h); got["welcome pending"] != 1 || len(mails(t, h)) != 1 || calls.Load() == 0 {
			t.Fatalf("got %v, %d mails, %d calls", got, len(mails(t, h)), calls.Load())
		}
		before := calls.Load()
		failing.Store(false)
		h.Restart()
		advance(h, func() bool { return counts(t, h)["welcome sent"] == 1 })
		if got := counts(t, h); got["welcome sent"] != 1 || len(mails(t, h)) != 1 || calls.Load() == before {
			t.Errorf("got %v, %d mails, %d calls", got, len(mails(t, h)), calls.Load())
		}
		if n := len(h.Announced("notifications.notification_sent.v1")); n != 1 {
			t.Errorf("announced %d times", n)
		}
		h.Restart()
		h.Advance(time.Hour)
		if n := len(h.Announced("notifications.notification_sent.v1")); n != 1 || len(mails(t, h)) != 1 {
			t.Errorf("announced %d times, %d mails", n, len(mails(t, h)))
		}
	})
}

// slow is a sender that waits until it is let go.
type slow struct {
	mail.Sender
	begun, goOn chan struct{}
}

func (s slow) Send(ctx context.Context, m mail.Mail) error {
	s.begun <- struct{}{}
	<-s.goOn
	return s.Sender.Send(ctx, m)
}

func TestErasedWhileTheMailGoesOut(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		begun, goOn := make(chan struct{}, 1), make(chan struct{})
		h := open(t, func(d module.Deps) *module.Module { return build(d, quick(), slow{quick().sender(d), begun, goOn}) })
		h.Deliver(t, ada())
		<-begun
		h.Deliver(t, usersapi.UserErased{UserID: "ada"})
		close(goOn)
		h.Settle()
		if got := counts(t, h); len(got) != 0 || len(mails(t, h)) != 0 || len(h.Announced("")) != 0 {
			t.Errorf("got %v and %d mails", got, len(mails(t, h)))
		}
	})
}

func TestRefusedMail(t *testing.T) {
	t.Parallel()
	h := moduletest.NewSQLite(t, usual)
	e := ada()
	e.Email = "ada@example.com\r\nBcc: all@example.com"
	h.Deliver(t, e)
	h.Settle()
	if diff := cmp.Diff(counts(t, h), map[string]int64{"welcome refused": 1}); diff != "" {
		t.Error(diff)
	}
	if n := len(h.Announced("")); n != 0 || h.DeadLetters() != 0 {
		t.Errorf("announced %d mails, %d dead letters", n, h.DeadLetters())
	}
}

// post is a tiny SMTP server; it takes the first mails and hangs up before it says so.
type post struct {
	hangUps int

	mu  sync.Mutex
	ids []string
}

func (p *post) start(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

func (p *post) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewScanner(conn)
	say := func(s string) { _, _ = fmt.Fprintf(conn, "%s\r\n", s) }
	say("220 tiny")
	inside := false
	for in.Scan() {
		line := in.Text()
		switch {
		case inside && line == ".":
			inside = false
			p.mu.Lock()
			hangUp := len(p.ids) <= p.hangUps
			p.mu.Unlock()
			if hangUp {
				return
			}
			say("250 taken")
		case inside:
			if id, ok := strings.CutPrefix(line, "Message-ID: "); ok {
				p.mu.Lock()
				p.ids = append(p.ids, id)
				p.mu.Unlock()
			}
		case line == "DATA":
			inside = true
			say("354 go on")
		case line == "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

func TestSMTPSendsAtLeastOnceWithOneMessageID(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		p := &post{hangUps: 2}
		cfg := quick()
		cfg.Sender, cfg.SMTP.Host, cfg.SMTP.Port, cfg.SMTP.TLS = "smtp", "127.0.0.1", p.start(t), "none"
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		h := open(t, func(d module.Deps) *module.Module { return New(d, cfg) })
		h.Deliver(t, ada())
		advance(h, func() bool { return counts(t, h)["welcome sent"] == 1 })
		if diff := cmp.Diff(counts(t, h), map[string]int64{"welcome sent": 1}); diff != "" {
			t.Error(diff)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.ids) != 3 || p.ids[0] != p.ids[1] || p.ids[1] != p.ids[2] {
			t.Errorf("got %q", p.ids)
		}
	})
}

func TestConcurrentErasureLeavesNothing(t *testing.T) {
	t.Parallel()
	moduletest.Each(t, func(t *testing.T, open moduletest.Opener) {
		h := open(t, usual)
		h.Deliver(t, ada())
		var all sync.WaitGroup
		var batch []message.Message
		for i := range 16 {
			batch = append(batch, h.Envelope(t, confirmed(fmt.Sprintf("o%d", i), "ada")))
		}
		batch = append(batch, h.Envelope(t, usersapi.UserErased{UserID: "ada"}))
		for _, m := range batch {
			all.Go(func() { h.DeliverMessage(t, m) })
		}
		all.Wait()
		h.Settle()
		if got := counts(t, h); len(got) != 0 || len(mails(t, h)) != 0 {
			t.Errorf("got %v and %d mails", got, len(mails(t, h)))
		}
	})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	smtp := func(change func(*Config)) func(*Config) {
		return func(c *Config) {
			c.Sender, c.SMTP.Host = "smtp", "mail.example.com"
			change(c)
		}
	}
	wrong := map[string]func(*Config){
		"sender":          func(c *Config) { c.Sender = "pigeon" },
		"from":            func(c *Config) { c.From = "nobody" },
		"language":        func(c *Config) { c.Language = "fr" },
		"invitation_link": func(c *Config) { c.InvitationLink = "http://localhost" },
		"smtp.host":       smtp(func(c *Config) { c.SMTP.Host = "" }),
		"smtp.port":       smtp(func(c *Config) { c.SMTP.Port = 0 }),
		"smtp.tls":        smtp(func(c *Config) { c.SMTP.TLS, c.SMTP.Username = "none", "ada" }),
		"smtp.timeout":    smtp(func(c *Config) { c.SMTP.Timeout = unit.EffectGrace }),
	}
	for key, change := range wrong {
		c := DefaultConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), "modules.notifications."+key+": ") {
			t.Errorf("%s: got %v", key, err)
		}
	}
	c := DefaultConfig()
	smtp(func(*Config) {})(&c)
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if err := usual(module.Deps{}).Check(); err != nil {
		t.Error(err)
	}
}
