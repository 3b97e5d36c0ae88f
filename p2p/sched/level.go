package sched

import "math"

// A peer has a level in each stripe that is above those of all its parents. So who
// has a level that is not above p's is not below p, and most edges are known to
// close no circle without a look at the graph. Levels are a step apart where there
// is no need for less: then a peer can come to lie a bit deeper, and the level of
// hardly anybody below it must change.
const step = 1 << 10

// level gives p the level that its parents ask for, and those below it others as
// far as they need it.
func (p *peer) level(st int) {
	l := &p.links[st]
	above := int32(-1)
	for _, q := range l.parents {
		if q != nil {
			above = max(above, q.links[st].level)
		}
	}
	if above < 0 {
		l.level = 0
		return
	}
	l.level = above + step
	for _, k := range l.kids {
		l.level = min(l.level, k.links[st].level-1)
	}
	l.level = max(l.level, above+1)
	p.press(st)
}

// press moves all who are not below p's level any more.
func (p *peer) press(st int) {
	for queue := []*peer{p}; len(queue) > 0; queue = queue[1:] {
		least := queue[0].links[st].level + 1
		for _, k := range queue[0].links[st].kids {
			if l := &k.links[st]; l.level < least {
				l.level = least
				if len(l.kids) > 0 {
					queue = append(queue, k)
				}
			}
		}
	}
}

// floor returns the least level of p's children: nobody below p has a lower one.
func (p *peer) floor(st int) int32 {
	least := int32(math.MaxInt32)
	if p.links != nil {
		for _, k := range p.links[st].kids {
			least = min(least, k.links[st].level)
		}
	}
	return least
}

// above reports whether q is p, or p is among those that q gets a stripe from,
// directly or not: then q must not become a parent of p.
func (p *peer) above(q *peer, st int) bool {
	if p == q {
		return true
	}
	floor := p.floor(st)
	if q.links == nil || q.links[st].level < floor {
		return false
	}
	w := p.swarm
	w.epoch++
	for stack := append(make([]*peer, 0, 64), q); len(stack) > 0; {
		x := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, y := range x.links[st].parents {
			if y == p {
				return true
			}
			if y != nil && y.mark != w.epoch && y.links[st].level >= floor {
				y.mark = w.epoch
				stack = append(stack, y)
			}
		}
	}
	return false
}

// loosen makes sure that q can become the first parent of p, which is not above it from
// first parent to first parent: where it is above it in other ways, those parents on them
// that are not first ones are given up, and others are found with the next balance.
func (s *State) loosen(p, q *peer, st int) {
	p.swarm.epoch += 2
	way := ways{p, st, p.floor(st), p.swarm.epoch}
	for x := q; x != nil && x.links != nil && x.links[st].level >= way.floor; x = x.links[st].parents[0] {
		for at := 1; at <= backups; at++ {
			if y := x.links[st].parents[at]; y != nil && way.to(y) {
				s.unlink(x, st, at)
				x.thin = true
			}
		}
	}
}

// ways remembers who is below p in a stripe: their mark is one less than that of who was
// found not to be.
type ways struct {
	p     *peer
	st    int
	floor int32
	clear uint32
}

// to reports whether q is p, or below it.
func (w *ways) to(q *peer) bool {
	switch {
	case q == w.p:
		return true
	case q.links == nil || q.links[w.st].level < w.floor || q.mark == w.clear:
		return false
	case q.mark == w.clear-1:
		return true
	}
	q.mark = w.clear
	for _, y := range q.links[w.st].parents {
		if y != nil && w.to(y) {
			q.mark = w.clear - 1
			break
		}
	}
	return q.mark < w.clear
}
