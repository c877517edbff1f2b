package ordersapi_test

import (
	"testing"

	"github.com/banyan-go/banyan/internal/contracttest"
	"github.com/banyan-go/banyan/modules/orders/ordersapi"
)

func TestContract(t *testing.T) {
	t.Parallel()
	contracttest.Check(t, ordersapi.Contract())
}
