package catalog

import (
	"time"

	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
	"github.com/banyan-go/banyan/modules/catalog/internal/product"
)

func added(p product.Product, at time.Time) catalogapi.ProductAdded {
	return catalogapi.ProductAdded{SKU: p.SKU, Name: p.Name, Price: p.Price, Version: p.Version, At: at}
}

func changed(p product.Product, at time.Time) catalogapi.ProductChanged {
	return catalogapi.ProductChanged{SKU: p.SKU, Name: p.Name, Version: p.Version, At: at}
}

func repriced(before, after product.Product, at time.Time) catalogapi.PriceChanged {
	return catalogapi.PriceChanged{SKU: after.SKU, Old: before.Price, New: after.Price, Version: after.Version, At: at}
}

func retired(p product.Product, at time.Time) catalogapi.ProductRetired {
	return catalogapi.ProductRetired{SKU: p.SKU, Version: p.Version, At: at}
}

// summary is the product as other contexts see it.
func summary(p product.Product) catalogapi.Product {
	return catalogapi.Product{SKU: p.SKU, Name: p.Name, Price: p.Price, OnSale: p.State == product.OnSale, Version: p.Version}
}
