package prove

import (
	"fmt"
	"slices"
	"testing"

	"github.com/banyan-go/banyan/internal/ownership"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	var faults []fault
	for i := range 7 {
		faults = append(faults, fault{name: fmt.Sprint("fault ", i)})
	}
	tell := func(all []stroke) (told []string) {
		for _, s := range all {
			told = append(told, fmt.Sprint(s.to, s.fault.name, s.when, s.lead, s.down, s.changes, s.rest))
		}
		return told
	}
	all := plan(70, faults, 3)
	if !slices.Equal(tell(all), tell(plan(70, faults, 3))) {
		t.Error("one seed makes two plans")
	}
	if slices.Equal(tell(all), tell(plan(70, faults, 4))) {
		t.Error("two seeds make one plan")
	}
	seen := map[string]int{}
	for i, s := range all {
		want := ownership.Remote
		if i%2 == 1 {
			want = ownership.Local
		}
		if s.to != want || s.fault.name == "" || s.when == "" {
			t.Errorf("change %d: %+v", i, s)
		}
		seen[s.fault.name]++
		seen[s.fault.name+string(s.to)+s.when]++
	}
	for _, f := range faults {
		if seen[f.name] != 20 {
			t.Errorf("%s comes %d times of %d", f.name, seen[f.name], len(all))
		}
	}
	if len(seen) < 7+35 {
		t.Errorf("only %d of 42 combinations of a fault, a direction and a moment", len(seen)-7)
	}
	for _, s := range plan(2, nil, 3) {
		if s.fault.name != "" || s.when != "" || s.changes {
			t.Errorf("nothing is to be broken: %+v", s)
		}
	}
}
