package origintest

import (
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
)

// Fault is what goes wrong with a blob or manifest. Several may at once.
type Fault struct {
	// Status answers the request; RetryAfter goes with it.
	Status     int
	RetryAfter string

	Hang      bool          // no answer until Heal or Close
	HangAfter int64         // no more after so many bytes of the body
	CutAfter  int64         // the connection ends after so many bytes of the body
	Delay     time.Duration // before each 32 KiB of the body

	Corrupt      bool   // each byte is another one
	IgnoreRange  bool   // 200 and all of it
	ContentRange string // sent instead of the right one; "-": none

	Times int // so many requests fail; 0: all
}

// TokenServer names the token server in Fail: Status, RetryAfter and Hang
// work on it.
const TokenServer digest.Digest = "token"

// Fail makes requests for a blob or manifest fail from now on; "" means those
// for any of them. It replaces what was said before of the same.
func (r *Registry) Fail(d digest.Digest, f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.Times == 0 {
		f.Times = -1
	}
	r.faults[d] = &f
}

// Heal ends all faults, also for the requests that hang.
func (r *Registry) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.faults)
	close(r.healed)
	r.healed = make(chan struct{})
}

// fault returns what goes wrong with a request for d, and what ends it.
func (r *Registry) fault(d digest.Digest) (Fault, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range []digest.Digest{d, ""} {
		if k == "" && d == TokenServer {
			break
		}
		if f := r.faults[k]; f != nil && f.Times != 0 {
			f.Times--
			return *f, r.healed
		}
	}
	return Fault{}, r.healed
}

// hang waits until the fault or the request ends.
func hang(req *http.Request, healed <-chan struct{}) {
	select {
	case <-healed:
	case <-req.Context().Done():
	}
}
