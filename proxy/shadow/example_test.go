package shadow_test

import (
	"fmt"
	"net/http"

	"github.com/banyan-go/banyan/proxy/shadow"
)

func ExampleDiffer_Diff() {
	d, err := shadow.NewDiffer([]shadow.Rule{
		{Path: "$.request_id", Ignore: true},
		{Path: "$.placed_at", Format: shadow.Time},
		{Path: "$.lines", UnorderedBy: "sku"},
	}, []string{"Content-Type"}, 256<<10)
	if err != nil {
		fmt.Println(err)
		return
	}
	answer := func(body string) shadow.Answer {
		return shadow.Answer{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(body)}
	}
	local := answer(`{"request_id":1,"placed_at":"2026-01-01T12:00:00Z","lines":[{"sku":"a","price":100},{"sku":"b","price":250}]}`)
	remote := answer(`{"request_id":2,"placed_at":"2026-01-01T12:00:01Z","lines":[{"sku":"b","price":249},{"sku":"a","price":100.0}]}`)
	for _, difference := range d.Diff(local, remote) {
		fmt.Println(difference.Path, difference.Local, difference.Remote)
	}
	// Output: $.lines[*].price 250 249
}
