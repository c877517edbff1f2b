// Package telemetry is how the process is watched: structured logs with correlation ids, traces, metrics.
package telemetry
