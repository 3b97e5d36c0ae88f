package fetcher

import (
	"sync"
	"sync/atomic"
)

// memoryMax bounds the bytes kept in memory while the disk is full.
const memoryMax = 16 << 20

// memory keeps bytes that the store had no room for until their readers, who
// may come a moment later, have had them: first in, first out.
type memory struct {
	count atomic.Int64 // blocks; lets readers skip the lock when there are none

	mu     sync.Mutex
	blocks []block
	bytes  int
}

type block struct {
	c    *content
	off  int64
	data []byte // never changes
}

func (m *memory) put(b block) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blocks = append(m.blocks, b)
	m.bytes += len(b.data)
	for m.bytes > memoryMax {
		m.bytes -= len(m.blocks[0].data)
		m.blocks[0] = block{}
		m.blocks = m.blocks[1:]
	}
	m.count.Store(int64(len(m.blocks)))
}

// at returns what is kept of c from off on, nil if nothing is.
func (m *memory) at(c *content, off int64) []byte {
	if m.count.Load() == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.blocks {
		if b.c == c && b.off <= off && off < b.off+int64(len(b.data)) {
			return b.data[off-b.off:]
		}
	}
	return nil
}

// drop forgets what is kept of c between off and end.
func (m *memory) drop(c *content, off, end int64) {
	if m.count.Load() == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var rest []block
	for _, b := range m.blocks {
		if b.c == c && b.off < end && off < b.off+int64(len(b.data)) {
			m.bytes -= len(b.data)
		} else {
			rest = append(rest, b)
		}
	}
	m.blocks = rest
	m.count.Store(int64(len(m.blocks)))
}
