// Command withpostgres runs a command with a PostgreSQL server beside it, named by BANYAN_TEST_POSTGRES, so that all
// test processes of a run share one. A server that is named already is used as it is.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/banyan-go/banyan/internal/testinfra"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "withpostgres:", err)
	}
	os.Exit(code)
}

func run(args []string) (code int, err error) {
	if len(args) == 0 {
		return 2, errors.New("give a command to run")
	}
	if os.Getenv(testinfra.EnvPostgres) == "" {
		srv, err := testinfra.Launch(testinfra.Options{})
		if err != nil {
			return 1, err
		}
		defer func() {
			if closing := srv.Close(); closing != nil && err == nil {
				code, err = 1, closing
			}
		}()
		if err := os.Setenv(testinfra.EnvPostgres, srv.Admin()); err != nil {
			return 1, err
		}
	}
	// The command hears of an interrupt itself; the server has to stay until it is through.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for s := range stop {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return max(1, failed.ExitCode()), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}
