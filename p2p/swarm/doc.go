// Package swarm decides for one host: which piece it asks for next and of whom,
// what it tells its schedulers, whom it believes. It is pure: it reads no
// clock, starts no goroutine and does no I/O. Whoever owns a [Host] calls its
// methods with what happened and when, and carries out the [Action]s they
// return; equal events give equal actions, so that a simulation runs the very
// code that a node runs.
//
// # A blob here
//
// A blob is known from its first Want, Present or Fetch until Unwant:
//
//	lazy     read by ranges as somebody reads them; pieces only when needed
//	filling  all pieces are wanted, rarest first, needed ones before; of equally rare
//	         ones those at the front, if somebody reads it from there
//	full     all pieces are here; Match asks for the hash of the whole
//	verified the whole matched its digest; the host only serves it
//
// A piece goes from wanted through asked (one request, or two when the first is
// late) to here. A piece that arrives before the scheduler has told its sum is
// held: neither shown to others nor asked for again. A piece that fails its sum
// is dropped, its parent is no longer used and is complained of; if the sum was
// provisional the piece is in doubt and is taken from a seed or the origin.
//
// Where no scheduler can be reached nobody tells sums. Then such pieces are loose:
// stored and passed on like others, so that the hosts go on feeding each other,
// until the whole shows whether they are right. If it does not match, all loose
// ones are dropped and taken from a seed or the origin.
//
// # Whom to ask
//
// The scheduler lists parents for each stripe, best first. The first has the
// load of the stripe; the others are asked for what the first lacks or is too
// slow to give, or while it is silent; a seed for what is in doubt, and otherwise only
// once the host starves, until it gets something from them, or where it is much faster
// than all of them together (see outrun.go). Requests to one
// parent and bytes in flight are bounded; the latter follow the measured rate, so that
// about half a second of data is on its way. Of several blobs the one that was wanted
// first has the parents' time, of those wanted together the largest: so all hosts that
// start an image work on the same layer. Where a seed fetches them for all, the others
// get what that one leaves of the line, and now and then a piece: an image's layers
// that come one after the other are unpacked one after the other, while the rest comes.
//
// The origin is asked for what the scheduler said (Fetch, Lease), and otherwise
// only when nothing else moves: at once without any scheduler, later with one, and after
// two minutes while it has parents that can be asked: they may wait for the origin as
// well (see origin.go). When the scheduler is gone, who has no parent left for a stripe
// is its root: it takes that stripe from the origin, and passes it on to the others.
//
// # Schedulers
//
// A blob belongs to the first scheduler in rendezvous order that is reachable,
// and goes home once the one before has been back for 30 s. Nothing under way
// is touched by that. Complaints go to all.
package swarm
