// Package e2e tests the real binary from outside: through HTTP, with kill -9, with databases that go away. Its ledger
// compares what clients were told with what each module and the card provider hold.
package e2e
