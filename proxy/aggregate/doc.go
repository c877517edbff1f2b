// Package aggregate answers one request with what several routes say: a backend for a frontend (BFF), declared in the
// configuration.
//
// The parts are asked for at the same time, each through the gateway's own route table with the caller's identity, so a
// part shows what its route would show this caller and no more, wherever its module runs. They are merged into one JSON
// object in the order in which they are declared:
//
//	{"profile": {…}, "recent_orders": null, "missing": [{"part": "recent_orders", "status": 504, "reason": "timeout"}]}
//
// A part that fails is null and named in missing, and the status is 200 all the same; a required one that fails, fails the
// whole: 504 if it took too long, else 502; its 401 or 403 is passed on. A part fails if its route answers anything but
// 2xx, or something that is not JSON, or too much, or too late, or if it panics. A part that has nothing to say (204) is
// null and not missing.
//
// Time, bytes and the number of parts that are asked for at once are bounded. When the client goes, or a required part
// has failed, the others are called off.
package aggregate
