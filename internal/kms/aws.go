//go:build !nokms_aws

package kms

// awskms://
import _ "github.com/sigstore/sigstore/pkg/signature/kms/aws"
