// Package peer moves bytes and words between hosts: the piece server and its
// client, and the streams to the schedulers. It decides nothing: which peer is
// asked for what is p2p/swarm's business, and where bytes are kept its caller's.
//
// # Pieces
//
// The protocol is HTTP/1.1, so that curl can speak it:
//
//	GET /blobs/{digest}         with one Range: bytes, any range of them
//	HEAD /blobs/{digest}        which of them are here
//	GET /blobs/{digest}/have    which pieces are here, now and as that changes
//
// A server answers with the front of the range that it has, which may be less
// than was asked for: 206, and Content-Range says how much. 404 means that not
// even the first byte is here, 416 that the blob has no such byte, and 503 with
// Retry-After that all upload slots are taken. A response that ends early means
// that the server lost its source or was stopped.
//
// With "Df-Fetch: through" the server fetches what it lacks from its own
// parents and passes it on as it comes; Df-Hops counts how often that has
// happened to a request, so that a circle of hosts ends. Df-Priority is one of
// on_demand, prefetch and background.
//
// With "Df-Fetch: wait" the server answers as soon as it has the first byte of the
// range, or after ten seconds: who knows that it is about to get that spares the
// way to hear of it.
//
// # Locks
//
// None of this package's mutexes is held while another one is taken, or while
// its callers' functions run.
package peer
