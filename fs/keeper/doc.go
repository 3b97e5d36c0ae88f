// Package keeper keeps FUSE mounts alive while the daemon that serves them is dead.
//
// A mount dies with the last descriptor of its /dev/fuse connection. The keeper is a
// tiny process ([Run]) that holds a second one, the INIT request the kernel sent and
// the reply it was given, for every session of the daemon, and small pieces of state
// that live in memory only. The daemon talks to it through a [Client], which also
// starts a new keeper when the old one dies and gives it everything again.
//
// Requests that a dead daemon had read and not answered would wait for ever. Linux 6.9
// and later send them once more when asked (FUSE_NOTIFY_RESEND), so there the keeper
// only holds (resend mode). On older kernels it stands between kernel and daemon (relay
// mode): it reads each request straight into a slot of a shared memory file, passes it
// on over a SOCK_SEQPACKET socket, and frees the slot once the kernel has the answer.
// A new daemon is sent what is left in the slots. The daemon holds the same descriptor
// and the same memory file, so a keeper that dies loses no request either: the next one
// goes on from the slots. What is lost in either case are messages that have no answer
// (FORGET); the daemon keeps no state that would need them.
//
// Guaranteed: with either of the two processes alive no request is lost. Not
// guaranteed: when both are dead the kernel ends the connection, and every access gets
// ENOTCONN until the session is mounted anew.
package keeper
