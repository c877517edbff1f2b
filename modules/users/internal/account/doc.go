// Package account holds the rules of accounts: addresses for mail, passwords, roles, how long an attempt to sign in
// has to wait, and what a refresh token is still good for. It is pure.
package account
