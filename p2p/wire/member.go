package wire

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// errNone ends handshakes of a daemon that has not joined its cluster yet.
var errNone = fmt.Errorf("%w: this daemon has none yet", ErrCertificate)

// Await is an identity whose files need not be there yet. Until they are, nobody
// can be connected to.
func Await(f Files, name Name, log *slog.Logger) *Identity {
	return &Identity{files: f, log: log, name: name}
}

// Held is an identity that has no files: its owner sets it.
func Held(name Name, log *slog.Logger) *Identity { return &Identity{log: log, name: name} }

// Set replaces what a held identity is made of.
func (i *Identity) Set(cert *tls.Certificate, trusted *x509.CertPool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cert, i.pool = cert, trusted
}

// own is this daemon's certificate.
func (i *Identity) own() (*tls.Certificate, error) {
	cert, _, _ := i.current()
	if cert == nil {
		return nil, errNone
	}
	return cert, nil
}

// Block says who is refused from now on, whatever certificate they have: those
// and no others. It ends no connection that stands; see Blocked.
func (i *Identity) Block(names []p2p.HostID) {
	blocked := make(map[p2p.HostID]bool, len(names))
	for _, n := range names {
		blocked[n] = true
	}
	i.blocked.Store(&blocked)
}

// Blocked reports whether somebody is refused. Who keeps connections for long
// asks again.
func (i *Identity) Blocked(id p2p.HostID) bool {
	if i == nil {
		return false
	}
	blocked := i.blocked.Load()
	return blocked != nil && (*blocked)[id]
}
