package cluster_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/seal"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

func key(t *testing.T, secret string) *seal.Key {
	t.Helper()
	k, err := seal.New(strings.Repeat(secret, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	c, err := cluster.New("fra", key(t, "k"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Open(c, key(t, "x")); !errors.Is(err, seal.ErrOpen) || !strings.Contains(err.Error(), "fra") {
		t.Errorf("with another key: %v", err)
	}
	ca, err := cluster.Open(c, key(t, "k"))
	if err != nil {
		t.Fatal(err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, until, err := ca.Issue(&private.PublicKey, "node-1", wire.RoleSeed)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != "node-1" || cert.Subject.OrganizationalUnit[0] != "seed" || !cert.NotAfter.Equal(until) || time.Until(until) > cluster.CertificateLife {
		t.Errorf("%+v", cert.Subject)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Error(err)
		}
	}
	own, err := ca.Own("m", "manager")
	if err != nil {
		t.Fatal(err)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} { // nodes are its clients, and it is schedulers'
		if _, err := own.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Error(err)
		}
	}
}

func TestBest(t *testing.T) {
	t.Parallel()
	all := []store.Cluster{
		{ID: 1, Name: "standard", Standard: true},
		{ID: 2, Name: "ten", Scope: store.Scope{CIDRs: []string{"10.0.0.0/8", "fd00::/8"}}},
		{ID: 3, Name: "ten-one", Scope: store.Scope{CIDRs: []string{"10.1.0.0/16"}}},
		{ID: 4, Name: "gpu", Scope: store.Scope{CIDRs: []string{"10.0.0.0/8"}, Hostnames: []string{"gpu-*"}}},
		{ID: 5, Name: "fra", Scope: store.Scope{IDCs: []string{"fra1", "fra2"}}},
		{ID: 6, Name: "row", Scope: store.Scope{Locations: []string{"eu|fra"}}},
		{ID: 7, Name: "rack", Scope: store.Scope{Locations: []string{"eu|fra|r7"}}},
	}
	place := func(addr, host, idc, location string) cluster.Place {
		p := cluster.Place{Hostname: host, IDC: idc, Location: location}
		if addr != "" {
			p.Addr = netip.MustParseAddr(addr)
		}
		return p
	}
	for want, p := range map[string]cluster.Place{
		"standard": place("192.0.2.1", "n", "ber1", "eu|frankfurt"),
		"ten":      place("10.2.0.1", "n", "", ""),
		"ten-one":  place("10.1.0.1", "n", "", ""),
		"gpu":      place("10.1.0.1", "gpu-7", "", ""),
		"fra":      place("", "gpu-7", "fra2", ""),
		"row":      place("192.0.2.1", "", "", "eu|fra|r8"),
		"rack":     place("192.0.2.1", "", "", "eu|fra|r7"),
	} {
		if got, err := cluster.Best(all, p); err != nil || got.Name != want {
			t.Errorf("%+v: %s, %v; want %s", p, got.Name, err, want)
		}
	}
	if _, err := cluster.Best(nil, cluster.Place{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("without a cluster: %v", err)
	}
}
