package prove

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// What is between two stores is not lost; what is still not there when time is over is.
func TestSettle(t *testing.T) {
	t.Parallel()
	away := errors.New("no answer")
	lost := []Violation{{Kind: Lost}}
	for _, c := range []struct {
		name  string
		look  func(n int, last bool) ([]Violation, error)
		found int
		err   error
		after time.Duration
	}{
		{"at once", func(int, bool) ([]Violation, error) { return nil, nil }, 0, nil, 0},
		{"a moment later", func(n int, _ bool) ([]Violation, error) {
			switch n {
			case 0:
				return nil, away
			case 1:
				return lost, nil
			}
			return nil, nil
		}, 0, nil, 100 * time.Millisecond},
		{"never", func(_ int, last bool) ([]Violation, error) {
			if last {
				return append(lost, lost...), nil
			}
			return lost, nil
		}, 2, nil, settleWithin + 50*time.Millisecond},
		{"not to be seen", func(int, bool) ([]Violation, error) { return nil, away }, 0, away, settleWithin + 50*time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n, began := 0, time.Now()
				found, err := settle(t.Context(), func(last bool) ([]Violation, error) { n++; return c.look(n-1, last) })
				if len(found) != c.found || !errors.Is(err, c.err) || time.Since(began) != c.after {
					t.Errorf("%v, %v after %s", found, err, time.Since(began))
				}
			})
		})
	}
}
