package shippingapi_test

import (
	"testing"

	"github.com/banyan-go/banyan/internal/contracttest"
	"github.com/banyan-go/banyan/modules/shipping/shippingapi"
)

func TestContract(t *testing.T) {
	t.Parallel()
	contracttest.Check(t, shippingapi.Contract())
}
