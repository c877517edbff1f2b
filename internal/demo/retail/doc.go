// Package retail reads Online Retail files and says what replaying them means: which customers, products, stock, orders
// and returns a shop must take, and with which figures it must end. It knows files and rules, and no shop.
//
// The rules, in the order in which they apply to each row:
//
//  1. no CustomerID: skipped, no_customer
//  2. InvoiceNo starts with neither a digit nor C: skipped, not_an_order
//  3. the price is UnitPrice in pence, rounded half to even; 0 or less: skipped, no_price
//  4. a digit is a sale and needs a Quantity above 0, C is a credit and needs one below 0; otherwise skipped, bad_quantity
//
// All sale rows of one InvoiceNo are an order: of the customer and at the time of its first row; rows of the same product
// and price are one line. Each credit row returns units: it walks the orders that its customer placed before it, newest
// first, and takes units of lines of the same product and price that are not returned yet. What finds no line was bought
// before the files begin: it is unmatched and moves no money. Stock begins with exactly what the files sell; what is
// returned goes back on the shelf.
//
// A row that cannot be read is an error, never skipped: a figure would be wrong without anybody noticing.
package retail
