package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/banyan-go/banyan/internal/demo/prove"
	"github.com/banyan-go/banyan/modules"
)

func proveCommand() *cobra.Command {
	o := prove.Options{Modules: modules.All(), Program: version()}
	all, out := false, ""
	cmd := &cobra.Command{
		Use: "prove --module MODULE", Short: "Prove that a module leaves and comes home under load, and nothing is lost", Args: cobra.NoArgs,
		Long: `Prove that a module leaves and comes home under load, and nothing is lost, doubled or reordered.

It starts a shop of its own on loopback, with the module in a second process of this binary, lets customers order, moves the module out
and back, and then compares what the customers were told with what each module, the card provider and the mail folder hold. With --kill
it ends processes, the broker and database sessions at random moments meanwhile.

It needs PostgreSQL and RabbitMQ: those that are installed are started for it and removed afterwards, or others are named. In a given
server it works in a database and a virtual host of its own; a given broker is broken only through --rabbitmqctl.

It writes report.json and report.md, and fails, leaving the logs of the processes, if anything is wrong. The same --seed repeats the moments
and kinds of what is broken, not how the processes take it.`,
		Example: "  banyan prove --module payments --cycles 20\n  banyan prove --module payments --cycles 20 --kill --seed 7\n  banyan prove --all --cycles 20 --kill --out proof",
		RunE: func(cmd *cobra.Command, _ []string) error {
			names := modules.Names()
			switch {
			case !all && o.Module == "":
				return misused(cmd, errors.New("--module: name the module, or give --all"))
			case all && o.Module != "":
				return misused(cmd, errors.New("--all: proves every module; leave --module out"))
			case !all:
				names = []string{o.Module}
			}
			if !cmd.Flags().Changed("seed") {
				o.Seed = rand.Uint64()
			}
			var err error
			if o.Binary, err = os.Executable(); err != nil {
				return err
			}
			o.Progress = cmd.ErrOrStderr()
			var failed error
			var reports []prove.Report
			for _, name := range names {
				o := o
				o.Module, o.Dir = name, out
				if all && out != "" {
					o.Dir = filepath.Join(out, name)
				}
				if err := o.Validate(); err != nil {
					return misused(cmd, err)
				}
				report, err := prove.Run(cmd.Context(), o)
				if err != nil && !errors.Is(err, prove.ErrViolated) {
					return fmt.Errorf("%s: %w", name, err)
				}
				if err != nil {
					failed = fmt.Errorf("%w: see %s", err, filepath.Join(o.Dir, "report.md"))
				}
				reports = append(reports, report)
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), report.Summary()); err != nil {
					return err
				}
			}
			if all {
				failed = errors.Join(failed, prove.WriteSummary(out, reports))
			}
			return failed
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Module, "module", "", "the `module` that leaves and comes home")
	f.BoolVar(&all, "all", false, "every module, one after another")
	f.IntVar(&o.Cycles, "cycles", prove.DefaultCycles, "how `often` it goes out and comes home")
	f.BoolVar(&o.Kill, "kill", false, "end processes, broker and database sessions at random moments")
	f.Uint64Var(&o.Seed, "seed", 0, "a `number` that decides what is random (default: another one each time)")
	f.IntVar(&o.Clients, "clients", prove.DefaultClients, "`customers` at the same time")
	f.StringVar(&out, "out", "proof", "`folder` for the reports")
	f.StringVar(&o.PostgresDSN, "postgres", "", "`DSN` of a superuser of a running server (default: one is started)")
	f.StringVar(&o.RabbitURL, "rabbitmq", "", "AMQP `URL` of an administrator of a running broker (default: one is started)")
	f.StringVar(&o.RabbitCtl, "rabbitmqctl", "", "`command` that administers that broker, as in \"rabbitmqctl -n rabbit@host\"")
	return cmd
}
