//go:build e2e && linux

package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
)

// What a consumer reads of an image.
const (
	readsSig    = ".sig"
	readsAtt    = ".att"
	readsBundle = "bundle"
	readsClaim  = "attestation bundle"
)

// containersImage is the policy engine of Podman, Skopeo and CRI-O.
const containersImage = "containers/image"

// reads are what is judged of the images of each cell.
var reads = map[string][]string{
	legacy:       {readsSig},
	bundle:       {readsBundle},
	both:         {readsSig, readsBundle},
	attestation:  {readsSig, readsAtt},
	attestBundle: {readsBundle, readsClaim},
}

// A consumer is a real verifier.
type consumer struct {
	name      string
	noBundles bool // where a ".sig" is beside a bundle it is the ".sig" that it reads
	noClaims  bool
	// reads reports whether it is expected to accept what a group's signer made,
	// of what it reads.
	reads func(g *group, what string) bool
	// ask asks it about images. Who is to be accepted is told in cosign's flags.
	ask func(g *group, what string, who []string, images []*image) []result
}

// consumers are all that judge.
type consumers struct {
	*world
	issuer string
	list   []consumer

	mu    sync.Mutex
	asked int
	said  map[string]tally // by consumer, what, signer and services
}

func (w *world) newConsumers(s *sigstore) *consumers {
	w.Helper()
	for _, peer := range []string{"pctester", "miniskopeo"} {
		if _, err := os.Stat(binary(w.T, peer)); err != nil {
			w.Fatalf("%v: run \"make peers\" first", err)
		}
	}
	c := &consumers{world: w, issuer: s.issuer, said: map[string]tally{}}
	w.write("trustroot.json", c.trustRoot(s))
	w.check(os.Mkdir(w.path("registries.d"), 0o700))
	w.write("registries.d/default.yaml", "default-docker:\n  use-sigstore-attachments: true\n")
	for _, cosign := range []string{"cosign2", "cosign3"} {
		c.list = append(c.list, consumer{name: cosign,
			reads: func(*group, string) bool { return true },
			ask: func(g *group, what string, who []string, images []*image) []result {
				return []result{c.cosign(cosign, g, what, who, images)}
			}})
	}
	each := func(ask func(g *group, what string, who []string, i *image) result) func(*group, string, []string, []*image) []result {
		return func(g *group, what string, who []string, images []*image) (out []result) {
			for _, i := range images {
				out = append(out, ask(g, what, who, i))
			}
			return out
		}
	}
	c.list = append(c.list, consumer{name: "policy-controller", noBundles: true,
		reads: func(_ *group, what string) bool { return what == readsSig || what == readsAtt },
		ask:   each(c.policyController),
	}, consumer{name: containersImage, noBundles: true, noClaims: true,
		// Of keyless signatures it wants an entry in a Rekor v1 log.
		reads: func(g *group, what string) bool {
			return what == readsSig && (g.public != "" || g.services == byRekorV1)
		},
		ask: each(c.podman),
	})
	return c
}

// cosign asks a real cosign, as strictly as the services allow.
func (c *consumers) cosign(name string, g *group, what string, who []string, images []*image) result {
	args := append([]string{"verify"}, who...)
	if what == readsAtt || what == readsClaim {
		args = append([]string{"verify-attestation", "--type", "spdxjson"}, who...)
	}
	w := c.world
	isBundle := what == readsBundle || what == readsClaim
	// In a bundle the entry of a Rekor v2 log is wanted, too. A legacy signature
	// can hold none.
	if g.services != byRekorV1 && !(isBundle && g.services == byRekorV2) {
		args = append(args, "--insecure-ignore-tlog")
	}
	if g.services != byNothing {
		args = append(args, "--use-signed-timestamps")
	}
	if name == "cosign2" && what == readsAtt { // here it takes no trusted root
		w = w.with("SIGSTORE_CT_LOG_PUBLIC_KEY_FILE=ct.pub", "SIGSTORE_REKOR_PUBLIC_KEY=rekor1.pub")
		args = append(args, "--timestamp-certificate-chain", "tsa.pem")
		if g.public == "" {
			args = append(args, "--ca-roots", "fulcio.pem")
		}
	} else {
		args = append(args, "--trusted-root", "trusted_root.json")
	}
	args = append(args, fmt.Sprintf("--new-bundle-format=%t", isBundle))
	for _, i := range images {
		args = append(args, i.ref())
	}
	return w.run(name, args...)
}

// policyController asks the policy-controller.
func (c *consumers) policyController(g *group, what string, who []string, i *image) result {
	authority := map[string]any{"name": "next"}
	if who[0] == "--key" {
		authority["key"] = map[string]any{"data": c.read(who[1]), "hashAlgorithm": "sha256"}
	} else {
		authority["keyless"] = map[string]any{"url": "https://fulcio.example", "trustRootRef": "e2e",
			"identities": []any{map[string]any{"subject": who[1], "issuer": c.issuer}}}
	}
	switch g.services {
	case byNothing:
	case byRekorV1:
		authority["ctlog"] = map[string]any{"trustRootRef": "e2e"}
	default:
		authority["rfc3161timestamp"] = map[string]any{"trustRootRef": "e2e"}
	}
	if what == readsAtt || what == readsClaim {
		authority["attestations"] = []any{map[string]any{"name": "sbom", "predicateType": sbomType}}
	}
	file := c.temporary(map[string]any{"apiVersion": "policy.sigstore.dev/v1beta1", "kind": "ClusterImagePolicy", "metadata": map[string]any{"name": "e2e"},
		"spec": map[string]any{"images": []any{map[string]any{"glob": "**"}}, "authorities": []any{authority}}})
	return c.run("pctester", "--policy", file, "--trustroot", "trustroot.json", "--image", i.ref())
}

// trustRoot is the policy-controller's form of a trusted root.
func (c *consumers) trustRoot(s *sigstore) string {
	c.Helper()
	encode := func(file string) string { return base64.StdEncoding.EncodeToString([]byte(c.read(file))) }
	authority := func(url, file string) []any {
		return []any{map[string]any{"subject": map[string]any{"organization": "e2e", "commonName": "e2e"}, "uri": url, "certChain": encode(file)}}
	}
	log := func(url, file string) []any {
		return []any{map[string]any{"baseURL": url, "hashAlgorithm": "sha-256", "publicKey": encode(file)}}
	}
	root, err := json.Marshal(map[string]any{"apiVersion": "policy.sigstore.dev/v1alpha1", "kind": "TrustRoot", "metadata": map[string]any{"name": "e2e"},
		"spec": map[string]any{"sigstoreKeys": map[string]any{"certificateAuthorities": authority(s.fulcio, "fulcio.pem"),
			"ctLogs": log("http://ct.local", "ct.pub"), "tLogs": log("http://rekor1.local", "rekor1.pub"), "timestampAuthorities": authority(c.tsa, "tsa.pem")}}})
	c.check(err)
	return string(root)
}

// podman asks the policy engine of Podman, Skopeo and CRI-O.
func (c *consumers) podman(g *group, _ string, who []string, i *image) result {
	requirement := map[string]any{"type": "sigstoreSigned", "signedIdentity": map[string]any{"type": "matchRepository"}}
	if who[0] == "--key" {
		requirement["keyPath"] = c.path(who[1])
	} else {
		requirement["fulcio"] = map[string]any{"caPath": c.path("fulcio.pem"), "oidcIssuer": c.issuer, "subjectEmail": who[1]}
		requirement["rekorPublicKeyPath"] = c.path("rekor1.pub")
	}
	if g.services == byRekorV1 {
		requirement["rekorPublicKeyPath"] = c.path("rekor1.pub")
	}
	file := c.temporary(map[string]any{"default": []any{map[string]any{"type": "reject"}},
		"transports": map[string]any{"docker": map[string]any{"": []any{requirement}}}})
	to, err := os.MkdirTemp(c.dir, "copy")
	if err != nil {
		return result{command: "miniskopeo", code: -1, stderr: err.Error()}
	}
	return c.run("miniskopeo", "-policy", file, "-registries.d", "registries.d", "-to", to, i.ref())
}

// temporary writes JSON to a file and returns its name.
func (c *consumers) temporary(v any) string {
	f, err := os.CreateTemp(c.dir, "policy-*.json")
	if err != nil {
		c.Error(err)
		return ""
	}
	if err := errors.Join(json.NewEncoder(f).Encode(v), f.Close()); err != nil {
		c.Error(err)
	}
	return f.Name()
}

// judge asks every consumer about every cell of every group, and each also
// whether it refuses somebody else's signatures.
func (c *consumers) judge(groups []*group) {
	c.Helper()
	type question struct {
		*group
		consumer
		cell, what string
	}
	var all []question
	for _, g := range groups {
		for _, cell := range cells {
			for _, what := range reads[cell.name] {
				for _, who := range c.list {
					switch {
					case cell.name == both && what == readsSig && who.name == "cosign2":
						continue // it sees no ".sig" beside a bundle, whatever it is told
					case cell.name == both && what == readsBundle && who.noBundles:
						continue
					case (what == readsAtt || what == readsClaim) && who.noClaims:
						continue
					}
					all = append(all, question{g, who, cell.name, what})
				}
			}
		}
	}
	errs := make([]error, len(all))
	c.parallel(len(all), func(n int) error {
		q := all[n]
		images, expected := q.cells[q.cell], q.consumer.reads(q.group, q.what)
		got := tally{of: len(images)}
		results := q.ask(q.group, q.what, q.accept, images)
		for _, r := range results {
			if r.code == 0 {
				got.accepted += len(images) / len(results)
			}
			if r.code < 0 || (r.code == 0) != expected {
				errs[n] = errors.Join(errs[n], fmt.Errorf("%s, %s of %s, %s: expected accepted=%t of: %s", q.group.id(), q.what, q.cell, q.consumer.name, expected, r))
			}
		}
		wrong := q.ask(q.group, q.what, q.refuse, images[:1])
		if wrong[0].code <= 0 {
			errs[n] = errors.Join(errs[n], fmt.Errorf("%s, %s of %s, %s: expected somebody else to be refused: %s", q.group.id(), q.what, q.cell, q.consumer.name, wrong[0]))
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.asked += len(images) + 1
		key := strings.Join([]string{q.consumer.name, q.what, q.holder.name, q.services}, "\t")
		sum := c.said[key]
		c.said[key] = tally{sum.accepted + got.accepted, sum.of + got.of}
		return nil
	})
	for _, err := range errs {
		if err != nil {
			c.Error(err)
		}
	}
}

// table draws which consumer accepted what.
func (c *consumers) table() string {
	signers, services := []string{"key", "PKCS#11", "hashivault", "keyless"}, []string{byNothing, byTSA, byRekorV2, byRekorV1}
	var out strings.Builder
	fmt.Fprintf(&out, "accepted by real consumers, of all images asked about:\n%-18s %-19s %-13s", "consumer", "reads", "services")
	for _, s := range signers {
		fmt.Fprintf(&out, " %10s", s)
	}
	out.WriteString("\n")
	for _, who := range c.list {
		for _, what := range []string{readsSig, readsAtt, readsBundle, readsClaim} {
			for _, with := range services {
				line, asked := fmt.Sprintf("%-18s %-19s %-13s", who.name, what, with), false
				for _, s := range signers {
					cell := "-"
					if got, ok := c.said[strings.Join([]string{who.name, what, s, with}, "\t")]; ok {
						cell, asked = fmt.Sprintf("%d/%d", got.accepted, got.of), true
					}
					line += fmt.Sprintf(" %10s", cell)
				}
				if asked {
					out.WriteString(line + "\n")
				}
			}
		}
	}
	return out.String()
}
