package config

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// replaced puts another file in the place of one in a single step.
func replaced(t *testing.T, path, text string) {
	t.Helper()
	if err := os.Rename(file(t, text), path); err != nil {
		t.Fatal(err)
	}
}

// rewritten writes a file where it stands.
func rewritten(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// pointed makes a link to somewhere else in a single step, as Kubernetes does with ..data.
func pointed(t *testing.T, link, to string) {
	t.Helper()
	if err := os.Symlink(to, link+"~"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+"~", link); err != nil {
		t.Fatal(err)
	}
}

const (
	out  = "modules: {payments: {placement: remote}}\n"
	home = "modules: {payments: {placement: local}}\n"
)

func TestWatch(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		start string
		edit  func(t *testing.T, path string, tick func())
		want  []string
	}{
		"rewritten slowly": {out, func(t *testing.T, path string, tick func()) {
			for _, text := range []string{"", "modules: {payments: {}}\n", home} {
				rewritten(t, path, text)
				tick()
			}
			tick()
		}, []string{"local"}},
		"rewritten with the same": {out, func(t *testing.T, path string, tick func()) {
			for _, text := range []string{"", out} {
				rewritten(t, path, text)
				tick()
			}
			tick()
		}, nil},
		"emptied": {out, func(t *testing.T, path string, tick func()) {
			for _, text := range []string{"", "# payments goes out\nmodules:\n", out, home} {
				rewritten(t, path, text)
				tick()
				tick()
				tick()
			}
		}, []string{"it has no keys", "it has no keys", "remote", "local"}},
		"empty from the beginning": {"", func(t *testing.T, path string, tick func()) {
			for _, text := range []string{"# nothing yet\n", out} {
				rewritten(t, path, text)
				tick()
				tick()
			}
		}, []string{"local", "remote"}},
		"wrong": {out, func(t *testing.T, path string, tick func()) {
			for _, text := range []string{"modules: {payments: {placement: remot}}\n", home} {
				rewritten(t, path, text)
				tick()
				tick()
				tick()
			}
		}, []string{"refused", "local"}},
		"gone for a while": {out, func(t *testing.T, path string, tick func()) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			tick()
			tick()
			rewritten(t, path, home)
			tick()
			tick()
		}, []string{"local"}},
		"renamed": {out, func(t *testing.T, path string, tick func()) {
			replaced(t, path, home)
			tick()
			tick()
		}, []string{"local"}},
		"nothing happens": {out, func(_ *testing.T, _ string, tick func()) {
			tick()
			tick()
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := file(t, c.start)
			watched(t, path, nil, func(tick func()) { c.edit(t, path, tick) }, c.want)
		})
	}
}

// What is changed while the program starts is picked up.
func TestWatchFromTheStart(t *testing.T) {
	t.Parallel()
	path := file(t, out)
	watched(t, path, func() { rewritten(t, path, home) }, func(tick func()) {
		tick()
		tick()
	}, []string{"local"})
}

func TestWatchFollowsLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"..1": out, "..2": home} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		rewritten(t, filepath.Join(dir, name, "banyan.yaml"), text)
	}
	path, data := filepath.Join(dir, "banyan.yaml"), filepath.Join(dir, "..data")
	pointed(t, data, "..1")
	pointed(t, path, filepath.Join("..data", "banyan.yaml"))
	watched(t, path, nil, func(tick func()) {
		pointed(t, data, "..2")
		tick()
		tick()
	}, []string{"local"})
}

// watched runs Watch on a file that is edited, and compares what it tells: where payments is to be, or why not.
func watched(t *testing.T, path string, starting func(), edit func(tick func()), want []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := Options{File: path}
		c, err := Load(o)
		if err != nil {
			t.Fatal(err)
		}
		if starting != nil {
			starting()
		}
		var told []string
		go func() {
			_ = Watch(t.Context(), o, c, func(c Config) { told = append(told, c.Modules.Payments.Placement) }, func(err error) {
				if err.Error() == "config file "+path+": has no keys any more; leave one in it, or start anew to have every default" {
					told = append(told, "it has no keys")
				} else {
					told = append(told, "refused")
				}
			})
		}()
		synctest.Wait()
		edit(func() {
			time.Sleep(watchEvery)
			synctest.Wait()
		})
		if d := cmp.Diff(want, told); d != "" {
			t.Errorf("told (-want +got):\n%s", d)
		}
	})
}
