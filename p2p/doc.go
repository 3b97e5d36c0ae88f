// Package p2p is the vocabulary of the piece network: what hosts and schedulers
// talk about, and the messages they say it with. It does no I/O, starts nothing
// and knows no clock; the decisions are made in p2p/sched (the scheduler's) and
// p2p/swarm (a host's), the bytes move in p2p/peer, and p2p/wire turns messages
// into protobuf.
//
// # Words
//
// A blob is content named by its digest, with a size. Layers, their indexes,
// manifests and downloaded files are blobs; whatever registry, tag or URL named
// one, it is the same blob.
//
// A piece is a fixed-size run of a blob: the unit of possession, verification
// and exchange. [PieceSize] depends on the blob's size alone. A host has a piece
// when it has all its bytes and they match the piece's SHA-256, its [Sum];
// a [Have] is a set of pieces of one blob. Any byte range inside a piece may be
// read from a host that has the piece.
//
// A stripe is every eighth piece of a blob: piece number modulo 8. Blobs of
// fewer than 8 pieces have one stripe. Within a swarm each stripe has a graph
// of its own of who serves whom, so that two hosts can feed each other
// different stripes.
//
// An origin is where a blob comes from outside the cluster: a registry, an HTTP
// server. Going there is back-to-source.
//
// A host is a machine that runs the node agent. It is a peer when seen from
// another host. A seed is a host whose duty is to fetch from origins, keep, and
// serve; it mounts nothing.
//
// A swarm is the hosts that have, or want, one blob. In it a parent serves a
// child.
//
// A scheduler decides who is whose parent. It knows a swarm only from what its
// hosts announce, so that a new one knows everything again once they have
// spoken. A cluster is the schedulers, seeds and hosts that belong together.
//
// The owner of a blob is the seed that fetches it from the origin, so that its
// bytes leave the origin once per cluster. Where no seed lives, a host may hold
// a lease: the right and the duty to fetch some pieces from the origin.
//
// # Sums
//
// Sums of pieces come from the scheduler, which has them from the host that
// fetched from the origin; never from the parent that serves the piece. They
// are provisional until the whole blob is known to have matched its digest. A
// piece that does not match a provisional sum is taken again from the origin or
// a seed, which shows who lied: the parent or the reporter of the sum.
package p2p
