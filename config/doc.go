// Package config is the typed configuration: an embedded default.yaml with every key, a file, BANYAN_* variables and
// flags over it, in this order. It is the only importer of viper, and what it makes never changes.
package config
