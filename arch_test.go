package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// The import rules of this repository. Test files are free: what they import is in no binary.

const modulePath = "github.com/banyan-go/banyan"

// kind is the part of the repository that a package belongs to.
type kind string

const (
	mainProgram kind = "main"
	moduleList  kind = "modules, the list"
	module      kind = "a module"
	rules       kind = "rules of a module (modules/<x>/internal)"
	contract    kind = "a contract (modules/<x>/<x>api)"
	gateway     kind = "proxy"
	settings    kind = "config"
	sqlFiles    kind = "migrations"
	leaf        kind = "a leaf (internal/message, errs, money)"
	demo        kind = "internal/demo"
	testKit     kind = "a test kit"
	platform    kind = "internal"
	library     kind = "a library"
	unknown     kind = "nothing STYLE knows"
)

// pkg is a package as the rules see it: its path within the repository, or the import path of a library.
type pkg struct {
	path    string
	kind    kind
	context string // the module, for what lies within modules/<x>
}

func classify(importPath string) pkg {
	if importPath == modulePath {
		return pkg{"main.go", mainProgram, ""}
	}
	rel, ours := strings.CutPrefix(importPath, modulePath+"/")
	if !ours {
		return pkg{importPath, library, ""}
	}
	parts := strings.Split(rel, "/")
	p := pkg{path: rel, kind: unknown}
	switch parts[0] {
	case "modules":
		if len(parts) == 1 {
			p.kind = moduleList
			break
		}
		p.context = parts[1]
		switch {
		case len(parts) > 2 && parts[2] == "internal":
			p.kind = rules
		case len(parts) > 2 && parts[2] == parts[1]+"api":
			p.kind = contract
		default:
			p.kind = module
		}
	case "proxy":
		p.kind = gateway
	case "config":
		p.kind = settings
	case "migrations":
		p.kind = sqlFiles
	case "internal":
		if len(parts) == 1 {
			break
		}
		switch parts[1] {
		case "message", "errs", "money":
			p.kind = leaf
		case "demo":
			p.kind = demo
		case "testinfra", "moduletest", "databasetest", "bustest", "contracttest":
			p.kind = testKit
		default:
			p.kind = platform
		}
	}
	return p
}

func (p pkg) within(folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return p.path == f || strings.HasPrefix(p.path, f+"/") })
}

// rule says which imports are refused.
type rule struct {
	name    string
	refuses func(from, to pkg) bool
}

func importRules() []rule {
	return []rule{
		{"a module reaches another module through its contract or the bus, never directly", func(from, to pkg) bool {
			return from.kind == module && (to.kind == module || to.kind == rules) && to.context != from.context
		}},
		{"a module knows contracts and the platform; never config, the gateway, the list of modules or migrations", func(from, to pkg) bool {
			return from.kind == module && !to.is(module, rules, contract, leaf, platform, library)
		}},
		{"the rules of a module know internal/errs, internal/money and each other", func(from, to pkg) bool {
			return from.kind == rules && to.kind != library && !(to.kind == rules && to.context == from.context) &&
				!to.within("internal/errs", "internal/money")
		}},
		{"the rules of a module know no GORM, echo, huma, Watermill or driver", func(from, to pkg) bool {
			return from.kind == rules && to.kind == library && to.within("gorm.io", "github.com/labstack", "github.com/danielgtaylor/huma",
				"github.com/ThreeDotsLabs", "github.com/jackc/pgx", "database/sql")
		}},
		{"a contract is a leaf: internal/message, errs and money, and the standard library", func(from, to pkg) bool {
			return from.kind == contract && to.kind != leaf && !standard(to)
		}},
		{"the list of modules knows the modules and the platform", func(from, to pkg) bool {
			return from.kind == moduleList && !to.is(module, leaf, platform, library)
		}},
		{"the gateway knows the platform, never a module or a contract", func(from, to pkg) bool {
			return from.kind == gateway && !to.is(gateway, leaf, platform, library)
		}},
		{"config knows the gateway, the modules and the platform", func(from, to pkg) bool {
			return from.kind == settings && !to.is(settings, gateway, moduleList, module, leaf, platform, library)
		}},
		{"the platform names no context, and knows neither the gateway nor config", func(from, to pkg) bool {
			return from.kind == platform && !to.is(leaf, platform, sqlFiles, library)
		}},
		{"internal/demo knows contracts and the platform", func(from, to pkg) bool {
			return from.kind == demo && !to.is(demo, contract, leaf, platform, library)
		}},
		{"internal/message, errs, money and migrations are leaves (money may use errs)", func(from, to pkg) bool {
			money := from.within("internal/money") && to.within("internal/errs")
			return from.is(leaf, sqlFiles) && to.kind != library && !money
		}},
		{"test kits know the platform, never a module, a contract, the gateway or config", func(from, to pkg) bool {
			return from.kind == testKit && !to.is(testKit, leaf, platform, sqlFiles, library)
		}},
		{"test kits, and the packages testing and httptest, are for tests", func(from, to pkg) bool {
			return from.kind != testKit && (to.kind == testKit || to.within("testing", "net/http/httptest"))
		}},
		{"viper has one home: config", func(from, to pkg) bool {
			return to.within("github.com/spf13/viper") && from.kind != settings
		}},
		{"Watermill has one home: internal/bus", func(from, to pkg) bool {
			return to.within("github.com/ThreeDotsLabs") && !from.within("internal/bus")
		}},
		{"cobra is for the command line: main and internal/cli", func(from, to pkg) bool {
			return to.within("github.com/spf13/cobra") && from.kind != mainProgram && !from.within("internal/cli")
		}},
		{"modules do not see echo: it stays behind huma and internal/rest", func(from, to pkg) bool {
			return to.within("github.com/labstack") && from.is(module, rules, contract, moduleList, leaf)
		}},
		{"every package has a place in the layout", func(from, to pkg) bool {
			return from.kind == unknown || to.kind == unknown
		}},
	}
}

func (p pkg) is(kinds ...kind) bool { return slices.Contains(kinds, p.kind) }

// standard says whether a library comes with Go: the first part of its path has no dot.
func standard(p pkg) bool {
	first, _, _ := strings.Cut(p.path, "/")
	return p.kind == library && !strings.Contains(first, ".")
}

// broken lists the names of the rules that an import breaks.
func broken(from, to string) []string {
	var names []string
	for _, r := range importRules() {
		if r.refuses(classify(from), classify(to)) {
			names = append(names, r.name)
		}
	}
	return names
}

func TestImports(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports", "./...")
	out, err := cmd.Output()
	if err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			t.Fatalf("go list: %v\n%s", err, failed.Stderr)
		}
		t.Fatal(err)
	}
	seen := map[kind]int{}
	d := json.NewDecoder(bytes.NewReader(out))
	for {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen[classify(p.ImportPath).kind]++
		for _, to := range p.Imports {
			for _, name := range broken(p.ImportPath, to) {
				t.Errorf("%s imports %s: %s", p.ImportPath, to, name)
			}
		}
	}
	// A list that came out short would find nothing.
	for _, k := range []kind{module, contract, rules, leaf, platform, testKit} {
		if seen[k] == 0 {
			t.Errorf("go list found no package that is %s", k)
		}
	}
}

// TestRulesRefuse shows for each rule an import that it stops, and what stays allowed beside it.
func TestRulesRefuse(t *testing.T) {
	t.Parallel()
	const watermill = "github.com/ThreeDotsLabs/watermill/message"
	refused := []struct{ rule, from, to string }{
		{"a module reaches another", "modules/orders", "modules/payments"},
		{"a module reaches another", "modules/orders", "modules/payments/internal/payment"},
		{"a module knows contracts", "modules/orders", "config"},
		{"a module knows contracts", "modules/orders", "proxy"},
		{"a module knows contracts", "modules/orders", "modules"},
		{"a module knows contracts", "modules/orders", "migrations"},
		{"a module knows contracts", "modules/orders", "internal/demo"},
		{"the rules of a module know internal", "modules/orders/internal/order", "internal/unit"},
		{"the rules of a module know internal", "modules/orders/internal/order", "modules/orders/ordersapi"},
		{"the rules of a module know internal", "modules/orders/internal/order", "modules/carts/internal/cart"},
		{"the rules of a module know no GORM", "modules/orders/internal/order", "gorm.io/gorm"},
		{"the rules of a module know no GORM", "modules/orders/internal/order", "github.com/danielgtaylor/huma/v2"},
		{"the rules of a module know no GORM", "modules/orders/internal/order", "database/sql"},
		{"a contract is a leaf", "modules/orders/ordersapi", "internal/module"},
		{"a contract is a leaf", "modules/orders/ordersapi", "modules/carts/cartsapi"},
		{"a contract is a leaf", "modules/orders/ordersapi", "modules/orders"},
		{"a contract is a leaf", "modules/orders/ordersapi", "gorm.io/gorm"},
		{"the list of modules", "modules", "proxy"},
		{"the list of modules", "modules", "modules/orders/ordersapi"},
		{"the gateway knows", "proxy", "modules/orders"},
		{"the gateway knows", "proxy/route", "modules/orders/ordersapi"},
		{"the gateway knows", "proxy", "config"},
		{"config knows", "config", "internal/demo"},
		{"config knows", "config", "modules/orders/ordersapi"},
		{"the platform names no context", "internal/bus", "modules/orders/ordersapi"},
		{"the platform names no context", "internal/bus", "modules"},
		{"the platform names no context", "internal/bus", "proxy"},
		{"the platform names no context", "internal/bus", "config"},
		{"internal/demo knows", "internal/demo/replay", "modules/orders"},
		{"internal/demo knows", "internal/demo/replay", "config"},
		{"internal/message, errs", "internal/message", "internal/errs"},
		{"internal/message, errs", "internal/errs", "internal/money"},
		{"internal/message, errs", "migrations", "internal/database"},
		{"test kits know", "internal/moduletest", "modules/orders"},
		{"test kits know", "internal/bustest", "config"},
		{"test kits, and the packages", "internal/bus", "internal/testinfra"},
		{"test kits, and the packages", "", "internal/bustest"},
		{"test kits, and the packages", "modules/orders", "testing"},
		{"viper has one home", "", "github.com/spf13/viper"},
		{"viper has one home", "internal/cli", "github.com/spf13/viper"},
		{"Watermill has one home", "internal/relay", watermill},
		{"Watermill has one home", "modules/orders", watermill},
		{"Watermill has one home", "internal/bustest", watermill},
		{"cobra is for", "internal/demo", "github.com/spf13/cobra"},
		{"cobra is for", "config", "github.com/spf13/cobra"},
		{"modules do not see echo", "modules/orders", "github.com/labstack/echo/v4"},
		{"every package has a place", "pkg/util", "fmt"},
		{"every package has a place", "", "internal"},
	}
	stopped := map[string]bool{}
	for _, c := range refused {
		names := broken(own(c.from), own(c.to))
		hit := slices.IndexFunc(names, func(name string) bool { return strings.HasPrefix(name, c.rule) })
		if hit < 0 {
			t.Errorf("%q imports %q: got %q, want it refused by %q", c.from, c.to, names, c.rule)
			continue
		}
		stopped[names[hit]] = true
	}
	for _, r := range importRules() {
		if !stopped[r.name] {
			t.Errorf("no case shows that this rule stops anything: %s", r.name)
		}
	}
	allowed := []struct{ from, to string }{
		{"", "modules"}, {"", "config"}, {"", "proxy"}, {"", "internal/demo"}, {"", "github.com/spf13/cobra"},
		{"modules", "modules/orders"}, {"modules", "internal/module"},
		{"modules/orders", "modules/orders/internal/order"}, {"modules/orders", "modules/orders/ordersapi"},
		{"modules/orders", "modules/payments/paymentsapi"}, {"modules/orders", "internal/unit"}, {"modules/orders", "gorm.io/gorm"},
		{"modules/orders/internal/order", "internal/money"}, {"modules/orders/internal/order", "modules/orders/internal/saga"},
		{"modules/orders/ordersapi", "internal/message"}, {"modules/orders/ordersapi", "context"},
		{"config", "modules/orders"}, {"config", "proxy"}, {"config", "github.com/spf13/viper"},
		{"proxy", "internal/identity"}, {"proxy", "github.com/labstack/echo/v4"}, {"proxy", "proxy/route"},
		{"internal/database", "migrations"}, {"internal/bus", watermill}, {"internal/bus/amqp", watermill},
		{"internal/cli", "github.com/spf13/cobra"}, {"internal/demo", "modules/orders/ordersapi"}, {"internal/money", "internal/errs"},
		{"internal/moduletest", "internal/testinfra"}, {"internal/moduletest", "testing"}, {"internal/testinfra/withservices", "internal/testinfra"},
	}
	for _, c := range allowed {
		if names := broken(own(c.from), own(c.to)); len(names) > 0 {
			t.Errorf("%q imports %q: got it refused by %q, want it allowed", c.from, c.to, names)
		}
	}
}

// own is the import path of a package of this repository given by its folder; libraries stay as they are.
func own(p string) string {
	first, _, _ := strings.Cut(p, "/")
	switch first {
	case "", "modules", "internal", "proxy", "config", "migrations", "pkg":
		return path.Join(modulePath, p)
	}
	return p
}
