package account

import (
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"
)

// checked remembers for a while which passwords were right: hashing takes long,
// and programs send theirs with every request.
type checked struct {
	key   [32]byte
	mu    sync.Mutex // guards until
	until map[[32]byte]time.Time
}

const checkedFor, maxChecked = 5 * time.Minute, 1024

func newChecked() *checked {
	c := &checked{until: map[[32]byte]time.Time{}}
	_, _ = rand.Read(c.key[:]) // never fails
	return c
}

func (c *checked) sum(hash, password string) [32]byte {
	return sha256.Sum256([]byte(string(c.key[:]) + hash + "\x00" + password))
}

func (c *checked) has(hash, password string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return hash != "" && time.Now().Before(c.until[c.sum(hash, password)])
}

func (c *checked) add(hash, password string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.until) >= maxChecked {
		clear(c.until)
	}
	c.until[c.sum(hash, password)] = time.Now().Add(checkedFor)
}
