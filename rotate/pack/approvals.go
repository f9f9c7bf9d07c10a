package pack

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"golang.org/x/crypto/ssh"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// The documents below are rotate's, as far as a verifier needs them. They are
// read here anew, from their files, so that what is verified is what is written
// there and not what the code that wrote it means.

type approverSet struct {
	Quorum   int            `json:"quorum"`
	Severity map[string]int `json:"severity"`
	Roles    map[string]int `json:"roles"`
	People   []person       `json:"people"`
}

// needed returns how many must approve: no fewer than at what is less grave.
// What is of no known severity needs as many as the gravest.
func (s approverSet) needed(severity string) int {
	n := s.Quorum
	for _, known := range []string{"low", "medium", "high", "critical"} {
		if n = max(n, s.Severity[known]); known == severity {
			break
		}
	}
	return n
}

type person struct {
	Name         string       `json:"name"`
	Aliases      []string     `json:"aliases"`
	Roles        []string     `json:"roles"`
	Credentials  []credential `json:"credentials"`
	ProposesOnly bool         `json:"proposes_only"`
}

type credential struct {
	PublicKey string `json:"public_key"`
	SSH       string `json:"ssh"`
	Issuer    string `json:"issuer"`
	Subject   string `json:"subject"`
}

// is reports whether a name is the person's, as the journal may know it.
func (p person) is(name string) bool {
	name = strings.TrimSpace(name)
	return strings.EqualFold(p.Name, name) || slices.ContainsFunc(p.Aliases, func(a string) bool { return strings.EqualFold(a, name) })
}

type approval struct {
	Schema    string `json:"schema"`
	Kind      string `json:"kind"`
	Digest    string `json:"digest"`
	Approver  string `json:"approver"`
	Signature string `json:"signature"`
	Proposal  bool   `json:"proposal"`
}

type breakGlass struct {
	Schema    string    `json:"schema"`
	Plan      string    `json:"plan"`
	By        string    `json:"by"`
	Reason    string    `json:"reason"`
	Signature string    `json:"signature"`
	At        time.Time `json:"at"`
}

const (
	approvalSchema   = "reseal.approval/v1"
	breakGlassSchema = "reseal.break-glass/v1"
	sshNamespace     = "file" // what "ssh-keygen -Y sign -n" is given
)

// approvalRequest returns the bytes that a person signs to approve something.
func approvalRequest(kind, digest, subject, approver string, expires time.Time) ([]byte, error) {
	return line(struct {
		Schema   string    `json:"schema"`
		Kind     string    `json:"kind"`
		Digest   string    `json:"digest"`
		Subject  string    `json:"subject"`
		Approver string    `json:"approver"`
		Expires  time.Time `json:"expires_at"`
	}{approvalSchema, kind, digest, subject, approver, expires.UTC()})
}

// breakGlassRequest returns the bytes that one person signs to act without a
// quorum.
func breakGlassRequest(plan, incident, by, reason string, expires time.Time) ([]byte, error) {
	return line(struct {
		Schema   string    `json:"schema"`
		Plan     string    `json:"plan"`
		Incident string    `json:"incident"`
		By       string    `json:"by"`
		Reason   string    `json:"reason"`
		Expires  time.Time `json:"expires_at"`
	}{breakGlassSchema, plan, incident, by, reason, expires.UTC()})
}

// errNotHere is returned for a signature that only a Judge could check.
var errNotHere = errors.New("keyless: not checked here, it takes a trusted root")

// signed reports with what one of a person's credentials signed the message.
func (p person) signed(text string, message []byte, tainted []signer.Identity, judge Judge) (kind string, err error) {
	text = strings.TrimSpace(text)
	var verify func(credential) (bool, error)
	switch {
	case strings.HasPrefix(text, "{"):
		kind = "keyless"
		if !slices.ContainsFunc(p.Credentials, func(c credential) bool { return c.Issuer != "" }) {
			return kind, errors.New("none of their credentials is a keyless identity")
		}
		if judge == nil {
			return kind, errNotHere
		}
		sig, err := judge.Blob([]byte(text), message)
		if err != nil {
			return kind, err
		}
		verify = func(c credential) (bool, error) {
			id := signer.Identity{Kind: signer.Keyless, Subject: c.Subject, Issuer: c.Issuer}
			return c.Issuer != "" && sig.Verified && sig.Signer == id && !slices.Contains(tainted, id), nil
		}
	case strings.HasPrefix(text, "-----BEGIN SSH SIGNATURE-----"):
		kind = "SSH key"
		verify = func(c credential) (bool, error) {
			if c.SSH == "" {
				return false, nil
			}
			return true, verifySSH(c.SSH, text, message)
		}
	default:
		kind = "key"
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return kind, fmt.Errorf("the signature is not base64: %w", err)
		}
		verify = func(c credential) (bool, error) {
			if c.PublicKey == "" {
				return false, nil
			}
			return true, verifyKey(c.PublicKey, raw, message, tainted)
		}
	}
	last := fmt.Errorf("none of their credentials is of this kind (%s)", kind)
	for _, c := range p.Credentials {
		of, err := verify(c)
		if of && err == nil {
			return kind, nil
		}
		if err != nil {
			last = err
		}
	}
	return kind, last
}

func verifyKey(public string, raw, message []byte, tainted []signer.Identity) error {
	key, id, err := signer.ParsePublicKey([]byte(public))
	if err != nil {
		return err
	}
	if slices.Contains(tainted, id) {
		return errors.New("the key is itself under an incident")
	}
	v, err := signature.LoadDefaultVerifier(key)
	if err != nil {
		return err
	}
	return v.VerifySignature(bytes.NewReader(raw), bytes.NewReader(message))
}

// sshsig is an SSH signature and, with Magic and Digest, what it is made over:
// see PROTOCOL.sshsig of OpenSSH.
type sshsig struct {
	Version   uint32
	PublicKey []byte
	Namespace string
	Reserved  string
	HashAlg   string
	Signature []byte
}

const sshMagic = "SSHSIG"

func verifySSH(authorized, armored string, message []byte) error {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(authorized))
	if err != nil {
		return err
	}
	b, rest := pem.Decode([]byte(armored))
	if b == nil || len(bytes.TrimSpace(rest)) > 0 {
		return errors.New("it is no armored SSH signature")
	}
	blob, ok := bytes.CutPrefix(b.Bytes, []byte(sshMagic))
	var s sshsig
	if err := ssh.Unmarshal(blob, &s); !ok || err != nil || s.Version != 1 {
		return errors.New("it is no SSH signature of version 1")
	}
	var sig ssh.Signature
	if err := ssh.Unmarshal(s.Signature, &sig); err != nil {
		return err
	}
	if !bytes.Equal(s.PublicKey, key.Marshal()) {
		return errors.New("it is by another SSH key")
	}
	if s.Namespace != sshNamespace {
		return fmt.Errorf("it was made for %q, not with \"ssh-keygen -Y sign -n %s\"", s.Namespace, sshNamespace)
	}
	if sig.Format == ssh.KeyAlgoRSA {
		return errors.New("it is over a SHA-1 digest")
	}
	var h []byte
	switch s.HashAlg {
	case "sha256":
		sum := sha256.Sum256(message)
		h = sum[:]
	case "sha512":
		sum := sha512.Sum512(message)
		h = sum[:]
	default:
		return fmt.Errorf("it is over a digest of the kind %q", s.HashAlg)
	}
	return key.Verify(append([]byte(sshMagic), ssh.Marshal(struct {
		Namespace, Reserved, HashAlg string
		Digest                       []byte
	}{s.Namespace, s.Reserved, s.HashAlg, h})...), &sig)
}

// ballot is something that people signed for.
type ballot struct {
	dir, kind, digest, subject string
	set                        string // digest of the approver set
	severity, proposer         string
	quorum                     int
	expires                    time.Time
	applied                    bool
	tainted                    []signer.Identity // signers of the incidents: they approve nothing
}

// count counts the approvals of a ballot. unchecked says that one of those that
// count was not verified here.
func (v *verifier) count(b ballot) (detail string, reached, unchecked bool, err error) {
	set, err := v.approvers(b.set)
	if err != nil {
		return "", false, false, err
	}
	needed, unknown := max(b.quorum, set.needed(b.severity), 1), 0
	proposer, err := v.proposer(b, set)
	if err != nil && !errors.Is(err, errNotHere) {
		return "", false, false, err
	}
	unchecked = err != nil
	if proposer == "" {
		unknown = 1 // any of those who approve may be who proposed
	}
	var names []string
	by := map[string]person{}
	for _, name := range v.under(b.dir + "approvals/") {
		a, p, err := v.approval(b, set, name)
		if err != nil {
			return "", false, false, err
		}
		kind, err := p.signed(a.Signature, b.request(a.Approver), b.tainted, v.opt.Judge)
		how := kind
		switch {
		case errors.Is(err, errNotHere):
			how = errNotHere.Error()
		case err != nil:
			return "", false, false, fmt.Errorf("%s: approval by %s does not verify: %w", name, p.Name, err)
		case a.Proposal:
			return "", false, false, fmt.Errorf("%s: a proposal is no approval", name)
		}
		if _, twice := by[p.Name]; twice {
			continue
		}
		if p.ProposesOnly || p.Name == proposer || p.is(b.proposer) {
			names = append(names, fmt.Sprintf("%s (%s; does not count: proposes)", p.Name, how))
			continue
		}
		unchecked = unchecked || err != nil
		by[p.Name] = p
		names = append(names, fmt.Sprintf("%s (%s)", p.Name, how))
	}
	reached = len(by) >= needed+unknown
	for _, role := range slices.Sorted(maps.Keys(set.Roles)) {
		have := 0
		for _, p := range by {
			if slices.Contains(p.Roles, role) {
				have++
			}
		}
		if have < set.Roles[role]+unknown {
			reached = false
			names = append(names, fmt.Sprintf("of the role %s %d of %d", role, have, set.Roles[role]+unknown))
		}
	}
	detail = fmt.Sprintf("%d of %d approvals: %s", len(by), needed+unknown, strings.Join(names, ", "))
	return strings.TrimSuffix(detail, ": "), reached, unchecked, nil
}

func (b ballot) request(approver string) []byte {
	r, err := approvalRequest(b.kind, b.digest, b.subject, approver, b.expires)
	if err != nil {
		return nil // a time beyond year 9999: no signature is over nothing
	}
	return r
}

// under returns the listed files of a directory.
func (v *verifier) under(dir string) (out []string) {
	for name := range v.files {
		if strings.HasPrefix(name, dir) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// approval reads an approval or a proposal and finds who gave it.
func (v *verifier) approval(b ballot, set approverSet, name string) (approval, person, error) {
	var a approval
	raw, err := v.document(name, b.expires)
	if err != nil {
		return a, person{}, err
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, person{}, fmt.Errorf("%s: %w", name, err)
	}
	if a.Schema != approvalSchema || a.Kind != b.kind || a.Digest != b.digest {
		return a, person{}, fmt.Errorf("%s approves %s %s, not %s %s", name, a.Kind, a.Digest, b.kind, b.digest)
	}
	at := slices.IndexFunc(set.People, func(p person) bool { return p.Name == a.Approver })
	if at < 0 {
		return a, person{}, fmt.Errorf("%s: %q is not among the approvers", name, a.Approver)
	}
	return a, set.People[at], nil
}

// proposer returns who proposed, if their own signature proves it; with
// errNotHere, if it may.
func (v *verifier) proposer(b ballot, set approverSet) (name string, err error) {
	file := b.dir + "proposal.json"
	if _, ok := v.files[file]; !ok {
		return "", nil
	}
	a, p, err := v.approval(b, set, file)
	if err != nil {
		return "", err
	}
	if !a.Proposal {
		return "", fmt.Errorf("%s is an approval", file)
	}
	if _, err = p.signed(a.Signature, b.request(a.Approver), b.tainted, v.opt.Judge); err != nil {
		return p.Name, fmt.Errorf("%s: the proposal by %s does not verify: %w", file, p.Name, err)
	}
	return p.Name, nil
}

// approvers reads the set that a ballot names by its digest.
func (v *verifier) approvers(digest string) (approverSet, error) {
	var set approverSet
	name := "approvers/" + strings.TrimPrefix(digest, "sha256:") + ".json"
	raw, err := v.document(name, time.Time{})
	if err != nil {
		return set, err
	}
	if got := inventory.Digest(raw); got != digest {
		return set, fmt.Errorf("%s has the digest %s", name, got)
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return set, fmt.Errorf("%s: %w", name, err)
	}
	return set, nil
}

// plan checks one plan: its digest, its totals, who approved it.
func (v *verifier) plan(ref PlanRef) {
	var header struct {
		Incident  string    `json:"incident"`
		Proposer  string    `json:"proposer"`
		Severity  string    `json:"severity"`
		Quorum    int       `json:"quorum"`
		Approvers string    `json:"approvers"`
		ExpiresAt time.Time `json:"expires_at"`
		Incidents []struct {
			Signers []signer.Identity `json:"signers"`
		} `json:"incidents"`
	}
	short := ref.Digest[:len("sha256:")+12]
	dir := planDir(ref.Digest)
	ok := v.check("plan "+short, func() (string, error) {
		items, err := v.checkPlan(ref.Digest, dir, &header)
		if err == nil && header.Incident != v.manifest.Incident {
			err = fmt.Errorf("it is about incident %q", header.Incident)
		}
		return fmt.Sprintf("its header, %d items and totals hash to its digest", items), err
	})
	if !ok {
		return
	}
	b := ballot{dir: dir, kind: "plan", digest: ref.Digest, subject: header.Incident, set: header.Approvers, severity: header.Severity,
		proposer: header.Proposer, quorum: header.Quorum, expires: header.ExpiresAt, applied: ref.Applied}
	for _, i := range header.Incidents {
		b.tainted = append(b.tainted, i.Signers...)
	}
	broken := false
	for _, name := range v.under(dir + "break-glass/") {
		unchecked := false
		v.check("break-glass", func() (string, error) {
			said, err := v.brokenGlass(b, name)
			unchecked = errors.Is(err, errNotHere)
			if unchecked {
				said, err = said+" ("+err.Error()+")", nil
			}
			if err == nil {
				broken = true
				v.res.BreakGlass = append(v.res.BreakGlass, said)
			}
			return said, err
		})
		v.res.Checks[len(v.res.Checks)-1].Unchecked = unchecked
	}
	v.ballot("approvals of plan "+short, b, broken)
}

// ballot counts and records what was counted. A plan that nothing was done
// under needs no quorum.
func (v *verifier) ballot(name string, b ballot, broken bool) {
	detail, reached, unchecked, err := v.count(b)
	switch {
	case err != nil:
		detail = err.Error()
	case !reached && broken:
		detail += "; no quorum: the glass was broken"
	case !reached && b.applied:
		err = errors.New("no quorum")
		detail += "; no quorum, and yet it was carried out"
	case !reached:
		detail += "; no quorum: nothing was to be done under it"
	}
	v.res.Checks = append(v.res.Checks, Check{Name: name, OK: err == nil, Unchecked: unchecked && err == nil, Detail: detail})
}

// checkPlan recomputes a plan's digest and compares its totals with its items.
func (v *verifier) checkPlan(digest, dir string, header any) (items int64, err error) {
	decisions := map[string]int64{}
	var first, held []byte // the last line is known to be the totals only when no other follows
	visit := func(l []byte) error {
		if first == nil {
			first = bytes.Clone(l)
			return json.Unmarshal(l, header)
		}
		if held != nil {
			var item struct {
				Seq      int64  `json:"seq"`
				Decision string `json:"decision"`
			}
			if err := json.Unmarshal(held, &item); err != nil {
				return fmt.Errorf("item %d: %w", items+1, err)
			}
			if items++; item.Seq != items {
				return fmt.Errorf("item %d stands at place %d", item.Seq, items)
			}
			decisions[item.Decision]++
		}
		held = append(held[:0], l...)
		return nil
	}
	got, err := v.lines(dir+"plan.jsonl.gz", visit)
	if err != nil {
		return items, err
	}
	if got != digest {
		return items, fmt.Errorf("its lines hash to %s: it is another plan", got)
	}
	var totals struct {
		Decisions map[string]int64 `json:"decisions"`
	}
	if err := json.Unmarshal(held, &totals); err != nil {
		return items, fmt.Errorf("totals: %w", err)
	}
	maps.DeleteFunc(totals.Decisions, func(_ string, n int64) bool { return n == 0 })
	if !maps.Equal(totals.Decisions, decisions) {
		return items, fmt.Errorf("its totals say %v, its items %v", totals.Decisions, decisions)
	}
	return items, nil
}

func (v *verifier) brokenGlass(b ballot, name string) (string, error) {
	raw, err := v.document(name, b.expires)
	if err != nil {
		return "", err
	}
	var g breakGlass
	if err := json.Unmarshal(raw, &g); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	set, err := v.approvers(b.set)
	if err != nil {
		return "", err
	}
	at := slices.IndexFunc(set.People, func(p person) bool { return p.Name == g.By })
	if g.Schema != breakGlassSchema || g.Plan != b.digest || at < 0 {
		return "", fmt.Errorf("%s is for plan %s, by %q, who must be among the approvers", name, g.Plan, g.By)
	}
	request, err := breakGlassRequest(g.Plan, b.subject, g.By, g.Reason, b.expires)
	if err != nil {
		return "", err
	}
	said := fmt.Sprintf("BREAK-GLASS: %s acted alone on plan %s at %s: %s", g.By, g.Plan, g.At.UTC().Format(time.RFC3339), g.Reason)
	if _, err = set.People[at].signed(g.Signature, request, b.tainted, v.opt.Judge); err != nil && !errors.Is(err, errNotHere) {
		return "", fmt.Errorf("%s by %s does not verify: %w", name, g.By, err)
	}
	return said, err
}

// motion checks one motion and who approved it.
func (v *verifier) motion(ref PlanRef) {
	var m struct {
		Kind      string    `json:"kind"`
		Subject   string    `json:"subject"`
		Proposer  string    `json:"proposer"`
		ExpiresAt time.Time `json:"expires_at"`
		Base      string    `json:"base"`
		Incident  string    `json:"incident"` // of a withdrawal: the version it is about
	}
	short := ref.Digest[:len("sha256:")+12]
	dir := motionDir(ref.Digest)
	ok := v.check("motion "+short, func() (string, error) {
		raw, err := v.document(dir+"motion.json", time.Time{})
		if err != nil {
			return "", err
		}
		if got := inventory.Digest(raw); got != ref.Digest {
			return "", fmt.Errorf("it has the digest %s", got)
		}
		err = json.Unmarshal(raw, &m)
		return fmt.Sprintf("%s of %s, moved by %s", m.Kind, m.Subject, m.Proposer), err
	})
	if ok {
		v.ballot("approvals of motion "+short, ballot{dir: dir, kind: m.Kind, digest: ref.Digest, subject: m.Subject, set: m.Base, severity: v.severity[m.Incident],
			proposer: m.Proposer, expires: m.ExpiresAt, applied: ref.Applied}, false)
	}
}
