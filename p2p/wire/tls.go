package wire

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// A Role is what a certificate allows its owner to be.
type Role string

// The roles, as they stand in the organizational unit.
const (
	RoleHost      Role = "host"
	RoleSeed      Role = "seed"
	RoleScheduler Role = "scheduler"
	RoleManager   Role = "manager"
)

// Name is who a certificate names.
type Name struct {
	ID   p2p.HostID
	Role Role
}

// ErrCertificate reports a certificate that is not good for what it was shown for.
var ErrCertificate = errors.New("certificate does not allow this")

// Who reads the name of the one at the other end of a connection whose
// certificate has been verified.
func Who(s *tls.ConnectionState) (Name, error) {
	if len(s.PeerCertificates) == 0 {
		return Name{}, fmt.Errorf("%w: there is none", ErrCertificate)
	}
	return NameOf(s.PeerCertificates[0])
}

// NameOf reads whom a certificate names.
func NameOf(c *x509.Certificate) (Name, error) {
	n := Name{ID: p2p.HostID(c.Subject.CommonName)}
	if err := n.ID.Validate(); err != nil {
		return Name{}, fmt.Errorf("%w: common name: %w", ErrCertificate, err)
	}
	if units := c.Subject.OrganizationalUnit; len(units) == 1 {
		n.Role = Role(units[0])
	}
	if !slices.Contains([]Role{RoleHost, RoleSeed, RoleScheduler, RoleManager}, n.Role) {
		return Name{}, fmt.Errorf("%w: organizational unit of %s is %.100q, not host, seed, scheduler or manager", ErrCertificate, n.ID, c.Subject.OrganizationalUnit)
	}
	return n, nil
}

// Files are where an Identity is kept, in PEM.
type Files struct {
	CA   string // whom to trust: certificates of the cluster's CA
	Cert string // this daemon's certificate, and those between it and the CA
	Key  string
}

// lookEvery is how old what is known of the files may be.
const lookEvery = time.Second

// Identity is this daemon's certificate and whom it trusts. It follows its
// files: a connection made a second after they were replaced uses the new
// ones. Where those are no good, or are somebody else's, the old ones are kept,
// with a warning.
type Identity struct {
	files   Files // none: it is Set
	log     *slog.Logger
	blocked atomic.Pointer[map[p2p.HostID]bool]

	mu     sync.Mutex // guards what follows
	looked time.Time
	state  [3]stamp         // of the files as they were read
	cert   *tls.Certificate // nil: there is none yet
	pool   *x509.CertPool
	name   Name
}

// stamp tells two versions of a file apart.
type stamp struct {
	size int64
	time time.Time
}

// LoadIdentity reads the files.
func LoadIdentity(f Files, log *slog.Logger) (*Identity, error) {
	i := &Identity{files: f, log: log}
	state, err := i.look()
	if err != nil {
		return nil, err
	}
	if err := i.read(); err != nil {
		return nil, err
	}
	i.state, i.looked = state, time.Now()
	return i, nil
}

// Name returns whom this daemon's certificate names.
func (i *Identity) Name() Name {
	_, _, name := i.current()
	return name
}

// Until returns when this daemon's certificate, or one of those between it and
// the CA, is no longer good; the zero time if there is none.
func (i *Identity) Until() time.Time {
	cert, _, _ := i.current()
	if cert == nil {
		return time.Time{}
	}
	until := cert.Leaf.NotAfter
	for _, der := range cert.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil && c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	return until
}

// current returns what the files say.
func (i *Identity) current() (*tls.Certificate, *x509.CertPool, Name) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.files != (Files{}) && time.Since(i.looked) >= lookEvery {
		i.looked = time.Now()
		if err := i.refresh(); err != nil && i.cert != nil {
			i.log.Warn("new certificate files are no good; the old ones stay in use", "err", err)
		}
	}
	return i.cert, i.pool, i.name
}

// refresh reads the files again if they have changed. The caller holds i.mu.
func (i *Identity) refresh() error {
	state, err := i.look()
	if err != nil || state == i.state {
		return err
	}
	if err := i.read(); err != nil {
		return err // read again next time: they may be half written
	}
	i.state = state
	i.log.Info("certificate files read again", "until", i.cert.Leaf.NotAfter)
	return nil
}

func (i *Identity) look() (s [3]stamp, err error) {
	for k, path := range []string{i.files.CA, i.files.Cert, i.files.Key} {
		info, err := os.Stat(path)
		if err != nil {
			return s, err
		}
		s[k] = stamp{info.Size(), info.ModTime()}
	}
	return s, nil
}

// read reads the files and checks that they belong together. The caller holds
// i.mu, or is alone.
func (i *Identity) read() error {
	ca, err := os.ReadFile(i.files.CA)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return fmt.Errorf("%s: no certificate in it", i.files.CA)
	}
	cert, err := tls.LoadX509KeyPair(i.files.Cert, i.files.Key)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", i.files.Cert, i.files.Key, err)
	}
	name, err := NameOf(cert.Leaf)
	if err != nil {
		return fmt.Errorf("%s: %w", i.files.Cert, err)
	}
	if i.name != (Name{}) && name != i.name {
		return fmt.Errorf("%s: %w: it was of a %s (%s) and is of a %s (%s) now, as which this daemon must be started anew", i.files.Cert, ErrCertificate, i.name.Role, i.name.ID, name.Role, name.ID)
	}
	i.cert, i.pool, i.name = &cert, pool, name
	return nil
}

// Server returns the configuration of a listener that lets in who has one of
// those roles.
func (i *Identity) Server(roles ...Role) *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		ClientAuth:       tls.RequireAnyClientCert, // and verify below, against the CA of the moment
		GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.own() },
		VerifyConnection: func(s tls.ConnectionState) error { return i.verify(&s, x509.ExtKeyUsageClientAuth, roles) },
	}
}

// Client returns the configuration for connections to servers that have one of
// those roles, wherever they are.
func (i *Identity) Client(roles ...Role) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		InsecureSkipVerify:   true, // verified below: by role, not by name
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.own() },
		VerifyConnection:     func(s tls.ConnectionState) error { return i.verify(&s, x509.ExtKeyUsageServerAuth, roles) },
	}
}

// verify checks who is at the other end. Resumed connections come here, too.
func (i *Identity) verify(s *tls.ConnectionState, usage x509.ExtKeyUsage, roles []Role) error {
	name, err := Who(s)
	if err != nil {
		return err
	}
	_, pool, _ := i.current()
	if pool == nil {
		return errNone
	}
	if i.Blocked(name.ID) {
		return fmt.Errorf("%w: %s is blocked in this cluster", ErrCertificate, name.ID)
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err = s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return fmt.Errorf("%w: of %s: %w", ErrCertificate, name.ID, err)
	}
	if !slices.Contains(roles, name.Role) {
		return fmt.Errorf("%w: %s is a %s, not one of %v", ErrCertificate, name.ID, name.Role, roles)
	}
	return nil
}
