package sched

import (
	"errors"
	"time"
)

// Errors of [State.Handle]. They say what the client did wrong; the state is as
// if the message had not come. Values out of bounds wrap [p2p.ErrInvalid].
var (
	// ErrUnknown: the message is about a host or blob that was not announced, or not
	// wanted, on this stream. The client is behind or confused: let it announce again.
	ErrUnknown = errors.New("not announced")
	// ErrLimit: the client, or all of them, want more than the scheduler keeps.
	ErrLimit = errors.New("limit reached")
	// ErrRole: the sender may not say that.
	ErrRole = errors.New("not for this role")
)

// Config holds what differs between clusters and tests. Zero fields mean the
// default that follows each.
type Config struct {
	Fanout   int           // children of a host in one swarm, over all stripes; 8
	BanFor   time.Duration // first ban for wrong bytes, doubled each time; 10 min
	MaxBan   time.Duration // longest ban; 24 h
	SlowFor  time.Duration // first demotion for slowness or failures, doubled each time; 30 s
	MaxSlow  time.Duration // longest demotion; 10 min
	LeaseFor time.Duration // a lease or an owner without progress moves on after it; 30 s
	Flush    time.Duration // sums are told to a swarm at most this often; 50 ms
	Balance  time.Duration // swarms are looked at for better parents this often; 500 ms

	MaxHosts int // hosts at a time; 100,000
	MaxBlobs int // blobs of one host; 65,536
	MaxPeers int // pairs of host and blob; 4,000,000
	MaxTrial int // complaints of one host that wait for a witness; 8
}

func (c Config) withDefaults() Config {
	or := func(p *int, n int) {
		if *p == 0 {
			*p = n
		}
	}
	orTime := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	or(&c.Fanout, 8)
	orTime(&c.BanFor, 10*time.Minute)
	orTime(&c.MaxBan, 24*time.Hour)
	orTime(&c.SlowFor, 30*time.Second)
	orTime(&c.MaxSlow, 10*time.Minute)
	orTime(&c.LeaseFor, 30*time.Second)
	orTime(&c.Flush, 50*time.Millisecond)
	orTime(&c.Balance, time.Second/2)
	or(&c.MaxHosts, 100_000)
	or(&c.MaxBlobs, 65_536)
	or(&c.MaxPeers, 4_000_000)
	or(&c.MaxTrial, 8)
	return c
}

// tick is how often swarms are balanced, some at a time.
const tick = 5 * time.Millisecond

// staysLazy is how long one may read lazily and still be about to want all.
const staysLazy = 2 * time.Second

// renewsIn is how long a host may take to get a new token.
const renewsIn = 5 * time.Second

const (
	backups      = 2    // parents of a stripe besides the first
	chained      = 16   // peers of a narrow graph in which each has one child
	broad        = 512  // hosts in a swarm that is not small
	window       = 16   // open parents compared with each other
	beyond       = 48   // parents looked at to find them
	maxVain      = 4    // full parents whose children are looked at, to take the place of one
	maxGroups    = 64   // data centres told apart in one swarm
	maxLook      = 512  // peers of a swarm among which an heir or a witness is looked for
	moved        = 32   // peers that are balanced for each look for a better place for a child of who has too many
	maxDescent   = 256  // peers visited from the root down, to find a place near to it
	maxDeeper    = 32   // peers above one looked at to find another
	maxHeight    = 8    // generations of children told apart
	maxGot       = 4096 // pieces in one Progress
	maxTransfers = 256  // transfers in one Progress
	maxSums      = 4096 // sums in one Digests
	maxOrigins   = 8    // places known where one blob may be fetched
	maxSources   = 8    // hosts of one swarm that may go to the origin by themselves, or audit it
	maxWitnesses = 16   // distinct hosts remembered that had trouble with one
	maxChecks    = 3    // witnesses asked in one trial
	balanced     = 1024 // peers looked at per balance, of all swarms
	fairly       = 8    // of those, at least in each swarm
)
