package peer

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

const (
	firstBackOff = 200 * time.Millisecond
	maxBackOff   = 3 * time.Second
	// steady is how long a stream must have lived for the next failure to be
	// a new one.
	steady = 10 * time.Second
	// outgoing is how many messages may wait for a scheduler that is slow to
	// take them. One more, and the stream is given up: the next one begins
	// with all that counts.
	outgoing = 4096
)

// Listener hears of the schedulers. Its methods are called from one goroutine
// per scheduler: up, what it says, down, up again.
type Listener interface {
	// SchedulerUp says that a scheduler is reachable. What is sent to it next
	// must be an Announce; anything before that is dropped.
	SchedulerUp(name string)
	SchedulerDown(name string)
	SchedulerSays(name string, m p2p.Message)
}

// LinksConfig says which schedulers there are.
type LinksConfig struct {
	Schedulers []string       // "host:port"; they are also their names
	Identity   *wire.Identity // nil: plain text
	Listener   Listener
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Links are a host's streams to its schedulers, one each, made again when they
// break.
type Links struct {
	listener Listener
	log      *slog.Logger
	metrics  *linkMetrics
	identity *wire.Identity
	ctx      context.Context // of all streams; ends with Close
	cancel   context.CancelCauseFunc
	wg       sync.WaitGroup
	setting  sync.Mutex // held by Set and Close, and while the next is locked

	mu    sync.Mutex // guards links; held while a link's mu is locked
	links map[string]*link
}

type link struct {
	name  string
	conn  *wire.Conn
	stop  context.CancelCauseFunc // ends keep
	ended chan struct{}           // closed when it has

	mu     sync.Mutex       // guards what follows
	out    chan p2p.Message // of the stream that is up; nil: none
	cancel context.CancelCauseFunc
}

// set says which stream is up; nil: none.
func (k *link) set(out chan p2p.Message, cancel context.CancelCauseFunc) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.out, k.cancel = out, cancel
}

// OpenLinks begins to connect, and goes on in the background until Close.
func OpenLinks(c LinksConfig) (*Links, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	l := &Links{listener: c.Listener, log: c.Log, identity: c.Identity, links: map[string]*link{}}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	var err error
	if l.metrics, err = newLinkMetrics(c.Registerer, l); err != nil {
		return nil, err
	}
	if err := l.Set(c.Schedulers, func() {}); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Set makes the schedulers those that are named. It ends the streams to others
// and waits for that, calls meanwhile, and begins to connect to those that are
// new.
func (l *Links) Set(names []string, meanwhile func()) error {
	l.setting.Lock()
	defer l.setting.Unlock()
	if l.ctx.Err() != nil {
		return ErrClosed
	}
	err := l.end(l.take(func(name string) bool { return !slices.Contains(names, name) }))
	meanwhile()
	for _, name := range names {
		err = errors.Join(err, l.begin(name))
	}
	return err
}

// begin connects to a scheduler, unless that is known already.
func (l *Links) begin(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.links[name] != nil {
		return nil
	}
	conn, err := wire.Dial(name, l.identity)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(l.ctx)
	k := &link{name: name, conn: conn, stop: stop, ended: make(chan struct{})}
	l.links[name] = k
	l.wg.Go(func() {
		defer close(k.ended)
		l.keep(ctx, k)
	})
	return nil
}

// take takes out of links what is to end.
func (l *Links) take(which func(name string) bool) (taken []*link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, k := range l.links {
		if which(name) {
			taken = append(taken, k)
			delete(l.links, name)
		}
	}
	return taken
}

// end ends streams and their connections.
func (l *Links) end(links []*link) error {
	var errs []error
	for _, k := range links {
		k.stop(ErrClosed)
	}
	for _, k := range links {
		<-k.ended
		errs = append(errs, k.conn.Close())
	}
	return errors.Join(errs...)
}

// Close ends the streams.
func (l *Links) Close() error {
	l.cancel(ErrClosed)
	l.setting.Lock()
	defer l.setting.Unlock()
	err := l.end(l.take(func(string) bool { return true }))
	l.wg.Wait()
	return err
}

// Names returns the schedulers, reachable or not.
func (l *Links) Names() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := make([]string, 0, len(l.links))
	for n := range l.links {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Send says m to a scheduler. It does not wait. Where the scheduler is not
// reachable, or not one any more, m is dropped: the Announce that comes when it
// is says it all.
func (l *Links) Send(scheduler string, m p2p.Message) {
	l.mu.Lock()
	k := l.links[scheduler]
	l.mu.Unlock()
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.out == nil {
		return
	}
	select {
	case k.out <- m:
	default:
		k.cancel(errSlow)
		k.out = nil
	}
}

// up reports how many schedulers are reachable.
func (l *Links) up() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.links {
		k.mu.Lock()
		if k.out != nil {
			n++
		}
		k.mu.Unlock()
	}
	return n
}

// keep has a stream to one scheduler whenever that is possible.
func (l *Links) keep(ctx context.Context, k *link) {
	wait, down := firstBackOff, false
	for {
		began := time.Now()
		connected, err := l.stream(ctx, k)
		if ctx.Err() != nil {
			return
		}
		l.metrics.ended.WithLabelValues(ended(connected)).Inc()
		if time.Since(began) >= steady {
			wait = firstBackOff
		}
		if connected || !down {
			l.log.Warn("scheduler is not reachable", "scheduler", k.name, "err", err)
		}
		down = true
		t := time.NewTimer(wait/2 + rand.N(wait)) // all hosts at once would be hard on a scheduler that comes back
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		wait = min(wait*2, maxBackOff)
	}
}

// ended is the value of the label "result" for a stream that is over.
func ended(connected bool) string {
	if connected {
		return "lost"
	}
	return "refused"
}

// stream has one stream, from beginning to end.
func (l *Links) stream(ctx context.Context, k *link) (connected bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(ErrClosed)
	s, err := k.conn.Link(ctx)
	if err != nil {
		return false, err
	}
	out := make(chan p2p.Message, outgoing)
	var sender sync.WaitGroup
	sender.Go(func() { cancel(send(ctx, s, out)) })
	defer sender.Wait()
	defer cancel(ErrClosed)

	k.set(out, cancel)
	l.log.Info("scheduler is reachable", "scheduler", k.name)
	l.listener.SchedulerUp(k.name)
	for err == nil {
		var m p2p.Message
		if m, err = s.Recv(); err == nil {
			l.listener.SchedulerSays(k.name, m)
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		err = errors.Join(err, cause) // whoever failed first
	}
	k.set(nil, nil)
	l.listener.SchedulerDown(k.name)
	return true, err
}

var errSlow = errors.New("too many messages wait to be sent")

// send sends what comes, from the first Announce on. What was meant for an
// earlier stream is left out.
func send(ctx context.Context, s *wire.SchedulerStream, out <-chan p2p.Message) error {
	announced := false
	for {
		select {
		case m := <-out:
			if _, first := m.(p2p.Announce); first {
				announced = true
			}
			if !announced {
				continue
			}
			if err := s.Send(m); err != nil {
				return err // io.EOF; the receiver hears the reason
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
