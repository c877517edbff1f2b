// Package users owns accounts: who may sign in, as what, and what is known about them.
//
// It announces registrations, invitations, changed profiles, preferences and roles, and erasures. It listens to nobody.
// The rules are in internal/account; passwords are hashed by internal/password; internal/token signs what a login gives.
//
// An account is active until it is erased. An invitation is pending until it is accepted, replaced by a newer one to
// the same address, or expired; its id becomes the id of the account.
//
//	         register, staff creates                    erase
//	(nobody) ─────────────────────────────▶ active ──────────────▶ erased
//	   │ invite              accept            ▲
//	   └────────▶ pending ─────────────────────┘
//	                 └── replaced, expired: forgotten
//
// A login is a session: access tokens of a few minutes, and a refresh token that is replaced each time it is used. Only
// hashes of refresh tokens are kept. A refresh token that comes back after it was replaced was stolen, from one side or
// the other, and ends the session; but once within ten seconds, while nobody has used its successor, it is
// taken for a request whose answer was lost.
//
// Invariants:
//   - An email address belongs to one account at most, upper and lower case being the same; so does a reference.
//   - An address has one pending invitation at most.
//   - There is always an admin.
//   - A revoked session is refused at once by the process that revoked it, and within a second by every other one. A new
//     role, and erasure, revoke all sessions of the account.
//   - An attempt to sign in tells nothing about which accounts exist, in words or in time. Registration does: a taken
//     address is refused. Hiding that would take mail to every address before there is an account, and so would delay
//     every customer in favour of those whose address somebody can test elsewhere; the login limit on the route bounds it.
//   - Nobody is kept out by others who guess: see account.Attempt.
//   - A wrong guess is counted before it is answered, and a right password is not taken while its attempt has to
//     wait: so many guesses at once tell no more than one after the other.
//   - Personal data of an erased account is nowhere in this store, in messages and stored answers too.
package users
