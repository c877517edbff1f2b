package docs_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/banyan-go/banyan/internal/docs"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/token"
	"github.com/banyan-go/banyan/modules"
)

// TestShop writes the documents of the shop itself: its modules have to be described without anything opened.
func TestShop(t *testing.T) {
	t.Parallel()
	set := modules.Open(modules.Config{}, &token.Keyring{}, func(string) module.Deps { return module.Deps{} })
	openapi, err := docs.OpenAPI(set.Modules, "test")
	if err != nil {
		t.Fatal(err)
	}
	asyncapi, err := docs.AsyncAPI(modules.All(), "test")
	if err != nil {
		t.Fatal(err)
	}
	var http struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	if err := json.Unmarshal(openapi, &http); err != nil {
		t.Fatal(err)
	}
	var messages struct{ Channels map[string]any }
	if err := json.Unmarshal(asyncapi, &messages); err != nil {
		t.Fatal(err)
	}
	contextMap := docs.ContextMap(modules.All())
	for _, m := range modules.All() {
		for _, r := range m.Routes {
			if got := http.Paths[r.Path][strings.ToLower(r.Method)].OperationID; got != r.ID {
				t.Errorf("%s %s: got the operation %q, want %q", r.Method, r.Path, got, r.ID)
			}
		}
		for _, e := range m.Contract.Events {
			if messages.Channels[e.MessageName()] == nil {
				t.Errorf("event %s has no channel", e.MessageName())
			}
		}
		if !strings.Contains(contextMap, "    "+m.Name+"[") {
			t.Errorf("module %s is not on the context map", m.Name)
		}
	}
}
