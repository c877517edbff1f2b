// Package control keeps what belongs to no module: the keys that sign tokens, who subscribes to what, and the rate limits that
// replicas share.
package control

// keysLock makes replicas that start together on an empty store agree on one first key.
const keysLock = 0x6b657973 // "keys"
