package inventory

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/reseal/reseal/signer"
	"pgregory.net/rapid"
)

func drawSighting(t *rapid.T) Signature {
	s := Signature{ID: "s", Verified: rapid.Bool().Draw(t, "verified")}
	if rapid.Bool().Draw(t, "certified") {
		s.Certificate = &signer.Certificate{Serial: rapid.SampledFrom([]string{"1", "2"}).Draw(t, "serial")}
	}
	for range rapid.IntRange(0, 5).Draw(t, "bounds") {
		s.Bounds = append(s.Bounds, Bound{Side: rapid.SampledFrom([]Side{Upper, Lower}).Draw(t, "side"),
			Time:      time.Unix(int64(rapid.IntRange(1, 5).Draw(t, "time")), 0),
			Authority: Authority{RoleTSA, rapid.SampledFrom([]string{"a", "b"}).Draw(t, "authority")}, Verified: rapid.Bool().Draw(t, "proven")})
	}
	return s
}

// best returns the proof of an authority that counts.
func best(s Signature, side Side, a Authority) (at time.Time) {
	for _, b := range s.Bounds {
		if b.Verified && b.Side == side && b.Authority == a &&
			(at.IsZero() || side == Upper && b.Time.Before(at) || side == Lower && b.Time.After(at)) {
			at = b.Time
		}
	}
	return at
}

// TestMergeOnlyAdds shows one signature in any number of copies, as anybody can
// push them: no proof gets lost or worse, whatever their order.
func TestMergeOnlyAdds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sightings := rapid.SliceOfN(rapid.Custom(drawSighting), 1, 6).Draw(t, "sightings")
		out := Merge(Signature{ID: "s"}, sightings[0])
		for _, s := range sightings[1:] {
			before := out
			out = Merge(out, s)
			if before.Verified && (!out.Verified || !reflect.DeepEqual(before.Certificate, out.Certificate)) {
				t.Fatalf("what verified is changed: %+v to %+v", before, out)
			}
		}
		verified := slices.ContainsFunc(sightings, func(s Signature) bool { return s.Verified })
		if out.Verified != verified {
			t.Fatalf("verified is %v, want %v", out.Verified, verified)
		}
		for _, side := range []Side{Upper, Lower} {
			for _, id := range []string{"a", "b"} {
				a := Authority{RoleTSA, id}
				all := Signature{}
				for _, s := range sightings {
					all.Bounds = append(all.Bounds, s.Bounds...)
				}
				if got, want := best(out, side, a), best(all, side, a); !got.Equal(want) {
					t.Fatalf("%s by %s: %v, want %v", side, id, got, want)
				}
			}
		}
		if again := Merge(out, out); !reflect.DeepEqual(again, out) {
			t.Fatalf("merging a signature with itself changes it: %+v, %+v", out, again)
		}
	})
}

// TestMergeIsBounded stamps a public signature again and again.
func TestMergeIsBounded(t *testing.T) {
	t.Parallel()
	var out Signature
	for n := range 10_000 {
		out = Merge(out, Signature{Bounds: []Bound{
			{Side: Upper, Time: time.Unix(int64(20_000-n), 0), Authority: Authority{RoleTSA, "a"}, Verified: true},
			{Side: Upper, Time: time.Unix(int64(n), 0), Authority: Authority{RoleTSA, "forged"}}}})
	}
	if len(out.Bounds) > maxBounds+1 {
		t.Errorf("%d bounds are kept", len(out.Bounds))
	}
	if got := best(out, Upper, Authority{RoleTSA, "a"}); got.Unix() != 10_001 {
		t.Errorf("the earliest proof is %d", got.Unix())
	}
}

// TestMergeCertificate: a copy that does not verify may bring any certificate.
func TestMergeCertificate(t *testing.T) {
	t.Parallel()
	forged := Signature{Certificate: &signer.Certificate{Serial: "forged"}}
	real := Signature{Certificate: &signer.Certificate{Serial: "real"}, Verified: true, Requires: []Authority{{RoleCA, "ours"}}}
	other := Signature{Certificate: &signer.Certificate{Serial: "other"}, Verified: true, Requires: []Authority{{RoleCA, "leaked"}}}
	got := Merge(Merge(forged, real), other)
	if got.Certificate.Serial != "real" || got.Requires[0].ID != "ours" {
		t.Errorf("%+v requires %+v", got.Certificate, got.Requires)
	}
}
