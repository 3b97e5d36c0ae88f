package daemon

import (
	"crypto/x509"
	"fmt"
	"os"
)

// Roots are the CAs in a PEM file and the system's; nil, for the system's, if file is
// "". Errors begin with key, which names the file.
func Roots(key, file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // there are none
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in %s", key, file)
	}
	return pool, nil
}
