// Package carts is the bounded context of what customers are about to buy.
//
// It owns one cart per customer, and its own copy of the catalog (name, price and state of each product) so that no
// cart waits for another context. The copy is fed by catalog.*; each row holds the product's version, and older news
// than that is ignored. A product that was announced before the copy existed is asked for once, when a customer wants it.
//
// It announces cart_checked_out and listens to the catalog (the copy), to orders.order_placed (what was ordered leaves
// the cart) and to users.user_erased (the cart goes).
//
// Invariants: a cart has at most 300 lines of 1 to 10000 units, one per product, all prices shown in one currency. A
// line keeps the price that the customer was shown; when the product costs something else, or is no longer sold, the
// cart has a problem until the customer accepts the price or removes the line, and orders refuse it. The version grows
// with each change and is never used twice for a customer: an order names it, so that a cart is ordered once. What a
// customer adds while an order is on its way stays in the cart.
//
// A cart that nobody touches for 90 days (expire_after) is emptied.
package carts
