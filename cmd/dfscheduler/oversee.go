package main

import (
	"context"
	"encoding/json"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/sched"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// See returns what the scheduler sees, for managers. It is wire.Overseer's.
func (h *hub) See(d digest.Digest) ([]byte, error) {
	if d == "" {
		return json.Marshal(h.view())
	}
	v, ok := h.swarm(d)
	if !ok {
		return nil, wire.ErrNoSwarm
	}
	return json.Marshal(v)
}

// Order has hosts commanded for a manager. It is wire.Overseer's.
func (h *hub) Order(ctx context.Context, c p2p.Command, hosts []p2p.HostID, say func(wire.Obeyed) error) error {
	ended := make(chan wire.Obeyed, len(hosts)) // so that nobody waits who puts something in
	withdraw, n := h.command(c, hosts, ended)
	defer withdraw()
	for range n {
		select {
		case o := <-ended:
			if err := say(o); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-h.ctx.Done():
			return errStopping
		}
	}
	return nil
}

// command sends a command to hosts, each once, and returns how many that are. How
// it ended at each comes to ended, until it is withdrawn: hosts that are not done
// then stop.
func (h *hub) command(c p2p.Command, hosts []p2p.HostID, ended chan<- wire.Obeyed) (withdraw func(), n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	told := map[p2p.HostID]bool{}
	given := map[uint64]*session{}
	for _, id := range hosts {
		if told[id] {
			continue
		}
		told[id] = true
		s := h.sessions[id]
		if s == nil {
			ended <- wire.Obeyed{Host: id, Failed: notHere}
			continue
		}
		h.commands++
		c.ID = h.commands
		s.commands[c.ID], given[c.ID] = ended, s
		h.deliver([]sched.Send{{To: id, Message: c}})
	}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for id, s := range given {
			if s.commands[id] == nil {
				continue
			}
			delete(s.commands, id)
			if h.sessions[s.host] == s {
				c.ID, c.Stop = id, true
				h.deliver([]sched.Send{{To: s.host, Message: c}})
			}
		}
	}, len(told)
}

const notHere = "it is not connected to the scheduler"

// ofCommands deals with the answer to a command. The caller holds h.mu.
func (h *hub) ofCommands(s *session, m p2p.Message) bool {
	d, is := m.(p2p.Done)
	if !is {
		return false
	}
	if ended := s.commands[d.ID]; ended != nil {
		delete(s.commands, d.ID)
		ended <- wire.Obeyed{Host: s.host, Failed: d.Failed}
	}
	return true
}

// deserted ends the commands of a session that has ended. The caller holds h.mu.
func (h *hub) deserted(s *session) {
	for id, ended := range s.commands {
		ended <- wire.Obeyed{Host: s.host, Failed: notHere}
		delete(s.commands, id)
	}
}
