package paymentsapi_test

import (
	"testing"

	"github.com/banyan-go/banyan/internal/contracttest"
	"github.com/banyan-go/banyan/modules/payments/paymentsapi"
)

func TestContract(t *testing.T) {
	t.Parallel()
	contracttest.Check(t, paymentsapi.Contract())
}
