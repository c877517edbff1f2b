package retail

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"strings"
	"time"
	"unicode"
)

// Reasons to skip a row.
const (
	noCustomer  = "no_customer"
	notAnOrder  = "not_an_order"
	noPrice     = "no_price"
	badQuantity = "bad_quantity"
)

// maxName is how many characters of a description name a product.
const maxName = 200

// Plan is what a shop has to take, in the order of the files.
type Plan struct {
	Customers []string // their numbers
	Products  []Product
	Orders    []*Order
	Steps     []Step // orders and returns, one after another
	// Fingerprint is a sum over the content of the files: the same files in the same order, compressed or not, have the same.
	Fingerprint string

	rows      int64
	skipped   map[string]int64
	unmatched figures
}

// Product is something that the files sell or take back.
type Product struct {
	Code  string
	Name  string
	Price int64 // pence; the first one seen
	Sold  int64 // units, over all orders
}

// Line is a number of units of a product at a price.
type Line struct {
	Code     string
	Price    int64 // pence, of one unit
	Quantity int64
}

// Order is one invoice.
type Order struct {
	Index    int // in Plan.Orders
	Invoice  string
	Customer string
	Time     time.Time
	Lines    []Line

	returned []int64 // units of each line
}

// Return is what one credit takes back of one order.
type Return struct {
	Credit string // its invoice number
	Order  *Order
	Lines  []Line
}

// Step is an order or a return. Those of one customer must be taken one after another.
type Step struct {
	Customer string
	Order    *Order  // or nil
	Return   *Return // or nil
}

type figures struct{ units, pence int64 }

// Load reads files in the order given, which must be that of their dates.
func Load(files []string) (*Plan, error) {
	if len(files) == 0 {
		return nil, errors.New("no file is given; name at least one Online Retail file, as in 2010-12.csv.gz")
	}
	b := newBuilder()
	for _, name := range files {
		if err := b.addFile(name); err != nil {
			return nil, err
		}
	}
	return b.plan()
}

type lineKey struct {
	order *Order
	code  string
	price int64
}

type returnKey struct {
	credit string
	order  *Order
}

// builder turns rows into a plan.
type builder struct {
	p          Plan
	sum        hash.Hash
	products   map[string]int // into p.Products
	named      map[string]bool
	customers  map[string]string
	orders     map[string]*Order
	byCustomer map[string][]*Order
	lines      map[lineKey]int // into Order.Lines
	returns    map[returnKey]*Return
	backLines  map[*Return]map[Line]int // by code and price, into Return.Lines
	paid       int64
}

func newBuilder() *builder {
	return &builder{
		p: Plan{skipped: map[string]int64{}}, sum: sha256.New(), products: map[string]int{}, named: map[string]bool{},
		customers: map[string]string{}, orders: map[string]*Order{}, byCustomer: map[string][]*Order{}, lines: map[lineKey]int{},
		returns: map[returnKey]*Return{}, backLines: map[*Return]map[Line]int{},
	}
}

func (b *builder) addFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return b.add(name, f)
}

func (b *builder) add(name string, r io.Reader) error {
	return read(name, r, b.row)
}

func (b *builder) plan() (*Plan, error) {
	if len(b.p.Orders) == 0 {
		return nil, errors.New("the files hold no order of any customer")
	}
	for i := range b.p.Products {
		if p := &b.p.Products[i]; p.Name == "" {
			p.Name = p.Code
		}
	}
	b.p.Fingerprint = hex.EncodeToString(b.sum.Sum(nil))
	return &b.p, nil
}

func (b *builder) skip(reason string) error {
	b.p.skipped[reason]++
	return nil
}

func (b *builder) row(r row) error {
	b.p.rows++
	for _, field := range []string{r.invoice, r.code, r.description, r.quantity, r.date, r.price, r.customer} {
		_, _ = io.WriteString(b.sum, field)
		_, _ = b.sum.Write([]byte{0})
	}
	if r.customer == "" {
		return b.skip(noCustomer)
	}
	if r.invoice == "" {
		return errors.New("InvoiceNo is empty")
	}
	credit := r.invoice[0] == 'C'
	if !credit && (r.invoice[0] < '0' || r.invoice[0] > '9') {
		return b.skip(notAnOrder)
	}
	price, err := parsePence(r.price)
	if err != nil {
		return err
	}
	if price <= 0 {
		return b.skip(noPrice)
	}
	quantity, err := parseQuantity(r.quantity)
	if err != nil {
		return err
	}
	if (credit && quantity >= 0) || (!credit && quantity <= 0) {
		return b.skip(badQuantity)
	}
	customer, err := b.customer(r.customer)
	if err != nil {
		return err
	}
	if r.code == "" {
		return errors.New("StockCode is empty")
	}
	product := b.product(r, price)
	if credit {
		return b.credit(r.invoice, customer, product.Code, price, -quantity)
	}
	return b.sale(r, customer, product, price, quantity)
}

// customer is the number of a customer, kept once.
func (b *builder) customer(text string) (string, error) {
	if known, ok := b.customers[text]; ok {
		return known, nil
	}
	number, err := parseCustomer(text)
	if err != nil {
		return "", err
	}
	known, ok := b.customers[number]
	if !ok {
		known = number
		b.customers[number] = number
		b.p.Customers = append(b.p.Customers, number)
	}
	b.customers[strings.Clone(text)] = known
	return known, nil
}

// product is the product of a row; its price is the first one seen, its name the first description.
func (b *builder) product(r row, price int64) *Product {
	i, ok := b.products[r.code]
	if !ok {
		i = len(b.p.Products)
		code := strings.Clone(r.code)
		b.p.Products = append(b.p.Products, Product{Code: code, Price: price})
		b.products[code] = i
	}
	p := &b.p.Products[i]
	if p.Name == "" {
		p.Name = productName(r.description)
	}
	return p
}

// productName is a description as a shop takes it: without control characters and not too long.
func productName(description string) string {
	name := strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(description, "\ufffd"))
	runes := []rune(strings.TrimSpace(name))
	return strings.TrimSpace(string(runes[:min(len(runes), maxName)]))
}

func (b *builder) sale(r row, customer string, product *Product, price, quantity int64) error {
	o := b.orders[r.invoice]
	if o == nil {
		at, err := parseTime(r.date)
		if err != nil {
			return err
		}
		o = &Order{Index: len(b.p.Orders), Invoice: strings.Clone(r.invoice), Customer: customer, Time: at}
		b.orders[o.Invoice] = o
		b.p.Orders = append(b.p.Orders, o)
		b.byCustomer[customer] = append(b.byCustomer[customer], o)
		b.p.Steps = append(b.p.Steps, Step{Customer: customer, Order: o})
	}
	amount := quantity * price
	if b.paid > math.MaxInt64-amount {
		return errors.New("the amounts of the files are too large to be added up")
	}
	b.paid += amount
	product.Sold += quantity
	key := lineKey{o, product.Code, price}
	i, ok := b.lines[key]
	if !ok {
		i = len(o.Lines)
		b.lines[key] = i
		o.Lines = append(o.Lines, Line{Code: product.Code, Price: price})
		o.returned = append(o.returned, 0)
	}
	o.Lines[i].Quantity += quantity
	return nil
}

func (b *builder) credit(invoice, customer, code string, price, left int64) error {
	own := b.byCustomer[customer]
	for n := len(own) - 1; n >= 0 && left > 0; n-- {
		o := own[n]
		i, ok := b.lines[lineKey{o, code, price}]
		if !ok || o.returned[i] == o.Lines[i].Quantity {
			continue
		}
		take := min(left, o.Lines[i].Quantity-o.returned[i])
		o.returned[i] += take
		left -= take
		b.takeBack(invoice, customer, o, Line{Code: code, Price: price, Quantity: take})
	}
	if b.p.unmatched.pence > math.MaxInt64-left*price {
		return errors.New("the amounts of the files are too large to be added up")
	}
	b.p.unmatched.units += left
	b.p.unmatched.pence += left * price
	return nil
}

// takeBack adds a line to the return of a credit against an order. The return is a step where its first line stands:
// the order comes before it, and has all of its lines when it is placed.
func (b *builder) takeBack(invoice, customer string, o *Order, l Line) {
	r := b.returns[returnKey{invoice, o}]
	if r == nil {
		r = &Return{Credit: strings.Clone(invoice), Order: o}
		b.returns[returnKey{r.Credit, o}] = r
		b.backLines[r] = map[Line]int{}
		b.p.Steps = append(b.p.Steps, Step{Customer: customer, Return: r})
	}
	key := Line{Code: l.Code, Price: l.Price}
	i, ok := b.backLines[r][key]
	if !ok {
		b.backLines[r][key] = len(r.Lines)
		r.Lines = append(r.Lines, l)
		return
	}
	r.Lines[i].Quantity += l.Quantity
}

// String says what there is to do.
func (p *Plan) String() string {
	return fmt.Sprintf("%d rows: %d customers, %d products, %d orders, %d returns",
		p.rows, len(p.Customers), len(p.Products), len(p.Orders), len(p.Steps)-len(p.Orders))
}
