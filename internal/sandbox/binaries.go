package sandbox

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
)

// ErrNoPostgres says that this machine has no PostgreSQL server to start.
var ErrNoPostgres = errors.New("no PostgreSQL binaries (initdb, postgres) in PATH or /usr/lib/postgresql: install the package postgresql")

// places are where distributions keep the server's binaries, which are not in PATH.
func places() []string {
	return []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/opt/postgresql*/bin", "/opt/homebrew/opt/postgresql*/bin"}
}

// findBinaries is the folder with initdb and postgres: that of PATH, else the newest version found.
func findBinaries(patterns []string) (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil && complete(filepath.Dir(real)) {
			return filepath.Dir(real), nil
		}
	}
	var found []string
	for _, pattern := range patterns {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		for _, dir := range dirs {
			if complete(dir) {
				found = append(found, dir)
			}
		}
	}
	if len(found) == 0 {
		return "", ErrNoPostgres
	}
	// By number: as text 9 would come after 17.
	sort.Slice(found, func(i, j int) bool { return version(found[i]) < version(found[j]) })
	return found[len(found)-1], nil
}

func complete(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() {
			return false
		}
	}
	return true
}

func version(dir string) int {
	digits := ""
	for _, r := range filepath.Base(filepath.Dir(dir)) {
		if r < '0' || r > '9' {
			if digits != "" {
				break
			}
			continue
		}
		digits += string(r)
	}
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return n
}
