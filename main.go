// Banyan runs a shop of bounded contexts as one binary, and its tools.
package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/banyan-go/banyan/config"
	"github.com/banyan-go/banyan/internal/cli"
	"github.com/banyan-go/banyan/internal/database"
	"github.com/banyan-go/banyan/internal/docs"
	"github.com/banyan-go/banyan/internal/inbox"
	"github.com/banyan-go/banyan/internal/module"
	"github.com/banyan-go/banyan/internal/operator"
	"github.com/banyan-go/banyan/internal/telemetry"
	"github.com/banyan-go/banyan/modules"
)

// Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "banyan:", err)
	}
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailed
}

// usageError is a mistake of the caller: another command line or configuration helps.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// misused is a wrong command line, with the way to the right one.
func misused(cmd *cobra.Command, err error) error {
	return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
}

// strict makes every wrong command line a usageError. Left alone cobra has no kind of error for arguments, and answers an unknown
// word after a group of commands, or after help, with a help text and success.
func strict(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		strict(c)
	}
	if !cmd.Runnable() {
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		cmd.SetUsageTemplate(strings.ReplaceAll(cmd.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .HasAvailableSubCommands)}}"))
		cmd.RunE = func(*cobra.Command, []string) error { return nil }
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("%q is followed by %s", cmd.CommandPath(), strings.Join(names, ", "))
			}
			return cobra.NoArgs(cmd, args)
		}
	}
	if cmd.Name() == "help" {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if _, unknown, err := cmd.Root().Find(args); err != nil || len(unknown) > 0 {
				return fmt.Errorf("there is no command %q", strings.Join(args, " "))
			}
			return nil
		}
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return misused(cmd, err)
			}
			return nil
		}
	}
}

// version is that of the build: a tag, or the revision.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v += "-" + s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return v
}

// settings are the flags that every command shares; each stands for a key of the configuration.
type settings struct {
	file  string
	json  bool
	only  string   // the module that serve answers for alone
	empty []string // stores that may be made again
	flags map[string]*string
}

func (s *settings) load(cmd *cobra.Command) (config.Config, error) {
	cfg, err := config.Load(s.source(cmd))
	if err != nil {
		return cfg, usageError{fmt.Errorf("configuration:\n%w", err)}
	}
	return cfg, nil
}

// source is where the configuration comes from.
func (s *settings) source(cmd *cobra.Command) config.Options {
	given := map[string]string{}
	for name, value := range s.flags {
		if f := cmd.Flags().Lookup(name); f != nil && f.Changed {
			given[strings.ReplaceAll(name, "-", "_")] = *value
		}
	}
	return config.Options{File: s.file, Flags: given, Environ: os.Environ}
}

func (s *settings) output(cmd *cobra.Command) cli.Output {
	return cli.Output{W: cmd.OutOrStdout(), JSON: s.json}
}

// admin speaks to the running process.
func (s *settings) admin(cmd *cobra.Command) (*cli.Admin, error) {
	cfg, err := s.load(cmd)
	if err != nil {
		return nil, err
	}
	return cli.Dial(cfg.Data, cfg.AdminAddr)
}

func command() *cobra.Command {
	s := &settings{flags: map[string]*string{}}
	root := &cobra.Command{
		Use:   "banyan",
		Short: "A shop of bounded contexts in one binary, whose modules can leave while it runs",
		Long: `A shop of bounded contexts in one binary, whose modules can leave while it runs.

Without a command it serves: SQLite files under ./data, the API on :8080, the operator's port on
127.0.0.1:9090. Configuration comes from defaults, the file of --config, BANYAN_* variables and flags,
the later ones winning; "banyan config" prints what is in force.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return serveCommand(cmd, s) },
	}
	root.SetFlagErrorFunc(misused)
	f := root.PersistentFlags()
	f.StringVar(&s.file, "config", "", "configuration `file` (YAML)")
	f.BoolVar(&s.json, "json", false, "print JSON instead of tables")
	for name, help := range map[string]string{
		"data": "data `folder` of the shop (default ./data)", "addr": "`address` on which serve opens the API (default :8080)",
		"admin-addr": "`address` of the operator's port: serve opens it, the other commands ask it (default 127.0.0.1:9090)",
	} {
		s.flags[name] = f.String(name, "", help)
	}
	serving := &cobra.Command{Use: "serve", Short: "Run the shop (as banyan without a command does)", Args: cobra.NoArgs,
		Long: `Run the shop until Ctrl-C or SIGTERM, which drain it: requests in flight are answered, messages on their way are handled.

The first start makes the account admin@banyan.local, with the password in BANYAN_ADMIN_PASSWORD or one that it says once.

With --only the process serves one module beside the shop, on the same configuration: it answers what the gateway sends it, and owns the
module once it is remote (banyan placement set). On SQLite it needs the shop's data directory:
banyan serve --only payments --addr 127.0.0.1:9101 --admin-addr 127.0.0.1:9191

A file that the shop has had and that is missing stops the start: put its backup in its place. Where there is none, --start-empty NAME has
it made again (name control for control.db, without which everybody signs in again and every module is local).`,
		RunE: func(cmd *cobra.Command, _ []string) error { return serveCommand(cmd, s) }}
	serving.Flags().StringVar(&s.only, "only", "", "serve this `module` alone, beside the shop")
	migrating := &cobra.Command{Use: "migrate", Short: "Make or update the PostgreSQL schemas and roles", Args: cobra.NoArgs,
		Long: `Make or update the PostgreSQL schemas and roles of all modules: before the first start, and before each update of the program.

It needs database.driver postgres, and database.postgres.dsn, .secret and .admin_dsn, as in
BANYAN_DATABASE_POSTGRES_ADMIN_DSN=postgres://admin:password@127.0.0.1:5432/banyan. It may be run again.
SQLite files need none of it: serve migrates them. A schema that has been there and is missing is made again with --start-empty NAME alone.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return migrate(cmd, s) }}
	for _, c := range []*cobra.Command{serving, migrating} {
		c.Flags().StringSliceVar(&s.empty, "start-empty", nil, "make the store of this `module` (or control) again, empty, after it was lost")
	}
	root.AddCommand(
		serving, migrating,
		&cobra.Command{Use: "config", Short: "Print the configuration that is in force, secrets masked", Args: cobra.NoArgs,
			Long: `Print the configuration that serve would run with here: every key with its value and where that comes from, secrets masked.

A key is set in the file of --config, or by a variable: BANYAN_LOG_LEVEL is log.level.`,
			RunE: func(cmd *cobra.Command, _ []string) error {
				cfg, err := s.load(cmd)
				if err != nil {
					return err
				}
				if s.json {
					return s.output(cmd).Print(cfg, nil, nil)
				}
				return cfg.Print(cmd.OutOrStdout())
			}},
		&cobra.Command{Use: "modules", Short: "List the modules: what they announce, handle and serve", Args: cobra.NoArgs,
			Long: "List the modules with the numbers of their routes, events, commands and subscriptions; with --json, the names of their messages too.",
			RunE: func(cmd *cobra.Command, _ []string) error { return listModules(s.output(cmd)) }},
		&cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			if s.json {
				return s.output(cmd).Print(map[string]string{"version": version()}, nil, nil)
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version())
			return err
		}},
		docsCommand(), deadLettersCommand(s), unsubscribedCommand(s), projectionsCommand(s), replayCommand(), proveCommand(),
		placementCommand(s), routesCommand(s), routeCommand(s), shadowCommand(s), keysCommand(s), certsCommand(s),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strict(root)
	return root
}

func serveCommand(cmd *cobra.Command, s *settings) error {
	cfg, err := s.load(cmd)
	if err != nil {
		return err
	}
	// All that a serving process writes is its owner's alone, also in a folder that is open to others.
	unix.Umask(0o077)
	if err := s.checkEmpty(); err != nil {
		return err
	}
	if len(s.empty) > 0 && cfg.Database.Driver == string(database.Postgres) {
		return usageError{errors.New("--start-empty: a schema of PostgreSQL is made by `banyan migrate --start-empty " + strings.Join(s.empty, ",") + "`")}
	}
	if s.only != "" {
		return serveOnly(cmd.Context(), cfg, s.only, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return serve(cmd.Context(), cfg, s.source(cmd), s.empty, cmd.OutOrStdout(), cmd.ErrOrStderr())
}

// checkEmpty refuses what --start-empty cannot name.
func (s *settings) checkEmpty() error {
	if len(s.empty) > 0 && s.only != "" {
		return usageError{errors.New("--start-empty: is for the shop, which makes the stores; a process of one module waits for them")}
	}
	for _, name := range s.empty {
		if name != database.Control && !slices.Contains(modules.Names(), name) {
			return usageError{fmt.Errorf("--start-empty: there is no store %q; there are %s, %s", name, database.Control, strings.Join(modules.Names(), ", "))}
		}
	}
	return nil
}

func migrate(cmd *cobra.Command, s *settings) error {
	cfg, err := s.load(cmd)
	if err != nil {
		return err
	}
	if err := s.checkEmpty(); err != nil {
		return err
	}
	if cfg.Database.Driver != string(database.Postgres) {
		return usageError{errors.New("database.driver: is sqlite, whose files `banyan serve` migrates by itself; set it to postgres")}
	}
	err = database.Migrate(cmd.Context(), cfg.Database.Postgres, modules.Names(), telemetry.NewLogger(cmd.ErrOrStderr(), cfg.Log), s.empty...)
	dsn := cfg.Database.Postgres.AdminDSN.Reveal()
	if _, unreadable := pgx.ParseConfig(dsn); err != nil && (dsn == "" || unreadable != nil) {
		return usageError{err} // no other command needs this key, so that loading the configuration has not looked at it
	}
	return err
}

func listModules(out cli.Output) error {
	type info struct {
		Name      string   `json:"name"`
		Summary   string   `json:"summary"`
		Routes    int      `json:"routes"`
		Announces []string `json:"announces"`
		Commands  []string `json:"commands"`
		Hears     []string `json:"hears"`
		Asks      []string `json:"asks"`
	}
	var all []info
	var rows [][]any
	for _, d := range modules.All() {
		i := info{Name: d.Name, Summary: d.Summary, Routes: len(d.Routes), Announces: d.Contract.Names(), Asks: d.Asks}
		for _, c := range d.Contract.Commands {
			i.Commands = append(i.Commands, c.MessageName())
		}
		for _, sub := range d.Subscriptions {
			i.Hears = append(i.Hears, sub.Events...)
		}
		all = append(all, i)
		rows = append(rows, []any{i.Name, i.Routes, len(i.Announces), len(i.Commands), len(i.Hears), i.Summary})
	}
	return out.Print(all, []string{"module", "routes", "events", "commands", "subscriptions", "what it does"}, rows)
}

func docsCommand() *cobra.Command {
	dir := ""
	cmd := &cobra.Command{Use: "docs", Short: "Write openapi.json and asyncapi.json from the code", Args: cobra.NoArgs,
		Long: "Write the descriptions of the HTTP API (openapi.json) and of the messages (asyncapi.json) into a folder.\nA running shop serves them under /docs.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			openapi, asyncapi, err := documents()
			if err != nil {
				return err
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			for _, f := range []struct {
				name string
				body []byte
			}{{"asyncapi.json", asyncapi}, {"openapi.json", openapi}} {
				if err := os.WriteFile(filepath.Join(dir, f.name), f.body, 0o644); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), filepath.Join(dir, f.name))
			}
			return nil
		}}
	cmd.Flags().StringVar(&dir, "dir", "docs/api", "`folder` to write to")
	return cmd
}

// documents are the descriptions of the HTTP API and of the messages, made without opening anything.
func documents() (openapi, asyncapi []byte, err error) {
	set := modules.Open(modules.Config{}, nil, func(string) module.Deps { return module.Deps{} })
	if openapi, err = docs.OpenAPI(set.Modules, version()); err != nil {
		return nil, nil, err
	}
	asyncapi, err = docs.AsyncAPI(modules.All(), version())
	return openapi, asyncapi, err
}

func deadLettersCommand(s *settings) *cobra.Command {
	root := &cobra.Command{Use: "deadletters", Short: "List, show, replay or discard messages that a handler could not take",
		Long: `A message that a handler refuses for good, or has not taken after 24 hours, becomes a dead letter of the handler's module.
Later messages of the same key wait behind it until somebody replays or discards it; the column BEHIND counts them.

These commands ask the running shop: --data is its data folder, --admin-addr the address of its operator's port. A module that is
retired, or remote with its SQLite file, is looked after by its own process, which is asked in the same way; the shop says where.`}
	var module, handler, reason string
	list := &cobra.Command{Use: "list", Short: "List dead letters, module by module, oldest first", Args: cobra.NoArgs,
		Long: fmt.Sprintf("List up to %d dead letters, module by module, oldest first.", listed),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := s.admin(cmd)
			if err != nil {
				return err
			}
			var l operator.List
			if err := a.Get(cmd.Context(), cli.Path("deadletters")+cli.Query("module", module, "handler", handler, "limit", fmt.Sprint(listed)), &l); err != nil {
				return err
			}
			defer sayElsewhere(cmd, l.Elsewhere)
			if len(l.Items) == 0 && !s.json {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "no dead letters")
				return err
			}
			var rows [][]any
			for _, d := range l.Items {
				rows = append(rows, []any{d.Module, d.ID, d.Handler, d.Name, d.Key, d.Attempts, d.Behind, d.DiedAt.Format("2006-01-02 15:04:05"), d.Reason})
			}
			return s.output(cmd).Print(l, []string{"module", "id", "handler", "message", "key", "attempts", "behind", "died", "reason"}, rows)
		}}
	list.Flags().StringVar(&module, "module", "", "only those of this `module`")
	list.Flags().StringVar(&handler, "handler", "", "only those of this `handler`, as the list names it")
	show := &cobra.Command{Use: "show MODULE ID", Short: "Show a dead letter with its message", Args: cobra.ExactArgs(2),
		Long: "Show a dead letter with its message, as JSON. MODULE and ID are what `banyan deadletters list` prints.",
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := s.admin(cmd)
			if err != nil {
				return err
			}
			var d inbox.DeadLetter
			if err := a.Get(cmd.Context(), cli.Path("deadletters", args...), &d); err != nil {
				return err
			}
			return cli.Output{W: cmd.OutOrStdout(), JSON: true}.Print(d, nil, nil)
		}}
	replayOne := &cobra.Command{Use: "replay MODULE [ID]", Short: "Handle a dead letter again, or all of a module", Args: cobra.RangeArgs(1, 2),
		Long: `Handle a dead letter again, and then what waits behind it: for when what was wrong is mended. Without ID, all of the module.
One that fails again is tried for another 24 hours, or becomes a dead letter at once, as at first. What cannot be replayed now is
left, and counted; with its ID it says why.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 1:
				return change(cmd, s, cli.Path("deadletters", args[0], "replay")+cli.Query("handler", handler), nil)
			case handler != "":
				return misused(cmd, errors.New("--handler: an ID names one dead letter, whatever its handler; leave one of the two out"))
			}
			return change(cmd, s, cli.Path("deadletters", args[0], args[1], "replay"), nil)
		}}
	replayOne.Flags().StringVar(&handler, "handler", "", "without ID: only those of this `handler`")
	discard := &cobra.Command{Use: "discard MODULE ID --reason TEXT", Short: "Drop a dead letter for good and let its key go on", Args: cobra.ExactArgs(2),
		Long: "Drop a dead letter for good, so that its message never has its effect, and let what waits behind it go on.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return misused(cmd, errors.New("--reason: say why; it is logged"))
			}
			return change(cmd, s, cli.Path("deadletters", args[0], args[1], "discard"), map[string]string{"reason": reason})
		}}
	discard.Flags().StringVar(&reason, "reason", "", "why it is dropped: a `text` for the log (needed)")
	root.AddCommand(list, show, replayOne, discard)
	return root
}

func unsubscribedCommand(s *settings) *cobra.Command {
	root := &cobra.Command{Use: "unsubscribed", Short: "List or replay messages that nobody subscribed to when they were sent",
		Long: `A message that no module subscribes to is kept for bus.keep_unsubscribed. A module that subscribes later starts with what is sent
from then on; what was kept comes to it if it is replayed.

These commands ask the running shop: --data is its data folder, --admin-addr the address of its operator's port. A module that is
retired, or remote with its SQLite file, is looked after by its own process, which is asked in the same way; the shop says where.`}
	var module string
	list := &cobra.Command{Use: "list", Short: "List what is kept, by module and message", Args: cobra.NoArgs,
		Long: "List what is kept, by module and message, and who subscribes to it now.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := s.admin(cmd)
			if err != nil {
				return err
			}
			var l operator.Unsubscribed
			if err := a.Get(cmd.Context(), cli.Path("unsubscribed")+cli.Query("module", module), &l); err != nil {
				return err
			}
			defer sayElsewhere(cmd, l.Elsewhere)
			if len(l.Items) == 0 && !s.json {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "nothing is kept that nobody subscribed to")
				return err
			}
			var rows [][]any
			for _, k := range l.Items {
				rows = append(rows, []any{k.Module, k.Message, k.Number, k.Oldest.Format("2006-01-02 15:04:05"), k.Newest.Format("2006-01-02 15:04:05"), strings.Join(k.Subscribers, " ")})
			}
			return s.output(cmd).Print(l, []string{"module", "message", "number", "oldest", "newest", "subscribers now"}, rows)
		}}
	list.Flags().StringVar(&module, "module", "", "only those of this `module`")
	again := &cobra.Command{Use: "replay MODULE MESSAGE", Short: "Give what is kept to the modules that subscribe to it now", Args: cobra.ExactArgs(2),
		Long: `Give the kept messages of a name to the modules that subscribe to it now, in the order in which they were sent. They come behind
what was sent to these modules since: a handler that minds has to be written for it. MODULE and MESSAGE are what
` + "`banyan unsubscribed list`" + ` prints.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return change(cmd, s, cli.Path("unsubscribed", args[0], args[1], "replay"), nil)
		}}
	root.AddCommand(list, again)
	return root
}

// sayElsewhere says which modules a list leaves out, and who has them.
func sayElsewhere(cmd *cobra.Command, modules []operator.Elsewhere) {
	for len(modules) > 0 {
		way := modules[0].Way()
		var names []string
		modules = slices.DeleteFunc(modules, func(m operator.Elsewhere) bool {
			if m.Way() == way {
				names = append(names, m.Module)
			}
			return m.Way() == way
		})
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "not looked at: %s; %s\n", strings.Join(names, ", "), way)
	}
}

// listed is how many dead letters are listed at most: all that the admin port gives at once.
const listed = 1000

// change posts to the running process and prints its counts.
func change(cmd *cobra.Command, s *settings, path string, body any) error {
	a, err := s.admin(cmd)
	if err != nil {
		return err
	}
	counts := map[string]int{}
	if err := a.Post(cmd.Context(), path, body, &counts); err != nil {
		return err
	}
	heads, row := slices.Sorted(maps.Keys(counts)), []any{}
	for _, what := range heads {
		row = append(row, counts[what])
	}
	return s.output(cmd).Print(counts, heads, [][]any{row})
}

func projectionsCommand(s *settings) *cobra.Command {
	root := &cobra.Command{Use: "projections", Short: "Rebuild read models while the shop runs"}
	root.AddCommand(&cobra.Command{Use: "rebuild MODULE", Short: "Rebuild a module's read models from its events", Args: cobra.ExactArgs(1),
		Long: `Rebuild a module's read models from its events while the shop runs; orders is the module that has some.
It asks the running shop (--data is its data folder, --admin-addr the address of its operator's port) and waits until it is done.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return change(cmd, s, cli.Path("projections", args[0], "rebuild"), nil)
		}})
	return root
}
