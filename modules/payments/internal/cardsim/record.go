package cardsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// What a line of the record is about.
const (
	opCharge  = "charge"
	opRefund  = "refund"
	opFailed  = "failed"  // a call failed before anything was done
	opUnheard = "unheard" // the reply to a repeated call was lost
)

type line struct {
	Op       string    `json:"op"`
	ID       string    `json:"id"`
	Charge   string    `json:"charge,omitempty"`
	Card     string    `json:"card,omitempty"`
	Amount   int64     `json:"amount,omitempty"`
	Currency string    `json:"currency,omitempty"`
	Approved bool      `json:"approved,omitempty"`
	Code     string    `json:"code,omitempty"`
	Unheard  bool      `json:"unheard,omitempty"` // the reply was lost
	At       time.Time `json:"at"`
}

// history is what the record says of one id.
type history struct {
	result   *line // the first charge or refund
	times    int   // how many of them
	refunded int64 // of a charge
	failed   int
	unheard  int
}

func (h *history) tell() Result {
	l := h.result
	return Result{ID: l.ID, Charge: l.Charge, Amount: l.Amount, Currency: l.Currency, Approved: l.Approved, Code: l.Code, At: l.At, Times: h.times}
}

// record is the file with what was read of it. It is opened for each call, so that nothing is left open when its
// user stops.
type record struct {
	file  string
	f     *os.File    // open and locked during a call
	info  os.FileInfo // of the file that was read
	read  int64       // bytes of it that were read, whole lines
	lines int
	known map[string]*history
}

// open locks the file and reads what was added since the last call.
func (r *record) open() (err error) {
	f, err := os.OpenFile(r.file, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(r.file), 0o700); err == nil {
			f, err = os.OpenFile(r.file, os.O_RDWR|os.O_CREATE, 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("card provider: open record: %w", err)
	}
	r.f = f
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("card provider: lock record: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("card provider: record: %w", err)
	}
	if r.known == nil || !os.SameFile(info, r.info) || info.Size() < r.read {
		r.known, r.read, r.lines = map[string]*history{}, 0, 0
	}
	r.info = info
	return r.catchUp(info.Size())
}

func (r *record) catchUp(size int64) error {
	if size == r.read {
		return nil
	}
	added, err := io.ReadAll(io.NewSectionReader(r.f, r.read, size-r.read))
	if err != nil {
		return fmt.Errorf("card provider: read record: %w", err)
	}
	for len(added) > 0 {
		end := bytes.IndexByte(added, '\n')
		if end < 0 {
			// Whoever wrote this was killed in the middle of it, before it could reply: it did not happen. The lock
			// is ours, so nobody is still writing it.
			if err := r.f.Truncate(r.read); err != nil {
				return fmt.Errorf("card provider: mend record: %w", err)
			}
			return nil
		}
		var l line
		if err := json.Unmarshal(added[:end], &l); err != nil {
			return fmt.Errorf("card provider: line %d of %s: %w", r.lines+1, r.file, err)
		}
		r.take(l)
		r.read += int64(end) + 1
		r.lines++
		added = added[end+1:]
	}
	return nil
}

func (r *record) close() {
	if r.f != nil {
		r.f.Close() // unlocks
		r.f = nil
	}
}

// append adds a line, whole or not at all.
func (r *record) append(l line) error {
	body, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("card provider: encode record: %w", err)
	}
	body = append(body, '\n')
	if _, err := r.f.WriteAt(body, r.read); err != nil {
		return errors.Join(fmt.Errorf("card provider: write record: %w", err), r.f.Truncate(r.read))
	}
	r.take(l)
	r.read += int64(len(body))
	r.lines++
	return nil
}

func (r *record) take(l line) {
	h := r.history(l.ID)
	switch l.Op {
	case opFailed:
		h.failed++
	case opUnheard:
		h.unheard++
	case opCharge, opRefund:
		h.times++
		if l.Unheard {
			h.unheard++
		}
		if h.result == nil {
			h.result = &l
		}
		if l.Op == opRefund && l.Approved {
			r.history(l.Charge).refunded += l.Amount
		}
	}
}

func (r *record) history(id string) *history {
	h := r.known[id]
	if h == nil {
		h = &history{}
		r.known[id] = h
	}
	return h
}

// seen is what the record says of an id; an id that it does not know is not added by asking.
func (r *record) seen(id string) *history {
	if h := r.known[id]; h != nil {
		return h
	}
	return &history{}
}
