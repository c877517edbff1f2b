package catalogapi_test

import (
	"testing"

	"github.com/banyan-go/banyan/internal/contracttest"
	"github.com/banyan-go/banyan/modules/catalog/catalogapi"
)

func TestContract(t *testing.T) {
	t.Parallel()
	contracttest.Check(t, catalogapi.Contract())
}
