package sched

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
	if len(l.kids) == 0 || l.level > above+step {
		l.level = above + step
		return
	}
	if l.level <= above {
		l.level = above + 1
		p.press(st)
	}
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

// above reports whether q is p, or p is among those that q gets a stripe from,
// directly or not: then q must not become a parent of p.
func (p *peer) above(q *peer, st int) bool {
	if p == q {
		return true
	}
	if p.links == nil || len(p.links[st].kids) == 0 || q.links == nil || q.links[st].level <= p.links[st].level {
		return false
	}
	w, top := p.swarm, p.links[st].level
	w.epoch++
	for stack := append(make([]*peer, 0, 64), q); len(stack) > 0; {
		x := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, y := range x.links[st].parents {
			if y == p {
				return true
			}
			if y != nil && y.mark != w.epoch && y.links[st].level > top {
				y.mark = w.epoch
				stack = append(stack, y)
			}
		}
	}
	return false
}

// markBelow marks all who get a stripe from p, directly or not, unless they are
// many.
func (p *peer) markBelow(st int) bool {
	w := p.swarm
	w.epoch++
	stack := append(make([]*peer, 0, 64), p)
	for n := 0; len(stack) > 0; n++ {
		x := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if n > maxBelow {
			return false
		}
		for _, k := range x.links[st].kids {
			if k.mark != w.epoch {
				k.mark = w.epoch
				stack = append(stack, k)
			}
		}
	}
	return true
}
