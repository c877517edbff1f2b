package gate_test

import (
	"fmt"
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
	// decide is called when the stage turns bad, and once a second besides.
	decide := func(v gate.Verdict) {
		var d gate.Decision
		progress, d = controller.Next(progress, gate.Input{Now: now.Now(), Verdict: v})
		switch d.Action {
		case gate.Rollback:
			fmt.Println("home:", d.Reason, d.Verdict.Evidence.Traces)
			monitor.Begin(gate.Stage{Epoch: v.Stage.Epoch + 1, Placement: gate.Local}, now.Now()) // after the routes are swapped
		case gate.Advance:
			fmt.Println("on to", d.Placement, d.Share)
			monitor.Begin(gate.Stage{Epoch: v.Stage.Epoch + 1, Placement: d.Placement, Share: d.Share, Control: d.Share < 10000}, now.Now())
		case gate.Hold:
			fmt.Println("waits for", d.Waiting+":", d.Reason)
		}
	}
	if monitor, err = gate.NewMonitor(cfg, decide); err != nil {
		fmt.Println(err)
		return
	}
	monitor.Begin(gate.Stage{Epoch: 7, Placement: gate.Canary, Share: 100, Control: true}, now.Now())
	decide(monitor.Verdict(now.Now()))
	for i := range 5 {
		now.Advance(time.Second)
		monitor.Observe(gate.Sample{
			At: now.Now(), Remote: true, Route: "GET /api/orders/{id}", Subject: 4711, Failure: gate.NotSent, Trace: fmt.Sprint("request-", i+1),
		})
	}
	decide(monitor.Verdict(now.Now()))
	// Output:
	// waits for data: errors: 0 of 0 requests failed; evidence 0.0 of 14
	// home: trip: 5 requests in a row got no answer [request-1 request-2 request-3 request-4 request-5]
	// waits for cooldown: cools down until 2026-03-01T09:05:05Z
}
