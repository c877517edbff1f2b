package catalog

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/banyan-go/banyan/internal/errs"
	"github.com/banyan-go/banyan/internal/money"
	"github.com/banyan-go/banyan/internal/rest"
	"github.com/banyan-go/banyan/internal/unit"
	"github.com/banyan-go/banyan/modules/catalog/internal/product"
)

// productBody is a product as clients see it.
type productBody struct {
	SKU         string      `json:"sku"`
	Name        string      `json:"name"`
	Description string      `json:"description"`
	Categories  []string    `json:"categories"`
	Price       money.Money `json:"price"`
	State       string      `json:"state" enum:"on_sale,retired"`
	Version     int64       `json:"version" doc:"Grows by one with each change; the ETag"`
}

// Location is the product's path.
func (b productBody) Location() string { return "/api/products/" + url.PathEscape(b.SKU) }

func encode(p product.Product) productBody {
	categories := p.Categories
	if categories == nil {
		categories = []string{}
	}
	return productBody{
		SKU: p.SKU, Name: p.Name, Description: p.Description, Categories: categories, Price: p.Price,
		State: string(p.State), Version: p.Version,
	}
}

type productPriceBody struct {
	Amount   int64  `json:"amount" minimum:"1" maximum:"100000000000" doc:"Minor units, as in 255 for 2.55"`
	Currency string `json:"currency,omitempty" pattern:"^[A-Z]{3}$" maxLength:"3" doc:"The shop's, which is also meant without one" example:"GBP"`
}

func (b productPriceBody) money() money.Money { return money.Of(b.Amount, b.Currency) }

type productDraftBody struct {
	SKU         string           `json:"sku" minLength:"1" maxLength:"64" pattern:"^[A-Za-z0-9]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9_-])?$" example:"85123A"`
	Name        string           `json:"name" minLength:"1" maxLength:"200"`
	Description string           `json:"description,omitempty" maxLength:"4000"`
	Categories  []string         `json:"categories,omitempty" maxItems:"20" doc:"Short names"`
	Price       productPriceBody `json:"price"`
}

func (b productDraftBody) draft() product.Product {
	return product.Product{SKU: b.SKU, Name: b.Name, Description: b.Description, Categories: b.Categories, Price: b.Price.money()}
}

type addProductInput struct{ Body productDraftBody }

func (c *catalog) add(ctx context.Context, in *addProductInput) (*rest.Answer[productBody], error) {
	draft, err := product.New(in.Body.draft(), c.currency)
	if err != nil {
		return nil, err
	}
	return rest.Commit(ctx, c.store, func(_ context.Context, w *unit.Work) (productBody, error) {
		p, err := addOne(w, draft)
		return encode(p), err
	})
}

type addProductsInput struct {
	Body struct {
		Products []productDraftBody `json:"products" minItems:"1" maxItems:"500"`
	}
}

type productBatchBody struct {
	Added     []string `json:"added" doc:"SKUs put on sale"`
	Unchanged []string `json:"unchanged" doc:"SKUs that were on sale exactly so"`
}

func (c *catalog) addBatch(ctx context.Context, in *addProductsInput) (*rest.Answer[productBatchBody], error) {
	drafts := make([]product.Product, len(in.Body.Products))
	for i, b := range in.Body.Products {
		draft, err := product.New(b.draft(), c.currency)
		if err != nil {
			return nil, errs.New(errs.Invalid, "a product of the batch is not valid; none is added").With(place(i), "%s", err.Error())
		}
		drafts[i] = draft
	}
	return rest.Commit(ctx, c.store, func(_ context.Context, w *unit.Work) (productBatchBody, error) {
		return addMany(w, drafts)
	})
}

func place(i int) string { return "body.products[" + strconv.Itoa(i) + "]" }

// ProductPath names a product that is to change. It is exported because huma passes over embedded structs that are not.
type ProductPath struct {
	SKU     string `path:"sku" minLength:"1" maxLength:"192" doc:"SKU, URL-encoded"`
	IfMatch string `header:"If-Match" maxLength:"200" doc:"ETag of the product: refuse to change any other version"`
}

type changeProductInput struct {
	ProductPath
	Body struct {
		Name        *string  `json:"name,omitempty" minLength:"1" maxLength:"200"`
		Description *string  `json:"description,omitempty" maxLength:"4000"`
		Categories  []string `json:"categories,omitempty" maxItems:"20" doc:"Short names of all categories; an empty list takes the product out of all"`
	}
}

func (c *catalog) change(ctx context.Context, in *changeProductInput) (*rest.Answer[productBody], error) {
	change := product.Change{Name: in.Body.Name, Description: in.Body.Description}
	if in.Body.Categories != nil {
		change.Categories = &in.Body.Categories
	}
	return c.update(ctx, in.ProductPath, func(w *unit.Work, before product.Product) (product.Product, error) {
		return changeOne(w, before, change)
	})
}

type repriceProductInput struct {
	ProductPath
	Body struct {
		Price productPriceBody `json:"price"`
	}
}

func (c *catalog) reprice(ctx context.Context, in *repriceProductInput) (*rest.Answer[productBody], error) {
	return c.update(ctx, in.ProductPath, func(w *unit.Work, before product.Product) (product.Product, error) {
		return repriceOne(w, before, in.Body.Price.money(), c.currency)
	})
}

func (c *catalog) retire(ctx context.Context, in *ProductPath) (*rest.Answer[productBody], error) {
	return c.update(ctx, *in, retireOne)
}

// update runs one change of a product: it locks the product and checks the version that the client has seen.
func (c *catalog) update(ctx context.Context, in ProductPath, fn func(w *unit.Work, before product.Product) (product.Product, error)) (*rest.Answer[productBody], error) {
	sku, err := product.ParseSKU(in.SKU)
	if err != nil {
		return nil, noSuch()
	}
	return rest.Commit(ctx, c.store, func(_ context.Context, w *unit.Work) (productBody, error) {
		before, err := lock(w.DB, sku)
		if err != nil {
			return productBody{}, err
		}
		if in.IfMatch != "" && !names(in.IfMatch, before.Version) {
			return productBody{}, errs.New(errs.Conflict, "product %s is at version %d by now", sku, before.Version)
		}
		after, err := fn(w, before)
		return encode(after), err
	})
}

type getProductInput struct {
	SKU         string `path:"sku" minLength:"1" maxLength:"192" doc:"SKU, URL-encoded"`
	IfNoneMatch string `header:"If-None-Match" maxLength:"200" doc:"ETag that the client has: 304 while it is the current one"`
}

type getProductOutput struct {
	Status       int
	ETag         string `header:"ETag"`
	CacheControl string `header:"Cache-Control"`
	Body         productBody
}

// public is for answers that are the same for everybody. A gateway keeps them, and forgets them when the catalog changes; one that
// does not hear of it shows the old ones for these seconds. Browsers ask each time.
const public = "public, max-age=0, s-maxage=10"

// publicList is a list that may be kept.
type publicList[T any] struct {
	CacheControl string `header:"Cache-Control"`
	Body         rest.List[T]
}

func (c *catalog) get(ctx context.Context, in *getProductInput) (*getProductOutput, error) {
	sku, err := product.ParseSKU(in.SKU)
	if err != nil {
		return nil, noSuch()
	}
	p, err := find(c.store.Read(ctx), sku)
	if err != nil {
		return nil, err
	}
	out := &getProductOutput{Status: http.StatusOK, ETag: `"` + strconv.FormatInt(p.Version, 10) + `"`, CacheControl: public, Body: encode(p)}
	if in.IfNoneMatch != "" && names(in.IfNoneMatch, p.Version) {
		out.Status = http.StatusNotModified
	}
	return out, nil
}

// names says whether a list of entity tags holds the version.
func names(tags string, version int64) bool {
	want := strconv.FormatInt(version, 10)
	return slices.ContainsFunc(strings.Split(tags, ","), func(tag string) bool {
		tag = strings.TrimSpace(tag)
		return tag == "*" || strings.Trim(strings.TrimPrefix(tag, "W/"), `"`) == want
	})
}

type listProductsInput struct {
	rest.Page
	Q        string `query:"q" maxLength:"100" doc:"Words that name or SKU must hold"`
	Category string `query:"category" maxLength:"64" doc:"Short name of a category"`
	MinPrice int64  `query:"min_price" minimum:"0" maximum:"100000000000" doc:"Minor units"`
	MaxPrice int64  `query:"max_price" minimum:"0" maximum:"100000000000" doc:"Minor units; 0 is no limit"`
	State    string `query:"state" enum:"on_sale,retired,all" default:"on_sale"`
	Sort     string `query:"sort" enum:"sku,name,price" default:"sku"`
}

func (c *catalog) list(ctx context.Context, in *listProductsInput) (*publicList[productBody], error) {
	patterns, err := product.Patterns(in.Q)
	if err != nil {
		return nil, err
	}
	category := ""
	if in.Category != "" {
		if category, err = product.ParseSlug(in.Category); err != nil {
			return nil, err
		}
	}
	after, err := decodeCursor(in.Sort, in.Cursor)
	if err != nil {
		return nil, err
	}
	list, err := search(c.store.Read(ctx), query{
		patterns: patterns, category: category, minPrice: in.MinPrice, maxPrice: in.MaxPrice, state: in.State,
		sort: in.Sort, after: after, limit: in.Limit,
	})
	if err != nil {
		return nil, err
	}
	return &publicList[productBody]{CacheControl: public, Body: list}, nil
}

type listPricesInput struct {
	rest.Page
	SKU string `path:"sku" minLength:"1" maxLength:"192" doc:"SKU, URL-encoded"`
}

type pastProductPriceBody struct {
	Price   money.Money `json:"price"`
	Version int64       `json:"version" doc:"Of the product, from which on the price holds"`
	From    time.Time   `json:"from"`
}

func (c *catalog) prices(ctx context.Context, in *listPricesInput) (*rest.Answer[rest.List[pastProductPriceBody]], error) {
	sku, err := product.ParseSKU(in.SKU)
	if err != nil {
		return nil, noSuch()
	}
	below := int64(0)
	if in.Cursor != "" {
		if below, err = strconv.ParseInt(in.Cursor, 10, 64); err != nil || below < 1 {
			return nil, rest.BadCursor()
		}
	}
	list, err := pastPrices(c.store.Read(ctx), sku, below, in.Limit)
	if err != nil {
		return nil, err
	}
	return rest.Reply(list), nil
}

type productReportBody struct {
	Products int64 `json:"products"`
	OnSale   int64 `json:"on_sale"`
	Retired  int64 `json:"retired"`
}

func (c *catalog) report(ctx context.Context, _ *struct{}) (*rest.Answer[productReportBody], error) {
	body, err := count(c.store.Read(ctx))
	if err != nil {
		return nil, err
	}
	return rest.Reply(body), nil
}

type categoryBody struct {
	Slug string `json:"slug" minLength:"1" maxLength:"64" pattern:"^[a-z0-9][a-z0-9-]{0,63}$" doc:"Short name, as in garden-lights"`
	Name string `json:"name" minLength:"1" maxLength:"200"`
}

func (c *catalog) listCategories(ctx context.Context, in *rest.Page) (*publicList[categoryBody], error) {
	if in.Cursor != "" {
		if _, err := product.ParseSlug(in.Cursor); err != nil {
			return nil, rest.BadCursor()
		}
	}
	list, err := categories(c.store.Read(ctx), in.Cursor, in.Limit)
	if err != nil {
		return nil, err
	}
	return &publicList[categoryBody]{CacheControl: public, Body: list}, nil
}

type addCategoryInput struct{ Body categoryBody }

func (c *catalog) addCategory(ctx context.Context, in *addCategoryInput) (*rest.Answer[categoryBody], error) {
	slug, err := product.ParseSlug(in.Body.Slug)
	if err != nil {
		return nil, err
	}
	name, err := product.CleanName(in.Body.Name)
	if err != nil {
		return nil, err
	}
	return rest.Commit(ctx, c.store, func(_ context.Context, w *unit.Work) (categoryBody, error) {
		return categoryBody{Slug: slug, Name: name}, insertCategory(w, slug, name)
	})
}

func noSuch() error { return errs.New(errs.NotFound, "no such product") }
