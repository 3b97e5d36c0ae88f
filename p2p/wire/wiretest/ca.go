// Package wiretest makes certificates for tests, and for trying out a cluster
// that has no CA yet.
package wiretest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

// CA signs certificates.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	path string // of its certificate
}

// NewCA makes a CA whose certificate is dir/ca.pem. Its key is never written.
func NewCA(dir string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "dfsnapshotter test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	ca := &CA{cert: cert, key: key, path: filepath.Join(dir, "ca.pem")}
	return ca, write(ca.path, "CERTIFICATE", der)
}

// Issue makes a certificate for a host and its key, dir/<id>.pem and
// dir/<id>.key, good for that long; it may be in the past.
func (ca *CA) Issue(dir string, id p2p.HostID, role wire.Role, good time.Duration) (wire.Files, error) {
	f := wire.Files{CA: ca.path, Cert: filepath.Join(dir, string(id)+".pem"), Key: filepath.Join(dir, string(id)+".key")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return f, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return f, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: string(id), OrganizationalUnit: []string{string(role)}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(good),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return f, fmt.Errorf("sign certificate of %s: %w", id, err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return f, err
	}
	// The key first: whoever reads in between finds two that do not match, and looks again.
	if err := write(f.Key, "EC PRIVATE KEY", secret); err != nil {
		return f, err
	}
	return f, write(f.Cert, "CERTIFICATE", der)
}

func write(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
