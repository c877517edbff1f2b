// Package shipment holds the rules of the shipment of one order, pure.
//
//	 order confirmed            Dispatch              Deliver
//	─────────────────▶ pending ──────────▶ dispatched ───────▶ delivered
//	                     │                   │                   │   ▲
//	                     │ order cancelled   │ order cancelled   │   │ Deliver, if it
//	                     ▼                   ▼                   │   │ could not be stopped
//	                 cancelled           intercept ◀─────────────┘   │
//	                                         └───────────────────────┘
//
// A cancellation that comes before anything is to be shipped makes a void shipment, which stays void.
package shipment
