// Package compress compresses answers with zstd or gzip where it pays.
//
// It pays for text of some size: the types of Config, from MinSize on. A smaller answer costs more to pack than to
// send. An answer that is written in parts is held back up to MinSize and no further; one that is flushed before is a
// stream and goes as it is, and so do event streams, gRPC, parts (206), what is encoded already, what carries a digest
// of its bytes, and what says no-transform. HEAD, 204 and 304 have no body and get none.
//
// The encoded form is another representation: its ETag is made weak (the bytes are not those that a strong one
// promises), Content-Length and Accept-Ranges go, Vary says Accept-Encoding, also on the plain form of what could have
// been encoded.
//
// An answer that breaks off stays broken: without its end the encoded form cannot be taken for a whole one. The end is
// written only if the handler returned and wrote as much as it had promised.
//
// # BREACH
//
// The size of a compressed answer tells whether two parts of it are alike. Whoever can make a browser send requests with
// its owner's credentials, put a guess into them that the answer repeats, and see the sizes on the wire, finds out a
// secret in the answer letter by letter. Our own API is called with bearer tokens, which no foreign page can make a
// browser send, so its answers are compressed for known callers too. These are not:
//
//   - answers to requests with a Cookie, which a browser sends by itself, unless they are Cache-Control: public, which
//     is to say that there is no secret in them;
//   - answers that set a cookie;
//   - what lies below Config.Except, /api/auth in the default: there the secrets are tokens, worth more than the bytes.
package compress
