// Package manage is what nodes and managers say over gRPC: nodes join a cluster
// with a token, renew the certificate that they got, and hear which schedulers
// there are and what else the cluster's operators want of them.
//
// # Trust
//
// A manager has one certificate per cluster, of that cluster's CA and for the
// role manager; a node says in the server name of TLS which CA it trusts. One that
// has nothing yet trusts the join token, which carries the digest of a CA
// certificate; what that manager then says is the node's CA is so from then on.
//
// # Keep-alive
//
// A node has one stream, and HTTP/2 pings on it: each side notices within
// ten seconds that the other one is gone. A node without a manager goes on with
// what it was told last.
package manage
