package wire

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// Prove signs a statement as this daemon.
func (i *Identity) Prove(statement []byte) (p2p.Proof, error) {
	cert, err := i.own()
	if err != nil {
		return p2p.Proof{}, err
	}
	name := i.Name()
	signer, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return p2p.Proof{}, fmt.Errorf("%w: the key of %s cannot sign", ErrCertificate, name.ID)
	}
	algorithm := signatureOf(cert.Leaf)
	hash, toSign := crypto.SHA256, sha256.Sum256(statement)
	signed := toSign[:]
	if algorithm == x509.PureEd25519 {
		hash, signed = 0, statement
	}
	sig, err := signer.Sign(rand.Reader, signed, hash)
	return p2p.Proof{Certificate: cert.Leaf.Raw, Signature: sig}, err
}

// Prover returns who signed the statement, if that is a member of the cluster.
// Certificates between its own and the CA must be those that this daemon has.
func (i *Identity) Prover(statement []byte, p p2p.Proof) (Name, error) {
	c, err := x509.ParseCertificate(p.Certificate)
	if err != nil {
		return Name{}, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	name, err := NameOf(c)
	if err != nil {
		return Name{}, err
	}
	own, pool, _ := i.current()
	if own == nil {
		return Name{}, errNone
	}
	if i.Blocked(name.ID) {
		return Name{}, fmt.Errorf("%w: %s is blocked in this cluster", ErrCertificate, name.ID)
	}
	between := x509.NewCertPool()
	for _, der := range own.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	_, err = c.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err == nil {
		err = c.CheckSignature(signatureOf(c), statement, p.Signature)
	}
	if err != nil {
		return Name{}, fmt.Errorf("%w: signature of %s: %w", ErrCertificate, name.ID, err)
	}
	return name, nil
}

// signatureOf is how the owner of a certificate signs.
func signatureOf(c *x509.Certificate) x509.SignatureAlgorithm {
	switch c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return x509.ECDSAWithSHA256
	case *rsa.PublicKey:
		return x509.SHA256WithRSA
	case ed25519.PublicKey:
		return x509.PureEd25519
	}
	return x509.UnknownSignatureAlgorithm
}
