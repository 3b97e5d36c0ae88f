package main

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate is a pair of files that are read again when they change.
type certificate struct {
	cert, key string
	log       *slog.Logger

	mu     sync.Mutex // guards what follows
	looked time.Time
	stamp  time.Time // of the files as they were read
	pair   *tls.Certificate
}

// lookEvery is how old what is known of the files may be.
const lookEvery = time.Second

// current returns the certificate; where new files are no good, the old one.
func (c *certificate) current() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair != nil && time.Since(c.looked) < lookEvery {
		return c.pair, nil
	}
	c.looked = time.Now()
	stamp := c.changed()
	if c.pair != nil && stamp.Equal(c.stamp) {
		return c.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err == nil {
		c.pair, c.stamp = &pair, stamp
	} else if c.pair != nil {
		c.log.Warn("new certificate files are no good; the old ones stay in use", "err", err)
	} else {
		return nil, err
	}
	return c.pair, nil
}

// changed is when one of the files was written last.
func (c *certificate) changed() (last time.Time) {
	for _, path := range []string{c.cert, c.key} {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}
