package replay

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Limits of the shop.
const (
	productsAtOnce    = 500
	deliveryLines     = 1000
	deliverableAtMost = 1_000_000 // units on one line
	currency          = "GBP"
)

type price struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

type user struct {
	ID        string `json:"id"`
	Reference string `json:"reference"`
}

// enterCustomers makes sure that the shop knows every customer, and learns their ids.
func (r *replay) enterCustomers(ctx context.Context) error {
	r.progress.begin("customers", len(r.plan.Customers))
	var mu sync.Mutex
	group, inGroup := errgroup.WithContext(ctx)
	group.SetLimit(r.clients)
	for _, number := range r.plan.Customers {
		if inGroup.Err() != nil {
			break
		}
		group.Go(func() error {
			id, err := r.enterCustomer(inGroup, number)
			if err != nil {
				return fmt.Errorf("customer %s: %w", number, err)
			}
			mu.Lock()
			r.users[number] = id
			mu.Unlock()
			r.progress.add(1)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

func (r *replay) enterCustomer(ctx context.Context, number string) (string, error) {
	in := struct {
		Name      string `json:"name"`
		Reference string `json:"reference"`
	}{"Customer " + number, number}
	var u user
	err := r.client.post(ctx, "/api/users", key("customer", number), in, &u)
	if !refused(err, http.StatusConflict) {
		return u.ID, err
	}
	var found struct{ Items []user }
	if err := r.client.get(ctx, "/api/users?reference="+url.QueryEscape(number), &found); err != nil {
		return "", err
	}
	if len(found.Items) != 1 || found.Items[0].Reference != number {
		return "", err
	}
	return found.Items[0].ID, nil
}

// enterProducts puts every product on sale. A batch that is there already changes nothing.
func (r *replay) enterProducts(ctx context.Context) error {
	type product struct {
		SKU   string `json:"sku"`
		Name  string `json:"name"`
		Price price  `json:"price"`
	}
	r.progress.begin("products", len(r.plan.Products))
	n := 0
	for batch := range slices.Chunk(r.plan.Products, productsAtOnce) {
		in := struct {
			Products []product `json:"products"`
		}{}
		for _, p := range batch {
			in.Products = append(in.Products, product{p.Code, p.Name, price{p.Price, currency}})
		}
		n++
		if err := r.client.post(ctx, "/api/products/batch", key("products", r.plan.Fingerprint, strconv.Itoa(n)), in, nil); err != nil {
			return fmt.Errorf("products %d to %d: %w", (n-1)*productsAtOnce+1, (n-1)*productsAtOnce+len(batch), err)
		}
		r.progress.add(len(batch))
	}
	return nil
}

// deliverStock delivers exactly what the files sell. The reference of a delivery makes it count once, beyond its key.
func (r *replay) deliverStock(ctx context.Context) error {
	type line struct {
		SKU      string `json:"sku"`
		Quantity int64  `json:"quantity"`
	}
	var lines []line
	for _, p := range r.plan.Products {
		for left := p.Sold; left > 0; left -= deliverableAtMost {
			lines = append(lines, line{p.Code, min(left, deliverableAtMost)})
		}
	}
	r.progress.begin("stock", len(lines))
	n := 0
	for part := range slices.Chunk(lines, deliveryLines) {
		n++
		reference := key("delivery", r.plan.Fingerprint, strconv.Itoa(n))
		in := struct {
			Reference string `json:"reference"`
			Lines     []line `json:"lines"`
		}{reference, part}
		if err := r.client.post(ctx, "/api/inventory/deliveries", reference, in, nil); err != nil {
			return fmt.Errorf("delivery %d: %w", n, err)
		}
		r.progress.add(len(part))
	}
	return nil
}
