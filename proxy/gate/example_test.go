package gate_test

import (
	"fmt"
	"sync"
	"time"

	"github.com/banyan-go/banyan/internal/clock"
	"github.com/banyan-go/banyan/proxy/gate"
)

// A module is in canary at 1 %; its process dies, and it goes home.
func Example() {
	now := clock.NewSimulated(time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC))
	cfg := gate.DefaultConfig()
	controller, err := gate.NewController(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	var progress gate.Progress // kept in the control record
	var monitor *gate.Monitor
	var placing sync.Mutex // held while the module changes its place
	// decide is called when the stage turns bad, and once a second besides.
	decide := func() {
		placing.Lock()
		defer placing.Unlock()
		v := monitor.Verdict(now.Now())
		var d gate.Decision
		progress, d = controller.Next(progress, gate.Input{Now: now.Now(), Verdict: v})
		next := gate.Stage{Epoch: v.Stage.Epoch + 1, Placement: gate.Local}
		switch d.Action {
		case gate.Rollback:
			fmt.Println("home:", d.Reason, d.Verdict.Evidence.Traces)
		case gate.Advance:
			fmt.Println("on to", d.Placement, d.Share)
			next.Placement, next.Share, next.Control = d.Placement, d.Share, d.Share < 10000
		case gate.Hold:
			fmt.Println("waits for", d.Waiting+":", d.Reason)
			return
		}
		// Here the routes are swapped. If that fails the stage stays, and the same is decided again.
		monitor.Begin(next, now.Now())
	}
	if monitor, err = gate.NewMonitor(cfg, func(gate.Verdict) { decide() }); err != nil {
		fmt.Println(err)
		return
	}
	monitor.Begin(gate.Stage{Epoch: 7, Placement: gate.Canary, Share: 100, Control: true}, now.Now())
	decide()
	for i := range 5 {
		now.Advance(time.Second)
		monitor.Observe(gate.Sample{
			At: now.Now(), Remote: true, Route: "GET /api/orders/{id}", Subject: 4711, Failure: gate.NotSent, Trace: fmt.Sprint("request-", i+1),
		})
	}
	decide()
	// Output:
	// waits for data: errors: 0 of 0 requests failed; evidence 0.0 of 14
	// home: trip: 5 requests in a row got no answer [request-1 request-2 request-3 request-4 request-5]
	// waits for cooldown: cools down until 2026-03-01T09:05:05Z
}
