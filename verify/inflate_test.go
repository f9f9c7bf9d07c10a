package verify

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/reseal/reseal/inventory"
)

func gzipped(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(content)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstandard(t testing.TB, content []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(content, nil)
}

// TestCompressed hides signatures in compressed layers: cosign accepts them, so
// they are the same signatures here.
func TestCompressed(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	at := time.Now().Add(-30 * time.Minute)
	sigAnn, pl := legacyLayer(t, w, k, at)
	attAnn, env := attestationLayer(t, w, k, statement(subject().Digest, "https://spdx.dev/Document"), at)
	b, pub := signBundle(t)
	w.prove(t, b, pemOf(t, pub), at)
	v := verifier(t, w, k.Public(), pub)
	for _, c := range []struct {
		format      inventory.Format
		annotations map[string]string
		content     []byte
	}{{inventory.Legacy, sigAnn, pl}, {inventory.LegacyAtt, attAnn, env}, {inventory.Bundle, nil, raw(t, b)}} {
		plain := v.Stored(subject(), c.format, c.annotations, c.content)
		wantVerified(t, plain)
		for name, pack := range map[string]func(testing.TB, []byte) []byte{"gzip": gzipped, "zstd": zstandard} {
			packed := pack(t, c.content)
			s := v.Stored(subject(), c.format, c.annotations, packed)
			wantVerified(t, s)
			if s.ID != plain.ID || s.Signer != plain.Signer || s.PayloadDigest != plain.PayloadDigest || s.Content != inventory.Digest(packed) {
				t.Errorf("%s, %s: %+v, want the signature %+v in other bytes", c.format, name, s, plain)
			}
			p, err := Payload(c.format, packed)
			want, err2 := Payload(c.format, c.content)
			if err != nil || err2 != nil || !bytes.Equal(p, want) {
				t.Errorf("%s, %s: payload %v, %v", c.format, name, err, err2)
			}
		}
	}
	if s := v.Stored(subject(), inventory.Detached, nil, gzipped(t, raw(t, b))); s.Verified {
		t.Error("a file is uncompressed: no client does that")
	}
}

// TestBomb has compressed content that grows without bounds, or breaks off.
func TestBomb(t *testing.T) {
	t.Parallel()
	v := verifier(t, newWorld(t))
	zeros := make([]byte, 4*maxInflated)
	for name, tc := range map[string]struct {
		content []byte
		says    string
	}{
		"gzip": {gzipped(t, zeros), "compressed"}, "zstd": {zstandard(t, zeros), "compressed"},
		"gzip, broken off": {gzipped(t, zeros)[:100], "uncompressed"}, "zstd, broken off": {zstandard(t, zeros)[:20], "uncompressed"},
		"gzip, nothing but a beginning": {[]byte{0x1f, 0x8b}, "uncompressed"},
	} {
		for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt, inventory.Bundle, inventory.Referrer, inventory.ReferrerAtt} {
			s := v.Stored(subject(), f, nil, tc.content)
			if s.Verified || !strings.Contains(s.Why, tc.says) || s.Content != inventory.Digest(tc.content) {
				t.Errorf("%s, %s: %+v", name, f, s)
			}
		}
	}
}
