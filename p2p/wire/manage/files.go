package manage

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire/manage/internal/pb"
)

// newKey makes a key, in PEM, and a request for a certificate of it.
func newKey() (key, csr []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	csr, err = request(private)
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), csr, err
}

func request(private *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
}

// keptKey returns the key in a file, or puts a new one there.
func keptKey(path string) (key, csr []byte, err error) {
	key, err = os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if key, csr, err = newKey(); err != nil {
			return nil, nil, err
		}
		return key, csr, replace(path, key)
	}
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(key)
	if block == nil {
		return nil, nil, fmt.Errorf("%s: is there and is no key: remove it", path)
	}
	private, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: is there and is no key of ours: remove it: %w", path, err)
	}
	csr, err = request(private)
	return key, csr, err
}

// Files are where a node keeps what its manager gave. Key and certificate are in
// one file, so that there are never two that do not belong together.
func Files(dir string) wire.Files {
	node := filepath.Join(dir, "node.pem")
	return wire.Files{CA: filepath.Join(dir, "ca.pem"), Cert: node, Key: node}
}

// write puts a certificate into its files.
func write(f wire.Files, key []byte, c *pb.Certificate) error {
	if _, err := tls.X509KeyPair(c.GetChain(), key); err != nil {
		return fmt.Errorf("it sends no certificate of this key: %w", err)
	}
	if block, _ := pem.Decode(c.GetCa()); block == nil {
		return errors.New("it sends no CA")
	}
	if err := replace(f.CA, c.GetCa()); err != nil {
		return err
	}
	return replace(f.Cert, append(bytes.Clone(key), c.GetChain()...))
}

// replace writes a file, whole or not at all.
func replace(path string, data []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Good returns from when and until when the files' certificate is good; an error
// if there is none, or it is not one of name.
func Good(f wire.Files, name wire.Name) (from, until time.Time, err error) {
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return from, until, err
	}
	who, err := wire.NameOf(pair.Leaf)
	if err == nil && who != name {
		err = fmt.Errorf("%s is of %s (%s), not of %s (%s)", f.Cert, who.ID, who.Role, name.ID, name.Role)
	}
	return pair.Leaf.NotBefore, pair.Leaf.NotAfter, err
}
