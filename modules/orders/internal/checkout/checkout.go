// Package checkout holds the rules of the checkout saga, pure: what it waits for, and what it does when an answer
// or a wish arrives. An answer that it does not wait for changes nothing, so late and repeated ones are harmless.
//
//	reserving --reserved--> charging --captured--> confirmed --expired--> unheld
//	    |                       |                   |    ^                  |
//	    | refused: rejected     | declined          |    | goods left       | cancel, expired
//	    | time-out, expired,    |    |       cancel |    |                  |
//	    | cancel                |    |  time-out,   +-> stopping <----------+
//	    |                       |    |  expired,           |
//	    |                       |    |  cancel             | goods stopped
//	    |                       +----|----> voiding <------+
//	    |                            |         | settled, refund refused
//	    +----------------------------+----> releasing --released--> rejected | cancelled
//
// The way back undoes what was begun, last step first: the payment (voiding), then the reservation (releasing). A
// step whose answer is out is begun: its undoing is asked for and answered whether or not there was anything to undo.
// Money that the card provider refuses to give back does not keep the units from the shelf: the order ends with a mark, and
// staff pay it back in another way.
//
// From its confirmation on an order may leave at any moment, and only shipping knows whether it has. So it is stopping first: shipping
// keeps the goods here, and from then on nothing turns the way back around; or they have left, and the order stays what it is.
//
// unheld is an order whose reservation ran out while its commit was on the way. The inventory then takes the units once
// more if they are still there, and says "expired" a second time if they are not; only then the order is lost.
package checkout

// State is what the saga waits for.
type State string

// The states. Nothing is waited for from Confirmed on; a confirmed order may still be called off until it leaves.
const (
	Reserving State = "reserving"
	Charging  State = "charging"
	Stopping  State = "stopping"
	Voiding   State = "voiding"
	Releasing State = "releasing"
	Confirmed State = "confirmed"
	Unheld    State = "unheld"
	Rejected  State = "rejected"
	Cancelled State = "cancelled"
)

// Goal is where the way back leads.
type Goal string

// The goals.
const (
	Forward  Goal = ""
	ToReject Goal = "reject"
	ToCancel Goal = "cancel"
)

// Input is an answer of another module, a time-out or somebody's wish.
type Input string

// The inputs.
const (
	StockReserved Input = "stock_reserved"
	StockRefused  Input = "stock_refused"
	StockExpired  Input = "stock_expired"
	StockReleased Input = "stock_released"
	Captured      Input = "payment_captured"
	Declined      Input = "payment_declined"
	Settled       Input = "payment_settled"
	RefundRefused Input = "refund_refused"
	GoodsStopped  Input = "goods_stopped"
	GoodsLeft     Input = "goods_left"
	TimeOut       Input = "time_out"
	Cancel        Input = "cancel"
)

// Action is something that the saga wants done, in the unit of work that keeps its new state.
type Action string

// The actions: commands to other modules, then what becomes of the order.
const (
	Charge  Action = "charge"
	Commit  Action = "commit_stock"
	Stop    Action = "stop_goods"
	Void    Action = "void_payment"
	Release Action = "release_stock"

	MarkReserved        Action = "mark_reserved"
	MarkConfirmed       Action = "mark_confirmed"
	MarkRejecting       Action = "mark_rejecting"
	MarkRejected        Action = "mark_rejected"
	MarkCancelRequested Action = "mark_cancel_requested"
	MarkCancelRefused   Action = "mark_cancel_refused"
	MarkCancelling      Action = "mark_cancelling"
	MarkPaymentSettled  Action = "mark_payment_settled"
	MarkRefundRefused   Action = "mark_refund_refused"
	MarkCancelled       Action = "mark_cancelled"
)

// Checkout is one saga.
type Checkout struct {
	State  State
	Goal   Goal
	Reason string // of a rejection or a cancellation
}

// Reasons that the saga itself gives.
const (
	reasonOutOfStock = "out_of_stock"
	reasonDeclined   = "payment_declined"
	reasonTimedOut   = "timed_out"
	reasonExpired    = "reservation_expired"
)

// On says what the saga is after an input and what is to be done. An input that it does not wait for changes nothing.
// fixed says that the goods have left or came back in part, so that nobody can call the order off; reason is why
// somebody does.
func (c Checkout) On(in Input, fixed bool, reason string) (Checkout, []Action) {
	switch c.State {
	case Reserving:
		switch in {
		case StockReserved:
			return Checkout{State: Charging}, []Action{MarkReserved, Charge}
		case StockRefused:
			return Checkout{State: Rejected, Goal: ToReject, Reason: reasonOutOfStock}, []Action{MarkRejected}
		case TimeOut, StockExpired:
			return Checkout{Releasing, ToReject, reasonTimedOut}, []Action{MarkRejecting, Release}
		case Cancel:
			return Checkout{Releasing, ToCancel, reason}, []Action{MarkCancelling, Release}
		}
	case Charging:
		switch in {
		case Captured:
			return Checkout{State: Confirmed}, []Action{MarkConfirmed, Commit}
		case Declined:
			return Checkout{Releasing, ToReject, reasonDeclined}, []Action{MarkRejecting, Release}
		case TimeOut, StockExpired:
			return Checkout{Voiding, ToReject, reasonTimedOut}, []Action{MarkRejecting, Void}
		case Cancel:
			return Checkout{Voiding, ToCancel, reason}, []Action{MarkCancelling, Void}
		}
	case Confirmed, Unheld:
		switch {
		case fixed:
		case in == Cancel:
			return Checkout{Stopping, ToCancel, reason}, []Action{MarkCancelRequested, Stop}
		case in == StockExpired && c.State == Confirmed:
			return Checkout{State: Unheld}, nil
		case in == StockExpired:
			return Checkout{Stopping, ToCancel, reasonExpired}, []Action{MarkCancelRequested, Stop}
		}
	case Stopping:
		switch in {
		case GoodsStopped:
			return Checkout{Voiding, c.Goal, c.Reason}, []Action{MarkCancelling, Void}
		case GoodsLeft:
			return Checkout{State: Confirmed}, []Action{MarkCancelRefused}
		}
	case Voiding:
		mark := MarkPaymentSettled
		if in == RefundRefused {
			mark = MarkRefundRefused
		} else if in != Settled {
			break
		}
		if fixed && c.Goal == ToCancel {
			// The goods left although shipping had stopped them: there is nothing to put on the shelf.
			return Checkout{Cancelled, c.Goal, c.Reason}, []Action{mark, MarkCancelled}
		}
		return Checkout{Releasing, c.Goal, c.Reason}, []Action{mark, Release}
	case Releasing:
		if in != StockReleased {
			break
		}
		if c.Goal == ToCancel {
			return Checkout{Cancelled, c.Goal, c.Reason}, []Action{MarkCancelled}
		}
		return Checkout{Rejected, c.Goal, c.Reason}, []Action{MarkRejected}
	}
	return c, nil
}

// Ended says whether the saga waits for nothing.
func (c Checkout) Ended() bool {
	switch c.State {
	case Confirmed, Unheld, Rejected, Cancelled:
		return true
	}
	return false
}
