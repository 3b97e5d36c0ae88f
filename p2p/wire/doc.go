// Package wire is what crosses the network between hosts and schedulers:
// messages as protobuf on one gRPC stream, and who may say them.
//
// # Messages
//
// Whatever comes in is checked before anybody sees it: each field has a bound,
// and a message that breaks one is an error that wraps [p2p.ErrInvalid], never a
// message cut to size. What depends on more than the message itself, such as
// whether a blob has that many pieces, is checked by who knows it. Large
// messages travel in parts of [MaxMessage] bytes at most; that shows nowhere
// outside this package.
//
// # Certificates
//
// A certificate names its owner in the common name, which is the host ID, and
// its role in the organizational unit: host, seed or scheduler. Both sides of
// every connection show one, of the cluster's CA; addresses in it do not
// count, because hosts come and go with addresses and it is the role that
// decides what one may do. Files are read again when they change.
package wire
