package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/banyan-go/banyan/config"
	"github.com/banyan-go/banyan/internal/bus/rabbit"
	"github.com/banyan-go/banyan/modules"
)

// What deploy holds is not run here. But every key and variable in it is one, every command exists, and what it says of the broker's users
// is what the code says.

// secretsOf are the files that deploy/secrets.sh makes.
func secretsOf(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("skipped: deploy/secrets.sh needs openssl")
	}
	dir := filepath.Join(t.TempDir(), "secrets")
	if out, err := exec.Command("deploy/secrets.sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("secrets.sh: %v: %s", err, out)
	}
	return dir
}

// environment reads lines of NAME=value.
func environment(t *testing.T, path string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(page(t, path)) {
		name, value, found := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !found || value == "" {
			t.Errorf("%s: %q is not NAME=value", path, line)
		}
		all[name] = value
	}
	return all
}

// documentsIn are the documents of a YAML file.
func documentsIn(t *testing.T, path string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for d := yaml.NewDecoder(strings.NewReader(page(t, path))); ; {
		var one map[string]any
		if err := d.Decode(&one); err != nil {
			if err.Error() == "EOF" {
				return all
			}
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, one)
	}
}

// at is what a document has under these keys; nil if it has nothing.
func at(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

func listAt(v any, keys ...string) []any {
	list, _ := at(v, keys...).([]any)
	return list
}

func texts(list []any) []string {
	var all []string
	for _, v := range list {
		all = append(all, fmt.Sprint(v))
	}
	return all
}

// wrongCommand is what is wrong with a command line of the binary.
func wrongCommand(args []string) error {
	c, rest, err := command().Find(args)
	if err != nil {
		return err
	}
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	if only := c.Flags().Lookup("only"); only != nil && only.Changed && !slices.Contains(modules.Names(), only.Value.String()) {
		return noModule(only.Value.String())
	}
	return c.ValidateArgs(c.Flags().Args())
}

// wrongConfiguration is what the program says of a file and variables.
func wrongConfiguration(file string, env map[string]string) error {
	_, err := config.Load(config.Options{File: file, Environ: func() []string {
		var list []string
		for name, value := range env {
			if name != "BANYAN_CONFIG" { // as the container sees it
				list = append(list, name+"="+value)
			}
		}
		return list
	}})
	return err
}

func TestDeployCompose(t *testing.T) {
	t.Parallel()
	const mounted = "deploy/config/banyan.yaml"
	secrets := secretsOf(t)
	compose := documentsIn(t, "deploy/compose.yaml")[0]
	services, _ := at(compose, "services").(map[string]any)
	for _, name := range []string{"postgres", "rabbitmq", "migrate", "certs", "shop", "payments"} {
		if services[name] == nil {
			t.Errorf("there is no service %s", name)
		}
	}
	for name, s := range services {
		env := map[string]string{}
		for _, file := range texts(listAt(s, "env_file")) {
			maps.Copy(env, environment(t, filepath.Join(filepath.Dir(secrets), file)))
		}
		values, _ := at(s, "environment").(map[string]any)
		for k, v := range values {
			env[k] = fmt.Sprint(v)
		}
		if at(s, "healthcheck") == nil && at(s, "restart") != "no" {
			t.Errorf("%s runs on and nobody asks how it is", name)
		}
		if at(s, "image") != "banyan:local" {
			continue
		}
		if err := wrongCommand(texts(listAt(s, "command"))); err != nil {
			t.Errorf("%s: command: %v", name, err)
		}
		if env["BANYAN_CONFIG"] == "" {
			continue // it makes certificates, and reads none
		}
		if err := wrongConfiguration(mounted, env); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Whoever has the authority's key can be anybody, and whoever has another's key can be that one.
	volumeAt := func(service, folder string) (volume string) {
		for _, v := range texts(listAt(services[service], "volumes")) {
			if from, to, _ := strings.Cut(strings.TrimSuffix(v, ":ro"), ":"); to == folder {
				volume = from
			}
		}
		return volume
	}
	if shop, payments := volumeAt("shop", "/certs"), volumeAt("payments", "/certs"); shop == "" || shop != volumeAt("certs", "/give/gateway") || payments == "" || payments != volumeAt("certs", "/give/payments") || shop == payments {
		t.Errorf("shop reads its certificates from %q, payments from %q; want the volumes that certs gives to each", shop, payments)
	}
	for name, s := range services {
		if name != "certs" && strings.Contains(fmt.Sprint(at(s, "volumes")), volumeAt("certs", "/authority")+":") {
			t.Errorf("%s reads the authority's key", name)
		}
	}
	for _, wrong := range [][]string{{"serv"}, {"serve", "--onyl", "payments"}, {"serve", "--only", "payment"}, {"placement", "rollback"}} {
		if wrongCommand(wrong) == nil {
			t.Errorf("%v passes for a command", wrong)
		}
	}
	if wrongConfiguration(mounted, map[string]string{"BANYAN_ADRESS": ":1"}) == nil {
		t.Error("a variable that is none passes")
	}
}

func TestDeployKubernetes(t *testing.T) {
	t.Parallel()
	secrets := secretsOf(t)
	var all []map[string]any
	listed := texts(listAt(documentsIn(t, "deploy/kubernetes/kustomization.yaml")[0], "resources"))
	for _, name := range append(listed, "secrets.yaml") {
		all = append(all, documentsIn(t, filepath.Join("deploy/kubernetes", name))...)
	}
	if slices.Contains(listed, "secrets.yaml") {
		t.Error("secrets.yaml is applied, and would empty the secrets")
	}
	file := filepath.Join(t.TempDir(), "banyan.yaml")
	kinds := map[string]int{}
	values := map[string]map[string]string{} // of the secrets that a container gets as variables
	for _, d := range all {
		kind, name := at(d, "kind").(string), at(d, "metadata", "name").(string)
		kinds[kind+" "+name]++
		switch kind {
		case "ConfigMap":
			if err := os.WriteFile(file, []byte(at(d, "data", "banyan.yaml").(string)), 0o600); err != nil {
				t.Fatal(err)
			}
		case "Secret":
			for key, value := range at(d, "stringData").(map[string]any) {
				if value != "" {
					t.Errorf("secret %s: %s has a value", name, key)
				}
			}
			if strings.HasPrefix(name, "certs-") {
				continue
			}
			values[name] = environment(t, filepath.Join(secrets, name+".env"))
			for key := range at(d, "stringData").(map[string]any) {
				if _, made := values[name][key]; !made {
					t.Errorf("secret %s: secrets.sh makes no %s", name, key)
				}
			}
		}
	}
	for _, want := range []string{"Namespace banyan", "Job migrate", "Deployment shop", "Deployment payments", "Service payments", "PodDisruptionBudget shop",
		"PodDisruptionBudget payments", "Permission shop", "Permission payments", "NetworkPolicy payments"} {
		if kinds[want] != 1 {
			t.Errorf("%d of %s", kinds[want], want)
		}
	}
	containers := 0
	for _, d := range all {
		for _, c := range listAt(d, "spec", "template", "spec", "containers") {
			containers++
			where := fmt.Sprint(at(d, "kind"), " ", at(d, "metadata", "name"))
			env := map[string]string{}
			for _, from := range listAt(c, "envFrom") {
				secret := at(from, "secretRef", "name").(string)
				if values[secret] == nil {
					t.Errorf("%s: there is no secret %s", where, secret)
				}
				maps.Copy(env, values[secret])
			}
			for _, e := range listAt(c, "env") {
				if name := at(e, "name").(string); strings.HasPrefix(name, "BANYAN_") {
					env[name] = fmt.Sprint(at(e, "value"))
				}
			}
			if err := wrongCommand(texts(listAt(c, "args"))); err != nil {
				t.Errorf("%s: args: %v", where, err)
			}
			env["BANYAN_ADVERTISE"] = strings.ReplaceAll(env["BANYAN_ADVERTISE"], "$(POD_IP)", "10.0.0.1")
			if err := wrongConfiguration(file, env); err != nil {
				t.Errorf("%s: %v", where, err)
			}
			if at(c, "securityContext", "readOnlyRootFilesystem") != true || at(d, "spec", "template", "spec", "securityContext", "runAsNonRoot") != true {
				t.Errorf("%s may write to its image, or is root", where)
			}
			if at(d, "kind") == "Job" {
				continue
			}
			if ready, live := at(c, "readinessProbe", "httpGet", "path"), at(c, "livenessProbe", "httpGet", "path"); ready != "/readyz" || live != "/healthz" {
				t.Errorf("%s: asked are %v and %v, not /readyz and /healthz", where, ready, live)
			}
			if replicas := at(d, "spec", "replicas"); replicas != 2 {
				t.Errorf("%s has %v replicas, not 2", where, replicas)
			}
		}
	}
	if containers != 3 {
		t.Errorf("%d containers of ours were found, not 3", containers)
	}
}

// rights are those of users: configure, write, read.
type rights map[string][3]string

// wanted are the rights of the shop, which runs all modules, and of each module by itself.
func wanted() rights {
	all := modules.Names()
	r := rights{}
	of := func(user string, names ...string) {
		configure, write, read := rabbit.Permissions(names[0], names[1:])
		r[user] = [3]string{configure, write, read}
	}
	of("shop", all...)
	for _, name := range all {
		of(name, name)
	}
	return r
}

// same says that two patterns allow the same names, in whichever order they list them.
func same(a, b string) bool {
	list := func(pattern string) []string {
		inner, ok := strings.CutPrefix(pattern, "^(")
		inner, end := strings.CutSuffix(inner, ")$")
		if !ok || !end {
			return []string{pattern}
		}
		names := strings.Split(inner, "|")
		slices.Sort(names)
		return names
	}
	return slices.Equal(list(a), list(b))
}

func TestDeployRights(t *testing.T) {
	t.Parallel()
	var made struct {
		Users       []struct{ Name, Password, Tags string }
		Permissions []struct{ Vhost, User, Configure, Write, Read string }
	}
	if err := json.Unmarshal([]byte(page(t, filepath.Join(secretsOf(t), "rabbitmq.json"))), &made); err != nil {
		t.Fatal(err)
	}
	script, cluster := rights{}, rights{}
	for _, p := range made.Permissions {
		script[p.User] = [3]string{p.Configure, p.Write, p.Read}
	}
	passwords := map[string]bool{}
	for _, u := range made.Users {
		if passwords[u.Password] = true; len(u.Password) < 32 || u.Tags != "" {
			t.Errorf("user %s has a password of %d and the tags %q", u.Name, len(u.Password), u.Tags)
		}
	}
	for _, d := range documentsIn(t, "deploy/kubernetes/rabbitmq.yaml") {
		if at(d, "kind") == "Permission" {
			p := at(d, "spec", "permissions").(map[string]any)
			cluster[at(d, "spec", "userReference", "name").(string)] = [3]string{p["configure"].(string), p["write"].(string), p["read"].(string)}
		}
	}
	want := wanted()
	if len(script) != len(want) || len(passwords) != len(want) || len(cluster) != 2 {
		t.Errorf("%d users and %d passwords in rabbitmq.json, want %d; %d users in the cluster, want 2", len(script), len(passwords), len(want), len(cluster))
	}
	for _, found := range []rights{script, cluster} {
		for user, got := range found {
			for i, what := range []string{"configure", "write", "read"} {
				if !same(got[i], want[user][i]) {
					t.Errorf("%s may %s %s, want %s", user, what, got[i], want[user][i])
				}
			}
		}
	}
	if same(want["shop"][2], want["payments"][2]) {
		t.Error("the rights of the shop and of payments pass for the same")
	}
}

var (
	pinned   = regexp.MustCompile(`^[a-z0-9./-]+:\d+\.\d+[a-z0-9.-]*$`)
	userinfo = regexp.MustCompile(`://[^\s/@:$]+:[^\s/@$]+@`)
	comments = regexp.MustCompile(`(?m)(^|\s)#.*$`)
	// A value after a key that ends in password, secret or token, and is not empty or a reference.
	literal  = regexp.MustCompile(`(?i)(password|secret|token)["']?\s*[:=]\s*["']?([^\s"'{}\[\]$,]+)`)
	imageOf  = regexp.MustCompile(`(?m)^\s*(?:image:|FROM)\s+(\S+)`)
	ourImage = regexp.MustCompile(`^banyan(:local)?$`) // kustomization.yaml names and pins the one to pull
)

// exposed are passwords in a text.
func exposed(text string) []string {
	found := userinfo.FindAllString(text, -1)
	for _, m := range literal.FindAllStringSubmatch(comments.ReplaceAllString(text, ""), -1) {
		if m[2] != "true" && m[2] != "false" {
			found = append(found, m[0])
		}
	}
	return found
}

func TestDeployPinsAndHides(t *testing.T) {
	t.Parallel()
	images := 0
	err := filepath.WalkDir("deploy", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "secrets" || d.Name() == "certs" { // of whoever tries it here
				return filepath.SkipDir
			}
			return nil
		}
		text := page(t, path)
		for _, m := range imageOf.FindAllStringSubmatch(text, -1) {
			images++
			if !pinned.MatchString(m[1]) && !ourImage.MatchString(m[1]) && m[1] != "scratch" {
				t.Errorf("%s: the image %s is not pinned", path, m[1])
			}
		}
		if filepath.Ext(path) != ".sh" { // it makes them
			for _, e := range exposed(text) {
				t.Errorf("%s: holds what looks like a secret: %s", path, e)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if images < 8 {
		t.Errorf("only %d images were found", images)
	}
	for _, wrong := range []string{"postgres", "postgres:latest", "rabbitmq:management"} {
		if pinned.MatchString(wrong) {
			t.Errorf("%s passes for pinned", wrong)
		}
	}
	for _, wrong := range []string{"POSTGRES_PASSWORD: postgres", "url: amqp://guest:guest@rabbitmq/", "secret: \"abc\""} {
		if len(exposed(wrong)) == 0 {
			t.Errorf("%q passes for harmless", wrong)
		}
	}
	dockerfile := page(t, "deploy/Dockerfile")
	for _, want := range []string{"CGO_ENABLED=0", "FROM scratch", "USER 65532:65532"} {
		if !strings.Contains(dockerfile, want) {
			t.Errorf("the Dockerfile has no %s", want)
		}
	}
	if goVersion := regexp.MustCompile(`(?m)^go (\S+)`).FindStringSubmatch(page(t, "go.mod")); !strings.Contains(dockerfile, "golang:"+goVersion[1]+"-") {
		t.Errorf("the Dockerfile builds with another Go than go.mod asks for, %s", goVersion[1])
	}
}

var (
	ourCommand = regexp.MustCompile(`(?m)(?:^|\s)/?banyan ((?:certs|placement|migrate|serve)\b[^\n#|` + "`" + `]*)`)
	viaCompose = regexp.MustCompile(`docker compose run --rm certs (certs [^\n` + "`" + `]*)`)
)

// The commands that deploy's README tells of exist.
func TestDeployREADME(t *testing.T) {
	t.Parallel()
	const path = "deploy/README.md"
	text := page(t, path)
	commands := append(ourCommand.FindAllStringSubmatch(text, -1), viaCompose.FindAllStringSubmatch(text, -1)...)
	for _, m := range commands {
		if err := wrongCommand(strings.Fields(m[1])); err != nil {
			t.Errorf("%s: banyan %s: %v", path, m[1], err)
		}
	}
	if len(commands) < 7 {
		t.Errorf("only %d commands were found", len(commands))
	}
	for _, w := range wrongReferences(t, path, text) {
		t.Errorf("%s: there is no %s", path, w)
	}
	secrets := secretsOf(t)
	for _, m := range regexp.MustCompile(`for name in ([^;]*); do\n  kubectl .*--from-env-file`).FindAllStringSubmatch(text, -1) {
		for _, name := range strings.Fields(m[1]) {
			if _, err := os.Stat(filepath.Join(secrets, name+".env")); err != nil {
				t.Errorf("%s: secrets.sh makes no %s.env", path, name)
			}
		}
	}
}
