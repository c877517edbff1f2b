// Package certs makes and serves certificates: those by which our own processes know each other, and the one that the
// public sees.
//
// The own CA is a folder:
//
//	ca.pem         the roots that are believed: one, or several while the CA is rotated
//	ca-key.pem     the certificate and the key that sign; only create, renew and rotate read it, so it may be kept elsewhere
//	<name>.pem     the certificate of an identity with its key: one file, replaced by a rename, so that no reader sees
//	               the key of one and the certificate of another
//
// A process has a name, in its certificate the URI banyan://<name>, and that is what the other side checks. Host names and
// addresses are in the certificate for other programs' sake; between our own processes they prove nothing, as all
// certificates have localhost.
//
// Whoever has an Identity or a Public open takes up changed files within a second, without a restart and without an end to
// connections that are open. A file that is wrong is reported, and what was good before stays in force.
//
// A CA is rotated in three steps, with a few seconds between them so that every process has taken up the one before; all
// can talk to each other all the time:
//
//	Rotate     ca.pem holds the old root and the new; copy it to wherever else it is read
//	Renew      the identities get certificates of the new CA; copy those
//	Prune      ca.pem holds the new root alone; copy it
package certs
