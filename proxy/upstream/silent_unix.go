//go:build unix

package upstream

import "syscall"

// silent says whether a socket is open and has nothing to read. It takes nothing from it.
func silent(fd uintptr) bool {
	var one [1]byte
	_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK)
	return err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
}
