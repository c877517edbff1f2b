// Banyan runs a shop of bounded contexts as one binary, and its tools.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

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
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "banyan:", err)
	var usage usageError
	if errors.As(err, &usage) {
		os.Exit(exitUsage)
	}
	os.Exit(exitFailed)
}

// usageError is a mistake of the caller: another command line or configuration helps.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

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
	flags map[string]*string
}

func (s *settings) load(cmd *cobra.Command) (config.Config, error) {
	given := map[string]string{}
	for name, value := range s.flags {
		if f := cmd.Flags().Lookup(name); f != nil && f.Changed {
			given[strings.ReplaceAll(name, "-", "_")] = *value
		}
	}
	cfg, err := config.Load(config.Options{File: s.file, Flags: given, Environ: os.Environ})
	if err != nil {
		return cfg, usageError{fmt.Errorf("configuration:\n%w", err)}
	}
	return cfg, nil
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
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
	})
	f := root.PersistentFlags()
	f.StringVar(&s.file, "config", "", "configuration `file` (YAML)")
	f.BoolVar(&s.json, "json", false, "print JSON instead of tables")
	for name, help := range map[string]string{
		"data": "data `directory` (default ./data)", "addr": "`address` of the API (default :8080)", "admin-addr": "`address` of the operator's port (default 127.0.0.1:9090)",
	} {
		s.flags[name] = f.String(name, "", help)
	}
	root.AddCommand(
		&cobra.Command{Use: "serve", Short: "Run the shop", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return serveCommand(cmd, s) }},
		&cobra.Command{Use: "migrate", Short: "Make or update the PostgreSQL schemas and roles", Args: cobra.NoArgs,
			Long: "Make or update the PostgreSQL schemas and roles of all modules, with database.postgres.admin_dsn.\nSQLite files are migrated by serve.",
			RunE: func(cmd *cobra.Command, _ []string) error { return migrate(cmd, s) }},
		&cobra.Command{Use: "config", Short: "Print the configuration that is in force, secrets masked", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := s.load(cmd)
			if err != nil {
				return err
			}
			if s.json {
				return s.output(cmd).Print(cfg, nil, nil)
			}
			return cfg.Print(cmd.OutOrStdout())
		}},
		&cobra.Command{Use: "modules", Short: "List the modules: what they announce, handle and serve", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return listModules(s.output(cmd)) }},
		&cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return s.output(cmd).Print(map[string]string{"version": version()}, []string{"version"}, [][]any{{version()}})
		}},
		docsCommand(), deadLettersCommand(s), projectionsCommand(s), replayCommand(),
	)
	return root
}

func serveCommand(cmd *cobra.Command, s *settings) error {
	cfg, err := s.load(cmd)
	if err != nil {
		return err
	}
	return serve(cmd.Context(), cfg, cmd.OutOrStdout(), cmd.ErrOrStderr())
}

func migrate(cmd *cobra.Command, s *settings) error {
	cfg, err := s.load(cmd)
	if err != nil {
		return err
	}
	if cfg.Database.Driver != string(database.Postgres) {
		return usageError{errors.New("database.driver: is sqlite, whose files `banyan serve` migrates by itself; set it to postgres")}
	}
	return database.Migrate(cmd.Context(), cfg.Database.Postgres, modules.Names(), telemetry.NewLogger(cmd.ErrOrStderr(), cfg.Log))
}

func listModules(out cli.Output) error {
	type info struct {
		Name, Summary                    string
		Routes                           int
		Announces, Commands, Hears, Asks []string
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
	cmd := &cobra.Command{Use: "docs", Short: "Write openapi.json and asyncapi.json from the code", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		openapi, asyncapi, err := documents()
		if err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for name, body := range map[string][]byte{"openapi.json": openapi, "asyncapi.json": asyncapi} {
			if err := os.WriteFile(filepath.Join(dir, name), body, 0o644); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), filepath.Join(dir, name))
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
	root := &cobra.Command{Use: "deadletters", Short: "List, show, replay or discard messages that a handler could not take"}
	var module, handler, reason string
	list := &cobra.Command{Use: "list", Short: "List dead letters", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		a, err := s.admin(cmd)
		if err != nil {
			return err
		}
		var l operator.List
		if err := a.Get(cmd.Context(), "/admin/deadletters?module="+module+"&handler="+handler, &l); err != nil {
			return err
		}
		var rows [][]any
		for _, d := range l.Items {
			rows = append(rows, []any{d.Module, d.ID, d.Handler, d.Name, d.Key, d.Attempts, d.Behind, d.DiedAt.Format("2006-01-02 15:04:05"), d.Reason})
		}
		return s.output(cmd).Print(l, []string{"module", "id", "handler", "message", "key", "attempts", "behind", "died", "reason"}, rows)
	}}
	list.Flags().StringVar(&module, "module", "", "only this `module`'s")
	list.Flags().StringVar(&handler, "handler", "", "only this `handler`'s")
	show := &cobra.Command{Use: "show MODULE ID", Short: "Show a dead letter with its message", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		a, err := s.admin(cmd)
		if err != nil {
			return err
		}
		var d inbox.DeadLetter
		if err := a.Get(cmd.Context(), "/admin/deadletters/"+args[0]+"/"+args[1], &d); err != nil {
			return err
		}
		return cli.Output{W: cmd.OutOrStdout(), JSON: true}.Print(d, nil, nil)
	}}
	replayOne := &cobra.Command{Use: "replay MODULE [ID]", Short: "Handle a dead letter again, or all of a module", Args: cobra.RangeArgs(1, 2), RunE: func(cmd *cobra.Command, args []string) error {
		path := "/admin/deadletters/" + args[0] + "/replay?handler=" + handler
		if len(args) == 2 {
			path = "/admin/deadletters/" + args[0] + "/" + args[1] + "/replay"
		}
		return change(cmd, s, path, nil)
	}}
	replayOne.Flags().StringVar(&handler, "handler", "", "without ID: only this `handler`'s")
	discard := &cobra.Command{Use: "discard MODULE ID --reason TEXT", Short: "Drop a dead letter for good and let its key go on", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		return change(cmd, s, "/admin/deadletters/"+args[0]+"/"+args[1]+"/discard", map[string]string{"reason": reason})
	}}
	discard.Flags().StringVar(&reason, "reason", "", "`why`; it is logged")
	root.AddCommand(list, show, replayOne, discard)
	return root
}

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
	for what, n := range counts {
		return s.output(cmd).Print(counts, []string{what}, [][]any{{n}})
	}
	return nil
}

func projectionsCommand(s *settings) *cobra.Command {
	root := &cobra.Command{Use: "projections", Short: "Rebuild read models while the shop runs"}
	root.AddCommand(&cobra.Command{Use: "rebuild MODULE", Short: "Rebuild a module's read models from its events", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return change(cmd, s, "/admin/projections/"+args[0]+"/rebuild", nil)
	}})
	return root
}
