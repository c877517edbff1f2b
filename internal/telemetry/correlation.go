package telemetry

import "context"

type correlationKey struct{}

// WithCorrelation puts the id that ties everything together that one request or message causes into the context.
func WithCorrelation(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, correlationKey{}, id)
}

// Correlation is the correlation id of the context, or "".
func Correlation(ctx context.Context) string {
	id, _ := ctx.Value(correlationKey{}).(string)
	return id
}
