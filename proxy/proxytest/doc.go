// Package proxytest holds the gateway to what it promises at its front door, from outside.
package proxytest
