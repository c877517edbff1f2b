package replay

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

const (
	drawEvery  = 200 * time.Millisecond // on a terminal
	speakEvery = 5 * time.Second        // elsewhere
	rateOver   = 10 * time.Second       // the rate is that of so long ago until now
	barWidth   = 24
)

// progress tells people how far one phase after another is: a bar with rate and remaining time on a terminal, a line now
// and then elsewhere. All methods do nothing without a writer.
type progress struct {
	w        io.Writer
	terminal bool
	quit     chan struct{}
	ended    sync.WaitGroup

	mu          sync.Mutex
	phase       string
	done, total int
	began       time.Time
	marks       []mark // of the last while, oldest first
}

type mark struct {
	at   time.Time
	done int
}

func newProgress(w io.Writer, terminal bool) *progress {
	p := &progress{w: w, terminal: terminal, quit: make(chan struct{})}
	if w == nil {
		return p
	}
	every := speakEvery
	if terminal {
		every = drawEvery
	}
	p.ended.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-p.quit:
				return
			case now := <-tick.C:
				p.mu.Lock()
				p.show(now, false)
				p.mu.Unlock()
			}
		}
	})
	return p
}

// begin ends the phase before and begins one of so many things.
func (p *progress) begin(phase string, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.show(now, true)
	p.phase, p.done, p.total, p.began = phase, 0, total, now
	p.marks = append(p.marks[:0], mark{now, 0})
}

func (p *progress) add(n int) {
	p.mu.Lock()
	p.done += n
	p.mu.Unlock()
}

func (p *progress) set(n int) {
	p.mu.Lock()
	p.done = n
	p.mu.Unlock()
}

// stop leaves the last phase on the screen as it is.
func (p *progress) stop() {
	close(p.quit)
	p.ended.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.show(time.Now(), true)
	p.phase = ""
}

// show writes the state of the phase; last is its final word.
func (p *progress) show(now time.Time, last bool) {
	if p.w == nil || p.phase == "" {
		return
	}
	text := p.text(now, last)
	switch {
	case !p.terminal:
		text += "\n"
	case last:
		text = "\r\x1b[K" + text + "\n"
	default:
		text = "\r\x1b[K" + text
	}
	_, _ = io.WriteString(p.w, text)
}

// text is one line of less than 80 columns.
func (p *progress) text(now time.Time, last bool) string {
	share := 1.0
	if p.total > 0 {
		share = min(1, float64(p.done)/float64(p.total))
	}
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "%-18s ", p.phase)
	if p.terminal {
		full := int(share * barWidth)
		b.WriteString("[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] ")
	}
	_, _ = fmt.Fprintf(&b, "%d of %d", p.done, p.total)
	if last {
		took := now.Sub(p.began)
		_, _ = fmt.Fprintf(&b, " in %.1fs", took.Seconds())
		if took > time.Second {
			_, _ = fmt.Fprintf(&b, ", %.0f/s", float64(p.done)/took.Seconds())
		}
		return b.String()
	}
	if rate := p.rate(now); rate > 0 {
		left := time.Duration(float64(p.total-p.done) / rate * float64(time.Second))
		_, _ = fmt.Fprintf(&b, ", %.0f/s, %s left", rate, left.Round(time.Second))
	}
	return b.String()
}

// rate is how many things are done in a second, of late.
func (p *progress) rate(now time.Time) float64 {
	for len(p.marks) > 1 && now.Sub(p.marks[1].at) >= rateOver {
		p.marks = p.marks[1:]
	}
	oldest := p.marks[0]
	p.marks = append(p.marks, mark{now, p.done})
	if took := now.Sub(oldest.at); took > 0 {
		return float64(p.done-oldest.done) / took.Seconds()
	}
	return 0
}
