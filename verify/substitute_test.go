package verify

//lint:file-ignore SA1019 recovering a public key from a signature needs the group operations of the curve, which crypto/ecdh does not offer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"math/big"
	"testing"
)

// substitute computes the other public key that verifies an ECDSA signature
// (SEC 1, section 4.1.6).
func substitute(t testing.TB, signed *ecdsa.PublicKey, sig, msg []byte) *ecdsa.PublicKey {
	var rs struct{ R, S *big.Int }
	must(asn1.Unmarshal(sig, &rs))(t)
	c, p := elliptic.P256(), elliptic.P256().Params()
	y := new(big.Int).Exp(rs.R, big.NewInt(3), p.P)
	y.Sub(y, new(big.Int).Mul(rs.R, big.NewInt(3)))
	y.Add(y, p.B).ModSqrt(y.Mod(y, p.P), p.P)
	sum := sha256.Sum256(msg)
	inv := new(big.Int).ModInverse(rs.R, p.N)
	minusE := new(big.Int).Sub(p.N, new(big.Int).Mod(new(big.Int).SetBytes(sum[:]), p.N))
	for _, y := range []*big.Int{y, new(big.Int).Sub(p.P, y)} {
		x1, y1 := c.ScalarMult(rs.R, y, rs.S.Bytes())
		x2, y2 := c.ScalarBaseMult(minusE.Bytes())
		x1, y1 = c.Add(x1, y1, x2, y2)
		x1, y1 = c.ScalarMult(x1, y1, inv.Bytes())
		if pub := (&ecdsa.PublicKey{Curve: c, X: x1, Y: y1}); !pub.Equal(signed) {
			return pub
		}
	}
	t.Fatal("no substitute key")
	return nil
}
