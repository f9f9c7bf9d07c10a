package verify

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	in_toto "github.com/in-toto/attestation/go/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/reseal/reseal/inventory"
)

// FuzzAnnotations reads the annotations of a layer as a manifest has them, in
// every format.
func FuzzAnnotations(f *testing.F) {
	w, k := newWorld(f), newECDSA(f)
	v := verifier(f, w, k.Public())
	all := samples(f, w, k)
	for i, s := range all {
		f.Add(byte(i), must(json.Marshal(s.annotations))(f))
	}
	f.Add(byte(0), []byte(`{"dev.sigstore.cosign/bundle":"{\"Payload\":{\"body\":5}}","dev.sigstore.cosign/chain":"-----BEGIN CERTIFICATE-----"}`))
	f.Fuzz(func(t *testing.T, n byte, text []byte) {
		var annotations map[string]string
		if json.Unmarshal(text, &annotations) != nil {
			return
		}
		s := all[int(n)%len(all)]
		s.annotations = annotations
		sane(t, s.verify(v))
	})
}

// FuzzStatement reads statements as protobuf JSON and a reader that minds case and
// takes the first of two do: what is not refused says the same to all of them.
func FuzzStatement(f *testing.F) {
	for _, s := range []string{
		string(statement(subject().Digest, inventory.SignPredicate)), `{"subject":[{"digest":{"sha256":"a","sha256":"b"}}]}`, `{"Subject":[],"subject":null}`,
		`{"_type":"a","type":"b","predicateType":"c","predicate_type":"d"}`, `{"predicateType":"\ud800","predicateType\u0000":1}`, `{"ſubject":[{}]}`, `{"subject":[{"Digest":{}}]} `,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var own intotoStatement
		if json.Unmarshal(body, &own) != nil || inventory.CheckStatement(body) != nil {
			return
		}
		var strict map[string]json.RawMessage
		var kind string
		if json.Unmarshal(body, &strict) != nil || strict["predicateType"] != nil && json.Unmarshal(strict["predicateType"], &kind) != nil || kind != own.PredicateType {
			t.Errorf("of type %q, and to who minds case %q: %q", own.PredicateType, kind, body)
		}
		var st in_toto.Statement
		if protojson.Unmarshal(body, &st) != nil {
			return
		}
		if st.GetType() != own.Type || st.GetPredicateType() != own.PredicateType || len(st.GetSubject()) != len(own.Subject) {
			t.Fatalf("read as %+v, and as protobuf as %v: %q", own, &st, body)
		}
		for n, s := range st.GetSubject() {
			if !maps.Equal(s.GetDigest(), own.Subject[n].Digest) {
				t.Errorf("subject %d is %v, and as protobuf %v: %q", n, own.Subject[n].Digest, s.GetDigest(), body)
			}
		}
	})
}

// FuzzStored reads content of every format, and what reads it without judging.
func FuzzStored(f *testing.F) {
	w, k := newWorld(f), newECDSA(f)
	v := verifier(f, w, k.Public())
	all := samples(f, w, k)
	signed := map[string]bool{}
	for i, s := range all {
		f.Add(byte(i), s.content)
		if p, err := Payload(s.format, s.content); err == nil {
			signed[string(p)] = true
		}
	}
	f.Add(byte(5), []byte(`{"base64Signature":"AAAA","cert":"AAAA","rekorBundle":{"SignedEntryTimestamp":"AA==","Payload":{"body":"e30=","integratedTime":1,"logIndex":1,"logID":"00"}}}`))
	f.Add(byte(5), []byte(`{"mediaType":"`+bundleV03+`","verificationMaterial":{"tlogEntries":[5],"timestampVerificationData":{"rfc3161Timestamps":[{"signedTimestamp":"\n"}]}}}`))
	f.Fuzz(func(t *testing.T, n byte, content []byte) {
		s := all[int(n)%len(all)]
		s.content = content
		got := s.verify(v)
		sane(t, got)
		p, err := Payload(s.format, content)
		if got.Verified && err == nil && !signed[string(p)] {
			t.Errorf("another payload verified: %q", p)
		}
		about, err := Subjects(content)
		if (err == nil) != (len(about) > 0) {
			t.Errorf("about %v, %v", about, err)
		}
		for _, d := range about {
			if inventory.CheckDigest(d) != nil {
				t.Errorf("about %q", d)
			}
		}
		if got.Verified && got.Format == inventory.Detached && err == nil && !slices.Contains(about, got.Digest) {
			t.Errorf("%s is not among %v", got.Digest, about)
		}
	})
}

// FuzzEntry reads log entries: none but the true one shows anything.
func FuzzEntry(f *testing.F) {
	w, k := newWorld(f), newECDSA(f)
	v := verifier(f, w, k.Public())
	at := time.Unix(time.Now().Unix(), 0)
	pl := simple(f)
	sig := signRaw(f, k, pl)
	body := statement(subject().Digest, "x")
	env, envSig := envelope(f, k, body)
	named := pemOf(f, k.Public())
	layer := newClaim(subject())
	layer.signature, layer.message = sig, pl
	attestation := newClaim(subject())
	attestation.signature, attestation.enveloped, attestation.payloadType, attestation.payload = envSig, true, intotoPayload, body
	attestation.message, attestation.stored = paeOf(body), env
	true1 := hashedrekord(hashOf(pl), sig, named)
	true2, true3 := dsseBody(env, body, envSig, named), intoto001Body(env, body, named)
	kinds := []string{"hashedrekord", "dsse", "intoto"}
	for i, b := range [][]byte{true1, true2, true3} {
		e := w.promise(f, kinds[i], b, at)
		f.Add(b, e.GetInclusionPromise().GetSignedEntryTimestamp(), at.Unix(), int64(7), "")
	}
	f.Add(dsse002Body(body, envSig, `"publicKey":{"rawBytes":"AAAA"}`), []byte(nil), int64(0), int64(0), "log2.example\n1\nAAAA\n\n— log2.example AAAAAAAA\n")
	f.Add([]byte(`{"kind":"dsse","apiVersion":"0.0.1","spec":{"signatures":[]}}`), []byte{0}, int64(1)<<62, int64(-1), "x - 1\n2\n3\n4\n")
	id := must(decodeHex(must(w.RekorLogID())(f)))(f)
	f.Fuzz(func(t *testing.T, body, promise []byte, integrated, index int64, checkpoint string) {
		for _, kind := range kinds {
			for _, version := range []string{"0.0.1", "0.0.2"} {
				tle := &protorekor.TransparencyLogEntry{LogIndex: index, LogId: &protocommon.LogId{KeyId: id}, IntegratedTime: integrated, CanonicalizedBody: body,
					KindVersion: &protorekor.KindVersion{Kind: kind, Version: version}}
				if len(promise) > 0 {
					tle.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: promise}
				}
				if checkpoint != "" {
					tle.InclusionProof = &protorekor.InclusionProof{Checkpoint: &protorekor.Checkpoint{Envelope: checkpoint}, TreeSize: index, RootHash: promise}
				}
				for _, c := range []*claim{layer, attestation} {
					e := newEntry(tle, true)
					e.publicKey()
					known, err := v.checkEntry(c, e, v.keys[0])
					if err == nil && (!known || integrated != at.Unix() || index != 7 ||
						!slices.ContainsFunc([][]byte{true1, true2, true3}, func(b []byte) bool { return bytes.Equal(b, body) })) {
						t.Errorf("%s %s: %q at %d is vouched for", kind, version, body, integrated)
					}
				}
			}
		}
	})
}

// FuzzTimestamp reads RFC 3161 tokens: none but the true one shows a time.
func FuzzTimestamp(f *testing.F) {
	w := newWorld(f)
	v := verifier(f, w)
	over := []byte("a signature")
	good := must(w.TimestampResponse(over))(f)
	want := v.stamped(token{der: good, over: over})
	f.Add(good)
	f.Add(must(w.TimestampResponse([]byte("another")))(f))
	f.Add([]byte{0x30, 0x80, 0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		b := v.stamped(token{der: der, over: over})
		if b.Verified != (b.Why == "") || b.Verified && (!b.Time.Equal(want.Time) || b.Authority != want.Authority) {
			t.Errorf("%+v, want %+v", b, want)
		}
		wholesome(t, b)
	})
}

// FuzzSalvage reads bundles that are no protobuf JSON.
func FuzzSalvage(f *testing.F) {
	w := newWorld(f)
	b, pub := signBundle(f)
	w.prove(f, b, pemOf(f, pub), time.Now())
	f.Add(raw(f, b))
	f.Add([]byte(`{"verificationMaterial":{"tlogEntries":[5,{"logIndex":"x"}],"timestampVerificationData":{"rfc3161Timestamps":[{"signedTimestamp":"\n"},5]}}}`))
	f.Add([]byte(`{"verificationMaterial":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, lost, ok := salvage(raw)
		if !ok {
			return
		}
		if n := len(lost.entries) + len(b.GetVerificationMaterial().GetTlogEntries()); n > maxEntries+1 {
			t.Errorf("%d log entries", n)
		}
		if n := len(lost.tokens) + len(b.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps()); n > maxTokens+1 {
			t.Errorf("%d timestamps", n)
		}
		var whole protobundle.Bundle
		if unmarshal(raw, &whole) == nil && len(lost.entries)+len(lost.tokens) > 0 {
			t.Errorf("lost of a whole bundle: %v", lost)
		}
	})
}
