package telemetry

import "context"

type correlationKey struct{}

// WithCorrelation puts the id that ties everything together that one request or message causes into the context.
func WithCorrelation(ctx context.Context, id string) context.Context {
	return &correlated{ctx, id}
}

// correlated is a context with an id: every request and every message has one.
type correlated struct {
	context.Context
	id string
}

func (c *correlated) Value(key any) any {
	if key == (correlationKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// Correlation is the correlation id of the context, or "".
func Correlation(ctx context.Context) string {
	c, ok := ctx.Value(correlationKey{}).(*correlated)
	if !ok {
		return ""
	}
	return c.id
}
