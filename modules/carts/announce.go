package carts

import (
	"time"

	"github.com/banyan-go/banyan/modules/carts/cartsapi"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
)

func checkedOut(e ordersapi.OrderPlaced, at time.Time) cartsapi.CartCheckedOut {
	return cartsapi.CartCheckedOut{CustomerID: e.CustomerID, OrderID: e.OrderID, At: at}
}
