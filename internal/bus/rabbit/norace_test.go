//go:build !race

package rabbit

const raceDetector = false
