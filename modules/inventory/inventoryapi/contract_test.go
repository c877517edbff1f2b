package inventoryapi_test

import (
	"testing"

	"github.com/banyan-go/banyan/internal/contracttest"
	"github.com/banyan-go/banyan/modules/inventory/inventoryapi"
)

func TestContract(t *testing.T) {
	t.Parallel()
	contracttest.Check(t, inventoryapi.Contract())
}
