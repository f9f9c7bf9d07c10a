package anchors

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// blocks reads PEM text: public keys and certificates, in order. Beside an
// error it returns those that can be read.
func blocks(text []byte) ([]any, error) {
	var out []any
	var errs []error
	begun := bytes.Count(text, []byte("-----BEGIN "))
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		begun--
		var v any
		var err error
		switch block.Type {
		case "PUBLIC KEY":
			v, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			v, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			v, err = x509.ParseCertificate(block.Bytes)
		default:
			err = fmt.Errorf("PEM block %.60q is neither a public key nor a certificate", block.Type)
			if strings.Contains(block.Type, "PRIVATE") {
				err = errors.New("it holds a private key: a policy needs the public one, and this one is to be replaced if others can read it")
			}
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, v)
	}
	switch {
	case begun > 0: // the decoder passes over these
		errs = append(errs, fmt.Errorf("%d of its PEM blocks are broken", begun))
	case len(out)+len(errs) == 0:
		errs = append(errs, errors.New("it has no PEM block"))
	}
	if len(errs) > 0 {
		return out, errs[0]
	}
	return out, nil
}

// keys pins the signers whose public keys or certificates are in PEM text.
func (d *draft) keys(path, text string) {
	for _, v := range d.pemText(path, text) {
		d.key(path, v)
	}
}

// key pins a public key. A certificate stands for its key, and for its names:
// by one of them the inventory knows signatures that carry the certificate.
func (d *draft) key(path string, v any) {
	if cert, ok := v.(*x509.Certificate); ok {
		for _, name := range cryptoutils.GetSubjectAlternateNames(cert) {
			d.pin(inventory.Pin{Subject: name})
		}
		v = cert.PublicKey
	}
	id, err := signer.OfKey(v)
	if err != nil {
		d.note("%s: %v", path, err)
		return
	}
	d.pin(inventory.Pin{Key: id.Subject})
}

// authorities pins authorities of a role by what is in PEM text: CAs and
// timestamp authorities by certificates, logs by public keys. The ID of a log
// is the digest of its key (RFC 6962 section 3.2), as cosign computes it from a
// bare key.
func (d *draft) authorities(r inventory.Role, path, text string) {
	isLog := r == inventory.RoleLog || r == inventory.RoleCT
	for _, v := range d.pemText(path, text) {
		cert, ok := v.(*x509.Certificate)
		switch {
		case ok && !isLog:
			d.authority(r, fingerprint(cert.Raw))
		case ok:
			v = cert.PublicKey
			fallthrough
		case isLog:
			id, err := signer.OfKey(v)
			if err != nil {
				d.note("%s: %v", path, err)
				continue
			}
			d.authority(r, id.Subject)
		default:
			d.note("%s has a public key where certificates are expected", path)
		}
	}
}

// pemText reads PEM text, or base64 of it.
func (d *draft) pemText(path, text string) []any {
	if text == "" {
		return nil
	}
	if !strings.Contains(text, "-----BEGIN") {
		if raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err == nil {
			text = string(raw)
		}
	}
	list, err := blocks([]byte(text))
	if err != nil {
		d.note("%s cannot be read whole, and what else it pins is not known: %v", path, err)
	}
	return list
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// pemFile reads a file of public keys (as cosign.pub) or certificates. A
// certificate that is no CA pins a signer, or a timestamp authority where it is
// for nothing else.
func (in *input) pemFile(content []byte) error {
	list, err := blocks(content)
	if err != nil {
		return err
	}
	d := in.draft("public key", "")
	in.add(d)
	stamping := slices.ContainsFunc(list, func(v any) bool { cert, ok := v.(*x509.Certificate); return ok && isTSA(cert) })
	for i, v := range list {
		path := fmt.Sprintf("block %d", i+1)
		cert, ok := v.(*x509.Certificate)
		if ok {
			d.Kind = "certificate"
		}
		switch {
		case ok && stamping:
			d.authority(inventory.RoleTSA, fingerprint(cert.Raw))
		case ok && cert.IsCA:
			d.authority(inventory.RoleCA, fingerprint(cert.Raw))
		default:
			d.key(path, v)
		}
	}
	return nil
}

// isTSA reports whether a certificate is a timestamp authority's own (RFC 3161
// section 2.3).
func isTSA(cert *x509.Certificate) bool {
	return !cert.IsCA && slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageTimeStamping)
}

// trustedRoot pins the authorities of a Sigstore trusted root, under the IDs
// that verified evidence has: the log ID, and the fingerprint of each
// certificate.
func (d *draft) trustedRoot(path string, content []byte) error {
	tr := &prototrustroot.TrustedRoot{}
	if err := protojson.Unmarshal(content, tr); err != nil {
		// A newer version may have fields that are not known here.
		tr = &prototrustroot.TrustedRoot{}
		if lenient := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(content, tr); lenient != nil {
			return fmt.Errorf("the trusted root cannot be read: %s", brief(lenient))
		}
		d.note("%sthe trusted root has something that is not known here: %s", path, brief(err))
	}
	for _, list := range []struct {
		role inventory.Role
		logs []*prototrustroot.TransparencyLogInstance
	}{{inventory.RoleLog, tr.GetTlogs()}, {inventory.RoleCT, tr.GetCtlogs()}} {
		for i, l := range list.logs {
			switch id, key := l.GetLogId().GetKeyId(), l.GetPublicKey().GetRawBytes(); {
			case len(id) > 0:
				d.authority(list.role, hex.EncodeToString(id))
			case len(key) > 0:
				d.authority(list.role, fingerprint(key))
			default:
				d.note("%s%s log %d has neither a log ID nor a key", path, list.role, i)
			}
		}
	}
	for _, list := range []struct {
		role        inventory.Role
		authorities []*prototrustroot.CertificateAuthority
	}{{inventory.RoleCA, tr.GetCertificateAuthorities()}, {inventory.RoleTSA, tr.GetTimestampAuthorities()}} {
		for i, a := range list.authorities {
			chain := a.GetCertChain().GetCertificates()
			if len(chain) == 0 {
				d.note("%s%s %d has no certificates", path, list.role, i)
			}
			for _, c := range chain {
				d.authority(list.role, fingerprint(c.GetRawBytes()))
			}
		}
	}
	return nil
}
