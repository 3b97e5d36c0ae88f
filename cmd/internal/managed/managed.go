// Package managed is what daemons do that have a manager: they join its cluster,
// keep their certificate good, and hear what the cluster's operators want. All of
// it happens in the background, and what was heard last is on disk: a daemon
// starts and goes on whether or not the manager can be reached.
package managed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage"
)

// Config says who wants to be a node of what.
type Config struct {
	Manager   string // host:port
	TokenFile string // a join token; read when there is no certificate that is good
	Dir       string // for what the manager gives; made if it is missing
	Name      wire.Name
	Hello     manage.Hello  // Start says the address
	Pace      time.Duration // how often the manager is told how busy this node is; 0: the usual
	Log       *slog.Logger
}

// Node is a member of a manager's cluster.
type Node struct {
	Config
	files    wire.Files
	identity *wire.Identity
	orders   manage.Orders // as they were on disk
	apply    func(manage.Orders)
	busy     func() manage.Load
	told     manage.Traffic // what the manager knows was moved
	toldAt   time.Time
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	certify  chan struct{} // closed when there is a certificate
	linked   atomic.Bool   // the manager is reachable
}

// Open reads what was given before. It asks nobody.
func Open(c Config) (*Node, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	if c.Hello.Place.Hostname == "" {
		c.Hello.Place.Hostname, _ = os.Hostname() // without, nothing is known of it
	}
	n := &Node{Config: c, files: manage.Files(c.Dir), certify: make(chan struct{})}
	if n.Pace <= 0 {
		n.Pace = tellEvery
	}
	n.identity = wire.Await(n.files, c.Name, c.Log)
	var err error
	if n.orders, err = n.load(); err != nil {
		return nil, err
	}
	n.identity.Block(n.orders.Blocked)
	return n, nil
}

// Identity is this node's, which is good for nothing until it has joined.
func (n *Node) Identity() *wire.Identity { return n.identity }

// Orders are those that were heard before the daemon was started.
func (n *Node) Orders() manage.Orders { return n.orders }

// Linked reports whether the manager is reachable now.
func (n *Node) Linked() bool { return n.linked.Load() }

// Start begins to ask the manager. apply is called with what it says, one time
// after the other, until Close. Whom to block is known to the identity by then.
// busy, if it is not nil, is asked now and then how busy this node is and what it
// has moved since it was started; the manager is told what of that is new.
func (n *Node) Start(address string, apply func(manage.Orders), busy func() manage.Load) {
	n.Hello.Address, n.apply, n.busy, n.toldAt = address, apply, busy, time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	n.wg.Go(func() { n.keepCertificate(ctx) })
	n.wg.Go(func() { n.keepLink(ctx) })
}

// Close ends what Start began.
func (n *Node) Close() {
	if n.cancel != nil {
		n.cancel()
	}
	n.wg.Wait()
}

// hear takes what the manager says.
func (n *Node) hear(o manage.Orders) {
	n.identity.Block(o.Blocked)
	if err := n.save(o); err != nil {
		n.Log.Warn("what the manager says could not be kept for the next start", "err", err)
	}
	n.apply(o)
}

const ordersFile = "orders.json"

func (n *Node) load() (o manage.Orders, err error) {
	text, err := os.ReadFile(filepath.Join(n.Dir, ordersFile))
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal(text, &o); err != nil {
		n.Log.Warn("what the manager said last cannot be read; it will say it again", "err", err)
		return manage.Orders{}, nil
	}
	return o, nil
}

func (n *Node) save(o manage.Orders) error {
	text, err := json.MarshalIndent(o, "", "\t")
	if err != nil {
		return err
	}
	next := filepath.Join(n.Dir, ordersFile+".new")
	if err := os.WriteFile(next, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(n.Dir, ordersFile))
}

const (
	firstBackOff = time.Second / 2
	maxBackOff   = 10 * time.Second
	refusedAgain = 30 * time.Second
	renewAgain   = 10 * time.Minute
	tellEvery    = 10 * time.Second
)

// keepCertificate joins when there is no certificate that is good, and renews it
// while there is.
func (n *Node) keepCertificate(ctx context.Context) {
	had, told := false, ""
	wait := firstBackOff
	for ctx.Err() == nil {
		from, until, err := manage.Good(n.files, n.Name)
		good := err == nil && time.Now().Before(until)
		if good && !had {
			had = true
			close(n.certify)
		}
		if good && time.Now().Before(renewAt(from, until)) {
			told, wait = "", firstBackOff
			sleep(ctx, min(time.Until(renewAt(from, until)), time.Hour))
			continue
		}
		if err = n.get(ctx, good); err == nil {
			continue
		}
		if ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			n.Log.Warn("the manager gives no certificate; asking on", "manager", n.Manager, "joined", good, "until", until, "err", err)
		}
		switch {
		case good:
			sleep(ctx, renewAgain)
		case errors.Is(err, manage.ErrRefused) || errors.Is(err, errNoToken):
			sleep(ctx, refusedAgain)
		default:
			sleep(ctx, wait/2+rand.N(wait))
			wait = min(wait*2, maxBackOff)
		}
	}
}

// renewAt is when to renew a certificate: after about a third of its life, not all
// nodes at once.
func renewAt(from, until time.Time) time.Time {
	third := until.Sub(from) / 3
	return until.Add(-2 * third).Add(time.Duration(from.Unix()%7) * third / 70)
}

var errNoToken = errors.New("there is no join token")

// get gets a certificate: by the one that there is, or by the join token.
func (n *Node) get(ctx context.Context, renew bool) error {
	if renew {
		err := manage.Renew(ctx, n.Manager, n.files)
		if err == nil {
			n.Log.Info("certificate renewed", "manager", n.Manager)
		}
		return err
	}
	text, err := os.ReadFile(n.TokenFile)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: put one into %s, as `dfmanager token create --role %s` prints it", errNoToken, n.TokenFile, n.Name.Role)
	}
	if err != nil {
		return err
	}
	token, err := manage.ParseToken(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w: %w", n.TokenFile, err, errNoToken)
	}
	if err := manage.Join(ctx, n.Manager, token, n.Name, n.Hello.Place, n.files); err != nil {
		return err
	}
	n.Log.Info("joined the cluster", "manager", n.Manager, "name", n.Name.ID, "role", n.Name.Role)
	return nil
}

// keepLink has a stream from the manager whenever that is possible.
func (n *Node) keepLink(ctx context.Context) {
	select {
	case <-n.certify:
	case <-ctx.Done():
		return
	}
	wait, down := firstBackOff, false
	var tell manage.Teller
	if n.busy != nil {
		tell = n.tell
	}
	for ctx.Err() == nil {
		linked := false
		err := manage.Link(ctx, n.Manager, n.files, n.Hello, func(o manage.Orders) {
			if !linked {
				n.Log.Info("manager is reachable", "manager", n.Manager)
			}
			linked, down, wait = true, false, firstBackOff
			n.linked.Store(true)
			n.hear(o)
		}, tell)
		n.linked.Store(false)
		if ctx.Err() != nil {
			return
		}
		if !down {
			n.Log.Warn("manager is not reachable; going on with what it said last", "manager", n.Manager, "err", err)
		}
		down = true
		sleep(ctx, wait/2+rand.N(wait))
		wait = min(wait*2, maxBackOff)
	}
}

// tell tells the manager how busy this node is, whenever that has changed. What it
// has not noted is told again with what comes next.
func (n *Node) tell(ctx context.Context, say func(manage.Load) error) {
	t := time.NewTicker(n.Pace)
	defer t.Stop()
	var last manage.Load
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		now, l := time.Now(), n.busy()
		moved := l.Moved
		l.Moved = moved.Sub(n.told)
		if l == last && l.Moved == (manage.Traffic{}) {
			continue
		}
		last = l
		l.Span = max(now.Sub(n.toldAt), time.Millisecond)
		if err := say(l); err != nil {
			last = manage.Load{Kept: -1} // equal to none
			n.Log.Debug("the manager does not note how busy this node is", "err", err)
			continue
		}
		n.told, n.toldAt = moved, now
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
