// Package sched is the scheduler's decisions: who reads which part of a blob
// from whom, who fetches it from the origin, and who is not to be trusted.
//
// A [State] is pure. Time comes in as an argument, messages come in through
// [State.Handle] and go out as its results; there is no clock, goroutine, I/O
// or random source, and ties are broken by the order of joining or by ID.
// The same calls give the same answers, so that simulations and the scripts in
// testdata replay exactly. All of it is soft: a new State is whole again when
// the hosts have announced what they have and want.
//
// # Hosts
//
//	          Announce                        Disconnect, Announce anew
//	unknown ------------> connected ---------------------------------> unknown
//
// A host that leaves gets no children any more, and those it has get other
// parents. Whether a host still answers is the server's to find out; it then
// calls [State.Disconnect].
//
// Where that is much work, in many swarms or in broad ones, the call does some of
// it, and the ticks that are due at once the rest (backlog.go). Meanwhile children
// go on with the parents they know. Balancing is spread over ticks, too. So no
// call takes long, and no message waits long for those before it.
//
// Apart from that, and across connections, a host has a standing:
//
//	      trouble of several children,          time
//	      or slow for several
//	good --------------------------> demoted ---------> good
//	good, demoted -----------------> banned  ---------> good
//	      wrong bytes, said by two;
//	      three false complaints;
//	      false sums
//
// A second host looks whether a complaint is true. Before that, only the first one that a
// host has open counts as trouble, only the first about the same piece of a host, and none
// against the only seed: without it all would go to the origin. Of what is read lazily there
// are no complaints, since no sum may be known; wrong bytes count as other trouble does.
// Nor do times of reads say which parent is slow: each host passes on what it reads, so all
// below a thin line wait as long. A parent is slow for a child that takes several times as long
// as the parent itself; who does so whoever serves it is nobody's parent for a while (pace.go).
//
// A demoted host is a parent only where there is no other; a banned one never
// is. Both still get parents for what they want. Each time lasts twice as long as
// the one before, until the host has behaved for as long as the longest.
//
// # Swarms
//
// A swarm is where the bytes come from, as far as anybody wants them:
//
//	idle   nobody wants the blob
//	held   somebody has all of it: the origin is not needed
//	owned  a seed fetches it; the first by rendezvous, then the next if that one
//	       dies, is demoted, or does not get on
//	leased no seed can: per stripe, the peer at the root of its graph holds a
//	       lease of the stripe's pieces
//	stuck  nobody could be found; some peers are allowed to go to the origin by
//	       themselves
//
// A swarm goes to the first of held, owned, leased and stuck that is possible
// whenever somebody comes or goes. It ends with its last peer.
//
// # Peers
//
// A peer is one host in one swarm. What it may be to others is its role:
//
//	idle    nothing: it has nothing, does not share, or is banned
//	node    it wants the blob, and passes it on as it gets it
//	full    it has all
//	source  a seed that has all, or owns the swarm
//	reader  it only reads, while others want all: what it has it gives to other readers
//	other   it has something, but wants nothing, or is demoted, or is a seed that does
//	        not own the swarm: a last resort
//
//	idle --Want--> node --last piece--> full --Unwant--> gone
//
// # The graph
//
// A blob has up to eight stripes, and each has a graph of its own. In it, a
// peer has a first parent and up to two others for when that one fails. Nobody
// is above itself: an edge that would close a circle is refused. Each node has
// a home stripe, given in turn in each data centre, and spends its slots on children
// there; in the others it is mostly a leaf. So everyone's upload is in use, each
// stripe's tree is as low as its breadth allows, and a seed, or the origin, sends each
// byte about once. A node that comes late takes the place of a leaf further up, which
// becomes its child.
//
// When a node fails, those that hang on it, with all below them, get places as near to the
// root as before: that of a leaf there, or of a node with fewer generations below it,
// which goes down in its turn. They come before those who have nobody below them. Parents
// for when the first one fails are less deep than who has them, and are given up where one
// is in the way of a better place. What those who fail, or only take, do not serve is
// spread over all nodes that only leaves hang on, one child more than its slots to each.
//
// What is read lazily goes through narrow graphs instead: all read the same at the same
// time, one range after the other, and pass it on as it comes, so that who served eight
// children would give each an eighth of its line. In a small swarm each peer has one child,
// in a larger one two, in all stripes. When the first peer wants all of the blob it becomes
// the root of the others. These go on as readers, in a narrow graph below it: they get
// nothing by themselves, so that nobody who wants all hangs on them. A blob of one stripe
// has a narrow graph, too.
//
// A peer that is slow, as its children measured it against the mean of the swarm,
// may have fewer of them. One that gets its home stripe far slower than the other
// children of its parent there becomes idle for a while: all below it would wait.
// In a small swarm, where all parents of a peer may be slow, one that has no seed among
// them gets one as the last of those at home.
//
// # Sums
//
// The sums of pieces are claims by those who were at the origin. A seed's word
// counts most, then a lease holder's, then that of others who have the piece;
// of equal ones that of two. A host has one word. They are provisional until a seed
// says that the whole blob matched, or more than one host in eight of those who want
// or have it, two at least, and more than say that it did not; then who claimed
// otherwise is banned.
//
// Sums are in doubt when all who claimed them are banned, or when hosts say that all
// pieces matched and the whole did not. Then they are audited, unless a seed has the
// blob, or fetches it: one host, as good as chosen at random, takes all of these
// pieces from the origin. If it is honest all of them are right from then on, however
// many liars agree on others: its word counts more than that of those who were sent
// there before. If it lies, the next one goes. As long as nobody says a word, as many
// more go every few seconds as went before, up to a few: among hosts that know nothing of audits,
// or do not reach the origin, one that can answer is found soon. What hosts say of
// the whole blob counts for the sums they were told, so that a sum that is taken back
// is told to everybody but seeds, and clears that.
//
// One host that says that the blob does not match is enough for the first audit of all
// pieces, and each one after it takes twice as many, and always more than say that it
// does. So n liars cause 1 + log2 n of them at most, a blob from the origin each, and
// honest hosts, if they are more, can always have one more. A banned host costs what it
// alone had claimed. Hosts take no piece from the origin twice, whatever a scheduler
// says, and where nobody finds the false sums in half a minute they take all of the
// blob from there.
package sched
