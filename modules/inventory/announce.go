package inventory

import (
	"time"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/inventory/internal/stock"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
)

// answer tells the order what became of its command. Restock answers for itself: its answer names the return.
func answer(w *unit.Work, row reservationRow, d stock.Decision) {
	var e message.Event
	switch d.Answer {
	case stock.SayReserved:
		e = inventoryapi.StockReserved{OrderID: row.OrderID, ExpiresAt: row.ExpiresAt, At: w.Now()}
	case stock.SayRefused:
		e = inventoryapi.ReservationRefused{OrderID: row.OrderID, Short: announced(d.Short), Reason: d.Reason, At: w.Now()}
	case stock.SayReleased:
		e = inventoryapi.ReservationReleased{OrderID: row.OrderID, At: w.Now()}
	case stock.SayExpired:
		e = inventoryapi.ReservationExpired{OrderID: row.OrderID, At: w.Now()}
	default:
		return
	}
	w.Publish(e)
}

func announced(lines []stock.Line) []inventoryapi.Line {
	out := make([]inventoryapi.Line, len(lines))
	for i, l := range lines {
		out[i] = inventoryapi.Line(l)
	}
	return out
}

func levelChanged(c stock.Crossing, at time.Time) inventoryapi.StockLevelChanged {
	return inventoryapi.StockLevelChanged{SKU: c.SKU, Available: c.Available, Low: c.Low, At: at}
}
