//go:build !nokms_azure

package kms

// azurekms://
import _ "github.com/sigstore/sigstore/pkg/signature/kms/azure"
