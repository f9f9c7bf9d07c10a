//go:build e2e && linux

package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/reseal/reseal/internal/sandbox"
)

// perCell is how many images are re-signed by one kind of signer in one format
// with one set of services.
const perCell = 5

// What is on an image that is re-signed, and so what is made anew.
const (
	both         = "both"          // a ".sig" and a bundle
	attestation  = ".att"          // a ".sig", and an SBOM in an ".att"
	attestBundle = "attest-bundle" // a bundle, and an SBOM in another
)

// cells are the formats of the matrix, with the signatures made of one image.
var cells = []struct {
	name string
	made int
}{{legacy, 1}, {bundle, 1}, {both, 2}, {attestation, 2}, {attestBundle, 2}}

// A holder is one kind of signer.
type holder struct {
	name    string
	binary  string
	needs   []string // environment
	flags   []string // how reseal signs as it
	enrol   []string // flags of "init"
	enrolBy []string // or arguments of "signer add"
	accept  []string // how cosign is told whom to accept
	refuse  []string // somebody else
	public  string   // file of the public key; empty: keyless
}

// A group is the images that one signer re-signs with one set of services.
type group struct {
	*world
	holder
	services string
	with     []string // flags of "resign" for the services
	cells    map[string][]*image
	plan     string
}

func (g *group) home() string { return "home-" + g.id() }
func (g *group) id() string {
	return strings.ToLower(strings.NewReplacer(" ", "", "#", "", "+", "-").Replace(g.holder.name + "-" + g.services))
}

func (g *group) reseal(args ...string) result {
	return g.world.with(g.needs...).run(g.binary, append([]string{"--home", g.home(), "--actor", "carol"}, args...)...)
}

// The sets of services, as the table calls them.
const (
	byNothing = "none"
	byTSA     = "TSA"
	byRekorV2 = "Rekor v2+TSA"
	byRekorV1 = "Rekor v1+TSA" // the log is a stand-in
)

// TestResign re-signs with every kind of signer, in every format, with every set
// of services, and lets real consumers judge what they can read. It prints which
// consumer reads what.
func TestResign(t *testing.T) {
	token := installToken(t) // while there is a network
	if isolated(t) {
		return
	}
	w := newWorld(t)
	step := w.steps()
	stand, err := sandbox.Start(t.Context(), sandbox.Options{})
	w.check(err)
	t.Cleanup(func() { stand.Close() }) //nolint:errcheck // the test is over
	w.write("rekor1.pub", w.get(stand.RekorURL()+"/api/v1/log/publicKey"))
	s := w.sigstore("--rekor", "url="+stand.RekorURL()+",public-key=rekor1.pub,start-time=2020-01-01T00:00:00Z")
	holders := []holder{w.keyHolder(), w.keylessHolder(s), w.transitHolder()}
	if token {
		holders = append(holders, w.tokenHolder())
	} else {
		fmt.Println("e2e  SoftHSM is not installed: no key in a token")
	}
	step("registry, timestamp authority, Fulcio, CT log, Rekor v2, a stand-in for Vault")

	base := w.signedBase()
	step("push %d images and sign them with the old key", len(base))
	var groups []*group
	add := func(h holder, services string, with ...string) {
		groups = append(groups, w.group(h, services, base, with))
	}
	for _, h := range holders {
		if h.public != "" { // keyless: refused, see below
			add(h, byNothing)
		}
		add(h, byTSA, "--timestamp-server-url", w.tsa)
		add(h, byRekorV2, "--signing-config", timesAndV2)
		if h.name == "key" || h.name == "keyless" {
			add(h, byRekorV1, "--timestamp-server-url", w.tsa, "--rekor-url", stand.RekorURL())
		}
	}
	w.parallel(len(groups), func(n int) error { return groups[n].prepare() })
	from := w.theft()
	w.parallel(len(groups), func(n int) error { return groups[n].decide(from) })
	step("init, scan, incident, plan, approve in %d homes; the signatures of every other image lost", len(groups))

	for _, g := range groups {
		g.resigned()
	}
	step("re-sign")
	w.unstampedKeyless(groups)

	c := w.newConsumers(s)
	c.judge(groups)
	fmt.Print(c.table())
	t.Log("\n" + c.table())
	step("%d judgements of real consumers", c.asked)

	w.onTop(groups, c)
	step("others sign on top of it, and copy it")
}

// signedBase pushes images and has real cosign sign them with the old key, in
// each format.
func (w *world) signedBase() []*image {
	w.Helper()
	var images []*image
	for _, c := range cells {
		for n := range perCell {
			i := &image{repository: w.host + "/base/app", tag: fmt.Sprintf("%s-%d", strings.Trim(c.name, "."), n), format: legacy, timestamp: true}
			if c.name == bundle || c.name == attestBundle {
				i.format = bundle
			}
			i.sbom = c.name == attestation || c.name == attestBundle
			i.both = c.name == both
			images = append(images, i)
		}
	}
	w.parallel(len(images), func(n int) error { return w.publish(images[n]) })
	return images
}

// group gives a signer copies of the images in a repository of its own.
func (w *world) group(h holder, services string, base []*image, with []string) *group {
	w.Helper()
	g := &group{world: w, holder: h, services: services, with: with, cells: map[string][]*image{}}
	repositories := w.path("storage", "docker", "registry", "v2", "repositories")
	w.check(os.CopyFS(filepath.Join(repositories, g.id(), "app"), os.DirFS(filepath.Join(repositories, "base", "app"))))
	for n, i := range base {
		i := *i
		i.repository = w.host + "/" + g.id() + "/app"
		g.cells[cells[n/perCell].name] = append(g.cells[cells[n/perCell].name], &i)
	}
	return g
}

// prepare makes a home that knows the images.
func (g *group) prepare() error {
	args := []string{"init", "--quorum", "1", "--approver", "alice=alice.pub", "--approver", "bob=bob.pub",
		"--signer", "release=old.pub", "--trusted-root", "trusted_root.json"}
	if err := g.reseal(append(args, g.enrol...)...).failure(); err != nil {
		return err
	}
	if g.enrolBy != nil {
		if err := g.reseal(append([]string{"signer", "add", "next", "--reason", "e2e"}, g.enrolBy...)...).failure(); err != nil {
			return err
		}
	}
	return g.reseal("scan", g.cells[legacy][0].repository).failure()
}

// decide plans and approves. Then the registry loses the ".sig" and ".att" of
// every other image, so that some are made anew and others added to.
func (g *group) decide(from time.Time) error {
	if err := g.reseal("incident", "open", "INC-1", "--signer", "release", "--from", from.Format(time.RFC3339), "--reason", "e2e").failure(); err != nil {
		return err
	}
	r := g.reseal("incident", "plan", "INC-1", "--new-signer", "next", "--skew", "1s", "--json")
	if err := r.failure(); err != nil {
		return err
	}
	g.plan = decode[struct{ Plan string }](g.world, r).Plan
	for _, who := range []string{"alice", "bob"} {
		if err := g.reseal("incident", "approve", g.plan, "--as", who, "--key", who+".key").failure(); err != nil {
			return err
		}
	}
	for _, images := range g.cells {
		for n, i := range images {
			if n%2 > 0 {
				continue
			}
			repo, err := name.NewRepository(i.repository)
			if err != nil {
				return err
			}
			for _, suffix := range []string{".sig", ".att"} {
				desc, err := remote.Head(repo.Tag(strings.Replace(i.digest, ":", "-", 1) + suffix))
				if isNotFound(err) {
					continue
				}
				if err == nil {
					err = remote.Delete(repo.Digest(desc.Digest.String()))
				}
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (g *group) resignArgs(with ...string) []string {
	return slices.Concat([]string{"resign", g.plan, "--apply", "--json"}, g.flags, with)
}

// resigned tries the signer, re-signs everything, and once more, which signs
// nothing. Groups take turns: SoftHSM's token in files answers one process at a
// time.
func (g *group) resigned() {
	g.Helper()
	g.ok(g.reseal(append([]string{"signer", "test"}, g.flags...)...))
	made := 0
	for _, c := range cells {
		made += perCell * c.made
	}
	first := decode[resigned](g.world, g.reseal(g.resignArgs(g.with...)...))
	g.equal(g.id()+": re-signed", first.counts(), resigned{Planned: made, Signed: made}.counts())
	again := decode[resigned](g.world, g.reseal(g.resignArgs(g.with...)...))
	g.equal(g.id()+": re-signed again", again.counts(), resigned{Planned: made, Already: made}.counts())
	g.configured()
}

// configured checks that consumers get to see both image configurations: in
// what was made anew the one that lists no layer, where cosign was first its own.
// And that the proofs are there which the services give: cosign asks for those of
// bundles, but of legacy signatures it verifies a timestamp only where there is one.
func (g *group) configured() {
	g.Helper()
	for _, cell := range []string{legacy, both, attestation} {
		for n, i := range g.cells[cell] {
			repo, err := name.NewRepository(i.repository)
			g.check(err)
			suffixes := []string{".sig"}
			if cell == attestation {
				suffixes = append(suffixes, ".att")
			}
			for _, suffix := range suffixes {
				m, err := manifest(repo.Tag(strings.Replace(i.digest, ":", "-", 1) + suffix))
				g.check(err)
				config, err := blob(repo, m.Config)
				g.check(err)
				var image struct {
					RootFS struct {
						DiffIDs []string `json:"diff_ids"`
					} `json:"rootfs"`
				}
				g.check(json.Unmarshal(config, &image))
				layers, listed := 2, 2 // cosign's and ours
				if n%2 == 0 {
					layers, listed = 1, 0
				}
				if len(m.Layers) != layers {
					g.Fatalf("%s%s: expected %d signatures, there are %d", i.ref(), suffix, layers, len(m.Layers))
				}
				g.equal(i.ref()+suffix+": layers in the configuration", len(image.RootFS.DiffIDs), listed)
				ours := m.Layers[layers-1]
				g.equal(g.id()+suffix+": has a timestamp", stamped(ours), g.services != byNothing)
				g.equal(g.id()+suffix+": has an entry of a log", ours.Annotations["dev.sigstore.cosign/bundle"] != "", g.services == byRekorV1)
				g.equal(g.id()+suffix+": has a certificate", ours.Annotations["dev.sigstore.cosign/certificate"] != "", g.public == "")
			}
		}
	}
}

// unstampedKeyless checks that a keyless signature without any proof of its time
// is not made.
func (w *world) unstampedKeyless(groups []*group) {
	w.Helper()
	n := slices.IndexFunc(groups, func(g *group) bool { return g.public == "" })
	r := w.exits(groups[n].reseal(groups[n].resignArgs()...), 1)
	if !strings.Contains(r.stderr, "outlives its certificate only with a proof of its time") {
		w.Errorf("expected to be refused without services: %s", r)
	}
}

func (w *world) keyHolder() holder {
	return holder{name: "key", binary: "reseal", flags: []string{"--key", "new.key"}}.of("new.pub")
}

// of completes the holder of a public key.
func (h holder) of(public string) holder {
	h.public, h.enrol = public, []string{"--standby", "next=" + public}
	h.accept, h.refuse = []string{"--key", public}, []string{"--key", "builder.pub"}
	return h
}

func (w *world) keylessHolder(s *sigstore) holder {
	identity := func(who string) []string {
		return []string{"--certificate-identity", who + "@e2e.example", "--certificate-oidc-issuer", s.issuer}
	}
	return holder{name: "keyless", binary: "reseal", flags: []string{"--fulcio-url", s.fulcio, "--identity-token", "alice.token"},
		enrolBy: identity("alice"), accept: identity("alice"), refuse: identity("bob")}
}

// transitHolder signs with a key in a stand-in for Vault's transit engine, whose
// public key real cosign asks for.
func (w *world) transitHolder() holder {
	w.Helper()
	const token = "e2e"
	vault := sandbox.NewTransit(token)
	w.check(vault.Rotate("release"))
	server := httptest.NewServer(http.Handler(vault))
	w.Cleanup(server.Close)
	h := holder{name: "hashivault", binary: "reseal", flags: []string{"--key", "hashivault://release"},
		needs: []string{"VAULT_ADDR=" + server.URL, "VAULT_TOKEN=" + token}}
	w.write("vault.pub", w.ok(w.with(h.needs...).cosign3("public-key", "--key", "hashivault://release")).stdout)
	return h.of("vault.pub")
}

// tokenModule is Debian's SoftHSM, a token in files.
const tokenModule = "/usr/lib/softhsm/libsofthsm2.so"

// installToken reports whether SoftHSM is installed, and installs it where that
// is allowed.
func installToken(t *testing.T) bool {
	installed := func() bool {
		_, tool := exec.LookPath("pkcs11-tool")
		_, err := os.Stat(tokenModule)
		return err == nil && tool == nil
	}
	apt, err := exec.LookPath("apt-get")
	if installed() || err != nil || os.Getuid() != 0 {
		return installed()
	}
	for _, args := range [][]string{{"update"}, {"install", "-y", "--no-install-recommends", "softhsm2", "opensc"}} {
		cmd := exec.Command(apt, args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Logf("%s: %v\n%s", cmd, err, out)
		}
	}
	return installed()
}

// tokenHolder signs with a key in SoftHSM.
func (w *world) tokenHolder() holder {
	w.Helper()
	const pin = "12345"
	h := holder{name: "PKCS#11", binary: "reseal-pkcs11", flags: []string{"--key", "pkcs11:token=dr;object=k1?module-path=" + tokenModule},
		needs: []string{"SOFTHSM2_CONF=" + w.path("softhsm2.conf"), "COSIGN_PKCS11_PIN=" + pin}}
	w.check(os.Mkdir(w.path("tokens"), 0o700))
	w.write("softhsm2.conf", "directories.tokendir = "+w.path("tokens")+"\nobjectstore.backend = file\nlog.level = ERROR\n")
	for _, args := range [][]string{
		{"softhsm2-util", "--init-token", "--free", "--label", "dr", "--pin", pin, "--so-pin", pin},
		{"pkcs11-tool", "--module", tokenModule, "--login", "--pin", pin, "--token-label", "dr", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "k1", "--id", "01"},
		{"pkcs11-tool", "--module", tokenModule, "--token-label", "dr", "--read-object", "--type", "pubkey", "--id", "01", "--output-file", w.path("token.der")},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), h.needs...)
		if out, err := cmd.CombinedOutput(); err != nil {
			w.Fatalf("%s: %v: %s", cmd, err, out)
		}
	}
	_, err := x509.ParsePKIXPublicKey([]byte(w.read("token.der")))
	w.check(err)
	w.write("token.pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte(w.read("token.der"))})))
	return h.of("token.pub")
}

// onTop has real cosign, and what Podman signs with, sign with another key on top
// of what reseal wrote, and copy it to another repository. Nothing may be lost by
// it.
func (w *world) onTop(groups []*group, c *consumers) {
	w.Helper()
	n := slices.IndexFunc(groups, func(g *group) bool { return g.holder.name == "key" && g.services == byTSA })
	g := groups[n]
	// Of every two images the ".sig" or ".att" of the first is ours alone, that
	// of the second began as cosign's.
	by2, by3, byPodman := g.cells[legacy][:2], g.cells[legacy][2:4], g.cells[attestation][2:4]
	attested, bundles := g.cells[attestation][:2], g.cells[bundle][:2]
	anything := c.temporary(map[string]any{"default": []any{map[string]any{"type": "insecureAcceptAnything"}}})
	w.parallel(2, func(n int) error {
		sign2 := []string{"sign", "--key", "builder.key", "--yes"}
		sign3 := append(slices.Clone(sign2), "--signing-config", timestamps, "--trusted-root", "trusted_root.json")
		onBundle := w.cosign2(append(append(sign2, sign3[4:]...), "--new-bundle-format", bundles[n].ref())...)
		if n > 0 {
			onBundle = w.cosign3(append(sign3, bundles[n].ref())...)
		}
		return errors.Join(onBundle.failure(),
			w.cosign2(append(sign2, "--tlog-upload=false", "--timestamp-server-url", w.tsa, by2[n].ref())...).failure(),
			w.cosign3(append(sign2, "--tlog-upload=false", "--timestamp-server-url", w.tsa, "--use-signing-config=false", "--new-bundle-format=false", by3[n].ref())...).failure(),
			w.run("miniskopeo", "-policy", anything, "-registries.d", "registries.d", "-sign-by-sigstore-private-key", "builder.key",
				"-to", "docker://"+byPodman[n].repository+":"+byPodman[n].tag, byPodman[n].ref()).failure(),
			w.attest(attested[n], "builder.key", "spdxjson", "sbom.json", true))
	})
	ask := func(key string, i *image, what string, elsewhere bool) error {
		signer := *g
		signer.holder = signer.holder.of(key)
		var errs []error
		for _, who := range c.list {
			if !who.reads(g, what) {
				continue
			}
			// It wants signatures to name the repository that the image is in, and the
			// old key signed before the image was copied here.
			refused := who.name == containersImage && (elsewhere || key == "old.pub")
			for _, r := range who.ask(&signer, what, signer.accept, []*image{i}) {
				if r.code < 0 || (r.code == 0) == refused {
					errs = append(errs, fmt.Errorf("expected refused=%t: %s", refused, r))
				}
			}
		}
		return errors.Join(errs...)
	}
	all := func(n int, i *image, what string, elsewhere bool) error {
		err := errors.Join(ask("new.pub", i, what, elsewhere), ask("builder.pub", i, what, elsewhere))
		if n > 0 || what == readsBundle { // of others the registry lost it
			err = errors.Join(err, ask("old.pub", i, what, elsewhere))
		}
		return err
	}
	w.parallel(2, func(n int) error {
		return errors.Join(all(n, by2[n], readsSig, false), all(n, by3[n], readsSig, false), all(n, byPodman[n], readsSig, false),
			all(n, attested[n], readsAtt, false), all(n, bundles[n], readsBundle, false))
	})
	w.parallel(4, func(k int) error {
		n, cosign := k/2, []string{"cosign2", "cosign3"}[k%2]
		var errs []error
		copied := func(from *image) *image {
			i := *from
			i.repository += "-copied-by-" + cosign
			errs = append(errs, w.run(cosign, "copy", from.ref(), i.repository+":"+i.tag).failure())
			return &i
		}
		errs = append(errs, all(n, copied(by2[n]), readsSig, true), all(n, copied(by3[n]), readsSig, true), all(n, copied(attested[n]), readsAtt, true))
		if from := byPodman[n]; cosign == "cosign2" { // once is enough
			i := *from
			i.repository += "-copied-by-podman"
			errs = append(errs, w.run("miniskopeo", "-policy", anything, "-registries.d", "registries.d",
				"-to", "docker://"+i.repository+":"+i.tag, from.ref()).failure(), all(n, &i, readsSig, true))
		}
		// Bundles it leaves behind where the registry has no referrers API, its own
		// like ours.
		i := copied(bundles[n])
		if ours, its := ask("new.pub", i, readsBundle, true), ask("old.pub", i, readsBundle, true); (ours == nil) != (its == nil) {
			errs = append(errs, fmt.Errorf("%s copies one of two bundles: ours: %v; its own: %v", cosign, ours, its))
		}
		return errors.Join(errs...)
	})
}
