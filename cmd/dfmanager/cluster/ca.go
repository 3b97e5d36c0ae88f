package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

const (
	// CertificateLife is how long a node's certificate is good. It is renewed long
	// before: a cluster must not notice that its manager is away for days.
	CertificateLife = 7 * 24 * time.Hour
	caYears         = 20
	skew            = 5 * time.Minute // by how much a node's clock may be behind
)

// newCA makes the certificate of a CA and its key.
func newCA(cluster string) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "dfsnapshotter cluster " + cluster},
		NotBefore: now.Add(-skew), NotAfter: now.AddDate(caYears, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if cert, err = x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private); err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalPKCS8PrivateKey(private)
	return cert, key, err
}

func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

// purpose ties a sealed key to its certificate.
func purpose(cert []byte) string {
	sum := sha256.Sum256(cert)
	return "CA " + hex.EncodeToString(sum[:])
}

// CA gives certificates of a cluster.
type CA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// Open opens the CA of a cluster.
func Open(c store.Cluster, k *seal.Key) (*CA, error) {
	secret, err := k.Open(c.Key, purpose(c.CA))
	if err != nil {
		return nil, fmt.Errorf("key of the CA of cluster %s: %w", c.Name, err)
	}
	private, err := x509.ParsePKCS8PrivateKey(secret)
	if err != nil {
		return nil, fmt.Errorf("key of the CA of cluster %s: %w", c.Name, err)
	}
	cert, err := x509.ParseCertificate(c.CA)
	if err != nil {
		return nil, fmt.Errorf("CA of cluster %s: %w", c.Name, err)
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key of the CA of cluster %s: a %T cannot sign", c.Name, private)
	}
	return &CA{cert, signer}, nil
}

// PEM is the CA's certificate.
func (a *CA) PEM() []byte { return encode(a.cert.Raw) }

// Pool holds the CA's certificate alone.
func (a *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Issue gives a certificate for a public key.
func (a *CA) Issue(key any, id p2p.HostID, role wire.Role) (cert []byte, until time.Time, err error) {
	der, until, err := a.issue(key, id, role)
	return encode(der), until, err
}

func (a *CA) issue(key any, id p2p.HostID, role wire.Role) (der []byte, until time.Time, err error) {
	now := time.Now()
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} // to renew it, a scheduler is a client, too
	until = now.Add(CertificateLife).Truncate(time.Second)
	der, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: string(id), OrganizationalUnit: []string{string(role)}},
		NotBefore: now.Add(-skew), NotAfter: until, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usage,
	}, a.cert, key, a.key)
	if err != nil {
		return nil, until, fmt.Errorf("certificate of %s: %w", id, err)
	}
	return der, until, nil
}

// Own makes a certificate with a key that never leaves this process.
func (a *CA) Own(id p2p.HostID, role wire.Role) (*tls.Certificate, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, _, err := a.issue(&private.PublicKey, id, role)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: private, Leaf: leaf}, err
}
