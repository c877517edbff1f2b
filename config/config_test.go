package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"
)

func file(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "banyan.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func environ(entries ...string) func() []string { return func() []string { return entries } }

// documented are the keys of default.yaml, with whether a comment says what they are.
func documented(t *testing.T) map[string]bool {
	t.Helper()
	var document yaml.Node
	if err := yaml.Unmarshal(reference, &document); err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	var walk func(n *yaml.Node, prefix string)
	walk = func(n *yaml.Node, prefix string) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, value := n.Content[i], n.Content[i+1]
			if value.Kind == yaml.MappingNode {
				walk(value, prefix+name.Value+".")
				continue
			}
			keys[prefix+name.Value] = name.HeadComment != ""
		}
	}
	walk(document.Content[0], "")
	return keys
}

func TestDefaultYAMLIsTheDefaults(t *testing.T) {
	t.Parallel()
	got, err := Load(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plain(got), plain(Default())); diff != "" {
		t.Errorf("default.yaml differs from the structs (-yaml +structs)\n%s", diff)
	}
	inYAML := documented(t)
	defaults := Default()
	for _, l := range leaves(&defaults) {
		commented, ok := inYAML[l.key]
		if !ok {
			t.Errorf("%s is not in default.yaml", l.key)
		} else if !commented {
			t.Errorf("%s has no comment in default.yaml", l.key)
		}
		delete(inYAML, l.key)
	}
	for key := range inYAML {
		t.Errorf("%s is in default.yaml, but nothing reads it", key)
	}
}

// plain is the configuration as cmp can look at it: Config prints itself masked otherwise.
func plain(c Config) map[string]any {
	values := map[string]any{}
	for _, l := range leaves(&c) {
		values[l.key] = l.value.Interface()
	}
	return values
}

// other is a text that is not the value of the key, but could be.
func other(l leaf) (text string, want any) {
	switch v := l.value.Interface().(type) {
	case time.Duration:
		return "77s", 77 * time.Second
	case bool:
		return fmt.Sprint(!v), !v
	case int:
		return "77", 77
	case int64:
		return "77", int64(77)
	case float64:
		return "0.77", 0.77
	case []string:
		return "a, b", []string{"a", "b"}
	}
	if l.value.Kind() == reflect.String {
		return "a: #'b,c", reflect.ValueOf("a: #'b,c").Convert(l.value.Type()).Interface()
	}
	return "", nil
}

func TestEachKeyByFileVariableAndFlag(t *testing.T) {
	t.Parallel()
	defaults := Default()
	seen := map[string]string{}
	for _, l := range leaves(&defaults) {
		if groups(l.value.Type()) {
			continue // TestListsOfGroups
		}
		text, want := other(l)
		if want == nil {
			t.Errorf("%s: type %s", l.key, l.value.Type())
			continue
		}
		if before := seen[variable(l.key)]; before != "" {
			t.Errorf("%s and %s have the same variable", before, l.key)
		}
		seen[variable(l.key)] = l.key
		nested := any(text)
		path := strings.Split(l.key, ".")
		for _, name := range slices.Backward(path) {
			nested = map[string]any{name: nested}
		}
		encoded, err := yaml.Marshal(nested)
		if err != nil {
			t.Fatal(err)
		}
		for source, o := range map[string]Options{
			"file":                   {File: file(t, string(encoded))},
			"env " + variable(l.key): {Environ: environ(variable(l.key) + "=" + text)},
			"flag":                   {Flags: map[string]string{l.key: text}},
		} {
			c, err := decode(o)
			if err != nil {
				t.Errorf("%s by %s: %v", l.key, source, err)
				continue
			}
			got := plain(c)
			if diff := cmp.Diff(got[l.key], want); diff != "" {
				t.Errorf("%s by %s (-got +want)\n%s", l.key, source, diff)
			}
			if c.Source(l.key) != source {
				t.Errorf("%s by %s comes from %s", l.key, source, c.Source(l.key))
			}
			// Nothing else has moved.
			rest := plain(defaults)
			delete(got, l.key)
			delete(rest, l.key)
			if diff := cmp.Diff(got, rest, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s by %s changes others\n%s", l.key, source, diff)
			}
		}
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	path := file(t, "log: {level: debug, format: text}\naddr: 127.0.0.1:1\ndata: /from/file\n")
	c, err := Load(Options{
		Environ: environ("BANYAN_CONFIG="+path, "BANYAN_LOG_LEVEL=warn", "BANYAN_ADDR=127.0.0.1:2", "BANYAN_ADMIN_PASSWORD=hunter2", "BANYAN_TEST_X=1", "HOME=/root"),
		Flags:   map[string]string{"addr": "127.0.0.1:3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{c.Log.Format, c.Log.Level, c.Addr, c.Data, c.AdminAddr}
	if diff := cmp.Diff(got, []string{"text", "warn", "127.0.0.1:3", "/from/file", "127.0.0.1:9090"}); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
	// A file that is named beats the one of the variable.
	c, err = Load(Options{File: file(t, "data: /named"), Environ: environ("BANYAN_CONFIG=" + path)})
	if err != nil || c.Data != "/named" {
		t.Errorf("%q, %v", c.Data, err)
	}
}

func TestWrongInput(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		o    Options
		want []string
	}{
		{"unknown key", Options{File: file(t, "log:\n  levle: info\n")}, []string{"log.levle: there is no such key; did you mean log.level? log has level, format", "line 2"}},
		{"unknown section", Options{File: file(t, "modules: {payment: {placement: local}}")}, []string{"modules.payment: there is no such key", "modules has users, catalog, carts, orders, payments"}},
		{"unknown top", Options{File: file(t, "adr: x")}, []string{"adr: there is no such key; did you mean addr? the configuration has data, addr"}},
		{"capitals", Options{File: file(t, "Addr: x")}, []string{"Addr: there is no such key; did you mean addr?"}},
		{"dotted", Options{File: file(t, "log.level: info")}, []string{"log.level: write it as level below log, not with dots", "line 1"}},
		{"dotted below", Options{File: file(t, "gateway: {tls.cert: x}")}, []string{"gateway.tls.cert: write it as cert below tls below gateway, not with dots"}},
		{"dotted group", Options{File: file(t, "modules.payments: {placement: local}")}, []string{"modules.payments: write it as payments below modules, not with dots"}},
		{"dotted and wrong", Options{File: file(t, "log.levle: info")}, []string{"log.levle: there is no such key; did you mean log.level? log has"}},
		{"group", Options{File: file(t, "logs: {level: info}")}, []string{"logs: there is no such key; did you mean log? the configuration has"}},
		{"group below", Options{File: file(t, "modules: {payment: {placement: local}}")}, []string{"modules.payment: there is no such key; did you mean modules.payments? modules has"}},
		{"key of another place", Options{File: file(t, "level: info")}, []string{"level: there is no such key; did you mean log.level? the configuration has"}},
		{"key of many places", Options{File: file(t, "placement: local")}, []string{"placement: there is no such key; the configuration has"}},
		{"nothing like it", Options{File: file(t, "colour: red")}, []string{"colour: there is no such key; the configuration has"}},
		{"nothing like it below", Options{File: file(t, "modules: {payments: {colour: red}}")}, []string{"modules.payments.colour: there is no such key; modules.payments has"}},
		{"twice", Options{File: file(t, "addr: x:1\naddr: y:1\n")}, []string{"addr: is there twice"}},
		{"value for a section", Options{File: file(t, "log: debug")}, []string{"log: is not a value; it has level, format below it"}},
		{"list for a section", Options{File: file(t, "log: [debug]")}, []string{"log: is not a value"}},
		{"keys below a value", Options{File: file(t, "addr: {port: 1}")}, []string{"addr: takes a value"}},
		{"list for a value", Options{File: file(t, "addr: [a, b]")}, []string{"addr: takes one value, not a list"}},
		{"no value", Options{File: file(t, "addr:\n")}, []string{"addr: has no value"}},
		{"list of lists", Options{File: file(t, "gateway: {hosts: [[a]]}")}, []string{"gateway.hosts: item 1 of the list is not text"}},
		{"whole file a list", Options{File: file(t, "[a]")}, []string{"the file: is not a value"}},
		{"two documents", Options{File: file(t, "addr: x:1\n---\naddr: y:1\n")}, []string{"more than one document"}},
		{"not YAML", Options{File: file(t, "a: [")}, []string{"config file"}},
		{"huge", Options{File: file(t, strings.Repeat("#", maxFile+1))}, []string{"larger than 1 MiB"}},
		{"no file", Options{File: "/nowhere/banyan.yaml"}, []string{"config file: open /nowhere/banyan.yaml"}},
		{"duration", Options{File: file(t, "shutdown_timeout: 20")}, []string{`shutdown_timeout: "20" is not a duration, as in`, "line 1"}},
		{"number", Options{Environ: environ("BANYAN_BUS_WORKERS=many")}, []string{`bus.workers: "many" is not a whole number (from BANYAN_BUS_WORKERS)`}},
		{"number too large", Options{Flags: map[string]string{"bus.workers": "99999999999999999999"}}, []string{"bus.workers:", "is not a whole number"}},
		{"bool", Options{Environ: environ("BANYAN_GATEWAY_ACCESS_LOG=yes")}, []string{`gateway.access_log: "yes" is not true or false`}},
		{"variable", Options{Environ: environ("BANYAN_LOG_LEVLE=info")}, []string{"BANYAN_LOG_LEVLE: no key has this variable; did you mean BANYAN_LOG_LEVEL (log.level)?"}},
		{"variable of a group", Options{Environ: environ("BANYAN_LOG=debug")}, []string{"BANYAN_LOG: no key has this variable; log has BANYAN_LOG_LEVEL, BANYAN_LOG_FORMAT"}},
		{"variable of a large group", Options{Environ: environ("BANYAN_MODULES_PAYMENTS=remote")}, []string{"BANYAN_MODULES_PAYMENTS: no key has this variable; modules.payments has BANYAN_MODULES_PAYMENTS_PLACEMENT, "}},
		{"variable of the password", Options{Environ: environ("BANYAN_ADMIN_PASSWROD=x")}, []string{"BANYAN_ADMIN_PASSWROD: no key has this variable; did you mean BANYAN_ADMIN_PASSWORD?"}},
		{"variable of the file", Options{Environ: environ("BANYAN_CONFG=x")}, []string{"BANYAN_CONFG: no key has this variable; did you mean BANYAN_CONFIG?"}},
		{"variable like nothing", Options{Environ: environ("BANYAN_COLOUR=red")}, []string{"BANYAN_COLOUR: no key has this variable; `banyan config` prints the keys"}},
		{"flag", Options{Flags: map[string]string{"adr": "x"}}, []string{"adr: there is no such key; did you mean addr?"}},
		{"placement", Options{Environ: environ("BANYAN_MODULES_PAYMENTS_PLACEMENT=remot")}, []string{`modules.payments.placement: "remot" is not local, shadow, canary, remote or retired`}},
		{"canary of writes on a store of one process", Options{Environ: environ("BANYAN_MODULES_PAYMENTS_PLACEMENT=canary", "BANYAN_MODULES_PAYMENTS_CANARY_READS=100", "BANYAN_MODULES_PAYMENTS_CANARY_WRITES=10")},
			[]string{"modules.payments.canary.writes: is 10, but a SQLite file has one writing process"}},
		{"canary of writes alone", Options{Environ: environ("BANYAN_MODULES_PAYMENTS_CANARY_WRITES=100")}, []string{"modules.payments.canary.writes: 100 is not between 0 and modules.payments.canary.reads"}},
		{"list of groups in a variable", Options{Environ: environ("BANYAN_GATEWAY_UPSTREAMS=legacy")}, []string{"gateway.upstreams: is a list of groups of keys, which can be set in a file only (from BANYAN_GATEWAY_UPSTREAMS)"}},
		{"part of a module", Options{Flags: map[string]string{"modules.catalog.currency": "pounds"}}, []string{`modules.catalog.currency: "pounds" is not`}},
		{"own key of a module", Options{Flags: map[string]string{"modules.orders.checkout_timeout": "0s"}}, []string{"modules.orders.checkout_timeout: 0s is not"}},
		{"address", Options{Flags: map[string]string{"addr": "8080"}}, []string{`addr: "8080" is not host:port`}},
		{"port", Options{Flags: map[string]string{"addr": ":99999"}}, []string{`addr: ":99999" is not host:port`}},
		{"open admin port", Options{Flags: map[string]string{"admin_addr": ":9090"}}, []string{`admin_addr: ":9090" can be reached from other machines`, "admin_anywhere"}},
		{"same port", Options{Flags: map[string]string{"addr": "127.0.0.1:9090"}}, []string{"admin_addr: \"127.0.0.1:9090\" is the public addr too"}},
		{"parts", Options{Flags: map[string]string{"log.level": "loud", "gateway.limits.idle": "0s", "database.driver": "mysql", "bus.workers": "0", "telemetry.sample_ratio": "2"}},
			[]string{`log.level: "loud"`, "gateway.limits.idle: 0s", "database.driver:", "bus.workers:", "telemetry.sample_ratio: 2"}},
		{"data", Options{Flags: map[string]string{"data": ""}}, []string{"data: is empty"}},
		{"drain", Options{Flags: map[string]string{"shutdown_timeout": "1ms"}}, []string{"shutdown_timeout: 1ms is not between"}},
		{"all at once", Options{File: file(t, "a: 1\nb: 2\nlog: {level: 3, x: 4}")}, []string{"a: there", "b: there", "log.x: there"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c, err := Load(test.o)
			if err == nil {
				t.Fatalf("loaded:\n%s", c)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v\nwant %s", err, want)
				}
			}
		})
	}
}

func TestAFileOfAnotherProgram(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&text, "key%d: %d\n", i, i)
	}
	_, err := Load(Options{File: file(t, text.String())})
	if err == nil || strings.Count(err.Error(), "\n") != maxWrong-1 {
		t.Errorf("got %v", err)
	}
}

func TestFilesThatAreFine(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "# nothing\n", "log:\n", "---\naddr: localhost:1\n", "addr: &a localhost:1\ndata: *a\n", "gateway: {hosts: []}\n", "gateway: {hosts: [1.2.3.4, a.example]}\n",
		"gateway: {hosts: \"a.example,b.example\"}", "modules: {notifications: {smtp: {password: 12345}}}", "{}", "null",
	} {
		if _, err := Load(Options{File: file(t, text)}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	c, err := Load(Options{File: file(t, "modules: {notifications: {smtp: {password: 0012}}}")})
	if err != nil || c.Modules.Notifications.SMTP.Password != "0012" {
		t.Errorf("the password is %q, %v: it must be as it was written", c.Modules.Notifications.SMTP.Password, err)
	}
}

func TestPrint(t *testing.T) {
	t.Parallel()
	c, err := Load(Options{
		File: file(t, "log: {level: debug}\nmodules: {notifications: {smtp: {password: hunter2}}}"),
		Environ: environ("BANYAN_GATEWAY_HOSTS=a.example,b.example", "BANYAN_DATABASE_POSTGRES_SECRET=hunter2",
			"BANYAN_DATABASE_POSTGRES_DSN=postgres://u:hunter2@localhost/banyan", "BANYAN_DATABASE_POSTGRES_ADMIN_DSN=postgres://u:hunter2@localhost/banyan",
			"BANYAN_TELEMETRY_OTLP_HEADERS=key=hunter2"),
		Flags: map[string]string{"addr": ":1234"},
	})
	if err != nil {
		t.Fatal(err)
	}
	printed := c.String()
	for _, want := range []string{
		`addr: :1234 # flag`, "level: debug # file", "format: json # default", "password: '********' # file", "secret: '********' # env BANYAN_DATABASE_POSTGRES_SECRET",
		"hosts: [a.example, b.example]", "# env BANYAN_GATEWAY_HOSTS", "keep_unsubscribed: 720h # default", "retry_cap: 5m # default", "retry_base: 200ms # default", "headers: '********' # env",
	} {
		if !strings.Contains(printed, want) {
			t.Errorf("no %q in\n%s", want, printed)
		}
	}
	// What is printed can be read again.
	again := map[string]any{}
	if err := yaml.Unmarshal([]byte(printed), &again); err != nil {
		t.Fatal(err)
	}
	settings := map[string]setting{}
	defaults := Default()
	if wrong := read(newKnown(leaves(&defaults)), "printed", []byte(printed), settings); wrong != nil || len(settings) != len(leaves(&defaults)) {
		t.Errorf("%d settings, %v", len(settings), wrong)
	}

	var out bytes.Buffer
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d"} {
		fmt.Fprintf(&out, format, c)
		fmt.Fprintf(&out, format, &c)
	}
	for _, v := range []any{c, &c} {
		encoded, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(encoded)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "config", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "config", v)
	}
	if strings.Contains(out.String()+printed, "hunter2") {
		t.Errorf("a secret shows:\n%s\n%s", printed, out.String())
	}
}

// Whatever is named like a secret must be masked; this is what a new key falls over.
func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	c := Default()
	masked := 0
	for _, l := range leaves(&c) {
		name := l.key[strings.LastIndexByte(l.key, '.')+1:]
		suspicious := slices.ContainsFunc([]string{"password", "secret", "headers", "admin_dsn", "private", "api_key"}, func(s string) bool { return strings.Contains(name, s) })
		if suspicious && !slices.Contains([]string{"gateway.cors.headers", "gateway.shadow.headers"}, l.key) && !l.secret {
			t.Errorf("%s is not masked", l.key)
		}
		if l.secret {
			masked++
			if _, err := l.parse("x"); err != nil {
				t.Error(err)
			}
		}
	}
	for _, key := range secrets {
		if !slices.ContainsFunc(leaves(&c), func(l leaf) bool { return l.key == key }) {
			t.Errorf("%s is masked but does not exist", key)
		}
	}
	if masked != len(secrets)+3 { // and those whose type is secret.Text
		t.Errorf("%d keys are secret, want %d", masked, len(secrets)+3)
	}
}

func TestReferenceCannotBeChanged(t *testing.T) {
	t.Parallel()
	r := Reference()
	clear(r)
	if bytes.Equal(r, Reference()) {
		t.Error("a caller changed default.yaml")
	}
}

// FuzzLoad: whatever is in the file, Load does not panic, and its errors name a key or the file.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(reference))
	for _, s := range []string{
		"log: {level: debug}", "a: &a [*a]", "&a a: *a", "? {a: b}\n: c", "log: &x\n  level: *x", "<<: {addr: x}", "\x00", "addr: !!binary aGk=", "addr: 1\naddr: 2",
		"bus: {workers: 1e3}", "? [log]\n: x", "log: *missing", "gateway: {hosts: &h [a, *h]}", "'': x", "modules: {users: {placement: \u2028}}", "addr: ~", "a: b: c",
	} {
		f.Add([]byte(s))
	}
	defaults := Default()
	keys := newKnown(leaves(&defaults))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		settings := map[string]setting{}
		for _, err := range read(keys, "fuzz.yaml", text, settings) {
			if !strings.Contains(err.Error(), ":") || !strings.Contains(err.Error(), "fuzz.yaml") {
				t.Fatalf("names neither key nor file: %v", err)
			}
		}
		for key := range settings {
			if _, ok := keys.leaves[key]; !ok {
				t.Fatalf("takes the unknown key %q", key)
			}
		}
		path := filepath.Join(dir, "banyan.yaml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Options{File: path})
		if err != nil {
			if !strings.Contains(err.Error(), ":") {
				t.Fatalf("names no key: %v", err)
			}
			return
		}
		if c.String() == "" {
			t.Fatal("prints nothing")
		}
	})
}

func TestListsOfGroups(t *testing.T) {
	t.Parallel()
	legacy := `
gateway:
  upstreams:
    - name: legacy
      endpoints: [http://127.0.0.1:7000]
      routes:
        - {match: "/old/{rest...}", class: stream}
        - {match: "GET /reports/{id}", class: read, auth: staff}
      pool: {idle: 20s}
`
	c, err := Load(Options{File: file(t, legacy)})
	if err != nil {
		t.Fatal(err)
	}
	f := c.Gateway.Upstreams[0]
	if len(c.Gateway.Upstreams) != 1 || f.Name != "legacy" || len(f.Routes) != 2 || f.Routes[1].Auth != "staff" || f.Pool.Idle != 20*time.Second || f.Pool.Connect == 0 || f.Protocol != "h1" {
		t.Errorf("loaded %+v", f)
	}
	if !strings.Contains(c.String(), "GET /reports/{id}") || !strings.Contains(c.String(), "idle: 20s") {
		t.Errorf("printed\n%s", c)
	}
	issuer := "gateway: {issuers: [{name: a, issuer: b, secret: hunter2hunter2hunter2hunter2hunter2, algorithms: [HS256], audiences: [shop]}]}"
	if c, err = Load(Options{File: file(t, issuer)}); err != nil {
		t.Fatal(err)
	}
	if encoded, err := json.Marshal(c); err != nil || strings.Contains(c.String()+string(encoded), "hunter2") {
		t.Errorf("a secret shows, error %v", err)
	}
	for text, want := range map[string]string{
		"gateway: {upstreams: [{name: a, rotues: []}]}":           "gateway.upstreams[0].rotues: there is no such key; it takes name, routes",
		"gateway: {upstreams: [{name: a, pool: {idle: soon}}]}":   `gateway.upstreams[0].pool.idle: "soon" is not a duration`,
		"gateway: {upstreams: [{name: a, pool: {eject: 1s}}]}":    "gateway.upstreams[0].pool.eject: there is no such key",
		"gateway: {upstreams: [legacy]}":                          "gateway.upstreams[0]: is not a group of keys",
		"gateway: {upstreams: [{name: a, name: b}]}":              "gateway.upstreams[0].name: is there twice",
		"gateway: {upstreams: [{name: a, routes: [{match: x}]}]}": "gateway.upstreams[0].routes[0].class",
	} {
		if _, err := Load(Options{File: file(t, text)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot %v\nwant %s", text, err, want)
		}
	}
}
