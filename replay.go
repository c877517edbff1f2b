package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/banyan-go/banyan/internal/cli"
	"github.com/banyan-go/banyan/internal/demo/replay"
)

func replayCommand() *cobra.Command {
	o := replay.Options{}
	cmd := &cobra.Command{
		Use: "replay --target URL FILE.csv[.gz]...", Short: "Replay Online Retail files against a running shop, through its public API", Args: cobra.MinimumNArgs(1),
		Long: `Replay Online Retail files against a running shop, through its public API, as a client would: customers, products and
stock first, then each invoice as an order and each credit as a return. Give the files in the order of their dates, and a shop
that nothing else has happened in.

It signs in as the admin with the password in BANYAN_ADMIN_PASSWORD. It prints the results, read back from the shop, as JSON on
standard output and its progress on standard error, and fails if they are not those of the files. It may be interrupted and run
again: nothing is done twice.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Files, o.Password = args, os.Getenv("BANYAN_ADMIN_PASSWORD")
			if o.Password == "" {
				return usageError{errors.New("BANYAN_ADMIN_PASSWORD: is empty; give the admin's password")}
			}
			if err := o.Validate(); err != nil {
				return misused(cmd, err)
			}
			o.Progress, o.Terminal = cmd.ErrOrStderr(), cli.Terminal(os.Stderr)
			report, runErr := replay.Run(cmd.Context(), o)
			if runErr != nil && !errors.Is(runErr, replay.ErrDiffers) {
				return runErr
			}
			// Figures that differ are printed too: they are what one looks at.
			b, err := json.MarshalIndent(report, "", " ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), string(b))
			return errors.Join(runErr, err)
		},
	}
	cmd.Flags().StringVar(&o.Target, "target", "http://127.0.0.1:8080", "`URL` of the shop")
	cmd.Flags().IntVar(&o.Clients, "clients", replay.DefaultClients, "`customers` served at the same time")
	cmd.Flags().DurationVar(&o.Patience, "patience", replay.DefaultPatience, "how long to go on without any success, as in 5m")
	return cmd
}
