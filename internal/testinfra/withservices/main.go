// Command withservices runs a command with a PostgreSQL server and a RabbitMQ broker beside it, named by BANYAN_TEST_POSTGRES and
// by BANYAN_TEST_RABBITMQ_URL with BANYAN_TEST_RABBITMQ_ADMIN_URL, so that all test processes of a run share them. What is named
// already is used as it is. With -memory they all write to memory, where there is room (testinfra.InMemory).
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"

	"github.com/banyan-go/banyan/internal/testinfra"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "withservices:", err)
	}
	os.Exit(code)
}

// room is several times what the tests of a run write at one time, with the programs that are built for them.
const room = 2 << 30

func run(args []string) (code int, err error) {
	memory := len(args) > 0 && args[0] == "-memory"
	if memory {
		args = args[1:]
	}
	if len(args) == 0 {
		return 2, errors.New("give a command to run")
	}
	if memory {
		free, err := testinfra.InMemory(room)
		defer func() { _ = free() }() // the next run removes what could not be
		if err != nil {
			return 1, err
		}
	}
	end, err := start()
	defer func() {
		if closing := end(); closing != nil && err == nil {
			code, err = 1, closing
		}
	}()
	if err != nil {
		return 1, err
	}
	// The command hears of an interrupt itself; the servers have to stay until it is through.
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

// start starts, side by side, what is not named, and names it. end is never nil.
func start() (end func() error, err error) {
	var all sync.WaitGroup
	var postgres *testinfra.Server
	var rabbit *testinfra.RabbitServer
	var failures [3]error
	if os.Getenv(testinfra.EnvPostgres) == "" {
		all.Go(func() { postgres, failures[0] = testinfra.Launch(testinfra.Options{}) })
	}
	if os.Getenv(testinfra.EnvRabbit) == "" {
		all.Go(func() { rabbit, failures[1] = testinfra.LaunchRabbit() })
	}
	all.Wait()
	end = func() error {
		var failures []error
		if postgres != nil {
			failures = append(failures, postgres.Close())
		}
		if rabbit != nil {
			failures = append(failures, rabbit.Close())
		}
		return errors.Join(failures...)
	}
	if postgres != nil {
		failures[2] = errors.Join(failures[2], os.Setenv(testinfra.EnvPostgres, postgres.Admin()))
	}
	if rabbit != nil {
		failures[2] = errors.Join(failures[2], os.Setenv(testinfra.EnvRabbit, rabbit.URL()), os.Setenv(testinfra.EnvRabbitAdmin, rabbit.Admin()))
	}
	return end, errors.Join(failures[:]...)
}
