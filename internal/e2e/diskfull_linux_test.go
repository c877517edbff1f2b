package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The data directory runs full while orders come: who needs room is told 503 and to come back, nothing that was
// acknowledged is lost or half done, and with room again the shop goes on by itself.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := sqlite(t)
	if err := syscall.Mount("tmpfs", s.dir, "tmpfs", 0, "size=64m"); err != nil {
		if errors.Is(err, syscall.EPERM) && os.Geteuid() != 0 {
			t.Skip("only root may mount a small file system; internal/database has the same test with a limit on the file")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.kill()
		if err := syscall.Unmount(s.dir, 0); err != nil {
			t.Error(err)
		}
	})
	s.start()
	l := newLedger(t, s)
	filler := filepath.Join(s.dir, "filler")
	var once sync.Once
	freed := make(chan struct{})
	refused := false
	go func() {
		defer close(freed)
		// The file system stays full until requests were refused for it.
		for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
			a, err := l.admin.try("POST", "/api/users", map[string]string{"name": "Nobody", "reference": fmt.Sprint("full-", time.Now().UnixNano())})
			if err == nil && a.Status == http.StatusServiceUnavailable {
				if a.Header.Get("Retry-After") == "" {
					t.Error("503 without Retry-After")
				}
				refused = true
				break
			}
			<-time.After(10 * time.Millisecond)
		}
		<-time.After(500 * time.Millisecond)
		if err := os.Remove(filler); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}()
	l.run(4, 40, func(n int) {
		if n == 40 {
			once.Do(func() { fill(t, filler) })
		}
	})
	<-freed
	if !refused {
		t.Error("no request was refused: the file system was not full")
	}
	l.check()
}

// fill takes all the room that is left.
func fill(t *testing.T, path string) {
	f, err := os.Create(path)
	if err != nil {
		t.Error(err)
		return
	}
	block := make([]byte, 1<<16)
	for len(block) > 0 {
		if _, err := f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	_ = f.Close()
}
