package cartsapi_test

import (
	"testing"

	"github.com/banyan-go/banyan/internal/contracttest"
	"github.com/banyan-go/banyan/modules/carts/cartsapi"
)

func TestContract(t *testing.T) {
	t.Parallel()
	contracttest.Check(t, cartsapi.Contract())
}
