package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

// subject is a plan or a motion: what people signed for.
type subject struct {
	Kind, Subject, Proposer, Severity string
	Incident                          string
	Quorum                            int
	Approvers, Base                   string
	ExpiresAt                         time.Time `json:"expires_at"`
}

func plan(r ref, incident string) {
	dir := "plans/" + strings.TrimPrefix(r.Digest, "sha256:") + "/"
	var s subject
	check("plan "+r.Digest+" is what it was when it was signed", func() {
		all := lines(dir + "plan.jsonl.gz")
		need(digest(bytes.Join(all, nil)) == r.Digest, "it was changed")
		err := json.Unmarshal(all[0], &s)
		need(err == nil && s.Incident == incident, "it is about %q: %v", s.Incident, err)
	})
	s.Kind, s.Subject, s.Base = "plan", s.Incident, s.Approvers
	check("plan "+r.Digest+": approvals", func() { approvals(dir, r, s) })
}

func motion(r ref) {
	dir := "motions/" + strings.TrimPrefix(r.Digest, "sha256:") + "/"
	var s subject
	check("motion "+r.Digest+": approvals", func() {
		err := json.Unmarshal(files[dir+"motion.json"], &s)
		need(err == nil && digest(files[dir+"motion.json"]) == r.Digest, "it was changed (%v)", err)
		for name, body := range files { // a withdrawal goes by the severity of what it withdraws
			if (name == "incident.json" || strings.HasPrefix(name, "history/")) && digest(body) == s.Incident {
				var i subject
				need(json.Unmarshal(body, &i) == nil, "%s is no JSON", name)
				s.Severity = i.Severity
			}
		}
		approvals(dir, r, s)
	})
}

type person struct {
	Name         string
	Aliases      []string
	Roles        []string
	ProposesOnly bool `json:"proposes_only"`
	Credentials  []struct {
		PublicKey string `json:"public_key"`
		SSH       string
	}
}

// approvals counts distinct people who signed for a plan or a motion, none of
// whom proposed it.
func approvals(dir string, r ref, s subject) {
	var set struct {
		Quorum          int
		Severity, Roles map[string]int
		People          []person
	}
	body := files["approvers/"+strings.TrimPrefix(s.Base, "sha256:")+".json"]
	err := json.Unmarshal(body, &set)
	need(err == nil && digest(body) == s.Base, "the approvers %s are missing or changed (%v)", s.Base, err)
	needed, ok := set.Severity[s.Severity]
	if !ok {
		needed = set.Quorum
		for _, n := range set.Severity {
			if !slices.Contains([]string{"low", "medium", "high", "critical"}, s.Severity) {
				needed = max(needed, n)
			}
		}
	}
	needed = max(1, s.Quorum, needed)
	proposer, unknown := "", 1 // while nobody proved who proposed, it may be any of those who approve
	counted := map[string]person{}
	broken := false
	names := []string{dir + "proposal.json"} // first
	for name := range files {
		if strings.HasPrefix(name, dir+"approvals/") || strings.HasPrefix(name, dir+"break-glass/") {
			names = append(names, name)
		}
	}
	slices.SortFunc(names[1:], strings.Compare)
	for _, name := range names {
		if files[name] == nil {
			continue
		}
		var a struct {
			Kind, Digest, Approver, Signature string
			Proposal                          bool
			Plan, By, Reason                  string // of break-glass
		}
		need(json.Unmarshal(files[name], &a) == nil, "%s is no JSON", name)
		glass := strings.Contains(name, "/break-glass/")
		request := object("schema", "reseal.approval/v1", "kind", s.Kind, "digest", r.Digest, "subject", s.Subject, "approver", a.Approver, "expires_at", s.ExpiresAt.UTC())
		if glass {
			request = object("schema", "reseal.break-glass/v1", "plan", r.Digest, "incident", s.Subject, "by", a.By, "reason", a.Reason, "expires_at", s.ExpiresAt.UTC())
			a.Kind, a.Digest, a.Approver = s.Kind, a.Plan, a.By
		}
		i := slices.IndexFunc(set.People, func(p person) bool { return p.Name == a.Approver })
		need(i >= 0 && a.Kind == s.Kind && a.Digest == r.Digest && a.Proposal == (name == dir+"proposal.json"), "%s is by nobody enrolled, or for something else", name)
		need(!journaled[digest(files[name])].After(s.ExpiresAt), "%s came too late", name)
		p := set.People[i]
		if !signed(p, a.Signature, request) {
			fmt.Printf("NOT HERE   %q by %q: this program checks no keyless signatures\n", name, p.Name)
		}
		switch same := func(n string) bool { return strings.EqualFold(n, strings.TrimSpace(s.Proposer)) }; {
		case glass:
			broken = true
			fmt.Printf("!!!!!!!!!! BREAK-GLASS: %q acted alone on plan %s: %q\n", p.Name, r.Digest, a.Reason)
		case a.Proposal:
			proposer, unknown = p.Name, 0
		case p.ProposesOnly || p.Name == proposer || same(p.Name) || slices.ContainsFunc(p.Aliases, same):
		default:
			counted[p.Name] = p
		}
	}
	reached := len(counted) >= needed+unknown
	for role, n := range set.Roles {
		n += unknown
		for _, p := range counted {
			if slices.Contains(p.Roles, role) {
				n--
			}
		}
		reached = reached && n <= 0
	}
	fmt.Printf("           %d of %d approvals, carried out: %v\n", len(counted), needed+unknown, r.Applied)
	need(reached || broken || !r.Applied, "it was carried out without a quorum")
}

// object returns a JSON object on one line with the fields in the order given:
// what people sign.
func object(fields ...any) []byte {
	var parts []string
	for i := 0; i < len(fields); i += 2 {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		need(enc.Encode(fields[i+1]) == nil, "%v is no JSON", fields[i])
		parts = append(parts, fmt.Sprintf("%q:%s", fields[i], bytes.TrimSpace(b.Bytes())))
	}
	return []byte("{" + strings.Join(parts, ",") + "}")
}

// signed verifies a signature with the credentials of a person. It is false
// for a keyless one, which takes Sigstore's trusted root.
func signed(p person, signature string, message []byte) bool {
	signature = strings.TrimSpace(signature)
	if strings.HasPrefix(signature, "{") {
		return false
	}
	for _, c := range p.Credentials {
		if strings.HasPrefix(signature, "-----BEGIN SSH SIGNATURE-----") {
			if c.SSH != "" && sshSigned(c.SSH, signature, message) {
				return true
			}
		} else if block, _ := pem.Decode([]byte(c.PublicKey)); block != nil {
			key, err := x509.ParsePKIXPublicKey(block.Bytes)
			sig, err2 := base64.StdEncoding.DecodeString(signature)
			if err == nil && err2 == nil && keySigned(key, sig, message) {
				return true
			}
		}
	}
	panic(fmt.Sprintf("no key of %s made the signature", p.Name))
}

// keySigned verifies as "cosign verify-blob --key" does.
func keySigned(key any, sig, message []byte) bool {
	sum := sha256.Sum256(message)
	switch k := key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, message, sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig) == nil
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 384:
			sum := sha512.Sum384(message)
			return ecdsa.VerifyASN1(k, sum[:], sig)
		case 521:
			sum := sha512.Sum512(message)
			return ecdsa.VerifyASN1(k, sum[:], sig)
		}
		return ecdsa.VerifyASN1(k, sum[:], sig)
	}
	return false
}

// fields cuts the next n length-prefixed strings off SSH's wire format.
func fields(b []byte, n int) (out [][]byte, rest []byte) {
	for range n {
		need(len(b) >= 4, "SSH: cut off")
		size := binary.BigEndian.Uint32(b)
		need(uint64(size) <= uint64(len(b)-4), "SSH: cut off")
		out, b = append(out, b[4:4+size]), b[4+size:]
	}
	return out, b
}

// sshSigned verifies what "ssh-keygen -Y sign -n file" wrote (OpenSSH's
// PROTOCOL.sshsig) with one authorized_keys line of a software key.
func sshSigned(authorized, armored string, message []byte) bool {
	words := strings.Fields(authorized)
	block, _ := pem.Decode([]byte(armored))
	need(len(words) >= 2 && block != nil && len(block.Bytes) > 10, "SSH: malformed")
	public, err := base64.StdEncoding.DecodeString(words[1])
	magic, version := block.Bytes[:6], binary.BigEndian.Uint32(block.Bytes[6:])
	need(err == nil && string(magic) == "SSHSIG" && version == 1, "SSH: malformed")
	f, _ := fields(block.Bytes[10:], 5) // public key, namespace, reserved, hash, signature
	if !bytes.Equal(f[0], public) || string(f[1]) != "file" {
		return false
	}
	sum := func(b []byte) []byte { h := sha256.Sum256(b); return h[:] }
	if string(f[3]) == "sha512" {
		sum = func(b []byte) []byte { h := sha512.Sum512(b); return h[:] }
	}
	over := append([]byte{}, magic...)
	for _, part := range [][]byte{f[1], f[2], f[3], sum(message)} {
		over = append(binary.BigEndian.AppendUint32(over, uint32(len(part))), part...)
	}
	sig, _ := fields(f[4], 2) // algorithm, signature
	kind, rest := fields(public, 1)
	switch string(kind[0]) + " " + string(sig[0]) {
	case "ssh-ed25519 ssh-ed25519":
		k, _ := fields(rest, 1)
		return len(k[0]) == ed25519.PublicKeySize && ed25519.Verify(k[0], over, sig[1])
	case "ssh-rsa rsa-sha2-512", "ssh-rsa rsa-sha2-256":
		k, _ := fields(rest, 2)
		key := &rsa.PublicKey{E: int(new(big.Int).SetBytes(k[0]).Int64()), N: new(big.Int).SetBytes(k[1])}
		if strings.HasSuffix(string(sig[0]), "512") {
			h := sha512.Sum512(over)
			return rsa.VerifyPKCS1v15(key, crypto.SHA512, h[:], sig[1]) == nil
		}
		h := sha256.Sum256(over)
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, h[:], sig[1]) == nil
	case "ecdsa-sha2-nistp256 ecdsa-sha2-nistp256":
		k, _ := fields(rest, 2)
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), k[1])
		n, _ := fields(sig[1], 2)
		h := sha256.Sum256(over)
		return err == nil && ecdsa.Verify(key, h[:], new(big.Int).SetBytes(n[0]), new(big.Int).SetBytes(n[1]))
	}
	panic("SSH: this program reads Ed25519, RSA and P-256 keys, not " + string(kind[0]))
}
