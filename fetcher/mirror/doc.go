// Package mirror is a registry mirror and HTTP proxy in front of package
// fetcher: what Docker, containerd, podman and others point at, unchanged.
//
// A request names its registry (the query's ns, the header X-Dragonfly-Registry,
// the address if it came as to a proxy) or is for the one configured. Blobs come
// by digest through the fetcher: from the store, from peers, from the registry.
// Everything else is passed through with the client's own headers.
//
// # Who gets what
//
// What is kept on this host may be private. A client gets a blob from here only
// after the registry has said, for the very Authorization that the client sends
// (and any other header by which registries may know it), that this repository has
// it: in a manifest that it just gave this client, or in the answer to a HEAD that
// the mirror makes with the client's headers. Such leave is remembered for minutes
// (grants). Without it the request itself is passed
// through, so that the client gets what the registry answers.
//
// # What a client may see
//
// Bytes are sent as they come, pieces of peers once they match the scheduler's
// sums. The last ones of a whole blob are held back until all of it matches its
// digest; if it does not, the connection breaks, so that no client takes the blob
// for complete. A range is not verified: who asks for ranges holds digests of
// parts, or puts the whole together and verifies that.
//
// # Locks
//
// grants.mu and tunnels.mu are leaves: nothing is called while one is held.
package mirror
