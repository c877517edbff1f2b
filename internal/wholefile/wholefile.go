// Package wholefile writes small files that other processes read: whoever looks sees the file that was there before, or all of the new
// one, whatever is killed meanwhile. A file is readable by its owner alone.
package wholefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Create writes a file that is not there yet; else the error is fs.ErrExist, and the file stays as it is.
func Create(path string, text []byte) error { return write(path, text, os.Link) } // unlike a rename it fails if the file exists

// Replace writes a file, over the one that may be there.
func Replace(path string, text []byte) error { return write(path, text, os.Rename) }

func write(path string, text []byte, place func(from, to string) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // with mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if removed := os.Remove(f.Name()); err == nil && removed != nil && !errors.Is(removed, fs.ErrNotExist) {
			err = removed
		}
	}()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = place(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}
