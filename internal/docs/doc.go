// Package docs writes down from the code what the shop offers: its HTTP API (OpenAPI 3.1), its messages (AsyncAPI
// 3.0) and who talks to whom. It serves all of it as pages that ask no other host for anything.
package docs
