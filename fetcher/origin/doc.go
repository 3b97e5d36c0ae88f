// Package origin reads blobs and manifests from registries over HTTP(S).
//
// It finds the hosts that serve a registry (containerd's hosts.toml tree),
// authenticates to them, follows their redirects and hands out the bytes of
// one range. A call is one attempt over the configured hosts: waiting and
// trying again is the caller's business, and the errors say what it can do.
//
// Blob does not verify: the caller gets a range and cannot be told whether it
// is right before the whole blob, or a chunk of it, has been hashed. Document
// reads a whole small blob and verifies it.
//
// Lock order: Client.mu, then host.mu, then session.mu, then Client.closing.
// None of them is held while a request is under way.
package origin
