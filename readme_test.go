package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/banyan-go/banyan/config"
	"github.com/banyan-go/banyan/internal/databasetest"
	"github.com/banyan-go/banyan/internal/docs"
	"github.com/banyan-go/banyan/internal/testinfra"
	"github.com/banyan-go/banyan/modules"
)

// What the README shows is run, compiled or generated here. After a change that is meant:
//
//	go test -run README . -update
var update = flag.Bool("update", false, "write the README's output, context map and table of keys anew")

const (
	readme        = "README.md"
	modulesPage   = "docs/modules.md"
	modulesSource = "modules/modules.go"
)

// writing keeps tests that rewrite pages apart.
var writing sync.Mutex

func page(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// replace writes a page anew with new in place of old.
func replace(t *testing.T, path, old, new string) {
	t.Helper()
	writing.Lock()
	defer writing.Unlock()
	text := page(t, path)
	if strings.Count(text, old) != 1 {
		t.Fatalf("%s has this %d times, not once: %s", path, strings.Count(text, old), old)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(text, old, new, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// block is a fenced block of a page.
type block struct {
	language, name string // of "```sh tour"
	text           string
	line           int
}

func blocks(text string) []block {
	var list []block
	var open *block
	for i, line := range strings.SplitAfter(text, "\n") {
		info, fence := strings.CutPrefix(strings.TrimRight(line, "\n"), "```")
		switch {
		case open == nil && fence:
			language, name, _ := strings.Cut(info, " ")
			open = &block{language: language, name: name, line: i + 1}
		case open != nil && fence:
			list = append(list, *open)
			open = nil
		case open != nil:
			open.text += line
		}
	}
	return list
}

func TestREADMEContextMap(t *testing.T) {
	want := docs.ContextMap(modules.All())
	if *update {
		_, after, found := strings.Cut(page(t, readme), "<!-- context map -->\n```mermaid\n")
		old, _, closed := strings.Cut(after, "```\n")
		if !found || !closed {
			t.Fatal("the README has no place for the context map")
		}
		replace(t, readme, "<!-- context map -->\n```mermaid\n"+old+"```\n", "<!-- context map -->\n```mermaid\n"+want+"```\n")
	}
	if err := docs.CheckReadme([]byte(page(t, readme)), want); err != nil {
		t.Error(err)
	}
	if docs.CheckReadme([]byte(page(t, readme)), docs.ContextMap(modules.All()[1:])) == nil {
		t.Error("a map that lacks a module passes too")
	}
}

// keyTable is the table of all keys with their defaults, made of default.yaml and its comments.
func keyTable(t *testing.T) string {
	t.Helper()
	var document yaml.Node
	if err := yaml.Unmarshal(config.Reference(), &document); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| Key | Default | |\n|---|---|---|\n")
	var walk func(n *yaml.Node, section string)
	walk = func(n *yaml.Node, section string) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, value := n.Content[i], n.Content[i+1]
			key := section + name.Value
			if value.Kind == yaml.MappingNode {
				walk(value, key+".")
				continue
			}
			comment := strings.ReplaceAll(strings.TrimPrefix(name.HeadComment, "# "), "\n# ", " ")
			if comment == "" {
				t.Errorf("%s: has no comment in default.yaml", key)
			}
			text := value.Value
			switch {
			case value.Kind == yaml.SequenceNode:
				var items []string
				for _, item := range value.Content {
					if item.Kind == yaml.MappingNode { // its first key tells it from the others
						items = append(items, "{"+item.Content[0].Value+": "+item.Content[1].Value+", ...}")
						continue
					}
					items = append(items, item.Value)
				}
				text = "[" + strings.Join(items, ", ") + "]"
			case text == "":
				text = `""`
			}
			fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", key, text, strings.ReplaceAll(comment, "|", `\|`))
		}
	}
	walk(document.Content[0], "")
	return b.String()
}

func TestREADMEConfiguration(t *testing.T) {
	want := "<!-- configuration -->\n\n" + keyTable(t) + "\n</details>\n"
	if *update {
		_, after, found := strings.Cut(page(t, readme), "<!-- configuration -->\n")
		old, _, closed := strings.Cut(after, "</details>\n")
		if !found || !closed {
			t.Fatal("the README has no place for the keys")
		}
		replace(t, readme, "<!-- configuration -->\n"+old+"</details>\n", want)
	}
	text := page(t, readme)
	if !strings.Contains(text, want) {
		t.Errorf("the README's table of keys is not that of config/default.yaml; run go test -run README . -update. It should be\n%s", want)
	}
	// The table is of the keys that exist, whatever default.yaml looks like.
	var printed bytes.Buffer
	if err := config.Default().Print(&printed); err != nil {
		t.Fatal(err)
	}
	var keys yaml.Node
	if err := yaml.Unmarshal(printed.Bytes(), &keys); err != nil {
		t.Fatal(err)
	}
	var walk func(n *yaml.Node, section string)
	walk = func(n *yaml.Node, section string) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := section + n.Content[i].Value
			if n.Content[i+1].Kind == yaml.MappingNode {
				walk(n.Content[i+1], key+".")
			} else if !strings.Contains(text, "| `"+key+"` |") {
				t.Errorf("%s is not in the README", key)
			}
		}
	}
	walk(keys.Content[0], "")
	for _, k := range unknownKeys(text, string(config.Reference())) {
		t.Errorf("default.yaml names %s, which is no key", k)
	}
	if wrong := unknownKeys(text, "# With certificates (gateway.mtls), see modules.NAME.endpoints and bus.workers."); !slices.Equal(wrong, []string{"gateway.mtls"}) {
		t.Errorf("of one wrong key %v were found", wrong)
	}
	if strings.Contains(want, "[, ") {
		t.Error("a list is shown without what is in it")
	}
}

var namedKeys = regexp.MustCompile(`\b(?:gateway|bus|modules|database|ownership|telemetry|log)\.[a-z_.]*[a-z]`)

// unknownKeys are the keys that comments name and that are not in the table.
func unknownKeys(table, comments string) (wrong []string) {
	for line := range strings.Lines(comments) {
		_, comment, _ := strings.Cut(line, "# ")
		for _, k := range namedKeys.FindAllString(comment, -1) {
			if k != "modules.NAME" && !strings.Contains(table, "| `"+k+"` |") && !strings.Contains(table, "| `"+k+".") && !strings.Contains(table, "| `"+strings.Replace(k, "modules.", "modules.users.", 1)+"` |") {
				wrong = append(wrong, k)
			}
		}
	}
	return wrong
}

var (
	links      = regexp.MustCompile(`\]\(([^)#\s]+)[^)\s]*\)`)
	namedFiles = regexp.MustCompile("`((?:modules|internal|proxy|config|migrations|docs)/[a-z0-9_./-]*)`")
	namedTests = regexp.MustCompile("`((?:modules|internal|proxy|config)/[a-z0-9/]+)\\.(Test[A-Za-z0-9]+)`")
	namedCases = regexp.MustCompile("`internal/bustest` \"([^\"]+)\"")
)

// wrongReferences are the links, files, tests and cases that a page names and that are not there.
func wrongReferences(t *testing.T, path, text string) []string {
	t.Helper()
	var wrong []string
	missing := func(file string) bool { _, err := os.Stat(file); return err != nil }
	for _, m := range links.FindAllStringSubmatch(text, -1) {
		if !strings.Contains(m[1], "://") && missing(filepath.Join(filepath.Dir(path), m[1])) {
			wrong = append(wrong, "link "+m[1])
		}
	}
	for _, m := range namedFiles.FindAllStringSubmatch(text, -1) {
		if missing(m[1]) && !strings.Contains(m[1], "/wishes") { // the example's
			wrong = append(wrong, "file "+m[1])
		}
	}
	for _, m := range namedTests.FindAllStringSubmatch(text, -1) {
		files, err := filepath.Glob(filepath.Join(m[1], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(f string) bool { return strings.Contains(page(t, f), "func "+m[2]+"(t *testing.T)") }) {
			wrong = append(wrong, "test "+m[1]+"."+m[2])
		}
	}
	suite := page(t, "internal/bustest/suite.go")
	for _, m := range namedCases.FindAllStringSubmatch(text, -1) {
		if !strings.Contains(suite, `{"`+m[1]+`", `) {
			wrong = append(wrong, "case "+m[1])
		}
	}
	return wrong
}

func TestREADMENamesWhatIsThere(t *testing.T) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range append(pages, readme) {
		for _, w := range wrongReferences(t, p, page(t, p)) {
			t.Errorf("%s: there is no %s", p, w)
		}
	}
	made := "[x](docs/nothing.md) `internal/nothing` `internal/e2e.TestNothing` `internal/bustest` \"nothing\""
	if w := wrongReferences(t, readme, made); len(w) != 4 {
		t.Errorf("of four wrong references %v were found", w)
	}
}

// shell runs the blocks of a page that have one name, one after another in one shell, with the real binary in its folder.
type shell struct {
	page string
	dir  string
	env  []string
	here *strings.Replacer // what the page calls addresses -> what they are in this run
	back *strings.Replacer
}

// newShell takes pairs of what the page says and what it is in this run.
func newShell(t *testing.T, page, binary string, pairs ...string) *shell {
	t.Helper()
	s := &shell{page: page, dir: t.TempDir()}
	if err := os.Symlink(binary, filepath.Join(s.dir, "banyan")); err != nil {
		t.Fatal(err)
	}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "BANYAN_") {
			s.env = append(s.env, e)
		}
	}
	var back []string
	for i := 0; i+1 < len(pairs); i += 2 {
		back = append(back, pairs[i+1], pairs[i])
	}
	s.here, s.back = strings.NewReplacer(pairs...), strings.NewReplacer(back...)
	return s
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// run runs the blocks and compares what each prints with the text block after it; a block without one prints nothing. In a "text figures"
// block numbers may differ, because they are measured.
func (s *shell) run(t *testing.T, name string) {
	t.Helper()
	const mark = "\n@@ end of block @@\n"
	script := "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n"
	all := blocks(page(t, s.page))
	var commands, expected []block
	for i, b := range all {
		if b.language != "sh" || b.name != name {
			continue
		}
		commands = append(commands, b)
		want := block{}
		if i+1 < len(all) && all[i+1].language == "text" {
			want = all[i+1]
		}
		expected = append(expected, want)
		script += b.text + "printf '\\n@@ end of block @@\\n'\n"
	}
	if len(commands) == 0 {
		t.Fatalf("%s has no commands of the name %s", s.page, name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", s.here.Replace(script))
	cmd.Dir, cmd.Env = s.dir, s.env
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // the trap ends what it has started
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	parts := strings.Split(string(out), mark)
	if err != nil {
		at := min(len(parts)-1, len(commands)-1)
		logs := ""
		files, _ := filepath.Glob(filepath.Join(s.dir, "*.log"))
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil {
				logs += "\n" + filepath.Base(f) + ":\n" + string(b[max(0, len(b)-2000):])
			}
		}
		t.Fatalf("the block in line %d of %s fails: %v\n%s%s", commands[at].line, s.page, err, parts[len(parts)-1], logs)
	}
	for i, want := range expected {
		got := s.back.Replace(parts[i])
		same := normal
		if want.name == "figures" {
			same = shape
		}
		switch {
		case same(got) == same(want.text):
		case *update:
			info := strings.TrimSpace("```text " + want.name)
			text := commands[i].text + "```\n\n" + info + "\n"
			replace(t, s.page, text+want.text+"```\n", text+wrap(got)+"```\n")
		default:
			t.Errorf("the block in line %d of %s prints something else (go test -run '%s' . -update takes it over):\n%s\nThe page says:\n%s",
				commands[i].line, s.page, strings.Split(t.Name(), "/")[0], wrap(got), want.text)
		}
	}
}

var varying = []struct {
	form *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "<id>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "<time>"},
	{regexp.MustCompile(`(?m)^Date: .*$`), "<date>"},
	{regexp.MustCompile(`\b[\w.-]+-\d+-[0-9a-f]{6}\b`), "<process>"}, // host, number, and what tells it from others
	{regexp.MustCompile(`"request_id":\s*"[0-9a-f]{32}"`), "<request>"},
	{regexp.MustCompile(`\s+`), ""}, // JSON is wrapped in the README
}

// normal is a text without what differs from run to run.
func normal(text string) string {
	for _, v := range varying {
		text = v.form.ReplaceAllString(text, v.as)
	}
	return text
}

var figures = regexp.MustCompile(`[0-9][0-9.:/,]*((ns|µs|ms|s|m|h)\b)?`)

// shape is a text without its numbers too.
func shape(text string) string {
	return strings.ReplaceAll(figures.ReplaceAllString(normal(text), "#"), "─", "") // lines are as long as what they are under
}

func TestREADMEComparison(t *testing.T) {
	t.Parallel()
	one := `{"id":"01a1fcba-b608-7d6a-93a3-a5ce31715687","units":2,"at":"2026-11-21T06:10:57.3Z"}`
	if other := "{\"id\":\"01a1fcba-ffff-7d6a-93a3-a5ce31715687\",\n \"units\":2,\"at\":\"2027-11-21T06:10:57Z\"}\n"; normal(one) != normal(other) {
		t.Errorf("%s and %s are the same but for id, time and wrapping", one, other)
	}
	if other := strings.Replace(one, ":2,", ":3,", 1); normal(one) == normal(other) {
		t.Errorf("%s and %s are not the same", one, other)
	}
	if a, b := "shop vm-3514-554fdd follows", "shop web.example-7-0a1b2c follows"; normal(a) != normal(b) {
		t.Errorf("%s and %s are the same but for the process", a, b)
	}
	if a, b := "route a: p99 12.4ms, 3 of 20", "route a: p99 950µs, 0 of 7"; shape(a) != shape(b) || shape(a) == shape("route b: p99 12.4ms, 3 of 20") {
		t.Errorf("in %s and %s the figures alone differ", a, b)
	}
}

const width = 110

// wrap breaks lines of JSON after a comma.
func wrap(text string) string {
	var b strings.Builder
	for _, line := range strings.Split(strings.Trim(text, "\n"), "\n") {
		line = strings.TrimRight(line, " ")
		for len(line) > width && strings.Contains(line, `{"`) {
			at := max(strings.LastIndex(line[:width], `,"`), strings.LastIndex(line[:width], `,{`))
			if at <= 1 {
				break
			}
			b.WriteString(line[:at+1] + "\n")
			line = " " + line[at+1:]
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// program is the binary for the commands of a page, on a machine that has what else they call.
func program(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"curl", "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv(testinfra.EnvRequire) != "" {
				t.Fatalf("the commands need %s (apt-get install %[1]s)", tool)
			}
			t.Skipf("skipped: the commands need %s", tool)
		}
	}
	binary := filepath.Join(t.TempDir(), "banyan")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return binary
}

func TestREADMECommands(t *testing.T) {
	t.Parallel()
	binary := program(t)
	t.Run("tour", func(t *testing.T) { t.Parallel(); tour(t, binary) })
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		dsn := testinfra.Postgres(t).Database(t)
		newShell(t, readme, binary,
			"postgres://postgres:secret@127.0.0.1:5432/banyan", "'"+dsn+"'", "postgres://127.0.0.1:5432/banyan", "'"+databasetest.Bare(t, dsn)+"'",
			"127.0.0.1:8081", free(t), "127.0.0.1:8082", free(t), "127.0.0.1:9091", free(t), "127.0.0.1:9092", free(t),
			"amqp://banyan:secret@127.0.0.1:5672/banyan", "'"+testinfra.Rabbit(t).URL()+"'", "127.0.0.1:9101", free(t), "127.0.0.1:9191", free(t)).run(t, "postgres")
	})
	t.Run("replay", func(t *testing.T) {
		t.Parallel()
		newShell(t, readme, binary, "127.0.0.1:8083", free(t), "127.0.0.1:9093", free(t)).run(t, "replay")
	})
}

// tour follows the page from its top: somebody has run the shop as it comes, and then starts the one of the tour in another terminal.
func tour(t *testing.T, binary string) {
	public, operator := free(t), free(t)
	s := newShell(t, readme, binary, "http://localhost:8080", "http://"+public, "127.0.0.1:9090", operator)
	s.env = append(s.env, "BANYAN_ADDR="+public, "BANYAN_ADMIN_ADDR="+operator)
	s.serve(t, "first.log", "./banyan")()
	all := blocks(page(t, readme))
	i := slices.IndexFunc(all, func(b block) bool { return b.language == "sh" && b.name == "start" })
	if i < 0 {
		t.Fatal("the README does not say how to start the shop of the tour")
	}
	build, start, _ := strings.Cut(strings.TrimSpace(all[i].text), "\n")
	if build != "make build" {
		t.Errorf("the tour begins with %q", build)
	}
	stop := s.serve(t, "shop.log", start)
	s.run(t, "tour")
	stop()
}

// serve runs a command line that starts a shop and waits until that is ready; the function it returns ends it.
func (s *shell) serve(t *testing.T, logName, line string) (stop func()) {
	t.Helper()
	log, err := os.Create(filepath.Join(s.dir, logName))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	shop := exec.Command("bash", "-c", strings.Replace(line, "./banyan", "exec ./banyan", 1))
	shop.Dir, shop.Env = s.dir, s.env
	shop.Stdout, shop.Stderr = log, log
	if err := shop.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if shop.ProcessState == nil {
			_ = shop.Process.Kill()
			_ = shop.Wait()
		}
	})
	for deadline := time.Now().Add(30 * time.Second); ; {
		if text := page(t, log.Name()); strings.Contains(text, "is ready") {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the shop does not start: %s", text)
		}
		<-time.After(10 * time.Millisecond)
	}
	return func() {
		t.Helper()
		if err := shop.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := shop.Wait(); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
	}
}

// The module that the documentation adds is laid over the tree, compiled with it and tested.
func TestREADMEModule(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	lay := func(path, text string) {
		t.Helper()
		at, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
		if err := os.WriteFile(copied, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[at] = copied
	}
	list := page(t, modulesSource)
	for _, b := range append(blocks(page(t, readme)), blocks(page(t, modulesPage))...) {
		switch {
		case b.language == "diff" && b.name == modulesSource:
			var old, new strings.Builder
			for line := range strings.Lines(b.text) {
				new.WriteString(line[1:])
				if line[0] != '+' {
					old.WriteString(line[1:])
				}
			}
			if strings.Count(list, old.String()) != 1 {
				t.Fatalf("line %d of %s: the lines without + are not in %s as they stand there:\n%s", b.line, modulesPage, modulesSource, old.String())
			}
			list = strings.Replace(list, old.String(), new.String(), 1)
		case b.name != "" && b.language != "sh":
			lay(b.name, b.text)
			if b.language == "go" {
				gofmt := exec.Command("gofmt", "-d")
				gofmt.Stdin = strings.NewReader(b.text)
				if out, err := gofmt.CombinedOutput(); err != nil || len(out) > 0 {
					t.Errorf("%s is not formatted: %s %v", b.name, out, err)
				}
			}
		}
	}
	lay(modulesSource, list)
	if len(overlay.Replace) != 7 {
		t.Fatalf("the module has %d files, not 7: %v", len(overlay.Replace), overlay.Replace)
	}
	file, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	laid := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(laid, file, 0o600); err != nil {
		t.Fatal(err)
	}
	// A folder that is laid over the tree cannot be worked in, so the test is built, and run elsewhere.
	tests := filepath.Join(dir, "wishes.test")
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"go", []string{"test", "-overlay", laid, "-vet=off", "-c", "-o", tests, "./modules/wishes"}, ""},
		{tests, []string{"-test.v"}, "--- PASS: TestWishes/sqlite"},
		{"go", []string{"run", "-overlay", laid, ".", "modules"}, "what customers would like to have some day"},
	} {
		out, err := exec.Command(c.name, c.args...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want) {
			t.Fatalf("%s %s: %v\n%s", c.name, strings.Join(c.args, " "), err, out)
		}
	}
}
