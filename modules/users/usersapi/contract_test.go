package usersapi_test

import (
	"testing"

	"github.com/banyan-go/banyan/internal/contracttest"
	"github.com/banyan-go/banyan/modules/users/usersapi"
)

func TestContract(t *testing.T) {
	t.Parallel()
	contracttest.Check(t, usersapi.Contract())
}
