package mail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Folder keeps mails as .eml files named by their Message-ID. A mail is there once, however often it is sent: it is
// written beside the folder's mails and moved to its name when it is whole.
type Folder struct {
	Dir string
	// Sync waits for the disk, so that a mail survives a loss of power as the record that it was sent does.
	Sync bool
}

// leftBehind is the age at which a file in tmp belongs to nobody any more.
const leftBehind = time.Hour

func (f Folder) path(id string) string { return filepath.Join(f.Dir, id+"@"+Domain+".eml") }

func (f Folder) tmp() string { return filepath.Join(f.Dir, "tmp") }

// Send writes the mail, unless it is there.
func (f Folder) Send(_ context.Context, m Mail) error {
	e, err := m.encode()
	if err != nil {
		return err
	}
	if f.has(m.ID) {
		return f.clean(m.ID)
	}
	if err := os.MkdirAll(f.tmp(), 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(f.tmp(), m.ID+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // nothing to remove once it has its name
	_, err = file.Write(e.bytes)
	if err == nil && f.Sync {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write mail %s: %w", m.ID, err)
	}
	if err := os.Rename(file.Name(), f.path(m.ID)); err != nil && !f.has(m.ID) { // another one was faster, and has cleaned up
		return err
	}
	return errors.Join(f.syncDir(), f.clean(m.ID))
}

func (f Folder) has(id string) bool {
	_, err := os.Stat(f.path(id))
	return err == nil
}

func (f Folder) syncDir() error {
	if !f.Sync {
		return nil
	}
	dir, err := os.Open(f.Dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Forget removes the files of mails; those that are gone are fine.
func (f Folder) Forget(_ context.Context, ids []string) error {
	var all []error
	for _, id := range ids {
		if !idForm.MatchString(id) {
			continue // never had a file
		}
		if err := os.Remove(f.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = append(all, err)
		}
	}
	if err := f.syncDir(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		all = append(all, err)
	}
	return errors.Join(append(all, f.clean(ids...))...)
}

// Start removes what a crash left half-written. The mails themselves are sent again by whoever wanted them sent.
func (f Folder) Start(context.Context) error { return f.clean() }

// clean removes what crashes left half-written of some mails, and what is too old to be anybody's.
func (f Folder) clean(ids ...string) error {
	entries, err := os.ReadDir(f.tmp())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var all []error
	for _, e := range entries {
		name := filepath.Join(f.tmp(), e.Name())
		if end := strings.LastIndexByte(e.Name(), '-'); end > 0 && slices.Contains(ids, e.Name()[:end]) {
			if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				all = append(all, err)
			}
		} else if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > leftBehind {
			_ = os.Remove(name) // what cannot be removed harms nobody
		}
	}
	return errors.Join(all...)
}
