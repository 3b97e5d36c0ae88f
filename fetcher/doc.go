// Package fetcher gives bytes of blobs: from the store on disk where they are
// there, else from the sources, each byte asked for once however many wait.
//
// A Blob is opened by digest and read by ranges. A read plans what is missing
// of its range into fetches. A fetch is one request for a run of bytes: it
// waits for a slot of its registry, streams what it gets into the store, wakes
// the readers whose next byte has come, and asks again for the rest when it is
// cut off. Fetches belong to the blob, not to a reader, whose context ends
// only its own waiting; one that no reader wants any more is given up.
//
// Only this package retries. Bytes of a range are not verified here: callers
// hold chunk digests, and say Discard about what does not match. Blob.Verify
// checks a whole blob.
//
// # The piece network
//
// With a Network, a swarm.Host decides what comes from which peer; network tells
// it what happens and does what it says, all under one lock. Each blob that the
// host is in the swarm of has a share: what was decided of its pieces (keep),
// and what of that is in the store (have, which alone is given to others). The
// goroutine settle makes the second follow the first. A piece lands, is held in a
// file beside the store while nobody knows its sum, and gets into the store when
// it is known to be right. Readers that nobody waits for see only such pieces
// (Reader.pieces); all others read what comes, from peers as from any source, and
// check it themselves. Those pieces that their reads put together are hashed
// (hashFound) and given to others, too.
//
// A share ends (forget) when its last user leaves a blob half done, when the blob
// is evicted, and when the disk takes no piece. What still runs for it then finds
// that it is not the share of its blob any more, and does nothing.
//
// # Locks
//
// In this order: Fetcher.mu, then content.mu or the store's Store.mu (which calls
// evicted), network.mu, then any of limiter.mu, memory.mu, quiet.mu, Fetcher.life
// and the store's Blob.mu. network.mu also guards what shares and landings say so
// of; nobody waits or does I/O while it is held. peerBody.mu, which is held during
// a Read, comes before network.mu and with no other.
package fetcher
