// Package order holds the rules of an order, pure: commands look at what an order is and answer with the events
// that follow, Apply tells what it is after an event. No clock, no store, no other module.
package order
