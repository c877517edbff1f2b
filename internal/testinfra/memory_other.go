//go:build !linux

package testinfra

// InMemory changes nothing here: there is no folder in memory to count on.
func InMemory(uint64) (end func() error, err error) {
	return func() error { return nil }, nil
}
