package tuf

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// publicKeyOf reads a published key. Beside what go-tuf reads, that is an ECDSA P-256 key as a point in hex, which early
// TUF implementations published: the first four roots of Sigstore's public-good instance have them.
func publicKeyOf(key *metadata.Key) (crypto.PublicKey, error) {
	if strings.HasPrefix(key.Type, "ecdsa") && key.Scheme == metadata.KeySchemeECDSA_SHA2_P256 && strings.HasPrefix(key.Value.PublicKey, "04") {
		point, err := hex.DecodeString(key.Value.PublicKey)
		if err != nil {
			return nil, err
		}
		return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	}
	return key.ToPublicKey()
}

// chain takes a chain of roots, oldest first: each is signed by its own holders, and by those of the one before it, of
// which it is the next version. Roots with keys that go-tuf cannot read can only be the first: no client of today starts
// from them, and they are verified here. Errors begin with the name of the root they are about.
func (s *state) chain(roots [][]byte, name func(version int64) string) error {
	var before *rootMeta
	library := false
	for i, data := range roots {
		m, err := parseRoot(data)
		if err != nil {
			at := "root"
			if before != nil {
				at = name(before.Signed.Version + 1)
			} else if v, e := rootVersion(data); e == nil {
				at = name(v)
			}
			return fmt.Errorf("%s: %w", at, err)
		}
		if i == 0 {
			s.first = m.Signed.Version
		}
		if err := s.next(before, m, data, &library); err != nil {
			return fmt.Errorf("%s: %w", name(s.first+int64(i)), err)
		}
		before = m
	}
	if !library {
		return fmt.Errorf("%s: no key of it can be read", name(before.Signed.Version))
	}
	s.roots = roots
	return nil
}

func (s *state) next(before, m *rootMeta, data []byte, library *bool) error {
	if *library {
		_, err := s.UpdateRoot(data)
		return err
	}
	doc, err := newDocument(metadata.ROOT, m)
	if err != nil {
		return err
	}
	by := []*rootMeta{m}
	if before != nil {
		if m.Signed.Version != before.Signed.Version+1 {
			return fmt.Errorf("it has version %d and follows version %d", m.Signed.Version, before.Signed.Version)
		}
		by = append(by, before)
	}
	for _, signer := range by {
		ring, err := rootRing(signer, metadata.ROOT)
		if err != nil {
			return err
		}
		if !ring.met(doc) {
			return fmt.Errorf("not enough signatures, got %d, want %d of the holders of root %d", len(ring.valid(doc.payload, *doc.signatures)), ring.threshold, signer.Signed.Version)
		}
	}
	for _, id := range m.Signed.Roles[metadata.ROOT].KeyIDs {
		if key := m.Signed.Keys[id]; key == nil {
			return fmt.Errorf("it names key %s and does not publish it", id)
		} else if _, err := key.ToPublicKey(); err != nil {
			if _, err := publicKeyOf(key); err != nil {
				return fmt.Errorf("key %s: %w", id, err)
			}
			return nil // go-tuf starts later
		}
	}
	trusted, err := trustedmetadata.New(data)
	if err != nil {
		return err
	}
	s.TrustedMetadata, s.start, *library = trusted, m.Signed.Version, true
	return nil
}

// sameRoot reports whether two roots sign the same.
func sameRoot(a, b []byte) (bool, error) {
	if bytes.Equal(a, b) {
		return true, nil
	}
	var payloads [2][]byte
	for i, data := range [][]byte{a, b} {
		m, err := parseRoot(data)
		if err != nil {
			return false, err
		}
		doc, err := newDocument(metadata.ROOT, m)
		if err != nil {
			return false, err
		}
		payloads[i] = doc.payload
	}
	return bytes.Equal(payloads[0], payloads[1]), nil
}
