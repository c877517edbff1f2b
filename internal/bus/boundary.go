package bus

import "context"

// Crossing is a message or a question that goes from one module to another within this process.
type Crossing struct {
	From string // "" if it is not known who asks
	To   string
	Name string // wire name
}

// Boundary stands between the modules of a process while it is set: what crosses may take longer there, or be lost, as between
// processes.
type Boundary interface {
	// Cross runs pass, which is the crossing itself. An error without it, or after it, is what the sender would see of a connection that
	// breaks: a message is sent again, a question fails with errs.Unavailable.
	Cross(ctx context.Context, c Crossing, pass func() error) error
}

// SetBoundary puts a boundary between the modules from now on; nil takes it away.
func (b *Bus) SetBoundary(x Boundary) {
	if x == nil {
		b.boundary.Store(nil)
		return
	}
	b.boundary.Store(&x)
}

// answerHere has a question answered in this process.
func (b *Bus) answerHere(ctx context.Context, c Crossing, commandID string, body []byte) (reply []byte, err error) {
	answer := func() error {
		reply, err = b.answer(ctx, b.parts[c.To], c.Name, commandID, body)
		return err
	}
	if x := b.boundary.Load(); x != nil {
		err = (*x).Cross(ctx, c, answer)
	} else {
		err = answer()
	}
	if err != nil {
		return nil, err
	}
	return reply, nil
}
