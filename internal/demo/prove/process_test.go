package prove

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// Whoever is left when the proof ends is ended, and nobody who has ended before: his number may be another's by then.
func TestGuardian(t *testing.T) {
	t.Parallel()
	g, err := newGuardian()
	if err != nil {
		t.Fatal(err)
	}
	start := func() (*exec.Cmd, chan error) {
		cmd := exec.Command("sleep", "600")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		return cmd, ended
	}
	left, leftEnded := start()
	gone, goneEnded := start()
	g.change(left.Process.Pid, 0)
	g.change(gone.Process.Pid, 0)
	g.change(0, gone.Process.Pid)
	if err := g.close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-leftEnded:
	case <-time.After(10 * time.Second):
		t.Error("a process outlives the proof")
	}
	_ = gone.Process.Signal(syscall.SIGTERM)
	<-goneEnded
	if by := gone.ProcessState.Sys().(syscall.WaitStatus).Signal(); by != syscall.SIGTERM {
		t.Errorf("a process was ended by %s that was not ours any more", by)
	}
}
