package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/sched"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// hub drives the decisions: it gives them the messages of all hosts and the
// time, one after the other, and hands out what they say.
type hub struct {
	limits   LimitsConfig
	log      *slog.Logger
	metrics  *metrics
	identity *wire.Identity // of this scheduler; nil: plain text
	local    bool           // only this machine can reach the scheduler
	wake     chan struct{}  // holds a token when the clock is to look again

	ctx      context.Context // ends when the scheduler stops
	cancel   context.CancelCauseFunc
	wg       sync.WaitGroup // the clock and the receivers of all streams
	mu       sync.Mutex     // guards what follows; outboxes are filled under it, so that they keep the order of the decisions
	state    *sched.State
	indexes  *sched.Indexes
	profiles *sched.Profiles
	sessions map[p2p.HostID]*session
	commands uint64 // counts them
	streams  map[netip.Addr]int
	members  map[p2p.HostID]*member   // who has, or had lately, a stream
	swept    time.Time                // when members was cleared of those who had
	bans     map[p2p.HostID]sched.Ban // that are known to the log
	noticed  time.Time                // when bans was brought up to date
	closed   bool
}

func newHub(c Config, log *slog.Logger, m *metrics) *hub {
	h := &hub{
		limits: c.Limits, log: log, metrics: m, wake: make(chan struct{}, 1),
		state: sched.New(c.scheduling()), indexes: sched.NewIndexes(), profiles: sched.NewProfiles(),
		sessions: map[p2p.HostID]*session{}, streams: map[netip.Addr]int{}, members: map[p2p.HostID]*member{}, bans: map[p2p.HostID]sched.Ban{},
	}
	h.ctx, h.cancel = context.WithCancelCause(context.Background())
	h.wg.Go(h.clock)
	return h
}

var errStopping = status.Error(codes.Unavailable, "the scheduler is stopping")

// stop ends all streams, so that hosts turn to another scheduler at once.
func (h *hub) stop() { h.cancel(errStopping) }

// close waits for all that was begun. The server must have been stopped.
func (h *hub) close() {
	h.stop()
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.wg.Wait()
}

// enter counts a stream from addr, if there may be one more. leave must follow.
func (h *hub) enter(addr netip.Addr) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed || h.ctx.Err() != nil:
		return errStopping
	case h.streams[addr] >= h.limits.HostsPerAddress:
		return status.Errorf(codes.ResourceExhausted, "too many hosts at %s (limits.hosts_per_address)", addr)
	}
	h.streams[addr]++
	return nil
}

func (h *hub) leave(addr netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams[addr]--; h.streams[addr] == 0 {
		delete(h.streams, addr)
	}
}

// announce makes s the session of its host. An older one of the same host ends:
// the host is back before its old connection was found to be dead.
func (h *hub) announce(s *session, a p2p.Announce) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.identity.Blocked(a.Host.ID) { // its connection is older than that
		return errBlocked
	}
	if old := h.sessions[a.Host.ID]; old != nil && old != s {
		old.end(status.Errorf(codes.Aborted, "host %s has another stream", a.Host.ID))
	} else if old == nil && len(h.sessions) >= h.limits.Hosts {
		return fmt.Errorf("%d hosts: %w", len(h.sessions), sched.ErrLimit)
	}
	s.host, s.seed = a.Host.ID, a.Host.Seed
	h.sessions[s.host] = s
	return h.handle(s.host, a)
}

var errBlocked = status.Error(codes.PermissionDenied, "blocked in this cluster")

// expel ends the streams of hosts that are blocked from now on. The identity
// knows them already.
func (h *hub) expel(blocked []p2p.HostID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range blocked {
		if s := h.sessions[id]; s != nil {
			h.log.Info("host is blocked in this cluster", "peer", id)
			s.end(errBlocked)
		}
	}
}

// says gives a message of s to the decisions.
func (h *hub) says(s *session, m p2p.Message) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sessions[s.host] != s {
		return context.Cause(s.ctx) // another one took its place
	}
	if h.ofIndexes(s, m) || h.ofProfiles(s, m) || h.ofCommands(s, m) {
		return nil
	}
	return h.handle(s.host, m)
}

// handle has one message dealt with. The caller holds h.mu.
func (h *hub) handle(id p2p.HostID, m p2p.Message) error {
	began := time.Now()
	sends, err := h.state.Handle(began, id, m)
	h.metrics.decisions.Observe(time.Since(began).Seconds())
	h.deliver(sends)
	select {
	case h.wake <- struct{}{}:
	default:
	}
	return err
}

// gone takes the host of a session that has ended out of all swarms, and says
// which one that was.
func (h *hub) gone(s *session) p2p.HostID {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deserted(s)
	if s.host != "" && h.sessions[s.host] == s {
		delete(h.sessions, s.host)
		h.deliver(h.state.Disconnect(time.Now(), s.host))
		h.indexes.Leave(s.host)
	}
	return s.host
}

// deliver puts messages where they are sent from. The caller holds h.mu.
func (h *hub) deliver(sends []sched.Send) {
	for _, send := range sends {
		s := h.sessions[send.To]
		if s == nil {
			continue // it has left meanwhile
		}
		if a, ok := send.Message.(p2p.Audit); ok {
			h.metrics.audits.WithLabelValues(a.Reason).Inc()
			h.log.Warn("a host asks the origin: sums are in doubt", "peer", send.To, "blob", a.Digest, "pieces", len(a.Pieces), "reason", a.Reason)
		}
		if !s.out.put(send.Message) {
			s.end(status.Error(codes.ResourceExhausted, "the host takes no messages"))
		}
	}
}

// beat is how exact the clock is.
const beat = 5 * time.Millisecond

// clock calls Tick when it is due, until the hub is stopped.
func (h *hub) clock() {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		select {
		case <-h.wake: // something may be due sooner than it was
			if !h.rest() {
				return
			}
		case <-t.C:
		case <-h.ctx.Done():
			return
		}
		t.Reset(h.tick())
	}
}

// rest makes one look at the time serve all messages of a beat. It returns
// false when the hub is stopped.
func (h *hub) rest() bool {
	t := time.NewTimer(beat)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-h.ctx.Done():
		return false
	}
}

// noticeEvery is how often the log hears of bans.
const noticeEvery = time.Second

// tick does what is due and returns how long it is until more is. If there is
// much to do it lets messages in between, and rests after a beat.
func (h *hub) tick() time.Duration {
	for end := time.Now().Add(beat); ; {
		if next := h.once(); next > 0 || !time.Now().Before(end) {
			return max(next, beat)
		}
	}
}

// once calls Tick if it is due, and returns how long it is until it is again.
func (h *hub) once() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	next := h.state.Next()
	if !next.IsZero() && !next.After(now) {
		h.deliver(h.state.Tick(now))
		h.metrics.ticks.Observe(time.Since(now).Seconds())
		next = h.state.Next()
	}
	most := time.Hour
	if h.state.Counts().Bans > 0 || len(h.bans) > 0 {
		h.notice(now)
		most = noticeEvery
	}
	if next.IsZero() {
		return most
	}
	return min(time.Until(next), most)
}

// notice logs and counts who was banned or demoted, and whose time is over. The
// caller holds h.mu.
func (h *hub) notice(now time.Time) {
	if now.Sub(h.noticed) < noticeEvery {
		return
	}
	h.noticed = now
	bans := map[p2p.HostID]sched.Ban{}
	for _, b := range h.state.Bans(now) {
		bans[b.Host] = b
		if old, known := h.bans[b.Host]; known && old.Banned == b.Banned && old.Times == b.Times {
			continue
		}
		if b.Banned {
			h.metrics.bans.WithLabelValues("banned").Inc()
			h.log.Warn("host is banned: it serves nobody", "peer", b.Host, "reason", b.Reason, "until", b.Until.UTC(), "times", b.Times)
		} else {
			h.metrics.bans.WithLabelValues("demoted").Inc()
			h.log.Info("host is demoted: it serves where nobody else does", "peer", b.Host, "reason", b.Reason, "until", b.Until.UTC(), "times", b.Times)
		}
	}
	for id, b := range h.bans {
		if _, still := bans[id]; !still {
			h.log.Info("host may serve again", "peer", id, "banned", b.Banned)
		}
	}
	h.bans = bans
}
