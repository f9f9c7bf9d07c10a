//go:build !nokms_hashivault

package kms

// hashivault://
import _ "github.com/sigstore/sigstore/pkg/signature/kms/hashivault"
