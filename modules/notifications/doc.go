// Package notifications owns what users are told: in the app, and by mail if they want it and have an address.
//
// It is choreographed: it listens to users, orders, payments, shipping and inventory, calls nobody, and keeps its
// own copy of names, addresses and preferences. It announces mails that went out. Staff are alerted, in the app, of
// stock that is low and of refunds that the card provider refused.
//
//	                       the user becomes known
//	         ┌── waiting ─────────────┬──────────────┐
//	(event) ─┤                        ▼              ▼
//	         ├──────────────────▶ pending ──────▶ in_app     no address, or no mail wanted
//	         └── in_app               │ └───────▶ refused    by the mail server, for good
//	                                  └─────────▶ sent
//
// A handler only keeps the notification and asks for the effect "send"; rendering and sending happen outside of any
// unit of work, and the outcome is committed afterwards. The notification's id is the Message-ID.
//
// Invariants:
//   - One notification per event and user, whatever is delivered twice.
//   - As .eml files a mail exists exactly once, whenever the process dies: the file's name is the Message-ID. By SMTP it
//     is sent at least once, always with the same Message-ID.
//   - Nothing is sent to who does not want it when it is sent, or is erased by then. An invitation goes out in any case: its
//     recipient has no account yet to say otherwise.
//   - The token of an invitation is kept until its mail has gone out, and no longer.
//   - When a user is erased, so are the user's notifications and the .eml files, half-written ones too.
package notifications
