package gate

import (
	"math"
	"time"
)

const (
	// driftEvidence is bad. Where both sides give a status equally often it is not reached in 20 million such answers.
	driftEvidence = 9
	// fewShared is how many remote requests a route is taken to have had at the share of all routes, so that a few more or
	// less of its own do not look like another share.
	fewShared = 20
)

// compared counts requests that are compared, by side.
type compared struct{ remote, local uint64 }

func (c *compared) add(remote bool) {
	if remote {
		c.remote++
	} else {
		c.local++
	}
}

// share is what part of the requests of a route is remote, by its own and by those of all.
func (c compared) share(all compared) float64 {
	whole := (float64(all.remote) + 1) / (float64(all.remote+all.local) + 2)
	return (float64(c.remote) + fewShared) / (float64(c.remote+c.local) + fewShared/whole)
}

// drift is the rule "client_errors" for one status. Each subject that gets it is dealt to a side; if remote gave it r
// times as often as local, the odds of being remote would be r times those of a request. The sum leans to where r is
// above the ratio: it weighs sqrt(ratio)^3 against sqrt(ratio), which are as far above it as below.
type drift struct {
	sum     float64
	samples ring // remote

	// Where the sum left 0, and since then.
	since  time.Time
	before compared // requests
	given  compared // subjects
}

// add says whether it is bad. p is the share of the route's requests that is remote; trials are those of the stage.
func (d *drift) add(s *Sample, ratio, p float64, trials compared) bool {
	least, most := odds(p)*math.Sqrt(ratio), odds(p)*ratio*math.Sqrt(ratio)
	if !s.Remote {
		if d.sum > 0 {
			d.given.add(false)
			d.sum = max(0, d.sum+math.Log((1-share(most))/(1-share(least))))
		}
		return false
	}
	if d.sum == 0 {
		d.since, d.before, d.given = s.At, trials, compared{}
	}
	d.samples.keep(s)
	d.given.add(true)
	d.sum += math.Log(share(most) / share(least))
	if d.sum < driftEvidence {
		return false
	}
	// A local side that fails answers nothing, so it gives no status either: what both have answered since is what counts.
	if atLeast(d.given.remote, d.given.remote+d.given.local, d.stretch(trials).share(trials)) > math.Exp(-driftEvidence) {
		d.sum = 0
		return false
	}
	return true
}

// stretch is what was compared since the sum left 0.
func (d *drift) stretch(trials compared) compared {
	return compared{remote: trials.remote - d.before.remote, local: trials.local - d.before.local}
}
