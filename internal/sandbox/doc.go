// Package sandbox starts a PostgreSQL server and a RabbitMQ broker from the binaries of this machine, for whoever wants the real
// thing for a while: tests, and the proof that a running shop loses nothing.
//
// What it starts listens on 127.0.0.1, keeps its files in a folder of its own, and never outlives the process that asked for it,
// however that ends: a watcher reads from a pipe that closes with the process, stops the server and removes its folder.
package sandbox
