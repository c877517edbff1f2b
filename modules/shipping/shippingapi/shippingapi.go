// Package shippingapi is what others may know of shipments.
package shippingapi

import (
	"time"

	"github.com/banyan-go/banyan/internal/message"
)

// Contract lists what shipping offers.
func Contract() message.Contract {
	return message.Contract{
		Module: "shipping",
		Events: []message.Event{ShipmentCreated{}, ShipmentDispatched{}, ShipmentDelivered{}, ShipmentCancelled{}},
	}
}

// ShipmentCreated: goods are to be packed for a confirmed order.
type ShipmentCreated struct {
	ShipmentID string    `json:"shipment_id"`
	OrderID    string    `json:"order_id"`
	CustomerID string    `json:"customer_id"`
	At         time.Time `json:"at"`
}

// ShipmentDispatched: the goods left; the order can no longer be cancelled, only returned.
type ShipmentDispatched struct {
	ShipmentID string    `json:"shipment_id"`
	OrderID    string    `json:"order_id"`
	CustomerID string    `json:"customer_id"`
	Carrier    string    `json:"carrier"`
	Tracking   string    `json:"tracking"`
	At         time.Time `json:"at"`
}

// ShipmentDelivered: the customer has the goods.
type ShipmentDelivered struct {
	ShipmentID string    `json:"shipment_id"`
	OrderID    string    `json:"order_id"`
	CustomerID string    `json:"customer_id"`
	At         time.Time `json:"at"`
}

// ShipmentCancelled: the order was cancelled before the goods left.
type ShipmentCancelled struct {
	ShipmentID string    `json:"shipment_id"`
	OrderID    string    `json:"order_id"`
	CustomerID string    `json:"customer_id"`
	At         time.Time `json:"at"`
}

func (ShipmentCreated) MessageName() string    { return "shipping.shipment_created.v1" }
func (ShipmentDispatched) MessageName() string { return "shipping.shipment_dispatched.v1" }
func (ShipmentDelivered) MessageName() string  { return "shipping.shipment_delivered.v1" }
func (ShipmentCancelled) MessageName() string  { return "shipping.shipment_cancelled.v1" }

func (e ShipmentCreated) MessageKey() string    { return e.OrderID }
func (e ShipmentDispatched) MessageKey() string { return e.OrderID }
func (e ShipmentDelivered) MessageKey() string  { return e.OrderID }
func (e ShipmentCancelled) MessageKey() string  { return e.OrderID }
