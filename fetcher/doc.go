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
// Lock order: Fetcher.mu, content.mu, then any of limiter.mu, memory.mu,
// quiet.mu, Fetcher.life and the store's.
package fetcher
