// Package shipment holds the rules of the shipment of one order, pure.
//
//	 order confirmed            Dispatch              Deliver
//	─────────────────▶ pending ──────────▶ dispatched ───────▶ delivered
//	                     │                   │                   │   ▲
//	                     │ Stop,             │ order cancelled   │   │ Deliver, if it
//	                     │ order cancelled   │ without asking    │   │ could not be stopped
//	                     ▼                   ▼                   │   │
//	                 cancelled           intercept ◀─────────────┘   │
//	                                         └───────────────────────┘
//
// Stop is refused once the goods have left. A cancellation that comes before anything is to be shipped makes a void
// shipment, which stays void.
package shipment
