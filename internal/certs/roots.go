package certs

import (
	"crypto/x509"
	"fmt"
	"os"
)

// Roots are who is believed at the moment.
func (i *Identity) Roots() *x509.CertPool { return i.files.get().roots }

// Trusted are the certificates of a PEM file that somebody else keeps: a broker's, an agent's or an application's. One that signs
// itself and nothing else will do there, which is no root in a folder of ours.
func Trusted(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return pool, nil
}
