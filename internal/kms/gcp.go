//go:build !nokms_gcp

package kms

// gcpkms://
import _ "github.com/sigstore/sigstore/pkg/signature/kms/gcp"
