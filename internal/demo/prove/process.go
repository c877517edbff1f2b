package prove

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// guardian ends the processes that were started when this one ends, however that is: a shell that reads their ids, line by line, from a
// pipe that closes with it.
type guardian struct {
	mu   sync.Mutex
	pipe io.WriteCloser
	cmd  *exec.Cmd
	live []int
}

const guardScript = `trap '' INT TERM HUP
pids=
while read -r line; do pids=$line; done
[ -z "$pids" ] || kill -KILL $pids 2>/dev/null`

func newGuardian() (*guardian, error) {
	g := &guardian{cmd: exec.Command("/bin/sh", "-c", guardScript)}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if g.pipe, err = g.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return g, g.cmd.Start()
}

func (g *guardian) change(add, remove int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live = slices.DeleteFunc(g.live, func(pid int) bool { return pid == remove })
	if add != 0 {
		g.live = append(g.live, add)
	}
	text := make([]string, len(g.live))
	for i, pid := range g.live {
		text[i] = strconv.Itoa(pid)
	}
	_, _ = fmt.Fprintln(g.pipe, strings.Join(text, " ")) // without it they only live longer than they should
}

func (g *guardian) close() error { return errors.Join(g.pipe.Close(), g.cmd.Wait()) }

// process is `banyan serve`, which may be killed and started again.
type process struct {
	name        string
	binary      string
	args, env   []string
	addr, admin string
	logPath     string
	guard       *guardian

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
}

const readyWithin = 60 * time.Second

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return fmt.Errorf("%s runs already", p.name)
	}
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	cmd := exec.Command(p.binary, p.args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt at the terminal is for us alone
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(done)
	}()
	p.cmd, p.done = cmd, done
	p.guard.change(cmd.Process.Pid, 0)
	return nil
}

// ready waits until the process says that it is.
func (p *process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	for {
		if p.answers(ctx) {
			return nil
		}
		select {
		case <-done:
			return fmt.Errorf("%s has ended: %s", p.name, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w: %s", p.name, context.Cause(ctx), p.tail())
		case <-time.After(20 * time.Millisecond): // another process: there is nothing to be woken by
		}
	}
}

func (p *process) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addr+"/readyz", nil)
	if err != nil {
		return false
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	return errors.Join(a.Body.Close()) == nil && a.StatusCode == http.StatusOK
}

// kill ends the process with kill -9.
func (p *process) kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	p.guard.change(0, p.cmd.Process.Pid)
	p.cmd = nil
	return nil
}

// tail is the end of the log.
func (p *process) tail() string {
	b, err := os.ReadFile(p.logPath)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-2048):]))
}
