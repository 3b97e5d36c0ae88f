package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/sched"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

const (
	// announceIn is how long a new stream may be silent.
	announceIn = 10 * time.Second
	// strikes is how many messages of a host in a minute may be about things
	// that have just gone. They cross with ours all the time; more of them, and
	// the host had better announce itself anew.
	strikes = 200
)

// session is one host's stream.
type session struct {
	hub      *hub
	stream   *wire.HostStream
	out      *outbox
	ctx      context.Context // of the session; its cause is how the stream ends
	end      context.CancelCauseFunc
	host     p2p.HostID                    // once it has announced itself; guarded by hub.mu
	seed     bool                          // likewise
	commands map[uint64]chan<- wire.Obeyed // that it was given and has not answered; guarded by hub.mu
	heard    chan error                    // how receive has ended

	// for the receiver only
	member     *member // what counts against its limits
	faults     int     // since faultsFrom
	faultsFrom time.Time
}

// serve has a stream from beginning to end.
func (h *hub) serve(stream *wire.HostStream) error {
	addr := stream.Caller().Addr
	if err := h.enter(addr); err != nil {
		h.metrics.streams.WithLabelValues(status.Code(err).String()).Inc()
		return err
	}
	defer h.leave(addr)
	s := &session{hub: h, stream: stream, out: newOutbox(), heard: make(chan error, 1), commands: map[uint64]chan<- wire.Obeyed{}}
	s.ctx, s.end = context.WithCancelCause(stream.Context())
	stopped := context.AfterFunc(h.ctx, func() { s.end(errStopping) })
	defer stopped()
	silent := time.AfterFunc(announceIn, func() { s.end(status.Error(codes.DeadlineExceeded, "no announce")) })
	defer silent.Stop()
	if !h.own(func() {
		err := s.receive(silent)
		s.heard <- err
		s.end(err)
	}) || !h.own(func() { s.end(s.send()) }) {
		return errStopping
	}
	<-s.ctx.Done() // what is being sent then ends with the stream
	id := h.gone(s)
	err := s.reason()
	h.metrics.streams.WithLabelValues(status.Code(err).String()).Inc()
	h.log.Debug("host left", "peer", id, "address", addr, "err", err)
	return err
}

// own runs f, for which close waits, in the background.
func (h *hub) own(f func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.wg.Go(f)
	}
	return !h.closed
}

// send sends what is for the host until the session ends.
func (s *session) send() error {
	for {
		select {
		case <-s.out.filled:
			for _, m := range s.out.take() {
				if err := s.stream.Send(m); err != nil {
					return err
				}
			}
		case <-s.ctx.Done():
			return nil
		}
	}
}

// reason is what the stream of a session ends with that has ended.
func (s *session) reason() error {
	err := context.Cause(s.ctx)
	if s.stream.Context().Err() != nil {
		err = <-s.heard // gRPC ends the stream itself where it cannot read, and only the receiver hears why
	}
	if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled || errors.Is(err, context.Canceled) {
		return nil // the host has left
	}
	return err
}

// receive deals with what the host says until it has said something impossible,
// too much, or nothing any more. The result is a status.
func (s *session) receive(silent *time.Timer) error {
	s.member = newMember(s.hub.limits.Messages, time.Now()) // until it is known whose the stream is
	if id := s.stream.Caller().Name.ID; id != "" {
		s.member = s.hub.member(id, time.Now())
	}
	announced := false
	for {
		m, err := s.stream.Recv()
		known := !errors.Is(err, wire.ErrUnknown)
		if err != nil && known {
			return s.unreadable(err)
		}
		a, first := m.(p2p.Announce)
		if first && !announced && s.stream.Caller().Name.ID == "" {
			s.member = s.hub.member(a.Host.ID, time.Now())
		}
		if err := s.hold(m); err != nil {
			return err
		}
		switch {
		case !known:
			s.hub.metrics.messages.WithLabelValues("unknown").Inc()
			continue
		case first == announced:
			err = status.Error(codes.FailedPrecondition, "a stream begins with an announce, and has one")
		case first:
			announced = true
			silent.Stop()
			err = s.announce(a)
		default:
			err = s.tolerate(m, s.hub.says(s, m))
			s.complaint(m)
		}
		if err != nil {
			return err
		}
	}
}

// unreadable is what a stream ends with from which err was read.
func (s *session) unreadable(err error) error {
	if !errors.Is(err, p2p.ErrInvalid) {
		return err
	}
	s.hub.metrics.messages.WithLabelValues("invalid").Inc()
	return status.Error(codes.InvalidArgument, err.Error())
}

// hold waits until the host may have its next message dealt with.
func (s *session) hold(m p2p.Message) error {
	d := s.member.spend(m, time.Now())
	if d <= 0 {
		return nil
	}
	s.hub.metrics.throttled.Inc()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// announce takes the host's word for who it is, or its certificate's.
func (s *session) announce(a p2p.Announce) error {
	if name := s.stream.Caller().Name; name != (wire.Name{}) {
		switch {
		case name.ID != a.Host.ID:
			return status.Errorf(codes.PermissionDenied, "the certificate is of %s, not of %s", name.ID, a.Host.ID)
		case a.Host.Seed != (name.Role == wire.RoleSeed):
			return status.Errorf(codes.PermissionDenied, "the certificate's role is %s", name.Role)
		}
	}
	err := s.hub.announce(s, a)
	s.hub.metrics.messages.WithLabelValues(handled(err)).Inc()
	if _, is := status.FromError(err); err != nil && is {
		return err
	}
	if err != nil {
		return status.Error(code(err), err.Error())
	}
	if loopback(a.Host.Addr) && !s.hub.local {
		s.hub.log.Warn("other machines cannot reach this host: set peer.advertise there", "peer", a.Host.ID, "dial", a.Host.Addr)
	}
	s.hub.log.Debug("host is here", "peer", a.Host.ID, "seed", a.Host.Seed, "dial", a.Host.Addr, "blobs", len(a.Inventory))
	return nil
}

// complaint logs that the host got a wrong piece, once a second at most.
func (s *session) complaint(m p2p.Message) {
	if w, is := m.(p2p.Wrong); is && s.member.complains(time.Now()) {
		s.hub.log.Info("a host complains of a wrong piece", "accuser", s.host, "peer", w.Parent, "blob", w.Digest, "piece", w.Piece)
	}
}

// loopback reports whether addr is one that means another machine on each.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// tolerate decides whether a host that erred may go on.
func (s *session) tolerate(m p2p.Message, err error) error {
	s.hub.metrics.messages.WithLabelValues(handled(err)).Inc()
	if err == nil {
		return nil
	}
	if _, is := status.FromError(err); is {
		return err // the session is over
	}
	s.hub.log.Debug("host erred", "message", fmt.Sprintf("%T", m), "err", err)
	if now := time.Now(); now.Sub(s.faultsFrom) > time.Minute {
		s.faults, s.faultsFrom = 0, now
	}
	if s.faults++; s.faults <= strikes && !errors.Is(err, p2p.ErrInvalid) {
		return nil
	}
	return status.Error(code(err), err.Error())
}

// code is the status that says err to a host.
func code(err error) codes.Code {
	switch {
	case errors.Is(err, p2p.ErrInvalid):
		return codes.InvalidArgument
	case errors.Is(err, sched.ErrLimit):
		return codes.ResourceExhausted
	case errors.Is(err, sched.ErrRole):
		return codes.PermissionDenied
	case errors.Is(err, sched.ErrUnknown):
		return codes.FailedPrecondition
	default:
		return codes.Internal
	}
}

// handled is the value of the label "result" for a message that ended with err.
func handled(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, p2p.ErrInvalid):
		return "invalid"
	case errors.Is(err, sched.ErrLimit):
		return "limit"
	case errors.Is(err, sched.ErrRole):
		return "role"
	case errors.Is(err, sched.ErrUnknown):
		return "behind"
	default:
		return "error"
	}
}
