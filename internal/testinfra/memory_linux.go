package testinfra

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// InMemory lets this process and what it starts write temporary files (TMPDIR) to memory, so that tests wait for no disk: that
// halves their time. What they find out stays the same, as they kill processes and never the machine. Nothing changes where TMPDIR
// is set, where less than need bytes of memory are free, or where no program may be run from memory. The folder is shared by runs at
// the same time, has the same name in each (else go test would keep no result), and is empty after the last; what a killed run left is
// removed by the next.
func InMemory(need uint64) (end func() error, err error) {
	const shm = "/dev/shm"
	end = func() error { return nil }
	var room unix.Statfs_t
	if os.Getenv("TMPDIR") != "" || unix.Statfs(shm, &room) != nil {
		return end, nil
	}
	if room.Flags&unix.ST_NOEXEC != 0 || min(room.Bavail*uint64(room.Bsize), availableMemory()) < need {
		return end, nil
	}
	dir := fmt.Sprintf("%s/banyan-tests-%d", shm, os.Geteuid())
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return end, err
	}
	clear := func() error {
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return nil // another run is there
		}
		return os.RemoveAll(dir)
	}
	if err := errors.Join(clear(), unix.Flock(int(lock.Fd()), unix.LOCK_SH)); err != nil {
		return end, errors.Join(err, lock.Close())
	}
	end = func() error { return errors.Join(clear(), lock.Close()) }
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return end, err
	}
	// As the folder that it stands for: servers run as users of their own, and remove their folders.
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		return end, err
	}
	return end, os.Setenv("TMPDIR", dir)
}

// availableMemory is what programs can have before the machine swaps, in bytes; 0 if it is not known.
func availableMemory() uint64 {
	info, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(info)) {
		var kib uint64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}
