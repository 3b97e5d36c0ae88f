package p2p

import (
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// A Message travels on the one stream between a host and a scheduler, in
// either direction. Messages are values; who gets one must not change what it
// points to. The types of this file, of index.go, command.go and
// profile.go are all there are.
type Message interface{ message() }

// A Sum is the SHA-256 of one piece.
type Sum = [32]byte

// A Priority says who waits for bytes. The lower goes first.
type Priority int

// The priorities.
const (
	OnDemand   Priority = iota // somebody waits for this very read
	Prefetch                   // somebody probably will
	Background                 // nobody waits
)

func (p Priority) String() string {
	names := [...]string{"on_demand", "prefetch", "background"}
	if p < 0 || int(p) >= len(names) {
		return fmt.Sprintf("priority %d", int(p))
	}
	return names[p]
}

// A Failure is how a transfer, or the check of one, went wrong.
type Failure int

// The failures.
const (
	None        Failure = iota // it did not
	Unreachable                // no connection, or it broke
	Stalled                    // connected, and no byte for too long
	Busy                       // no upload slot is free, or the origin asks for patience
	Missing                    // does not have what it said, or what it should
	Mismatch                   // the piece is not what the scheduler's sum says
	Refused                    // the origin does not accept the credentials
)

func (f Failure) String() string {
	names := [...]string{"none", "unreachable", "stalled", "busy", "missing", "mismatch", "refused"}
	if f < 0 || int(f) >= len(names) {
		return fmt.Sprintf("Failure(%d)", int(f))
	}
	return names[f]
}

// MaxRepository is how long an Origin's repository may be, in bytes.
const MaxRepository = 2048

// An Origin is where a blob can be fetched from outside the cluster: a repository
// of a registry or, where Registry begins with a scheme, a file of a server.
type Origin struct {
	Registry, Repository string
	// Token is a short-lived bearer token that may read exactly this
	// repository, or for a file how it is asked for; or "". It is sent over TLS
	// only, and shown nowhere.
	Token string `json:"-"`
}

// String leaves the token out.
func (o Origin) String() string { return o.Registry + "/" + o.Repository }

// GoString leaves the token out.
func (o Origin) GoString() string { return fmt.Sprintf("p2p.Origin(%q)", o.String()) }

// A Transfer is what a child measured of one parent, or of the origin.
type Transfer struct {
	Parent HostID // "": the origin
	Bytes  int64
	Took   time.Duration // with bytes on the way, summed over requests
	Failed Failure
}

// From a host to its scheduler.
type (
	// Announce is the first message on every stream. It is the whole truth: what
	// the scheduler knew of the host before is forgotten.
	Announce struct {
		Host      Host
		Inventory []Inventory
	}
	// Inventory says what a host has of a blob: all of it, in place of what was said
	// before.
	Inventory struct {
		Blob     Blob
		Have     *Have // never nil
		Verified bool  // the whole blob matched its digest here
	}
	// Want asks for parents. Sent again, it changes the want, or renews its token.
	Want struct {
		Blob     Blob
		Origin   Origin
		Lazy     bool // ranges as they are read, and filling later; otherwise all of it now
		Priority Priority
	}
	// Unwant takes the host out of the swarm: the blob was evicted, or is no longer of
	// interest.
	Unwant struct{ Digest digest.Digest }
	// Progress says which pieces are new and how parents did, at most five times
	// a second and blob.
	Progress struct {
		Digest digest.Digest
		Got    []int // pieces, verified by their sums
		From   []Transfer
	}
	// Wrong is a complaint: the parent's piece did not match the scheduler's sum.
	Wrong struct {
		Digest digest.Digest
		Piece  int
		Parent HostID
		Got    Sum
	}
	// Verified says that the whole blob matched its digest, with the sums the
	// scheduler gave. A later Spoiled takes it back, and the other way round.
	Verified struct{ Digest digest.Digest }
	// Spoiled says that somebody reported false sums: all pieces matched those the
	// scheduler gave and the whole blob does not match its digest, or it does with others.
	Spoiled struct{ Digest digest.Digest }
	// Checked answers a Check. Failed is None if the parent's piece is right,
	// Mismatch if not, and otherwise what kept the witness from knowing.
	Checked struct {
		Digest digest.Digest
		Piece  int
		Parent HostID
		Failed Failure
	}
)

// Digests are sums of neighbouring pieces. A host sends those of pieces that it took
// from the origin, Verified if all of the blob matched its digest there; the
// scheduler sends what it knows, Verified if that is confirmed. Later ones
// count. From the scheduler, none at all and Verified confirm those it sent before.
type Digests struct {
	Digest   digest.Digest
	First    int
	Sums     []Sum
	Verified bool
}

// Content is all of a tiny blob. The host that fetched it sends it to the
// scheduler, and the scheduler to those who want the blob.
type Content struct {
	Digest digest.Digest
	Data   []byte
}

// From the scheduler to a host.
type (
	// Parents are the hosts to read from: for each stripe, best first. They
	// replace those said before, and a stripe may have none for now.
	Parents struct {
		Digest  digest.Digest
		Stripes [][]Host
	}
	// Fetch tells a seed that it owns the blob: it is to fetch it from the origin,
	// all of it if Whole, else only what it is asked for. Background says that
	// nobody waits for all of it: what somebody reads goes before.
	Fetch struct {
		Blob       Blob
		Origin     Origin
		Whole      bool
		Background bool
	}
	// Lease tells a host to fetch these pieces from the origin, report their sums
	// and pass them on; at once, or, where its want is lazy, when they are read. A
	// piece that it has already, and whose sum it reported, is to be taken again.
	// It replaces an earlier lease of the blob; without pieces there is none any
	// more.
	Lease struct {
		Digest digest.Digest
		Pieces []int
		For    time.Duration
	}
	// Source says whether the host may go to the origin by itself when its
	// parents do not have what it needs. As long as nothing is said, it may not
	// while a scheduler is there.
	Source struct {
		Digest  digest.Digest
		Allowed bool
	}
	// Renew asks for the want again with a new token: the old one is refused.
	Renew struct{ Digest digest.Digest }
	// Ask asks for the sums that the host has, after the scheduler was restarted.
	Ask struct{ Digest digest.Digest }
	// Check asks for a witness: fetch the piece from that parent and compare.
	Check struct {
		Digest digest.Digest
		Piece  int
		Parent Host
	}
	// Audit tells a host to take pieces from the origin, and from nowhere else, and to
	// report their sums: what hosts said of them is in doubt. It may have them already;
	// what it took from the origin before, or matched as a whole, it takes no second time.
	Audit struct {
		Digest digest.Digest
		Pieces []int
		Reason string
	}
	// Gone says that a host is dead or banned and must not be used.
	Gone struct {
		Host   HostID
		Reason string
	}
)

func (Announce) message()  {}
func (Inventory) message() {}
func (Want) message()      {}
func (Unwant) message()    {}
func (Progress) message()  {}
func (Wrong) message()     {}
func (Verified) message()  {}
func (Spoiled) message()   {}
func (Checked) message()   {}
func (Digests) message()   {}
func (Parents) message()   {}
func (Fetch) message()     {}
func (Lease) message()     {}
func (Source) message()    {}
func (Renew) message()     {}
func (Content) message()   {}
func (Ask) message()       {}
func (Check) message()     {}
func (Audit) message()     {}
func (Gone) message()      {}
