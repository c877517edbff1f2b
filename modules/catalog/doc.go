// Package catalog is the bounded context of what the shop sells: products, their prices, categories.
//
// It owns products, named by their SKU, with the history of their prices; and the categories that they are in.
// A product is on sale until it is retired; it then stays readable and never comes back under its SKU.
//
//	(added) -> on_sale -> retired
//	             |  ^
//	             +--+  changed, repriced
//
// It announces product_added, product_changed, price_changed and product_retired, each with the product's version,
// and listens to nobody.
//
// Invariants: each change of a product makes its version grow by one and announces exactly one event, so that a
// listener sees the versions of a product without gaps; what changes nothing announces nothing. Every price is
// more than zero and in the shop's currency when it is set, and the history holds each price from the version on
// with which it came.
package catalog
