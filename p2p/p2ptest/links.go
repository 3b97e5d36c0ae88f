package p2ptest

import "math"

// links are the capacities of all machines, and the transfers that share them.
type links struct {
	up, down []float64 // bytes per step, by machine
	flows    []flow
	spare    struct {
		up, down   []float64 // what is left of the step
		nup, ndown []int32   // transfers that want more
	}
	cut func(a, b int32) bool // no packet passes
}

// A flow is one transfer under way.
type flow struct {
	src, dst int32
	left     float64 // bytes of the piece under way
	more     bool    // another piece follows at once
	give     float64 // in this step
	pull     *pull
}

func newLinks(n int) *links {
	l := &links{up: make([]float64, n), down: make([]float64, n), cut: func(int32, int32) bool { return false }}
	l.spare.up, l.spare.down = make([]float64, n), make([]float64, n)
	l.spare.nup, l.spare.ndown = make([]int32, n), make([]int32, n)
	return l
}

func (l *links) start(p *pull, src, dst int32) {
	p.flow = len(l.flows)
	l.flows = append(l.flows, flow{src: src, dst: dst, pull: p})
}

func (l *links) stop(p *pull) {
	if p.flow < 0 {
		return
	}
	last := len(l.flows) - 1
	l.flows[p.flow] = l.flows[last]
	l.flows[p.flow].pull.flow = p.flow
	l.flows[last] = flow{}
	l.flows = l.flows[:last]
	p.flow = -1
}

// room is how much more the flow could carry in this step.
func (f *flow) room() float64 {
	if f.more {
		return math.Inf(1)
	}
	return f.left - f.give
}

// rounds of handing out what others left; a third changes little.
const rounds = 3

// advance moves one step's bytes and calls done for each transfer that ends.
func (l *links) advance(done func(*pull)) {
	s := &l.spare
	copy(s.up, l.up)
	copy(s.down, l.down)
	for i := range l.flows {
		l.flows[i].give = 0
	}
	for range rounds {
		l.share()
	}
	// From the end, so that what done stops or starts is not met again.
	for i := len(l.flows) - 1; i >= 0; i-- {
		if i >= len(l.flows) {
			continue
		}
		f := &l.flows[i]
		if f.give > 0 {
			f.left, f.give = f.left-f.give, 0
			p := f.pull
			p.moved = true
			for p.flow >= 0 && l.flows[p.flow].left < 0.5 { // a step may be worth several blocks of a read
				done(p)
			}
		}
	}
}

// share gives each transfer its even part of what is left at both its ends.
func (l *links) share() {
	s := &l.spare
	clear(s.nup)
	clear(s.ndown)
	for i := range l.flows {
		if f := &l.flows[i]; f.room() > 0 && !l.cut(f.src, f.dst) {
			s.nup[f.src]++
			s.ndown[f.dst]++
		}
	}
	for i := range s.up {
		if s.nup[i] > 0 {
			s.up[i] /= float64(s.nup[i])
		}
		if s.ndown[i] > 0 {
			s.down[i] /= float64(s.ndown[i])
		}
	}
	for i := range l.flows {
		f := &l.flows[i]
		if room := f.room(); room > 0 && !l.cut(f.src, f.dst) {
			f.give += min(s.up[f.src], s.down[f.dst], room)
		}
	}
	// Back from shares to what is left.
	for i := range s.up {
		s.up[i], s.down[i] = l.up[i], l.down[i]
	}
	for i := range l.flows {
		f := &l.flows[i]
		s.up[f.src] -= f.give
		s.down[f.dst] -= f.give
	}
	for i := range s.up {
		s.up[i], s.down[i] = max(s.up[i], 0), max(s.down[i], 0)
	}
}
