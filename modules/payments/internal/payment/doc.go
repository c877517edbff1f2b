// Package payment holds the rules of the money of one order, pure: given what is known, what follows from a
// command or from what the card provider said, as events.
//
//	           Charge                 captured
//	(nothing) ────────▶ pending ─────────────────▶ captured ◀─┐ Refund, its outcome
//	    │                  │ │  declined              │  └────┘
//	    │                  │ └──────────▶ declined    │
//	    │ Void        Void │                 │ Void   │ Void
//	    │                  ▼                 │        ▼
//	    │               voiding ◀────────────┼──── voiding (while money is still to go back)
//	    ▼                  │ all went back   ▼
//	 settled ◀─────────────┴──────────────────────────────────
//
//	           Refund             outcome
//	(nothing) ────────▶ pending ─────────▶ done
//	    │                  └─────────────▶ refused (the money stays with the payment)
//	    ├────────▶ covered (no money has to move)
//	    └────────▶ outside (staff gave it back in another way; the provider is not asked)
//
// A settled payment holds nothing of the customer and never will: a Charge after a Void does not begin.
// However commands and outcomes are ordered and repeated, a payment is captured at most once, never more goes
// back than was captured, and the entries of every transaction sum to zero.
package payment
