// Package stock holds the rules of stock and of reservations, pure: given what is on the shelf and what an order
// holds, what follows from a command.
//
//	            Reserve, enough                    Commit
//	(nothing) ──────────────────▶ held ───────────────────────────▶ committed
//	 │  │  ▲                       │ │                               │   ▲
//	 │  │  │ Reserve again         │ │ its time is over              │   │ Commit, still enough
//	 │  ▼  │                       │ └──────────▶ expired ───────────┼───┘
//	 │ refused                     │ Release        │ Release        │ Release
//	 │ Release                     ▼                ▼                ▼
//	 └───────────────────────▶ released ◀─────────────────────────────
//
// Of each product reserved is never less than zero and never more than what is on hand, and reserved is the sum of
// what held reservations hold. An order never brings more back than it took: units come back by returns
// (Restock), and a Release after the Commit brings back the rest.
package stock
