package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// TLS is the section [tls]: who may connect to this daemon, and as whom it
// connects to others.
type TLS struct {
	Insecure bool   `toml:"insecure" comment:"Plain text on any address: whoever reaches it may read, and pretend to be any host."`
	CA       string `toml:"ca" comment:"The cluster's CA, this daemon's certificate and its key, as PEM files; all three or none. They are read again\nwhen they change. In the certificate, CN is a name of its own, and OU says what it is: host, seed, scheduler or manager."`
	Cert     string `toml:"cert"`
	Key      string `toml:"key"`
}

// Validate reports all that is wrong, as far as it shows without the files.
func (t TLS) Validate() error {
	var errs []error
	for _, f := range []struct{ key, path string }{{"ca", t.CA}, {"cert", t.Cert}, {"key", t.Key}} {
		if f.path == "" && t.files() != (wire.Files{}) {
			errs = append(errs, fmt.Errorf("tls.%s: is empty, but %w: set it, or none of them", f.key, wire.ErrPartial))
		}
	}
	if t.Insecure && t.files() != (wire.Files{}) {
		errs = append(errs, errors.New("tls.insecure: true contradicts the certificates: set it to false, or take them out"))
	}
	return errors.Join(errs...)
}

func (t TLS) files() wire.Files { return wire.Files{CA: t.CA, Cert: t.Cert, Key: t.Key} }

// Identity reads the files; nil if there are none to read. The certificate must
// be for that role, since others look at nothing else.
func (t TLS) Identity(role wire.Role, log *slog.Logger) (*wire.Identity, error) {
	id, err := t.files().Load(log)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	if id != nil && id.Name().Role != role {
		return nil, fmt.Errorf("tls.cert: %w: %s is of a %s (%s), and this is a %s, which needs one with OU=%s", wire.ErrCertificate, t.Cert, id.Name().Role, id.Name().ID, role, role)
	}
	return id, nil
}

// Expiry is a metric that says until when a certificate is good; program is
// what the metric's name begins with. Without a certificate it is 0.
func Expiry(program string, id *wire.Identity) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: program + "_certificate_expiry_timestamp_seconds",
		Help: "When this daemon's certificate is no longer good, in seconds since 1970; 0: there is none.",
	}, func() float64 {
		if id == nil || id.Until().IsZero() {
			return 0
		}
		return float64(id.Until().Unix())
	})
}

// Listen listens where [tls] allows it; the log says so if that is not where
// addr, the value of key, says.
func (t TLS) Listen(key, addr string, id *wire.Identity, log *slog.Logger) (net.Listener, error) {
	ln, err := wire.Listen(addr, id, t.Insecure, log)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return ln, nil
}
