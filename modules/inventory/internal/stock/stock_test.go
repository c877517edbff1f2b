package stock

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/banyan-go/banyan/internal/errs"
)

func TestMerge(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		lines []Line
		want  []Line
		err   errs.Kind
	}{
		{"adds up and sorts", []Line{{"b", 1}, {"a", 2}, {"b", 3}}, []Line{{"a", 2}, {"b", 4}}, ""},
		{"case counts", []Line{{"a", 1}, {"A", 2}}, []Line{{"A", 2}, {"a", 1}}, ""},
		{"nothing", nil, nil, errs.Invalid},
		{"no product", []Line{{"", 1}}, nil, errs.Invalid},
		{"zero", []Line{{"a", 0}}, nil, errs.Invalid},
		{"negative", []Line{{"a", -1}}, nil, errs.Invalid},
		{"a sum beyond the limit", []Line{{"a", MaxUnits}, {"a", 1}}, nil, errs.Invalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Merge(tt.lines)
			if errs.KindOf(err) != tt.err {
				t.Fatalf("got error %v, want kind %q", err, tt.err)
			}
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecisions(t *testing.T) {
	t.Parallel()
	lines := []Line{{"a", 2}, {"b", 1}}
	plenty := func() Shelf { return Shelf{"a": {OnHand: 9}, "b": {OnHand: 9}} }
	scarce := func() Shelf { return Shelf{"a": {OnHand: 3, Reserved: 2}, "b": {OnHand: 9}} }
	held := Reservation{State: Held, Lines: lines}
	committed := Reservation{State: Committed, Lines: lines}
	expired := Reservation{State: Expired, Lines: lines}
	released := Reservation{State: Released, Lines: lines}
	tests := []struct {
		name string
		got  Decision
		want Decision
	}{
		{"reserve", Reservation{}.Reserve(plenty(), lines),
			Decision{Next: held, Changed: true, Deltas: []Delta{{"a", 0, 2}, {"b", 0, 1}}, Answer: SayReserved}},
		{"reserve what is not there", Reservation{}.Reserve(scarce(), lines),
			Decision{Next: Reservation{State: Refused, Lines: lines, Short: []Line{{"a", 1}}}, Changed: true, Answer: SayRefused, Short: []Line{{"a", 1}}, Reason: OutOfStock}},
		{"reserve what nobody knows", Reservation{}.Reserve(Shelf{"a": {OnHand: 9}}, lines),
			Decision{Next: Reservation{State: Refused, Lines: lines, Short: []Line{{"b", 1}}}, Changed: true, Answer: SayRefused, Short: []Line{{"b", 1}}, Reason: UnknownProduct}},
		{"reserve twice", held.Reserve(plenty(), lines), Decision{Next: held, Answer: SayReserved}},
		{"reserve after a refusal", Reservation{State: Refused, Lines: lines, Short: lines}.Reserve(plenty(), lines),
			Decision{Next: held, Changed: true, Deltas: []Delta{{"a", 0, 2}, {"b", 0, 1}}, Answer: SayReserved}},
		{"reserve after a release", Reservation{State: Released}.Reserve(plenty(), lines),
			Decision{Next: Reservation{State: Released}, Answer: SayRefused, Reason: WasReleased}},
		{"commit", held.Commit(scarce()), Decision{Next: committed, Changed: true, Deltas: []Delta{{"a", -2, -2}, {"b", -1, -1}}}},
		{"commit twice", committed.Commit(plenty()), Decision{Next: committed}},
		{"commit after expiry, still there", expired.Commit(plenty()), Decision{Next: committed, Changed: true, Deltas: []Delta{{"a", -2, 0}, {"b", -1, 0}}}},
		{"commit after expiry, sold to others", expired.Commit(scarce()),
			Decision{Next: Reservation{State: Expired, Lines: lines, Short: []Line{{"a", 1}}}, Changed: true, Answer: SayExpired}},
		{"commit of nothing", Reservation{}.Commit(plenty()), Decision{Answer: SayExpired}},
		{"commit after a release", released.Commit(plenty()), Decision{Next: released, Answer: SayReleased}},
		{"release of nothing leaves a tombstone", Reservation{}.Release(), Decision{Next: Reservation{State: Released}, Changed: true, Answer: SayReleased}},
		{"release", held.Release(), Decision{Next: released, Changed: true, Deltas: []Delta{{"a", 0, -2}, {"b", 0, -1}}, Answer: SayReleased}},
		{"release after the commit", committed.Release(),
			Decision{Next: Reservation{State: Released, Lines: lines, Returned: lines}, Changed: true, Deltas: []Delta{{"a", 2, 0}, {"b", 1, 0}}, Answer: SayReleased}},
		{"release after a return", Reservation{State: Committed, Lines: lines, Returned: []Line{{"a", 1}, {"b", 1}}}.Release(),
			Decision{Next: Reservation{State: Released, Lines: lines, Returned: lines}, Changed: true, Deltas: []Delta{{"a", 1, 0}}, Answer: SayReleased}},
		{"release twice", released.Release(), Decision{Next: released, Answer: SayReleased}},
		{"expire", held.Expire(), Decision{Next: expired, Changed: true, Deltas: []Delta{{"a", 0, -2}, {"b", 0, -1}}, Answer: SayExpired}},
		{"expire after the commit", committed.Expire(), Decision{Next: committed}},
		{"return", committed.Restock([]Line{{"a", 1}}),
			Decision{Next: Reservation{State: Committed, Lines: lines, Returned: []Line{{"a", 1}}}, Changed: true, Deltas: []Delta{{"a", 1, 0}}, Answer: SayReturned}},
		{"return more than was taken", Reservation{State: Committed, Lines: lines, Returned: []Line{{"a", 1}}}.Restock([]Line{{"a", 5}, {"c", 1}}),
			Decision{Next: Reservation{State: Committed, Lines: lines, Returned: []Line{{"a", 2}}}, Changed: true, Deltas: []Delta{{"a", 1, 0}}, Answer: SayReturned}},
		{"return after a release", released.Restock(lines), Decision{Next: released, Answer: SayReturned}},
		{"return of an order that nobody knows", Reservation{}.Restock([]Line{{"a", 1}}), Decision{Deltas: []Delta{{"a", 1, 0}}, Answer: SayReturned}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.got, tt.want); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestApplyTellsCrossingsOnce(t *testing.T) {
	t.Parallel()
	s := Shelf{"a": {}}
	steps := []struct {
		d    Delta
		want []Crossing
	}{
		{Delta{"a", 10, 0}, nil}, // never had any: it comes to the shelf, it does not come back
		{Delta{"a", 0, 5}, nil},
		{Delta{"a", 0, 1}, []Crossing{{"a", 4, true}}},
		{Delta{"a", 0, 1}, nil},
		{Delta{"a", -1, -1}, nil},
		{Delta{"a", 2, 0}, []Crossing{{"a", 5, false}}},
	}
	for i, step := range steps {
		got, err := s.Apply([]Delta{step.d}, 5)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, step.want); diff != "" {
			t.Errorf("step %d: %s", i, diff)
		}
	}
	if _, err := s.Apply([]Delta{{"a", -100, 0}}, 5); !errs.Is(err, errs.Conflict) {
		t.Errorf("got %v, want a conflict", err)
	}
	if _, err := s.Apply([]Delta{{"b", 1, 0}}, 5); !errs.Is(err, errs.NotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

func TestAdjust(t *testing.T) {
	t.Parallel()
	l := Level{OnHand: 10, Reserved: 4}
	for by, want := range map[int64]errs.Kind{-6: "", 5: "", -7: errs.Conflict, 0: errs.Invalid, MaxUnits: errs.Invalid} {
		if _, err := Adjust(l, "a", by); errs.KindOf(err) != want {
			t.Errorf("by %d: got %v, want kind %q", by, err, want)
		}
	}
}

// TestInvariants plays any commands of a few orders, in any order and any number of times, against a plain account
// of what was sold and held.
func TestInvariants(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		skus := []string{"a", "b", "c"}
		shelf := Shelf{}
		delivered := map[string]int64{}
		for _, s := range skus {
			n := rapid.Int64Range(0, 12).Draw(t, "stock of "+s)
			shelf[s], delivered[s] = Level{OnHand: n}, n
		}
		orders := map[string]Reservation{}
		line := rapid.Custom(func(t *rapid.T) Line {
			return Line{SKU: rapid.SampledFrom(append(skus, "unknown")).Draw(t, "sku"), Quantity: rapid.Int64Range(1, 6).Draw(t, "quantity")}
		})
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			id := rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(t, "order")
			r := orders[id]
			var d Decision
			command := rapid.SampledFrom([]string{"reserve", "reserve", "commit", "release", "expire", "restock"}).Draw(t, "command")
			switch command {
			case "reserve", "restock":
				lines, err := Merge(rapid.SliceOfN(line, 1, 4).Draw(t, "lines"))
				if err != nil {
					t.Fatal(err)
				}
				if command == "reserve" {
					d = r.Reserve(shelf, lines)
				} else if r.State == None {
					continue // units from outside the account
				} else {
					d = r.Restock(lines)
				}
			case "commit":
				d = r.Commit(shelf)
			case "release":
				d = r.Release()
			case "expire":
				d = r.Expire()
			}
			if r.State == Released && (d.Next.State != Released || len(d.Deltas) > 0) {
				t.Fatalf("%s moved units of a released order: %+v", command, d)
			}
			if d.Answer == SayReserved && d.Next.State != Held && d.Next.State != Committed {
				t.Fatalf("said reserved in state %s", d.Next.State)
			}
			if !d.Changed && !cmp.Equal(d.Next, r) {
				t.Fatalf("%s changed %+v to %+v unsaid", command, r, d.Next)
			}
			if _, err := shelf.Apply(d.Deltas, 5); err != nil {
				t.Fatalf("%s: %v", command, err)
			}
			orders[id] = d.Next
			check(t, shelf, delivered, orders)
		}
	})
}

func check(t *rapid.T, shelf Shelf, delivered map[string]int64, orders map[string]Reservation) {
	held, sold := map[string]int64{}, map[string]int64{}
	for _, r := range orders {
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
		if r.State == Held {
			for _, l := range r.Lines {
				held[l.SKU] += l.Quantity
			}
		}
		for _, l := range r.Outstanding() {
			if l.Quantity < 0 {
				t.Fatalf("more came back than was taken: %+v", r)
			}
			sold[l.SKU] += l.Quantity
		}
	}
	for sku, l := range shelf {
		want := Level{OnHand: delivered[sku] - sold[sku], Reserved: held[sku], Low: l.Low}
		if l != want || l.Available() < 0 {
			t.Fatalf("%s", fmt.Sprintf("%s: got %+v, want %+v", sku, l, want))
		}
	}
}
