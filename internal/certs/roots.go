package certs

import "crypto/x509"

// Roots are who is believed at the moment.
func (i *Identity) Roots() *x509.CertPool { return i.files.get().roots }
