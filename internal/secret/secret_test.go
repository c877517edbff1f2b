package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/banyan-go/banyan/internal/secret"
)

func TestASecretIsNeverSeen(t *testing.T) {
	t.Parallel()
	const hidden = "hunter2"
	v := struct {
		Password secret.Text            `json:"password"`
		Nested   map[string]secret.Text `json:"nested"`
		Pointer  *secret.Text           `json:"pointer"`
	}{Password: hidden, Nested: map[string]secret.Text{"a": hidden}}
	v.Pointer = &v.Password

	var out bytes.Buffer
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		fmt.Fprintf(&out, format+"\n", v.Password)
		fmt.Fprintf(&out, format+"\n", v)
	}
	encoded, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(encoded)
	encoded, err = yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(encoded)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "password", v.Password, "all", v)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "password", v.Password, "all", v)
	for _, trace := range []string{hidden, fmt.Sprintf("%x", hidden), fmt.Sprintf("%d", []byte(hidden))} {
		if strings.Contains(out.String(), trace) {
			t.Errorf("the secret shows as %s in:\n%s", trace, out.String())
		}
	}
	if v.Password.Reveal() != hidden {
		t.Error("Reveal does not give the secret")
	}
	if got := secret.Text("").String(); got != "" {
		t.Errorf("no secret prints as %q", got)
	}
}
