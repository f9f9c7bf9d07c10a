package trustedroot

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/reseal/reseal/inventory"
)

// lineDiff returns the lines that stand in one text more often than in the other.
func lineDiff(a, b []byte) (gone, come []string) {
	count := map[string]int{}
	for l := range strings.SplitSeq(string(a), "\n") {
		count[l]++
	}
	for l := range strings.SplitSeq(string(b), "\n") {
		if count[l]--; count[l] < 0 {
			come = append(come, strings.TrimSpace(l))
		}
	}
	for l, n := range count {
		for range max(n, 0) {
			gone = append(gone, strings.TrimSpace(l))
		}
	}
	slices.Sort(gone)
	return gone, come
}

// TestSigstoresOwn edits Sigstore's own files: nothing of them changes but what
// was edited, not even the way a time is written.
func TestSigstoresOwn(t *testing.T) {
	text := shared(t, "trusted_root.json")
	r := must(Parse(text))(t)
	if got := bytesOf(t, r); !bytes.Equal(got, text) {
		gone, come := lineDiff(text, got)
		t.Fatalf("unedited, it changes: -%q +%q", gone, come)
	}
	if notes := r.Notes(); len(notes) > 0 {
		t.Errorf("notes on Sigstore's own: %q", notes)
	}
	for _, name := range []string{"signing_config.v0.2.json", "signing_config_rekor_v2.v0.2.json"} {
		config := shared(t, name)
		c := must(ParseConfig(config))(t)
		if got := bytesOf(t, c); !bytes.Equal(got, config) {
			gone, come := lineDiff(config, got)
			t.Errorf("%s: unedited, it changes: -%q +%q", name, gone, come)
		}
		if odd := Agree(r, c, now); len(odd) > 0 {
			t.Errorf("%s: %q", name, odd)
		}
		// A service more is one entry more.
		if _, err := c.Add(Service{Kind: Timestamp, URL: "https://tsa.acme.example", Version: 1, Operator: "acme.example", Start: start}, now); err != nil {
			t.Fatal(err)
		}
		gone, come := lineDiff(config, bytesOf(t, c))
		if len(gone) != 0 || !slices.Contains(come, `"url": "https://tsa.acme.example",`) || len(come) != 8 {
			t.Errorf("%s: a service more: -%q +%q", name, gone, come)
		}
	}

	a, _, err := r.End(CA, "sigstore-intermediate", time.Date(2026, 5, 11, 19, 20, 0, 0, time.UTC), nil, now)
	if err != nil {
		t.Fatal(err)
	}
	if got := stamp(a.End); got != "2026-05-11T19:20:00Z" {
		t.Errorf("it ends at %s", got)
	}
	got := bytesOf(t, reread(t, r))
	gone, come := lineDiff(text, got)
	if fmt.Sprint(gone) != `["start": "2022-04-13T20:06:15Z"]` ||
		fmt.Sprint(come) != `["start": "2022-04-13T20:06:15Z", "end": "2026-05-11T19:20:00Z"]` {
		t.Errorf("the end of a CA: -%q +%q", gone, come)
	}
	if _, _, err := r.End(Log, "https://log2025-1.rekor.sigstore.dev", now, nil, now); err == nil || !strings.Contains(err.Error(), "do not look at the validity of a Rekor v2 log") {
		t.Errorf("the end of a Rekor v2 log: %v", err)
	}
	if !bytes.Equal(bytesOf(t, r), got) {
		t.Error("a refused edit changed the file")
	}
	// Their two CAs have one address and one subject: neither selects one.
	if _, err := r.Find(CA, "https://fulcio.sigstore.dev"); !errors.Is(err, ErrAmbiguous) || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("the address of two CAs: %v", err)
	}
}

// TestLogIDs holds the IDs that are computed to those in Sigstore's own file.
func TestLogIDs(t *testing.T) {
	r := must(Parse(shared(t, "trusted_root.json")))(t)
	for _, l := range r.pb.GetTlogs() {
		version := 1
		if _, is := rekorV2(l, nil); is {
			version = 2
		}
		fresh := New()
		a, _, err := fresh.Add(Addition{Kind: Log, PEM: publicPEM(t, must(x509.ParsePKIXPublicKey(l.GetPublicKey().GetRawBytes()))(t)),
			URL: l.GetBaseUrl(), Start: l.GetPublicKey().GetValidFor().GetStart().AsTime(), RekorVersion: version}, now)
		if err != nil || a.ID != hex.EncodeToString(l.GetLogId().GetKeyId()) {
			t.Errorf("%s: ID %s, %v, not %x", l.GetBaseUrl(), a.ID, err, l.GetLogId().GetKeyId())
		}
		if !proto.Equal(fresh.pb.GetTlogs()[0], l) {
			t.Errorf("%s: made anew it is\n%v\nnot\n%v", l.GetBaseUrl(), fresh.pb.GetTlogs()[0], l)
		}
	}
	// So are the CAs and the timestamp authority.
	for k, list := range map[Kind][]*prototrustroot.CertificateAuthority{CA: r.pb.GetCertificateAuthorities(), TSA: r.pb.GetTimestampAuthorities()} {
		for _, c := range list {
			var certs []*x509.Certificate
			for _, raw := range c.GetCertChain().GetCertificates() {
				certs = append(certs, must(x509.ParseCertificate(raw.GetRawBytes()))(t))
			}
			slices.Reverse(certs) // in whatever order
			fresh := New()
			start, end := period(c.GetValidFor())
			if _, _, err := fresh.Add(Addition{Kind: k, PEM: chainPEM(certs...), URL: c.GetUri(), Start: start, End: end}, now); err != nil {
				t.Errorf("%s: %v", c.GetUri(), err)
				continue
			}
			if got := append(fresh.pb.GetCertificateAuthorities(), fresh.pb.GetTimestampAuthorities()...)[0]; !proto.Equal(got, c) {
				t.Errorf("%s: made anew it is\n%v\nnot\n%v", c.GetUri(), got, c)
			}
		}
	}
}

// TestNew begins a private stack with nothing.
func TestNew(t *testing.T) {
	r, _ := stack(t)
	r = reread(t, r)
	if got := len(r.Authorities()); got != 5 {
		t.Fatalf("%d authorities", got)
	}
	tr := must(root.NewTrustedRootFromJSON(bytesOf(t, r)))(t)
	if len(tr.RekorLogs()) != 2 || len(tr.CTLogs()) != 1 || len(tr.FulcioCertificateAuthorities()) != 1 || len(tr.TimestampingAuthorities()) != 1 {
		t.Error("sigstore-go finds something else in it")
	}
	a := must(r.Find(CA, "acme intermediate"))(t)
	if !a.Start.Equal(start) || !a.End.IsZero() || a.Subject != "CN=acme intermediate,O=acme.example" {
		t.Errorf("%+v", a)
	}
	if got := r.pb.GetCertificateAuthorities()[0].GetSubject().GetCommonName(); got != "acme root" {
		t.Errorf("the subject is that of %q", got)
	}
	if empty := bytesOf(t, New()); string(empty) != "{\n  \"mediaType\": \"application/vnd.dev.sigstore.trustedroot+json;version=0.1\"\n}\n" {
		t.Errorf("the empty file is %s", empty)
	}
}

// TestAddThenRemove: what is added and removed again leaves no trace, in
// whatever order, and the same edits give the same bytes.
func TestAddThenRemove(t *testing.T) {
	full, parts := stack(t)
	names := []string{"ca", "tsa", "log", "log2", "ctlog"}
	rapid.Check(t, func(rt *rapid.T) {
		before := New()
		there := rapid.SliceOfDistinct(rapid.SampledFrom(names), rapid.ID[string]).Draw(rt, "there")
		for _, n := range there {
			if _, _, err := before.Add(parts[n], now); err != nil {
				rt.Fatal(err)
			}
		}
		var more []string
		for _, n := range names {
			if !slices.Contains(there, n) {
				more = append(more, n)
			}
		}
		more = rapid.Permutation(more).Draw(rt, "more")
		text, r := bytesOf(t, before), must(Parse(bytesOf(t, before)))(t)
		var ids []Authority
		for _, n := range more {
			a, _, err := r.Add(parts[n], now)
			if err != nil {
				rt.Fatal(err)
			}
			ids = append(ids, a)
			r = reread(t, r) // each edit by a process of its own
		}
		if len(there)+len(more) == len(names) && !bytes.Equal(bytesOf(t, r), bytesOf(t, full)) {
			rt.Fatalf("in another order it is another file:\n%s\n%s", bytesOf(t, r), bytesOf(t, full))
		}
		for _, a := range rapid.Permutation(ids).Draw(rt, "removed") {
			if _, _, err := r.Remove(a.Kind, a.ID); err != nil {
				rt.Fatal(err)
			}
			r = reread(t, r)
		}
		if got := bytesOf(t, r); !bytes.Equal(got, text) {
			rt.Fatalf("a trace is left:\n%s\n%s", got, text)
		}
	})
}

// TestSigstoreAddThenRemove is the same on Sigstore's own file.
func TestSigstoreAddThenRemove(t *testing.T) {
	text := shared(t, "trusted_root.json")
	_, parts := stack(t)
	r := must(Parse(text))(t)
	for _, p := range parts {
		a, _, err := r.Add(p, now)
		if err != nil {
			t.Fatal(err)
		}
		r = reread(t, r)
		if _, _, err := r.Remove(a.Kind, a.ID[:12]); err != nil {
			t.Fatal(err)
		}
		r = reread(t, r)
	}
	if got := bytesOf(t, r); !bytes.Equal(got, text) {
		gone, come := lineDiff(text, got)
		t.Errorf("a trace is left: -%q +%q", gone, come)
	}
}

// TestAttack tries what would make a trusted root that does something else than
// its signers think.
func TestAttack(t *testing.T) {
	r, parts := stack(t)
	text := bytesOf(t, r)
	ca := must(r.Find(CA, "acme intermediate"))(t)

	t.Run("a field that an edit would drop", func(t *testing.T) {
		for _, add := range []string{`"witnesses": [1],`, `"tlogs2": [],`} {
			_, err := Parse(bytes.Replace(text, []byte(`"mediaType"`), []byte(add+` "mediaType"`), 1))
			if err == nil || !strings.Contains(err.Error(), strings.Trim(strings.Split(add, ":")[0], " ")) || !strings.Contains(err.Error(), "an edit would lose") {
				t.Errorf("%s: %v", add, err)
			}
		}
		_, err := Parse(bytes.Replace(text, []byte(`"keyDetails": "PKIX_ED25519"`), []byte(`"keyDetails": "PKIX_FROM_TOMORROW"`), 1))
		if err == nil || !strings.Contains(err.Error(), "PKIX_FROM_TOMORROW") {
			t.Errorf("a kind of key from tomorrow: %v", err)
		}
		_, err = Parse(bytes.Replace(text, []byte(`"baseUrl"`), []byte(`"threshold": 2, "baseUrl"`), 1))
		if err == nil || !strings.Contains(err.Error(), `"threshold"`) {
			t.Errorf("a field within an entry: %v", err)
		}
	})
	t.Run("operator and checkpoint key ID survive an edit", func(t *testing.T) {
		with := bytes.Replace(text, []byte(`"logId"`), []byte(`"operator": "acme.example", "checkpointKeyId": {"keyId": "AAAAAA=="}, "logId"`), 1)
		with = bytes.Replace(with, []byte(`"subject"`), []byte(`"operator": "acme.example", "subject"`), 1)
		r := must(Parse(with))(t)
		if _, _, err := r.End(CA, ca.ID, now, nil, now); err != nil {
			t.Fatal(err)
		}
		got := bytesOf(t, reread(t, r))
		if bytes.Count(got, []byte(`"operator": "acme.example"`)) != 2 || !bytes.Contains(got, []byte(`"AAAAAA=="`)) {
			t.Errorf("lost: %s", got)
		}
	})
	t.Run("a second window for the key of a log", func(t *testing.T) {
		p := parts["log"]
		p.Start = start.AddDate(1, 0, 0)
		if _, _, err := r.Add(p, now); err == nil || !strings.Contains(err.Error(), "is in the file already") {
			t.Errorf("taken: %v", err)
		}
	})
	t.Run("a later end", func(t *testing.T) {
		r := must(Parse(text))(t)
		for _, at := range []time.Time{now.AddDate(0, 1, 0), now, start.AddDate(0, 1, 0)} {
			if _, _, err := r.End(CA, ca.ID, at, nil, now); err != nil {
				t.Errorf("an earlier end: %v", err)
			}
		}
		if _, _, err := r.End(CA, ca.ID, now, nil, now); err == nil || !strings.Contains(err.Error(), "would trust again") {
			t.Errorf("taken: %v", err)
		}
	})
	t.Run("a change that no word is for", func(t *testing.T) {
		// Whatever is done to the file by hand, the difference is never empty, and
		// what its evidence is checked with is never passed over.
		for _, edit := range []func(*prototrustroot.TrustedRoot){
			func(p *prototrustroot.TrustedRoot) { p.Tlogs[0].LogId.KeyId[0] ^= 1 },
			func(p *prototrustroot.TrustedRoot) { p.Tlogs[0].PublicKey.RawBytes = p.Ctlogs[0].PublicKey.RawBytes },
			func(p *prototrustroot.TrustedRoot) { p.Tlogs[0].BaseUrl = "https://evil.example" },
			func(p *prototrustroot.TrustedRoot) { p.Tlogs[0].HashAlgorithm = 2 },
			func(p *prototrustroot.TrustedRoot) { p.Tlogs[0].PublicKey.ValidFor.Start = nil },
			func(p *prototrustroot.TrustedRoot) { p.Tlogs[0].PublicKey = nil },
			func(p *prototrustroot.TrustedRoot) { p.Tlogs[0].Operator = "evil.example" },
			func(p *prototrustroot.TrustedRoot) { slices.Reverse(p.Tlogs) },
			func(p *prototrustroot.TrustedRoot) { p.Tlogs = append(p.Tlogs, p.Tlogs[0]) },
			func(p *prototrustroot.TrustedRoot) { p.Tlogs = nil },
			func(p *prototrustroot.TrustedRoot) { p.CertificateAuthorities[0].Subject.CommonName = "another" },
			func(p *prototrustroot.TrustedRoot) {
				slices.Reverse(p.CertificateAuthorities[0].CertChain.Certificates)
			},
			func(p *prototrustroot.TrustedRoot) {
				p.CertificateAuthorities[0].CertChain.Certificates = append(p.CertificateAuthorities[0].CertChain.Certificates, p.TimestampAuthorities[0].CertChain.Certificates[1])
			},
			func(p *prototrustroot.TrustedRoot) { p.CertificateAuthorities[0].CertChain = nil },
			func(p *prototrustroot.TrustedRoot) {
				p.CertificateAuthorities, p.TimestampAuthorities = p.TimestampAuthorities, p.CertificateAuthorities
			},
			func(p *prototrustroot.TrustedRoot) { p.MediaType = mediaType02 },
		} {
			p := proto.Clone(r.pb).(*prototrustroot.TrustedRoot)
			edit(p)
			changed := must(protojson.Marshal(p))(t)
			for _, way := range [][2][]byte{{text, changed}, {changed, text}} {
				changes := must(Diff(way[0], way[1]))(t)
				if len(changes) == 0 {
					t.Errorf("no difference to\n%s", changed)
				}
				for _, c := range changes {
					if len(c.Details) == 0 || c.Subject == "" {
						t.Errorf("%+v says nothing", c)
					}
				}
			}
		}
		if changes := must(Diff(text, text))(t); len(changes) > 0 {
			t.Errorf("a difference to itself: %v", changes)
		}
		// Two entries of one log, the other way round: clients use the last.
		p := proto.Clone(r.pb).(*prototrustroot.TrustedRoot)
		twin := proto.Clone(p.Ctlogs[0]).(*prototrustroot.TransparencyLogInstance)
		twin.PublicKey.ValidFor.End = twin.PublicKey.ValidFor.Start
		p.Ctlogs = append(p.Ctlogs, twin)
		one := must(protojson.Marshal(p))(t)
		slices.Reverse(p.Ctlogs)
		other := must(protojson.Marshal(p))(t)
		if changes := must(Diff(one, other))(t); len(changes) != 1 || !strings.Contains(changes[0].Subject, "order") {
			t.Errorf("twins in another order: %v", changes)
		}
		if notes := must(Parse(one))(t).Notes(); len(notes) != 1 || !strings.Contains(notes[0], "twice") {
			t.Errorf("twins: %q", notes)
		}
	})
	t.Run("a document of another kind or size", func(t *testing.T) {
		for name, text := range map[string]string{
			"nothing":          "",
			"no object":        "[]",
			"a signing config": string(bytesOf(t, NewConfig())),
			"too much":         `{"mediaType": "` + strings.Repeat("x", maxDocument) + `"}`,
			"a field twice":    `{"mediaType": "a", "media_type": "b"}`,
			"another media":    `{"mediaType": "application/vnd.dev.sigstore.trustedroot.v0.3+json"}`,
		} {
			if _, err := Parse([]byte(text)); err == nil {
				t.Errorf("%s is taken", name)
			}
		}
		if _, err := ParseConfig(text); err == nil {
			t.Error("a trusted root is taken for a signing config")
		}
	})
}

// TestMediaTypes: the newer media types are read and kept, with a note, because
// sigstore-go does not read them.
func TestMediaTypes(t *testing.T) {
	r, _ := stack(t)
	for _, media := range []string{mediaTypeNew01, mediaType02} {
		text := bytes.Replace(bytesOf(t, r), []byte(mediaType01), []byte(media), 1)
		n := must(Parse(text))(t)
		if notes := n.Notes(); len(notes) != 1 || !strings.Contains(notes[0], "sigstore-go read only") {
			t.Errorf("%s: %q", media, notes)
		}
		if _, _, err := n.Remove(CTLog, "https://ct.acme.example/2026"); err != nil {
			t.Error(err)
		}
		if !bytes.Contains(bytesOf(t, n), []byte(media)) {
			t.Errorf("%s is lost", media)
		}
	}
}

// TestRefused is what no file gets.
func TestRefused(t *testing.T) {
	r, parts := stack(t)
	c := newCertificates(t)
	anchor := c.issue("root", nil, nil)
	other := c.issue("other", nil, nil)
	leaf := c.issue("leaf", anchor, func(c *x509.Certificate) { c.IsCA = false })
	tsa := c.issue("tsa", anchor, stamper(true))
	soft := c.issue("soft tsa", anchor, stamper(false))
	both := c.issue("both", anchor, func(c *x509.Certificate) {
		c.IsCA, c.ExtKeyUsage = false, []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping, x509.ExtKeyUsageCodeSigning}
	})
	server := c.issue("server ca", anchor, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	mute := c.issue("mute", anchor, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	early := c.issue("early", anchor, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = start.AddDate(-2, 0, 0), start.AddDate(-1, 0, 0) })
	p224 := publicPEM(t, ecKey(t, elliptic.P224()).Public())
	p256 := publicPEM(t, ecKey(t, elliptic.P256()).Public())
	id := bytes.Repeat([]byte{7}, 32)
	const ca, ts, log = "https://fulcio.example", "https://tsa.example/ts", "https://log.example"
	for name, test := range map[string]struct {
		a    Addition
		want string
	}{
		"no certificate":          {Addition{Kind: CA, URL: ca}, "no certificate"},
		"not PEM":                 {Addition{Kind: CA, URL: ca, PEM: []byte("hello")}, "no PEM"},
		"a private key":           {Addition{Kind: CA, URL: ca, PEM: []byte("-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n")}, "expected CERTIFICATE"},
		"no CA":                   {Addition{Kind: CA, URL: ca, PEM: chainPEM(leaf, anchor)}, "leaf,O=acme.example is no CA"},
		"may not sign":            {Addition{Kind: CA, URL: ca, PEM: chainPEM(mute, anchor)}, "may not sign certificates"},
		"does not build":          {Addition{Kind: CA, URL: ca, PEM: chainPEM(server, other)}, "does not build"},
		"for servers":             {Addition{Kind: CA, URL: ca, PEM: chainPEM(server, anchor)}, "does not build for signing code"},
		"twice the same":          {Addition{Kind: CA, URL: ca, PEM: chainPEM(anchor, anchor)}, "twice"},
		"never valid together":    {Addition{Kind: CA, URL: ca, PEM: chainPEM(early, anchor)}, "at no time valid together"},
		"starts before its chain": {Addition{Kind: CA, URL: ca, PEM: chainPEM(anchor), Start: start.Add(-1)}, "a start lies within"},
		"ends after its chain":    {Addition{Kind: CA, URL: ca, PEM: chainPEM(anchor), End: start.AddDate(11, 0, 0)}, "no end lies after that"},
		"ends before it starts":   {Addition{Kind: CA, URL: ca, PEM: chainPEM(anchor), Start: now, End: now.Add(-1)}, "is before its start"},
		"no address":              {Addition{Kind: CA, PEM: chainPEM(anchor)}, "needs a URL"},
		"no real address":         {Addition{Kind: CA, URL: "fulcio.example", PEM: chainPEM(anchor)}, "is no address"},
		"a password":              {Addition{Kind: CA, URL: "https://a:hunter2@fulcio.example", PEM: chainPEM(anchor)}, "would be published"},
		"an operator with scheme": {Addition{Kind: CA, URL: ca, PEM: chainPEM(anchor), Operator: "https://acme.example"}, "without scheme"},
		"no usage":                {Addition{Kind: TSA, URL: ts, PEM: chainPEM(leaf, anchor)}, "must be timeStamping"},
		"two usages":              {Addition{Kind: TSA, URL: ts, PEM: chainPEM(both, anchor)}, "and nothing else"},
		"usage not critical":      {Addition{Kind: TSA, URL: ts, PEM: chainPEM(soft, anchor)}, "must be critical"},
		"no CA above it":          {Addition{Kind: TSA, URL: ts, PEM: chainPEM(tsa)}, "has no CA above it"},
		"a CA for code":           {Addition{Kind: TSA, URL: ts, PEM: parts["ca"].PEM}, "does not build for timestamps"},
		"no start":                {Addition{Kind: Log, URL: log, PEM: p256, RekorVersion: 1}, "needs a start"},
		"no version":              {Addition{Kind: Log, URL: log, PEM: p256, Start: start}, "v1 or v2"},
		"no key":                  {Addition{Kind: Log, URL: log, PEM: chainPEM(anchor), Start: start, RekorVersion: 1}, "key of the log"},
		"a kind of key":           {Addition{Kind: Log, URL: log, PEM: p224, Start: start, RekorVersion: 1}, "key"},
		"a small RSA key":         {Addition{Kind: CTLog, URL: log, PEM: publicPEM(t, rsaKey(t, 1024).Public()), Start: start}, "kind that clients do not know"},
		"another ID":              {Addition{Kind: Log, URL: log, PEM: p256, Start: start, RekorVersion: 1, LogID: id}, "has the ID"},
		"the end of Rekor v2":     {Addition{Kind: Log, URL: log, PEM: p256, Start: start, End: now, RekorVersion: 2}, "cannot have an end"},
		"a kind":                  {Addition{Kind: "witness", URL: log}, "no kind of authority"},
	} {
		before := bytesOf(t, r)
		if _, _, err := r.Add(test.a, now); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: a password is told: %v", name, err)
		}
		if !bytes.Equal(bytesOf(t, r), before) {
			t.Errorf("%s: refused, and it changed the file", name)
		}
	}
	for name, err := range map[string]error{
		"an end before the start": second(r.End(CA, "acme root", start.Add(-time.Second), nil, now)),
		"no end":                  second(r.End(CA, "acme root", time.Time{}, nil, now)),
		"nobody":                  second(r.End(CA, "evil", now, nil, now)),
		"an empty selector":       second(r.Remove(Log, "")),
		"a short prefix":          second(r.Remove(Log, must(r.Find(Log, "https://rekor.acme.example"))(t).ID[:4])),
		"of no such kind":         second(New().Remove(TSA, "x")),
		"Rekor v2":                second(r.End(Log, "https://log2026.acme.example", now, nil, now)),
	} {
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := r.Find(Log, "nobody"); !errors.Is(err, inventory.ErrNotFound) || !strings.Contains(err.Error(), "https://rekor.acme.example") {
		t.Errorf("nobody: %v", err)
	}
}

func second(_ Authority, _ []string, err error) error { return err }

// TestWarned is what is done, with a word about it.
func TestWarned(t *testing.T) {
	c := newCertificates(t)
	anchor := c.issue("root", nil, nil)
	below := c.issue("below", anchor, nil)
	issuer := c.issue("issuer", below, nil)
	ec, rsa := publicPEM(t, ecKey(t, elliptic.P384()).Public()), publicPEM(t, rsaKey(t, 2048).Public())
	tsa := c.issue("tsa", anchor, stamper(true))
	add := func(a Addition) []string {
		t.Helper()
		r := New()
		_, w, err := r.Add(a, now)
		if err != nil {
			t.Fatal(err)
		}
		reread(t, r)
		return w
	}
	full, _ := stack(t)
	end := func(k Kind, selector string, at time.Time, c *Config) []string {
		t.Helper()
		r := must(Parse(bytesOf(t, full)))(t)
		_, w, err := r.End(k, selector, at, c, now)
		if err != nil {
			t.Fatal(err)
		}
		reread(t, r)
		return w
	}
	config := NewConfig()
	if _, err := config.Add(Service{Kind: Rekor, URL: "https://rekor.acme.example/", Version: 1, Operator: "acme.example", Start: start}, now); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		got  []string
		want []string
	}{
		"nothing":              {add(Addition{Kind: CA, URL: "https://a.example", PEM: chainPEM(anchor)}), nil},
		"P-384":                {add(Addition{Kind: Log, URL: "https://a.example", PEM: ec, Start: start, RekorVersion: 1}), nil},
		"RSA":                  {add(Addition{Kind: Log, URL: "https://a.example", PEM: rsa, Start: start, RekorVersion: 1}), []string{"refuse the whole file"}},
		"the future":           {add(Addition{Kind: CA, URL: "https://a.example", PEM: chainPEM(anchor), Start: now.Add(time.Hour)}), []string{"nothing of it counts before"}},
		"the past":             {add(Addition{Kind: CA, URL: "https://a.example", PEM: chainPEM(anchor), End: now.Add(-time.Hour)}), []string{"it has ended"}},
		"plain HTTP":           {add(Addition{Kind: CA, URL: "http://127.0.0.1:5555", PEM: chainPEM(anchor)}), []string{"not encrypted"}},
		"an intermediate":      {add(Addition{Kind: CA, URL: "https://a.example", PEM: chainPEM(issuer, below)}), []string{"is not self-signed"}},
		"an operator":          {add(Addition{Kind: TSA, URL: "https://a.example", PEM: chainPEM(tsa, anchor), Operator: "acme.example"}), []string{"refuse the whole file"}},
		"the end of a CA":      {end(CA, "acme intermediate", now, nil), []string{"only bundles"}},
		"of a TSA":             {end(TSA, "acme tsa", now, nil), []string{"does not stop a stolen one"}},
		"of a CT log":          {end(CTLog, "https://ct.acme.example/2026", now, nil), []string{"does not stop a stolen one"}},
		"of a log":             {end(Log, "https://rekor.acme.example", now, nil), []string{"which only a signing config tells", "does not stop a stolen one"}},
		"of a known log":       {end(Log, "https://rekor.acme.example", now, config), []string{"does not stop a stolen one"}},
		"of a CA, some day":    {end(CA, "acme intermediate", now.Add(time.Hour), nil), []string{"only bundles", "until then"}},
		"the last of its kind": {removed(t, full, CA, "acme intermediate"), []string{"no keyless signature verifies"}},
		"the last log but one": {removed(t, full, Log, "https://rekor.acme.example"), nil},
	} {
		if len(test.got) != len(test.want) {
			t.Errorf("%s: %q", name, test.got)
			continue
		}
		for i := range test.want {
			if !strings.Contains(test.got[i], test.want[i]) {
				t.Errorf("%s: %q, want %q", name, test.got[i], test.want[i])
			}
		}
	}
	// An ECDSA log of Rekor v2 is told by the signing config alone.
	r := must(Parse(bytesOf(t, full)))(t)
	v2 := must(ParseConfig(bytes.Replace(bytesOf(t, config), []byte(`"majorApiVersion": 1`), []byte(`"majorApiVersion": 2`), 1)))(t)
	if _, _, err := r.End(Log, "https://rekor.acme.example", now, v2, now); err == nil || !strings.Contains(err.Error(), "the signing config has it with API version 2") {
		t.Errorf("the end of a Rekor v2 log: %v", err)
	}
}

func removed(t *testing.T, r *Root, k Kind, selector string) []string {
	t.Helper()
	r = must(Parse(bytesOf(t, r)))(t)
	_, w, err := r.Remove(k, selector)
	if err != nil {
		t.Fatal(err)
	}
	reread(t, r)
	return w
}

// TestSelectors is how an authority may be named.
func TestSelectors(t *testing.T) {
	r, _ := stack(t)
	ca := must(r.Find(CA, "acme intermediate"))(t)
	tsa := must(r.Find(TSA, "acme tsa"))(t)
	log := must(r.Find(Log, "https://rekor.acme.example"))(t)
	b64 := must(json.Marshal(r.pb.GetTlogs()[0].GetLogId().GetKeyId()))(t)
	for _, s := range []string{ca.ID, ca.ID[:6], strings.ToUpper(ca.ID), "sha256:" + ca.ID, ca.Certificates[1], "CN=acme root,O=acme.example", "https://fulcio.acme.example"} {
		if got, err := r.Find(CA, s); err != nil || got.ID != ca.ID {
			t.Errorf("%s: %s, %v", s, got.ID, err)
		}
	}
	for _, s := range []string{log.ID[:8], log.KeySHA256, string(b64[1 : len(b64)-1])} {
		if got, err := r.Find(Log, s); err != nil || got.ID != log.ID {
			t.Errorf("%s: %s, %v", s, got.ID, err)
		}
	}
	if tsa.ID != tsa.Certificates[0] || tsa.Subject != "CN=acme tsa,O=acme.example" {
		t.Errorf("a TSA is known by the certificate that stamps: %+v", tsa)
	}
}

// TestLost is what a change takes away.
func TestLost(t *testing.T) {
	r, parts := stack(t)
	old := bytesOf(t, r)
	ca, tsa := must(r.Find(CA, "acme intermediate"))(t), must(r.Find(TSA, "acme tsa"))(t)
	v1, v2 := must(r.Find(Log, "https://rekor.acme.example"))(t), must(r.Find(Log, "https://log2026.acme.example"))(t)
	for name, test := range map[string]struct {
		edit func(*Root) error
		want []string
	}{
		"nothing":       {func(*Root) error { return nil }, nil},
		"more":          {func(r *Root) error { return second(r.Add(renewed(t, parts["log"]), now)) }, nil},
		"the CA":        {func(r *Root) error { return second(r.Remove(CA, ca.ID)) }, []string{"ca " + ca.ID + " ca " + ca.Certificates[1] + ": it is dropped"}},
		"the TSA":       {func(r *Root) error { return second(r.Remove(TSA, tsa.ID)) }, []string{"tsa " + tsa.ID + ": it is dropped"}},
		"Rekor v2":      {func(r *Root) error { return second(r.Remove(Log, v2.ID)) }, []string{"log " + v2.ID + ": it is dropped (untold)"}},
		"Rekor v1":      {func(r *Root) error { return second(r.Remove(Log, v1.ID)) }, []string{"log " + v1.ID + ": it is dropped (untold)"}},
		"an end":        {func(r *Root) error { return second(r.End(Log, v1.ID, now, nil, now)) }, []string{"log " + v1.ID + ": it ends at 2026-06-01T00:00:00Z"}},
		"a later start": {func(r *Root) error { r.pb.Ctlogs[0].PublicKey.ValidFor.Start.Seconds++; return nil }, []string{"ct " + r.Authorities()[3].ID + ": it starts at 2026-01-02T03:04:06Z"}},
		"another key": {func(r *Root) error {
			r.pb.Ctlogs[0].PublicKey.RawBytes = r.pb.Tlogs[0].PublicKey.RawBytes
			return nil
		}, []string{"ct " + r.Authorities()[3].ID + ": what its evidence is checked with is another: publicKey.rawBytes"}},
		"a second window that hides the first": {func(r *Root) error {
			again := proto.Clone(r.pb.Ctlogs[0]).(*prototrustroot.TransparencyLogInstance)
			again.PublicKey.ValidFor.Start.Seconds += 3600
			r.pb.Ctlogs = append(r.pb.Ctlogs, again)
			return nil
		}, []string{"ct " + r.Authorities()[3].ID + ": it is there twice now, and clients use one of the two"}},
		"another name": {func(r *Root) error { r.pb.CertificateAuthorities[0].Uri = "https://new.example"; return nil }, nil},
		"a shorter chain": {func(r *Root) error {
			c := r.pb.CertificateAuthorities[0].CertChain
			c.Certificates = c.Certificates[:1]
			return nil
		}, []string{"ca " + ca.ID + " ca " + ca.Certificates[1] + ": what its evidence is checked with is another: certChain.certificates[1]"}},
	} {
		r := must(Parse(old))(t)
		if err := test.edit(r); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		lost := must(Lost(old, bytesOf(t, r)))(t)
		var got []string
		for _, l := range lost {
			var ids []string
			for _, e := range l.Evidence {
				ids = append(ids, string(e.Role)+" "+e.ID)
			}
			s := strings.Join(ids, " ") + ": " + l.Why
			if l.Untold != "" {
				s += " (untold)"
			}
			got = append(got, s)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// renewed is a log with a new key.
func renewed(t *testing.T, a Addition) Addition {
	a.PEM = publicPEM(t, ecKey(t, elliptic.P256()).Public())
	return a
}

// TestTolls counts what rests on what is lost.
func TestTolls(t *testing.T) {
	log := inventory.Authority{Role: inventory.RoleLog, ID: "aa"}
	issuer, anchor := inventory.Authority{Role: inventory.RoleCA, ID: "bb"}, inventory.Authority{Role: inventory.RoleCA, ID: "cc"}
	facts := []Fact{{log, 10, 4, 2, now}, {issuer, 5, 5, 1, time.Time{}}, {anchor, 7, 7, 3, time.Time{}}}
	lost := []Loss{
		{Evidence: []inventory.Authority{log}},
		{Evidence: []inventory.Authority{log}, After: now.Add(-1)},
		{Evidence: []inventory.Authority{log}, After: now},
		{Evidence: []inventory.Authority{issuer, anchor}, After: now},
		{Evidence: []inventory.Authority{{Role: inventory.RoleTSA, ID: "aa"}}},
	}
	want := [][3]int64{{10, 4, 2}, {10, 4, 2}, {}, {7, 7, 3}, {}}
	for i, toll := range Tolls(lost, facts) {
		if got := [3]int64{toll.Signatures, toll.Alone, toll.Deployed}; got != want[i] {
			t.Errorf("loss %d: %v, want %v", i, got, want[i])
		}
	}
}

// FuzzParse: whatever is read is written so that it says the same, and again in
// the same bytes.
func FuzzParse(f *testing.F) {
	r, _ := stack(f)
	f.Add(bytesOf(f, r))
	f.Add(bytesOf(f, NewConfig()))
	f.Add([]byte(`{"mediaType":"` + mediaType01 + `","tlogs":[{}, {"logId":null}],"ctlogs":[],"certificate_authorities":[{"validFor":{"start":"0001-01-01T00:00:00Z"}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := Parse(text); err == nil {
			out := bytesOf(t, r)
			again, err := Parse(out)
			if err != nil || !proto.Equal(again.pb, r.pb) || !bytes.Equal(bytesOf(t, again), out) {
				t.Fatalf("%v: %q became %q", err, text, out)
			}
			r.Authorities()
			r.Notes()
			if d, err := Diff(text, out); err != nil || len(d) > 0 {
				t.Fatalf("%v: %v", err, d)
			}
			if _, err := Lost(text, bytesOf(t, New())); err != nil {
				t.Fatal(err)
			}
			if d, err := Diff(text, bytesOf(t, New())); err != nil || len(d) == 0 && !proto.Equal(r.pb, New().pb) {
				t.Fatalf("%v: no difference between %q and nothing", err, text)
			}
		}
		if c, err := ParseConfig(text); err == nil {
			out := bytesOf(t, c)
			again, err := ParseConfig(out)
			if err != nil || !proto.Equal(again.pb, c.pb) || !bytes.Equal(bytesOf(t, again), out) {
				t.Fatalf("%v: %q became %q", err, text, out)
			}
			for _, k := range ServiceKinds() {
				_, _ = c.Picks(k, now)
				_, _ = gap(c.pb, k, now)
			}
			if d, err := DiffConfig(text, out); err != nil || len(d) > 0 {
				t.Fatalf("%v: %v", err, d)
			}
		}
	})
}
