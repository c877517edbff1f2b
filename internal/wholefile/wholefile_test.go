package wholefile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/banyan-go/banyan/internal/wholefile"
)

func TestOneOfManyCreates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	var made atomic.Int32
	var all sync.WaitGroup
	for i := range 16 {
		text := strings.Repeat(string(rune('a'+i)), 4096)
		all.Go(func() {
			switch err := wholefile.Create(path, []byte(text)); {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
			if got, err := os.ReadFile(path); err != nil || len(got) != 4096 || strings.Trim(string(got), string(got[:1])) != "" {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 {
		t.Errorf("%d have made it", made.Load())
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("in the folder: %v, %v", left, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestReplaceIsSeenWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "addr")
	texts := []string{strings.Repeat("a", 70_000), strings.Repeat("b", 50_000)}
	if err := wholefile.Replace(path, []byte(texts[0])); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 200 {
			if err := wholefile.Replace(path, []byte(texts[i%2])); err != nil {
				t.Error(err)
			}
		}
	}()
	for {
		if got, err := os.ReadFile(path); err != nil || string(got) != texts[0] && string(got) != texts[1] {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
