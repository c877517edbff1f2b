package assertion_test

import (
	"strings"
	"testing"

	"github.com/banyan-go/banyan/internal/assertion"
	"github.com/banyan-go/banyan/internal/token"
)

// What was sealed is known again as long as its key is, and nothing else is taken for it.
func TestSeal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	newer, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keys := &rotating{Key: r.key}
	signer := assertion.NewSigner(keys, r.clock)
	sealed, err := signer.Seal("bucket", "abc-1")
	if err != nil {
		t.Fatal(err)
	}
	if text, young, ok := signer.Unseal("bucket", sealed); !ok || !young || text != "abc-1" {
		t.Errorf("got %q, young %v, ok %v", text, young, ok)
	}
	signed, err := signer.Sign(ask())
	if err != nil {
		t.Fatal(err)
	}
	other, err := signer.Seal("bucket", "abc-2")
	if err != nil {
		t.Fatal(err)
	}
	_, signature, _ := strings.Cut(other, ".")
	for name, given := range map[string]string{
		"nothing": "", "a text": "abc-1", "another text": strings.Replace(sealed, "abc-1", "abc-2", 1), "a foreign signature": "abc-1." + signature,
		"another key": strings.Replace(sealed, r.key.ID, "x"+r.key.ID, 1), "an assertion": signed, "more": sealed + ".x", "padded": sealed + "=", "long": strings.Repeat("a", 600) + sealed,
	} {
		if text, _, ok := signer.Unseal("bucket", given); ok {
			t.Errorf("%s is unsealed as %q", name, text)
		}
	}
	if _, _, ok := signer.Unseal("other", sealed); ok {
		t.Error("what was sealed for one thing is taken for another")
	}
	if _, err := signer.Seal("bucket", "a.b"); err == nil {
		t.Error("a text with a dot is sealed")
	}
	keys.Key, keys.others = newer, []token.Key{r.key}
	if text, young, ok := signer.Unseal("bucket", sealed); !ok || young || text != "abc-1" {
		t.Errorf("under an older key: %q, young %v, ok %v", text, young, ok)
	}
	keys.others = nil
	if _, _, ok := signer.Unseal("bucket", sealed); ok {
		t.Error("a key that is gone is believed")
	}
}
