package anchors

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/root"
	"pgregory.net/rapid"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

func file(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// names maps fingerprints to the names of the keys and certificates in
// testdata that have them.
func names(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{strings.Repeat("ab", 32): "rekor2"} // whose log ID is no digest of its key
	for _, name := range []string{"release.pub", "standby.pub", "rekor.pub", "ctfe.pub", "ed25519.pub", "fulcio.pem", "tsa.pem", "signer.pem"} {
		rest := []byte(file(t, name))
		for i := 0; ; i++ {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			short, _, _ := strings.Cut(name, ".")
			if strings.HasSuffix(name, ".pem") {
				short += fmt.Sprint(i)
				cert, err := x509.ParseCertificate(block.Bytes)
				if err != nil {
					t.Fatal(err)
				}
				sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
				out[hex.EncodeToString(sum[:])] = "key of " + short
			}
			sum := sha256.Sum256(block.Bytes)
			out[hex.EncodeToString(sum[:])] = short
		}
	}
	return out
}

// render writes anchors for people, with names for fingerprints.
func render(list []inventory.Anchor, names map[string]string) string {
	var b strings.Builder
	named := func(id string) string {
		if n, ok := names[id]; ok {
			return n
		}
		return "UNKNOWN " + id
	}
	for _, a := range list {
		fmt.Fprintf(&b, "%s %q %v\n", strings.TrimSpace(a.Kind+" "+a.Name), a.Scope, a.Formats)
		for _, p := range a.Pins {
			b.WriteString("  pin")
			if p.Key != "" {
				b.WriteString(" key " + named(p.Key))
			}
			if p.Authority.Role != "" {
				b.WriteString(" " + string(p.Authority.Role))
			}
			if p.Authority.ID != "" {
				b.WriteString(" " + named(p.Authority.ID))
			}
			for _, f := range [][2]string{{"issuer", p.Issuer}, {"issuer ~", p.IssuerRegexp}, {"subject", p.Subject}, {"subject ~", p.SubjectRegexp}, {"at", p.Reference}} {
				if f[1] != "" {
					b.WriteString(" " + f[0] + " " + f[1])
				}
			}
			b.WriteString("\n")
		}
		for _, n := range a.Notes {
			b.WriteString("  note " + n + "\n")
		}
	}
	return b.String()
}

// TestFiles reads files of every kind and holds what is found against the
// reading written down beside each.
func TestFiles(t *testing.T) {
	t.Parallel()
	known := names(t)
	for _, name := range []string{"policy-controller.yaml", "kyverno.yaml", "kyverno-imagevalidating.yaml", "policy.json", "trusted_root.json", "openshift.yaml"} {
		list, err := Parse("/etc/"+name, []byte(file(t, name)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, want := render(list, known), file(t, name+".want")
		if got != want {
			gotLines, wantLines := strings.Split(got, "\n"), strings.Split(want, "\n")
			for i := range max(len(gotLines), len(wantLines)) {
				g, w := "", ""
				if i < len(gotLines) {
					g = gotLines[i]
				}
				if i < len(wantLines) {
					w = wantLines[i]
				}
				if g != w {
					t.Errorf("%s.want line %d:\ngot  %s\nwant %s", name, i+1, g, w)
					break
				}
			}
		}
		ids := map[string]bool{}
		for _, a := range list {
			if ids[a.ID] || len(a.ID) != 64 || a.File != "/etc/"+name || a.Pins == nil {
				t.Errorf("%s: anchor %+v", name, a)
			}
			ids[a.ID] = true
		}
	}
}

// TestMatches asks of the anchors in a file which of them pin a signer.
func TestMatches(t *testing.T) {
	t.Parallel()
	release, err := signer.OfKey(pubKey(t, "release.pub"))
	if err != nil {
		t.Fatal(err)
	}
	ci := signer.Identity{Kind: signer.Keyless, Issuer: "https://token.actions.githubusercontent.com", Subject: "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1.2"}
	gitlab := signer.Identity{Kind: signer.Keyless, Issuer: ci.Issuer, Subject: "https://gitlab.example.com/acme"}
	for _, tc := range []struct {
		file string
		id   signer.Identity
		want []string
	}{
		{"policy-controller.yaml", release, []string{"acme/old", "acme/both"}},
		{"policy-controller.yaml", ci, []string{"odd/anybody"}},
		{"kyverno.yaml", release, []string{"verify-image/two-keys", "verify-image/attested/attestations[1]", "shop/old/deprecated/verifyImages[0]"}},
		{"kyverno.yaml", ci, []string{"verify-image/keyless/verifyImages[0]", "verify-image/keyless/verifyImages[1]/attestations[0]", "verify-image/attested/attestations[0]"}},
		{"kyverno.yaml", gitlab, []string{"verify-image/keyless/verifyImages[0]", "verify-image/keyless/verifyImages[1]/attestations[0]", "verify-image/attested/attestations[0]"}},
		{"policy.json", release, []string{"docker:ghcr.io/acme"}},
		{"policy.json", signer.Identity{Kind: signer.Keyless, Issuer: "https://accounts.example.com", Subject: "release@example.com"}, []string{"docker:quay.io/acme", "docker:quay.io/data", "docker:quay.io/pki"}},
		{"openshift.yaml", release, []string{"keys"}},
		{"trusted_root.json", release, nil},
	} {
		list, err := Parse("f", []byte(file(t, tc.file)))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range list {
			if slices.ContainsFunc(a.Pins, func(p inventory.Pin) bool { return p.Matches(tc.id) }) {
				got = append(got, a.Name)
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v is pinned at %q, want %q", tc.file, tc.id, got, tc.want)
		}
	}
}

func pubKey(t testing.TB, name string) any {
	t.Helper()
	pub, _, err := signer.ParsePublicKey([]byte(file(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

// TestSameIDs holds that a place has one ID, whatever is pinned there.
func TestSameIDs(t *testing.T) {
	t.Parallel()
	const policy = "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: acme}\nspec:\n  images: [{glob: '**'}]\n  authorities:\n  - {name: a, key: {kms: 'awskms:///alias/%s'}}\n"
	ids := func(name, content string) (out []string) {
		list, err := Parse(name, []byte(content))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			out = append(out, a.ID)
		}
		return out
	}
	one := fmt.Sprintf(policy, "one")
	first := ids("f", one)
	if got := ids("f", fmt.Sprintf(policy, "two")); !slices.Equal(got, first) {
		t.Error("another key makes it another place")
	}
	if got := ids("f", "\ufeff"+strings.ReplaceAll(one, "\n", "\r\n")); !slices.Equal(got, first) {
		t.Error("line ends make it another place")
	}
	if got := ids("g", one); got[0] == first[0] {
		t.Error("another file is the same place")
	}
	// Two of one name, beside one whose name is what the second would get.
	twins := ids("f", strings.Join([]string{one, one, one, strings.Replace(one, "name: a,", "name: 'a#2',", 1), strings.Replace(one, "name: a,", "name: 'a#2',", 1)}, "---\n"))
	slices.Sort(twins)
	if len(twins) != 5 || len(slices.Compact(twins)) != 5 {
		t.Errorf("five places have the IDs %q", twins)
	}
}

// TestKeysAndCertificates reads files of PEM blocks.
func TestKeysAndCertificates(t *testing.T) {
	t.Parallel()
	known := names(t)
	for name, tc := range map[string]struct{ content, want string }{
		"one key":          {file(t, "release.pub"), "public key [] []\n  pin key release\n"},
		"two keys":         {file(t, "release.pub") + file(t, "ed25519.pub"), "public key [] []\n  pin key release\n  pin key ed25519\n"},
		"twice the same":   {file(t, "release.pub") + file(t, "release.pub"), "public key [] []\n  pin key release\n"},
		"words before":     {"# of the release team\n" + file(t, "release.pub") + "\nthe end\n", "public key [] []\n  pin key release\n"},
		"CRLF":             {strings.ReplaceAll(file(t, "release.pub"), "\n", "\r\n"), "public key [] []\n  pin key release\n"},
		"byte order mark":  {"\ufeff" + file(t, "release.pub"), "public key [] []\n  pin key release\n"},
		"chain of a CA":    {file(t, "fulcio.pem"), "certificate [] []\n  pin ca fulcio0\n  pin ca fulcio1\n"},
		"chain of a TSA":   {file(t, "tsa.pem"), "certificate [] []\n  pin tsa tsa0\n  pin tsa tsa1\n"},
		"a signer's":       {file(t, "signer.pem"), "certificate [] []\n  pin subject release@example.com\n  pin key key of signer0\n"},
		"a signer's chain": {file(t, "signer.pem") + file(t, "fulcio.pem"), "certificate [] []\n  pin subject release@example.com\n  pin key key of signer0\n  pin ca fulcio0\n  pin ca fulcio1\n"},
	} {
		list, err := Parse("f", []byte(tc.content))
		if got := render(list, known); err != nil || got != tc.want {
			t.Errorf("%s: got %s %v, want %s", name, got, err, tc.want)
		}
	}
}

// TestTrustedRoot holds the IDs against sigstore-go, whose reading of a trusted
// root is what evidence is verified with.
func TestTrustedRoot(t *testing.T) {
	t.Parallel()
	roots := map[string]string{"testdata": file(t, "trusted_root.json")}
	shared, _ := filepath.Glob("../../../shared/data/sigstore-root-signing/*trusted_root.json")
	for _, path := range shared {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		roots[path] = string(content)
	}
	for name, content := range roots {
		tr, err := root.NewTrustedRootFromJSON([]byte(content))
		if err != nil {
			t.Fatal(err)
		}
		want := map[inventory.Authority]bool{}
		for id := range tr.RekorLogs() {
			want[inventory.Authority{Role: inventory.RoleLog, ID: id}] = true
		}
		for id := range tr.CTLogs() {
			want[inventory.Authority{Role: inventory.RoleCT, ID: id}] = true
		}
		add := func(r inventory.Role, certs ...*x509.Certificate) {
			for _, c := range certs {
				if c != nil {
					sum := sha256.Sum256(c.Raw)
					want[inventory.Authority{Role: r, ID: hex.EncodeToString(sum[:])}] = true
				}
			}
		}
		for _, ca := range tr.FulcioCertificateAuthorities() {
			f := ca.(*root.FulcioCertificateAuthority)
			add(inventory.RoleCA, append(f.Intermediates, f.Root)...)
		}
		for _, tsa := range tr.TimestampingAuthorities() {
			s := tsa.(*root.SigstoreTimestampingAuthority)
			add(inventory.RoleTSA, append(s.Intermediates, s.Leaf, s.Root)...)
		}
		list, err := Parse(name, []byte(content))
		if err != nil || len(list) != 1 || len(list[0].Notes) > 0 {
			t.Fatalf("%s: %+v, %v", name, list, err)
		}
		for _, p := range list[0].Pins {
			if !want[p.Authority] {
				t.Errorf("%s: pins %+v, which sigstore-go does not have", name, p)
			}
			delete(want, p.Authority)
		}
		if len(want) > 0 {
			t.Errorf("%s: misses %v", name, want)
		}
	}
	// What a later version adds is noted, and the rest is read.
	newer := strings.Replace(file(t, "trusted_root.json"), `"mediaType"`, `"witnesses": [{"a": 1}], "mediaType"`, 1)
	list, err := Parse("f", []byte(newer))
	if err != nil || len(list) != 1 || len(list[0].Pins) != 7 || len(list[0].Notes) != 1 || !strings.Contains(list[0].Notes[0], "witnesses") {
		t.Errorf("got %+v, %v", list, err)
	}
	// A log without an ID has that of its key.
	list, err = Parse("f", []byte(regexp.MustCompile(`"logId": \{[^}]*\}`).ReplaceAllString(file(t, "trusted_root.json"), `"logId": {}`)))
	if known := names(t); err != nil || render(list, known)[:strings.Index(render(list, known), "  pin ct")] != "trusted_root.json [] []\n  pin log rekor\n  pin log ed25519\n" {
		t.Errorf("got %s, %v", render(list, known), err)
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	cip := func(authority string) string {
		return "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: acme}\nspec: {images: [{glob: '**'}], authorities: [" + authority + "]}\n"
	}
	for name, tc := range map[string]struct{ content, says string }{
		"nothing":               {"", "nothing in it"},
		"blank":                 {" \n\n", "nothing in it"},
		"words":                 {"hello", "nothing in it"},
		"a Deployment":          {"apiVersion: apps/v1\nkind: Deployment\nspec: {}\n", "nothing in it"},
		"a Deployment in JSON":  {`{"apiVersion":"apps/v1","kind":"Deployment"}`, "nothing in it"},
		"another group":         {"apiVersion: example.com/v1\nkind: ClusterImagePolicy\nspec: {}\n", "nothing in it"},
		"no kind":               {"apiVersion: policy.sigstore.dev/v1beta1\nspec: {}\n", "nothing in it"},
		"an empty list":         {"apiVersion: v1\nkind: List\nitems: []\n", "nothing in it"},
		"a package.json":        {`{"name":"x","version":"1"}`, "nothing in it"},
		"a signing config":      {`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json","caUrls":[]}`, "nothing in it"},
		"broken JSON":           {`{"default": [}`, "as JSON"},
		"JSON that is cut off":  {`{"default": [`, "as JSON: unexpected EOF"},
		"JSON within":           {`{"default": {"a":`, "as JSON: unexpected EOF"},
		"JSON and more":         {`{"default": []} 7`, "expected JSON objects"},
		"a name twice in JSON":  {`{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}`, `"default" appears twice`},
		"deep JSON":             {`{"default":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "}", "nested more than"},
		"broken YAML":           {"apiVersion: [\n", "as YAML"},
		"a name twice in YAML":  {cip("") + "kind: ClusterImagePolicy\n", "already defined"},
		"bytes":                 {"\xff\xfe\x00", "as YAML"},
		"a private key":         {"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "private key"},
		"cosign's private key":  {"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "private key"},
		"another PEM block":     {"-----BEGIN PGP PUBLIC KEY BLOCK-----\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n", "neither a public key nor a certificate"},
		"a broken key":          {"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "asn1"},
		"a broken trusted root": {`{"tlogs": 7}`, "trusted root cannot be read"},
		"a bad expression":      {cip("{name: a, keyless: {identities: [{issuer: i, subjectRegExp: '['}]}}"), `f: ClusterImagePolicy acme/a: spec.authorities[0].keyless.identities[0]: the regular expression "[" does not compile`},
		"look-ahead":            {cip("{name: a, keyless: {identities: [{issuerRegExp: '^(?!evil)', subject: s}]}}"), "does not compile"},
		"a long expression":     {cip("{name: a, keyless: {identities: [{issuer: i, subjectRegExp: '" + strings.Repeat("a", maxRegexp+1) + "'}]}}"), "is longer than"},
		"a bad one in Kyverno": {"apiVersion: kyverno.io/v1\nkind: ClusterPolicy\nmetadata: {name: p}\nspec: {rules: [{name: r, verifyImages: [{attestors: [{entries: [{keyless: {issuerRegExp: '(', subject: s}}]}]}]}]}",
			"ClusterPolicy p/r: spec.rules[0].verifyImages[0].attestors[0].entries[0].keyless: the regular expression"},
		"too large": {strings.Repeat(" ", maxContent+1), "is larger than"},
	} {
		list, err := Parse("f", []byte(tc.content))
		if err == nil || !strings.HasPrefix(err.Error(), "f: ") || !strings.Contains(err.Error(), tc.says) || len(list) > 0 {
			t.Errorf("%s: got %+v, %v, want an error that says %q", name, list, err, tc.says)
		}
		if unknown := strings.HasPrefix(tc.says, "nothing"); unknown != errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A bad expression beside a variable, and one that only looks bad to cosign.
	if _, err := Parse("f", []byte("apiVersion: kyverno.io/v1\nkind: ClusterPolicy\nmetadata: {name: p}\nspec: {rules: [{name: r, verifyImages: [{attestors: [{entries: [{keyless: {issuer: i, subjectRegExp: '{{ x }}('}}]}]}]}]}")); err != nil {
		t.Error(err)
	}
	// No secret gets into an error.
	if _, err := Parse("f", []byte("-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----\n")); strings.Contains(err.Error(), "c2VjcmV0") {
		t.Error(err)
	}
}

// TestKindsWithoutAnchors are known, and pin nobody.
func TestKindsWithoutAnchors(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"Kyverno rules of another kind": "apiVersion: kyverno.io/v1\nkind: ClusterPolicy\nmetadata: {name: p}\nspec: {rules: [{name: r, validate: {pattern: {a: b}}}]}",
		"reject by default":             `{"default":[{"type":"reject"}]}`,
		"no attestors":                  "apiVersion: policies.kyverno.io/v1\nkind: ImageValidatingPolicy\nspec: {}",
	} {
		if list, err := Parse("f", []byte(content)); err != nil || len(list) != 0 {
			t.Errorf("%s: got %+v, %v", name, list, err)
		}
	}
}

// TestNotes are about what is of another form than it should be.
func TestNotes(t *testing.T) {
	t.Parallel()
	const head = "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: acme}\n"
	for name, tc := range map[string]struct {
		content string
		notes   []string
	}{
		"no spec":          {head, []string{"it names no authority"}},
		"spec is a list":   {head + "spec: [1]\n", []string{"it names no authority", "spec is no mapping"}},
		"top level":        {head + "spec: {}\nother: 1\n'odd name': 2\n", []string{"it names no authority", `["odd name"] is not known here`, "other is not known here"}},
		"wrong forms":      {head + "spec: {mode: 1, images: {a: b}, authorities: [{name: a, key: {data: 5}}]}\n", []string{"spec.authorities[0].key.data is no text", "spec.images is no list", "spec.mode is no text"}},
		"numbers as names": {head + "spec: {authorities: [{name: a, key: {1: 2}}]}\n", []string{"spec.authorities[0].key is no mapping"}},
		"nothing in it":    {head + "spec: {authorities: [{name: a}]}\n", []string{"it pins nobody"}},
		"a key that is cut off beside a good one": {head + "spec: {authorities: [{name: a, key: {data: \"-----BEGIN PUBLIC KEY-----\\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\\n-----END PUBLIC KEY-----\\n-----BEGIN PUBLIC KEY-----\\nMCow\\n\"}}]}\n",
			[]string{"1 of its PEM blocks are broken"}},
		"null is nothing": {head + "spec: {mode: null, authorities: [{name: a, key: null, keyless: ~, more: ~}]}\n", []string{"it pins nobody"}},
		"a field only attestations show": {"apiVersion: kyverno.io/v1\nkind: Policy\nspec: {validationFailureAction: enforce, rules: [{name: r, verifyImages: [{newer: 1, attestations: [{attestors: [{entries: [{keys: {kms: a}}]}]}]}]}]}\n",
			[]string{"spec.rules[0].verifyImages[0].newer is not known here"}},
		"unknown static": {head + "spec: {authorities: [{name: a, static: {action: maybe}}]}\n", []string{`static action "maybe" is not known here`}},
		"a certificate for a key": {head + "spec: {authorities: [{name: a, keyless: {identities: [{issuer: i}], ca-cert: {data: \"-----BEGIN PUBLIC KEY-----\\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\\n-----END PUBLIC KEY-----\\n\"}}}]}\n",
			[]string{"has a public key where certificates are expected"}},
	} {
		list, err := Parse("f", []byte(tc.content))
		if err != nil || len(list) != 1 || len(list[0].Notes) != len(tc.notes) {
			t.Errorf("%s: got %+v, %v, want the notes %q", name, list, err, tc.notes)
			continue
		}
		for i, n := range tc.notes {
			if !strings.Contains(list[0].Notes[i], n) {
				t.Errorf("%s: note %q does not say %q", name, list[0].Notes[i], n)
			}
		}
	}
	// What can be read of a text is pinned, whatever stands beside it.
	for name, beside := range map[string]string{"cut off": "-----BEGIN PUBLIC KEY-----\nMCow\n", "no key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
		"of another kind": "-----BEGIN PGP PUBLIC KEY BLOCK-----\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n"} {
		for _, text := range []string{file(t, "release.pub") + beside, beside + file(t, "release.pub")} {
			data, err := json.Marshal(text)
			if err != nil {
				t.Fatal(err)
			}
			list, err := Parse("f", []byte(head+"spec: {authorities: [{name: a, key: {data: "+string(data)+"}}]}\n"))
			if err != nil || len(list) != 1 || len(list[0].Pins) != 1 || names(t)[list[0].Pins[0].Key] != "release" || len(list[0].Notes) != 1 {
				t.Errorf("a key beside one that is %s: got %+v, %v", name, list, err)
			}
		}
	}
	list, err := Parse("f", []byte(head+"spec: {authorities: [{name: a, "+many("field%d: 1, ", 300)+"}]}\n"))
	if err != nil || len(list) != 1 || len(list[0].Notes) != maxNotes+1 || !strings.Contains(list[0].Notes[maxNotes], "and more") {
		t.Errorf("got %d notes, %v", len(list[0].Notes), err)
	}
}

// TestBombs are small files that would become large.
func TestBombs(t *testing.T) {
	t.Parallel()
	laughs := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 12; i++ {
		laughs += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	const head = "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\n"
	const jsonHead = `{"apiVersion":"policy.sigstore.dev/v1beta1","kind":"ClusterImagePolicy","spec":{"authorities":`
	release := strings.ReplaceAll(file(t, "release.pub"), "\n", "\\n")
	for name, tc := range map[string]struct{ content, says string }{
		"a billion laughs":         {laughs, "with its aliases replaced it is larger than"},
		"an alias of itself":       {"a: &a [*a]\n", "nested more than"},
		"a long text, many times":  {head + "metadata: {name: &l " + strings.Repeat("x", 1<<20) + "}\nspec: {authorities: [" + strings.Repeat("{name: *l}, ", 2000) + "]}\n", "with its aliases replaced it is larger than"},
		"deep YAML":                {"a: " + strings.Repeat("[", 200) + strings.Repeat("]", 200), "nested more than"},
		"many anchors":             {jsonHead + `[{}` + strings.Repeat(",{}", maxAnchors) + `]}}`, "split it"},
		"many pins":                {jsonHead + `[{"keyless":{"identities":[{"issuer":"i"}` + many(`,{"subject":"s%d"}`, maxPins) + `]}}]}}`, "split it"},
		"many anchors of one list": {"apiVersion: kyverno.io/v1\nkind: Policy\nspec: {rules: [{verifyImages: [{key: \"" + release + "\", attestations: [" + strings.Repeat("{}, ", maxAnchors+1) + "]}]}]}\n", "split it"},
	} {
		if list, err := Parse("f", []byte(tc.content)); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %d anchors, %v, want an error that says %q", name, len(list), err, tc.says)
		}
	}
	// A long name is cut, and so what it names stays apart.
	long := head + "metadata: {name: " + strings.Repeat("é", 100000) + "}\nspec: {images: [" + many("{glob: 'g%d'}, ", 2*maxScope) + "{glob: '" + strings.Repeat("y", 5000) + "'}], authorities: [" +
		strings.Repeat("{name: "+strings.Repeat("x", 1000)+"}, ", 50) + "]}\n"
	list, err := Parse("f", []byte(long))
	size := 0
	for _, a := range list {
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		size += len(text)
	}
	if err != nil || len(list) != 50 || size > 2<<20 {
		t.Errorf("long names: %d anchors of %d bytes, %v", len(list), size, err)
	}

	archive := func(name string, size int64) string {
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(z)
		if err := w.WriteHeader(&tar.Header{Name: name, Size: size, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeros{}, size); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Close(), z.Close()); err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(b.Bytes())
	}
	for name, tc := range map[string]struct{ mirror, says string }{
		"a bomb":             {archive("repository/targets/other", maxArchive+1), "unpacks to more than"},
		"a bomb of a root":   {archive("repository/targets/trusted_root.json", maxContent+1), "trusted_root.json is larger than"},
		"zeros for a root":   {archive("repository/targets/trusted_root.json", 100), "trusted root cannot be read"},
		"without a root":     {archive("repository/targets/rekor.pub", 100), `it has no target "trusted_root.json"`},
		"no archive":         {"AAAA", "cannot be read"},
		"no base64":          {"'!'", "is no base64"},
		"nothing at all":     {`""`, "cannot be read"},
		"a cut off archive":  {archive("repository/targets/trusted_root.json", 5000)[:40], "cannot be read"},
		"gzip of no archive": {"H4sIAAAAAAAAA0vMTEwCAKs8VSYEAAAA", "cannot be read"},
	} {
		list, err := Parse("f", []byte("apiVersion: policy.sigstore.dev/v1alpha1\nkind: TrustRoot\nmetadata: {name: t}\nspec: {repository: {root: e30=, mirrorFS: "+tc.mirror+"}}\n"))
		if err != nil || len(list) != 1 || len(list[0].Notes) != 1 || !strings.Contains(list[0].Notes[0], tc.says) {
			t.Errorf("%s: got %+v, %v, want a note that says %q", name, list, err, tc.says)
		}
	}
	nested := strings.Repeat("{entries: [{attestor: ", 14) + "{}" + strings.Repeat("}]}", 14)
	list, err = Parse("f", []byte("apiVersion: kyverno.io/v1\nkind: ClusterPolicy\nmetadata: {name: p}\nspec: {validationFailureAction: Enforce, rules: [{name: r, verifyImages: [{attestors: ["+nested+"]}]}]}"))
	if err != nil || len(list) != 1 || !strings.Contains(strings.Join(list[0].Notes, "\n"), "nested more than 10 deep") {
		t.Errorf("nested attestors: %+v, %v", list, err)
	}
}

// many repeats a pattern with a number in it.
func many(pattern string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, pattern, i)
	}
	return b.String()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestWildcard holds the expression for a pattern against the matching that
// Kyverno does (deepMatchRune of go-wildcard).
func TestWildcard(t *testing.T) {
	t.Parallel()
	var match func(pattern, text []rune) bool
	match = func(pattern, text []rune) bool {
		switch {
		case len(pattern) == 0:
			return len(text) == 0
		case pattern[0] == '*':
			return match(pattern[1:], text) || len(text) > 0 && match(pattern, text[1:])
		case len(text) == 0:
			return false
		}
		return (pattern[0] == '?' || pattern[0] == text[0]) && match(pattern[1:], text[1:])
	}
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringOfN(rapid.SampledFrom([]rune("ab.*?(\n/é")), 0, 8, -1).Draw(t, "pattern")
		text := rapid.StringOfN(rapid.SampledFrom([]rune("ab.(\n/é")), 0, 8, -1).Draw(t, "text")
		expression := wildcard(pattern)
		if !strings.ContainsAny(pattern, "*?") {
			if expression != "" {
				t.Fatalf("%q became %q", pattern, expression)
			}
			return
		}
		if got, want := regexp.MustCompile(expression).MatchString(text), match([]rune(pattern), []rune(text)); got != want {
			t.Fatalf("%q, as %q, matches %q: %v", pattern, expression, text, got)
		}
	})
}

func FuzzAnchors(f *testing.F) {
	for _, name := range []string{"policy-controller.yaml", "kyverno.yaml", "kyverno-imagevalidating.yaml", "policy.json", "trusted_root.json", "openshift.yaml", "release.pub", "tsa.pem", "signer.pem"} {
		content := file(f, name)
		f.Add([]byte(content))
		for _, document := range strings.Split(content, "---\n") {
			f.Add([]byte(document))
		}
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		list, err := Parse("f", content)
		again, errAgain := Parse("f", content)
		if fmt.Sprint(err) != fmt.Sprint(errAgain) || !reflect.DeepEqual(list, again) {
			t.Fatalf("read twice: %+v %v and %+v %v", list, err, again, errAgain)
		}
		if err != nil {
			if len(list) > 0 {
				t.Fatalf("got %+v with %v", list, err)
			}
			return
		}
		ids := map[string]bool{}
		for _, a := range list {
			if ids[a.ID] || len(a.ID) != 64 || a.Kind == "" || a.Pins == nil || len(a.Pins) == 0 && len(a.Notes) == 0 || len(a.Notes) > maxNotes+1 {
				t.Fatalf("got %+v", a)
			}
			ids[a.ID] = true
			for _, p := range a.Pins {
				for _, expression := range []string{p.IssuerRegexp, p.SubjectRegexp} {
					if _, err := regexp.Compile(expression); err != nil {
						t.Fatal(err)
					}
				}
				if p == (inventory.Pin{}) || p.Key != "" && len(p.Key) != 64 {
					t.Fatalf("got %+v", p)
				}
				for _, id := range []signer.Identity{{Kind: signer.Key, Subject: p.Key}, {Kind: signer.Keyless, Issuer: p.Issuer, Subject: p.Subject}} {
					if p.Matches(id) && (p.Reference != "" || p.Authority != (inventory.Authority{})) {
						t.Fatalf("%+v matches %v", p, id)
					}
				}
			}
			text, err := json.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			var back inventory.Anchor
			if err := json.Unmarshal(text, &back); err != nil || back.ID != a.ID || !slices.Equal(back.Pins, a.Pins) {
				t.Fatalf("%s: %+v, %v", text, back, err)
			}
		}
	})
}
