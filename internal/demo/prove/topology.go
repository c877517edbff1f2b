package prove

import "context"

// topology is where a proof runs: the processes of a shop and what they need. The traffic and the comparison know no more of it.
type topology interface {
	// start starts everything, on empty stores.
	start(ctx context.Context) error
	// close ends everything, and removes it.
	close() error
	// shop is the process that customers reach, and module the one beside it.
	shop() *process
	module() *process
	// data is the folder that both processes keep their files in.
	data() string
	// faults are what can be broken here.
	faults() []fault
	// busy says what is under way in the stores: "" for nothing.
	busy(ctx context.Context) (string, error)
	// rows reads what the modules hold past them, and testimony what the witness saw.
	rows(ctx context.Context, b *Books) error
	testimony(ctx context.Context) (Testimony, error)
	// describe says what it is, for the report.
	describe() string
}

// fault is something that can be broken, and mends itself or is mended.
type fault struct {
	name string
	// causes breaks it and returns once it is whole again; pause waits for a random moment in between.
	cause func(ctx context.Context, pause func()) error
	// kills says that it ends a process of ours: a request in flight there may fail.
	kills bool
}
