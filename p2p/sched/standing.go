package sched

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A standing is what a host did wrong. It outlives the host's stream.
type standing struct {
	reason       string
	banned, slow time.Time // until when
	bans, slows  int       // how often, for how long the next one is
	failing      []mark    // children that had trouble with it
	slowBy       []mark    // children that found it slow
	falses       []mark    // whom it accused wrongly
	forget       time.Time
	done         bool // the last ban is over and acted upon
}

// A mark is a host's word at some time.
type mark struct {
	by    p2p.HostID
	at    time.Time
	times int
}

// note adds a word and returns how many different hosts said so within a time.
func note(list *[]mark, by p2p.HostID, now time.Time, within time.Duration) int {
	*list = slices.DeleteFunc(*list, func(m mark) bool { return now.Sub(m.at) > within })
	if i := slices.IndexFunc(*list, func(m mark) bool { return m.by == by }); i >= 0 {
		(*list)[i].at = now
		(*list)[i].times++
	} else if len(*list) < maxWitnesses {
		*list = append(*list, mark{by, now, 1})
	}
	return len(*list)
}

// record returns the standing of a host, to be written to.
func (s *State) record(id p2p.HostID) *standing {
	st := s.standing[id]
	if st == nil {
		st = &standing{done: true}
		if len(s.standing) < s.cfg.MaxHosts {
			s.standing[id] = st
		}
	}
	st.forget = s.now.Add(s.cfg.MaxSlow)
	if st.bans > 0 {
		st.forget = s.now.Add(s.cfg.MaxBan)
	}
	return st
}

// next returns when the standing changes by itself.
func (st *standing) next() time.Time {
	switch {
	case st.done:
		return st.forget
	case st.banned.After(st.slow):
		return st.banned
	}
	return st.slow
}

// outcast reports whether a host is banned, or demoted.
func (s *State) outcast(id p2p.HostID) (banned, slow bool) {
	st := s.standing[id]
	if st == nil {
		return false, false
	}
	return s.now.Before(st.banned), s.now.Before(st.slow)
}

func (s *State) isBanned(id p2p.HostID) bool {
	banned, _ := s.outcast(id)
	return banned
}

// ban makes a host nobody's parent, for longer each time.
func (s *State) ban(h *host, reason string) {
	st := s.record(h.ID)
	st.bans++
	st.banned = s.now.Add(grown(s.cfg.BanFor, st.bans, s.cfg.MaxBan))
	st.reason, st.done = reason, false
	st.forget = st.banned.Add(s.cfg.MaxBan)
	s.isolate(h, "banned: "+reason)
	for _, p := range h.inOrder() {
		s.discredit(p)
	}
}

// demote makes a host a parent of last resort, for longer each time.
func (s *State) demote(h *host, reason string) {
	st := s.record(h.ID)
	if s.now.Before(st.slow) {
		return
	}
	st.slows++
	st.slow = s.now.Add(grown(s.cfg.SlowFor, st.slows, s.cfg.MaxSlow))
	if !s.now.Before(st.banned) {
		st.reason = reason
	}
	st.done = false
	st.forget = st.slow.Add(s.cfg.MaxSlow)
	s.isolate(h, reason)
}

func grown(d time.Duration, times int, most time.Duration) time.Duration {
	for ; times > 1 && d < most; times-- {
		d *= 2
	}
	return min(d, most)
}

// isolate moves all children of a host to others. Leases that it holds go to
// somebody who is trusted to pass the pieces on.
func (s *State) isolate(h *host, reason string) {
	for _, p := range h.inOrder() {
		w := p.swarm
		s.relist(p)
		if w.owner == p {
			w.owner = nil
		}
		if p.lease != 0 {
			s.shun(p, "")
			for st := range p.links {
				if p.links[st].parents[0] == w.origin {
					s.detach(p, st)
				}
			}
		}
		s.release(p)
		s.orphan(p, reason)
		s.settle(p)
	}
}

// pardon ends bans and demotions that are over, and forgets old ones.
func (s *State) pardon() {
	var over []p2p.HostID
	for id, st := range s.standing {
		if !s.now.Before(st.next()) {
			over = append(over, id)
		}
	}
	slices.Sort(over)
	for _, id := range over {
		st := s.standing[id]
		if st.done {
			delete(s.standing, id)
			continue
		}
		st.done = true
		if h := s.hosts[id]; h != nil {
			for _, p := range h.inOrder() {
				s.relist(p)
			}
		}
	}
}

// A Ban is a host that is nobody's parent, or only as a last resort.
type Ban struct {
	Host   p2p.HostID
	Reason string
	Until  time.Time
	Times  int
	Banned bool // false: demoted
}

// Bans returns who is banned or demoted, by ID.
func (s *State) Bans(now time.Time) []Ban {
	var out []Ban
	for _, id := range slices.SortedFunc(maps.Keys(s.standing), cmp.Compare) {
		switch st := s.standing[id]; {
		case now.Before(st.banned):
			out = append(out, Ban{id, st.reason, st.banned, st.bans, true})
		case now.Before(st.slow):
			out = append(out, Ban{id, st.reason, st.slow, st.slows, false})
		}
	}
	return out
}
