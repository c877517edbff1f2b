package notificationsapi_test

import (
	"testing"

	"github.com/banyan-go/banyan/internal/contracttest"
	"github.com/banyan-go/banyan/modules/notifications/notificationsapi"
)

func TestContract(t *testing.T) {
	t.Parallel()
	contracttest.Check(t, notificationsapi.Contract())
}
