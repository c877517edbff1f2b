package shipment

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/banyan-go/banyan/internal/errs"
)

func hour(n int) time.Time { return time.Date(2026, 1, 1, n, 0, 0, 0, time.UTC) }

func TestStates(t *testing.T) {
	t.Parallel()
	dispatch := func(s Shipment) (Shipment, error) { return s.Dispatch("1", "DHL", "", hour(1)) }
	deliver := func(s Shipment) (Shipment, error) { return s.Deliver(hour(2)) }
	cancel := func(s Shipment) (Shipment, error) { return s.Cancel(hour(3)), nil }
	stop := func(s Shipment) (Shipment, error) {
		after, stopped := s.Stop(hour(3))
		if left := s.State != Pending && s.State != Cancelled && s.State != Void; stopped == left {
			t.Errorf("%s: stopped %v", s.State, stopped)
		}
		return after, nil
	}
	type step func(Shipment) (Shipment, error)
	tests := []struct {
		name  string
		from  State
		steps []step
		want  State
		shown State
		log   []State
		err   errs.Kind
	}{
		{"delivered", Pending, []step{dispatch, deliver}, Delivered, Delivered, []State{Pending, Dispatched, Delivered}, ""},
		{"cancelled in time", Pending, []step{cancel}, Cancelled, Cancelled, []State{Pending, Cancelled}, ""},
		{"cancelled on its way", Pending, []step{dispatch, cancel}, Intercept, Dispatched, []State{Pending, Dispatched, Intercept}, ""},
		{"cancelled on its way, twice", Pending, []step{dispatch, cancel, cancel}, Intercept, Dispatched, []State{Pending, Dispatched, Intercept}, ""},
		{"cancelled when there", Pending, []step{dispatch, deliver, cancel}, Intercept, Delivered, []State{Pending, Dispatched, Delivered, Intercept}, ""},
		{"not stopped", Pending, []step{dispatch, cancel, func(s Shipment) (Shipment, error) { return s.Deliver(hour(4)) }}, Delivered, Delivered, []State{Pending, Dispatched, Intercept, Delivered}, ""},
		{"not stopped, cancelled again", Pending, []step{dispatch, cancel, deliver, cancel}, Delivered, Delivered, []State{Pending, Dispatched, Delivered, Intercept}, ""},
		{"stopped", Pending, []step{stop, stop}, Cancelled, Cancelled, []State{Pending, Cancelled}, ""},
		{"stopped too late", Pending, []step{dispatch, stop}, Dispatched, Dispatched, []State{Pending, Dispatched}, ""},
		{"stopped when there", Pending, []step{dispatch, deliver, stop}, Delivered, Delivered, []State{Pending, Dispatched, Delivered}, ""},
		{"stopped when called back", Pending, []step{dispatch, cancel, stop}, Intercept, Dispatched, []State{Pending, Dispatched, Intercept}, ""},
		{"stop a void one", Void, []step{stop}, Void, Void, []State{Pending}, ""},
		{"dispatch what was stopped", Pending, []step{stop, dispatch}, Cancelled, Cancelled, nil, errs.Conflict},
		{"dispatch after a cancellation", Pending, []step{cancel, dispatch}, Cancelled, Cancelled, nil, errs.Conflict},
		{"dispatch twice", Pending, []step{dispatch, dispatch}, Dispatched, Dispatched, nil, errs.Conflict},
		{"deliver too early", Pending, []step{deliver}, Pending, Pending, nil, errs.Conflict},
		{"deliver twice", Pending, []step{dispatch, deliver, deliver}, Delivered, Delivered, nil, errs.Conflict},
		{"deliver after a cancellation", Pending, []step{cancel, deliver}, Cancelled, Cancelled, nil, errs.Conflict},
		{"dispatch a void one", Void, []step{dispatch}, Void, Void, nil, errs.Conflict},
		{"cancel a void one", Void, []step{cancel}, Void, Void, []State{Pending}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := Shipment{State: tt.from, CreatedAt: hour(0)}
			var err error
			for _, step := range tt.steps {
				if s, err = step(s); err != nil {
					break
				}
			}
			if errs.KindOf(err) != tt.err {
				t.Fatalf("got error %v, want kind %q", err, tt.err)
			}
			if s.State != tt.want || s.Shown() != tt.shown {
				t.Errorf("got %s, shown as %s, want %s and %s", s.State, s.Shown(), tt.want, tt.shown)
			}
			if err != nil {
				return
			}
			var log []State
			for _, step := range s.Log() {
				log = append(log, step.What)
			}
			if diff := cmp.Diff(log, tt.log); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestAnyOrder plays commands in any order: the log stays in order, and nothing leaves after a cancellation.
func TestAnyOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := Shipment{State: Pending, CreatedAt: hour(0)}
		for i := range rapid.IntRange(0, 6).Draw(t, "commands") {
			before, at := s, hour(i+1)
			var err error
			switch rapid.IntRange(0, 3).Draw(t, "command") {
			case 0:
				s, err = s.Dispatch("1", "DHL", "", at)
			case 1:
				s, err = s.Deliver(at)
			case 2:
				var stopped bool
				if s, stopped = s.Stop(at); stopped != s.DispatchedAt.IsZero() {
					t.Fatalf("stopped %v: %+v", stopped, s)
				}
			default:
				s = s.Cancel(at)
			}
			if err != nil && !cmp.Equal(before, s) {
				t.Fatalf("refused, and yet changed %+v to %+v", before, s)
			}
			if before.State == Cancelled && s.State != Cancelled {
				t.Fatalf("a cancelled shipment became %s", s.State)
			}
			last := time.Time{}
			for _, step := range s.Log() {
				if step.At.Before(last) {
					t.Fatalf("the log is out of order: %+v", s.Log())
				}
				last = step.At
			}
		}
	})
}

func TestTracking(t *testing.T) {
	t.Parallel()
	if a, b := Tracking("1"), Tracking("2"); a == b || len(a) != 14 || a != Tracking("1") {
		t.Errorf("got %s and %s", a, b)
	}
}
