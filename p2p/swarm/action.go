package swarm

import (
	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// An Action is what the owner of a Host is to do. The types of this file are all
// there are.
type Action interface{ action() }

type (
	// Send gives a scheduler a message.
	Send struct {
		Scheduler string
		Message   p2p.Message
	}
	// Request asks a peer for pieces First to Last, in one ranged request. Answer
	// with Piece for each, in order, or with Failed, which ends it.
	Request struct {
		ID          uint64
		Peer        p2p.Host
		Blob        p2p.Blob
		First, Last int
		Through     bool // the peer is to fetch what it lacks
		Wait        bool // or to answer when it has it
		Priority    p2p.Priority
	}
	// Origin is the same, asked of the origin.
	Origin struct {
		ID          uint64
		Blob        p2p.Blob
		Origin      p2p.Origin
		First, Last int
		Priority    p2p.Priority
	}
	// Cancel ends a request that is no longer of use. It gets no answer.
	Cancel struct{ ID uint64 }
	// Subscribe asks a peer to push what it has of a blob: all at first, then
	// what is new. Answer with PeerHave and PeerLost, and PeerGone when it ends.
	Subscribe struct {
		Peer p2p.Host
		Blob p2p.Blob
	}
	// Unsubscribe ends that.
	Unsubscribe struct {
		Peer   p2p.HostID
		Digest digest.Digest
	}
	// Ignore throws away what a request has just brought of a piece, because it is
	// here already. Until a piece is judged, by Ignore, Drop or Store, its bytes must
	// not replace those of another arrival.
	Ignore struct {
		ID    uint64
		Piece int
	}
	// Store keeps a piece that arrived: its bytes are right as far as is known. It
	// may be served from then on. If none of Store, Drop and Ignore answers Piece, the
	// piece is held, and one of the first two follows. An arrival that is not ignored
	// takes the place of one that is held.
	Store struct {
		Digest digest.Digest
		Piece  int
	}
	// Drop throws away a piece that arrived, was held, or was stored and is now
	// known to be wrong.
	Drop struct {
		Digest digest.Digest
		Piece  int
	}
	// Match asks for the hash of the whole blob, of which all pieces are stored
	// or held. Answer with Matched.
	Match struct{ Digest digest.Digest }
	// Hash asks for the sums of all pieces of a blob that is here and matched its
	// digest, but whose sums this host was never told, as after a restart. Answer
	// with Hashed.
	Hash struct{ Blob p2p.Blob }
	// Corrupt says that the blob does not match its digest though all of it came
	// from the origin: who waits for it cannot be helped.
	Corrupt struct{ Digest digest.Digest }
	// Data is all of a tiny blob, verified.
	Data struct {
		Blob p2p.Blob
		Data []byte
	}
	// Renew asks for the same Want again with a new token.
	Renew struct{ Digest digest.Digest }
)

func (Send) action()        {}
func (Request) action()     {}
func (Origin) action()      {}
func (Cancel) action()      {}
func (Subscribe) action()   {}
func (Unsubscribe) action() {}
func (Ignore) action()      {}
func (Store) action()       {}
func (Drop) action()        {}
func (Match) action()       {}
func (Hash) action()        {}
func (Corrupt) action()     {}
func (Data) action()        {}
func (Renew) action()       {}
