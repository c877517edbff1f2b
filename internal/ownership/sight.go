package ownership

import "time"

// sightings are what this process has seen of others who renew their registrations, by its own clock. The store's clock says only how it was
// before the first look: it may jump, and while the store is away nobody can renew anything.
type sightings struct {
	ttl     time.Duration
	each    map[string]sighting // by process
	last    time.Time           // look
	watched time.Duration
}

type sighting struct {
	renewed time.Time     // by the clock of the store
	missed  time.Duration // since then, as far as somebody looked
	spared  bool          // once
}

// look takes what a read has found, and sets the age of each registration. After a break the age of those that lived before it begins anew, as
// they may not have reached the store either; but only once, or whoever looks seldom would never notice that somebody is gone.
func (s *sightings) look(processes []Process, now time.Time) {
	var gap, blind time.Duration
	if !s.last.IsZero() {
		gap = now.Sub(s.last)
	}
	counts := min(gap, s.ttl/2)
	if gap > counts {
		blind = gap
	}
	each := map[string]sighting{}
	for i, p := range processes {
		one, known := s.each[p.ID]
		switch {
		case !known:
			one.missed = max(0, p.Age-blind)
		case !one.renewed.Equal(p.SeenAt):
			one = sighting{}
		case blind > 0 && !one.spared && one.missed <= s.ttl:
			one.missed, one.spared = 0, true
		default:
			one.missed += counts
		}
		one.renewed = p.SeenAt
		each[p.ID] = one
		processes[i].Age = one.missed
	}
	s.each, s.last, s.watched = each, now, s.watched+counts
}

// settled says that it has looked for long enough to know who is gone.
func (s *sightings) settled() bool { return s.watched > s.ttl }
