package unit_test

import (
	"context"
	"strings"
	"testing"

	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/unit"
)

type told struct{ key, subject string }

func (told) MessageName() string       { return "beta.told.v1" }
func (e told) MessageKey() string      { return e.key }
func (e told) PersonalSubject() string { return e.subject }

// Nothing is sent that its receiver would have to refuse.
func TestTextThatNobodyCanKeep(t *testing.T) {
	databasetest.Each(t, []string{"beta"}, func(t *testing.T, e databasetest.Engine) {
		s := unit.New(e.Store(t, "beta"), unit.Options{Module: "beta", Announces: []string{told{}.MessageName()}})
		for what, event := range map[string]told{
			"key": {key: "a\x00"}, "the key is empty": {}, "subject": {key: "a", subject: "\xff"},
		} {
			err := s.Do(t.Context(), func(_ context.Context, w *unit.Work) error { w.Publish(event); return nil })
			if err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("%+v: %v", event, err)
			}
		}
		if err := s.Do(t.Context(), func(_ context.Context, w *unit.Work) error { w.Publish(told{"a", "ann"}); return nil }); err != nil {
			t.Error(err)
		}
	})
}
