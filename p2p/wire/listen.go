package wire

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
)

// Listen listens on addr, "host:port". Plain text (id nil) is for this machine
// only, whatever host addr names, unless insecure says that the operator wants
// it; the log says so either way. The listener does no TLS by itself.
func Listen(addr string, id *Identity, insecure bool, log *slog.Logger) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	switch {
	case id != nil || loopback(host):
	case insecure:
		log.Warn("plain text: whoever reaches this address may read, and pretend to be any host", "address", addr)
	default:
		addr = net.JoinHostPort("127.0.0.1", port)
		log.Warn("no certificates are configured, so only this machine is let in; set [tls], or insecure = true", "address", addr)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return ln, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ErrPartial reports certificate files of which some are given and some are not.
var ErrPartial = errors.New("ca, cert and key go together")

// Check reports files that are given only in part.
func (f Files) Check() error {
	if some := f.CA + f.Cert + f.Key; some != "" && (f.CA == "" || f.Cert == "" || f.Key == "") {
		return ErrPartial
	}
	return nil
}

// Load is LoadIdentity, or nil where no files are given.
func (f Files) Load(log *slog.Logger) (*Identity, error) {
	if err := f.Check(); err != nil || f == (Files{}) {
		return nil, err
	}
	return LoadIdentity(f, log)
}
