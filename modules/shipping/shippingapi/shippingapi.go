// Package shippingapi is what others may know of shipments: a command to stop one, and what became of them.
package shippingapi

import (
	"time"

	"github.com/banyan-go/banyan/internal/message"
)

// Contract lists what shipping offers.
func Contract() message.Contract {
	return message.Contract{
		Module:   "shipping",
		Events:   []message.Event{ShipmentCreated{}, ShipmentDispatched{}, ShipmentDelivered{}, ShipmentCancelled{}, CancellationRefused{}},
		Commands: []message.Command{CancelShipment{}},
	}
}

// CancelShipment stops the goods of an order for good, whether or not there is a shipment yet. Answered by ShipmentCancelled,
// or by CancellationRefused if they have left; ShipmentDispatched was announced before that, under the same key.
type CancelShipment struct {
	OrderID    string `json:"order_id"`
	CustomerID string `json:"customer_id"`
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

// ShipmentCancelled: the goods of the order have not left, and never will.
type ShipmentCancelled struct {
	ShipmentID string    `json:"shipment_id"`
	OrderID    string    `json:"order_id"`
	CustomerID string    `json:"customer_id"`
	At         time.Time `json:"at"`
}

// CancellationRefused: the goods of the order have left and were not stopped.
type CancellationRefused struct {
	ShipmentID string    `json:"shipment_id"`
	OrderID    string    `json:"order_id"`
	CustomerID string    `json:"customer_id"`
	At         time.Time `json:"at"`
}

func (CancelShipment) MessageName() string      { return "shipping.cancel_shipment.v1" }
func (ShipmentCreated) MessageName() string     { return "shipping.shipment_created.v1" }
func (ShipmentDispatched) MessageName() string  { return "shipping.shipment_dispatched.v1" }
func (ShipmentDelivered) MessageName() string   { return "shipping.shipment_delivered.v1" }
func (ShipmentCancelled) MessageName() string   { return "shipping.shipment_cancelled.v1" }
func (CancellationRefused) MessageName() string { return "shipping.cancellation_refused.v1" }

func (c CancelShipment) MessageKey() string      { return c.OrderID }
func (e ShipmentCreated) MessageKey() string     { return e.OrderID }
func (e ShipmentDispatched) MessageKey() string  { return e.OrderID }
func (e ShipmentDelivered) MessageKey() string   { return e.OrderID }
func (e ShipmentCancelled) MessageKey() string   { return e.OrderID }
func (e CancellationRefused) MessageKey() string { return e.OrderID }
