package proxy

import (
	"cmp"
	"net/http"

	"github.com/banyan-go/banyan/internal/identity"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/proxy/gate"
	"github.com/banyan-go/banyan/proxy/shadow"
	"github.com/banyan-go/banyan/proxy/upstream"
)

// target is where the requests of a module, or of a foreign upstream, are answered. It never changes: a new placement makes a
// new table with new targets.
type target struct {
	placement Placement
	door      *door        // of the module; nil for what is none of ours
	local     http.Handler // nil if nobody in this process answers for it
	remote    *remote      // nil if there is no other process
	foreign   bool         // no process of ours: it gets requests as clients send them
	token     bool         // it gets the client's token too
	exact     bool         // it takes no two paths for the same
	here      uint64       // the table since which requests are answered here without a break, if they are
	there     uint64       // the same of the second process
}

// side is a number for who answers: a side that requests come back to is another one, which may have been repaired meanwhile.
func (t *target) side(remote bool) uint64 {
	if remote {
		return t.there<<1 | 1
	}
	return t.here << 1
}

// remote is another process that answers for a module. It outlives tables.
type remote struct {
	name    string
	up      *upstream.Upstream
	copies  *upstream.Upstream // connections of their own for what nobody waits for; nil for foreign ones
	mirror  *shadow.Mirror     // nil for foreign ones
	monitor *gate.Monitor      // nil for foreign ones
	stage   uint64             // the table with which the monitor's stage began; guarded by Gateway.applying
}

// choice is on which side a request is answered, and why.
type choice struct {
	remote bool
	bucket int // of the subject; -1 if it did not matter
	reason string
}

// Why a side was chosen.
const (
	becausePlacement = "placement" // there is no other
	becauseBucket    = "canary"    // of the subject's bucket
	becauseNobody    = "nobody"    // a canary is for subjects that are known
	becauseForced    = "forced"    // an admin asked for it
	becauseFallback  = "fallback"  // the remote side could not be reached, and nothing was sent
)

// choose decides by what is verified alone: the subject of a token, the wish of an admin, and the guest that our cookie names.
func (t *target) choose(class module.Class, who identity.Identity, wish, guest string) choice {
	switch t.placement.State {
	case Remote, Retired:
		return choice{remote: true, bucket: -1, reason: becausePlacement}
	case Canary:
	default:
		return choice{bucket: -1, reason: becausePlacement}
	}
	if wish != "" && who.Role.Includes(identity.Admin) {
		return choice{remote: wish == string(Remote), bucket: -1, reason: becauseForced}
	}
	subject := cmp.Or(who.Subject, guest)
	if subject == "" {
		return choice{bucket: -1, reason: becauseNobody}
	}
	share := t.placement.Writes
	if class != module.Write {
		share = t.placement.Reads
	}
	b := bucketOf(t.placement.Module, subject)
	return choice{remote: b < share, bucket: b, reason: becauseBucket}
}

// mayFallBack: what was not sent may be answered here. Both sides share the store in a canary; a remote module's is not ours.
func (t *target) mayFallBack() bool { return t.placement.State == Canary && t.local != nil }

// isHome: this process owns the module.
func (t *target) isHome() bool { return t.placement.State != Remote && t.placement.State != Retired }

// name of where requests go, for people.
func (t *target) name() string {
	switch {
	case t.placement.State == Canary:
		return "local and " + t.remote.name
	case t.remote != nil && (t.foreign || t.placement.State == Remote || t.placement.State == Retired):
		return t.remote.name
	}
	return "local"
}
