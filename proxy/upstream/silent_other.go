//go:build !unix

package upstream

// silent cannot be found out here: a connection is believed to be open until it is used.
func silent(uintptr) bool { return true }
