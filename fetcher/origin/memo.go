package origin

import (
	"maps"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// memoKey names a blob of a repository.
type memoKey struct {
	path   string
	digest digest.Digest
}

// maxMemo bounds the entries of a memo.
const maxMemo = 4096

// memo remembers facts about blobs for a while. The zero value is ready.
type memo[V any] struct {
	mu sync.Mutex
	m  map[memoKey]memoEntry[V] // guarded by mu
}

type memoEntry[V any] struct {
	value V
	until time.Time
}

func (m *memo[V]) get(k memoKey, now time.Time) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.m[k]
	if !ok || now.After(e.until) {
		var none V
		return none, false
	}
	return e.value, true
}

func (m *memo[V]) put(k memoKey, v V, now time.Time, life time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.m) >= maxMemo {
		maps.DeleteFunc(m.m, func(_ memoKey, e memoEntry[V]) bool { return now.After(e.until) })
	}
	if m.m == nil || len(m.m) >= maxMemo {
		m.m = map[memoKey]memoEntry[V]{}
	}
	m.m[k] = memoEntry[V]{v, now.Add(life)}
}

func (m *memo[V]) drop(k memoKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.m, k)
}
