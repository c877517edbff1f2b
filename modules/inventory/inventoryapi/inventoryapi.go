// Package inventoryapi is what others may know of the inventory: commands on reservations, and what became of them.
package inventoryapi

import (
	"time"

	"github.com/banyan-go/banyan/internal/message"
)

// Contract lists what the inventory offers.
func Contract() message.Contract {
	return message.Contract{
		Module:   "inventory",
		Events:   []message.Event{StockReserved{}, ReservationRefused{}, ReservationReleased{}, ReservationExpired{}, StockReturned{}, StockLevelChanged{}},
		Commands: []message.Command{Reserve{}, Commit{}, Release{}, Restock{}},
	}
}

// Line is a number of units of a product.
type Line struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

// Reserve sets units aside for an order until ExpiresAt, all lines or none. Answered by StockReserved or
// ReservationRefused. A SKU may stand on several lines. A Reserve after a Release of the same order is refused.
type Reserve struct {
	OrderID   string    `json:"order_id"`
	Lines     []Line    `json:"lines"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Commit makes a reservation final: it no longer expires, the units are sold. No answer.
type Commit struct {
	OrderID string `json:"order_id"`
}

// Release gives the units of a reservation back, committed or not. Answered by ReservationReleased, also when
// there was nothing to release.
type Release struct {
	OrderID string `json:"order_id"`
	Reason  string `json:"reason"`
}

// Restock puts returned units back on the shelf. Answered by StockReturned. ReturnID makes it happen once.
type Restock struct {
	OrderID  string `json:"order_id"`
	ReturnID string `json:"return_id"`
	Lines    []Line `json:"lines"`
}

// StockReserved: the units are set aside.
type StockReserved struct {
	OrderID   string    `json:"order_id"`
	ExpiresAt time.Time `json:"expires_at"`
	At        time.Time `json:"at"`
}

// ReservationRefused: there is not enough; nothing is set aside.
type ReservationRefused struct {
	OrderID string    `json:"order_id"`
	Short   []Line    `json:"short"`  // what is missing, units by SKU
	Reason  string    `json:"reason"` // out_of_stock, unknown_product, released
	At      time.Time `json:"at"`
}

// ReservationReleased: the units are on the shelf again.
type ReservationReleased struct {
	OrderID string    `json:"order_id"`
	At      time.Time `json:"at"`
}

// ReservationExpired: nobody committed it in time; the units are on the shelf again.
type ReservationExpired struct {
	OrderID string    `json:"order_id"`
	At      time.Time `json:"at"`
}

// StockReturned: returned units are on the shelf.
type StockReturned struct {
	OrderID  string    `json:"order_id"`
	ReturnID string    `json:"return_id"`
	At       time.Time `json:"at"`
}

// StockLevelChanged: a product went below its low mark or came back above it.
type StockLevelChanged struct {
	SKU       string    `json:"sku"`
	Available int64     `json:"available"`
	Low       bool      `json:"low"`
	At        time.Time `json:"at"`
}

func (Reserve) MessageName() string             { return "inventory.reserve.v1" }
func (Commit) MessageName() string              { return "inventory.commit.v1" }
func (Release) MessageName() string             { return "inventory.release.v1" }
func (Restock) MessageName() string             { return "inventory.restock.v1" }
func (StockReserved) MessageName() string       { return "inventory.stock_reserved.v1" }
func (ReservationRefused) MessageName() string  { return "inventory.reservation_refused.v1" }
func (ReservationReleased) MessageName() string { return "inventory.reservation_released.v1" }
func (ReservationExpired) MessageName() string  { return "inventory.reservation_expired.v1" }
func (StockReturned) MessageName() string       { return "inventory.stock_returned.v1" }
func (StockLevelChanged) MessageName() string   { return "inventory.stock_level_changed.v1" }

func (c Reserve) MessageKey() string             { return c.OrderID }
func (c Commit) MessageKey() string              { return c.OrderID }
func (c Release) MessageKey() string             { return c.OrderID }
func (c Restock) MessageKey() string             { return c.OrderID }
func (e StockReserved) MessageKey() string       { return e.OrderID }
func (e ReservationRefused) MessageKey() string  { return e.OrderID }
func (e ReservationReleased) MessageKey() string { return e.OrderID }
func (e ReservationExpired) MessageKey() string  { return e.OrderID }
func (e StockReturned) MessageKey() string       { return e.OrderID }
func (e StockLevelChanged) MessageKey() string   { return e.SKU }
