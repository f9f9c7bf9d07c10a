package tuf

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Republished is what Republish found.
type Republished struct {
	Written []string `json:"written"` // files that were missing or not as they were published
	Removed []string `json:"removed"` // roots that were never published from here, which clients would stumble over, and what was discarded
	Walked  []Walked `json:"walked"`
}

// Republish makes the published directory say again what was last published from here, whatever happened to it: lost,
// rolled back, or overwritten by somebody with the online key. It needs no keys. Clients that were shown higher
// versions in the meantime follow only after a new online key (see SetOnline).
//
// It is refused when something newer is published that the present holders of a role signed, since the repository's
// directory is then an old copy, and what it lacks may be a denial. Discard names the roles whose newer versions are to
// go all the same, because thieves signed them, each with the newest of them: that version and those between are
// removed from what is published.
func (r *Repository) Republish(ctx context.Context, discard map[string]int64) (*Republished, error) {
	out := &Republished{Written: []string{}, Removed: []string{}}
	// A publication that was cut off is what is to be published, whatever somebody published since.
	finish := func(p pending) error { return r.supersedes(p, discard) }
	err := r.changeAfter(ctx, finish, func() error {
		s, err := r.load()
		if err != nil {
			return err
		}
		if s.empty() {
			return errors.New("nothing was published yet: publish the first event")
		}
		strays, err := r.newest(s, discard)
		if err != nil {
			return err
		}
		var steps []step
		for i, root := range s.roots {
			steps = append(steps, write(inPublished, versioned(metadata.ROOT, s.first+int64(i)), root))
		}
		for _, name := range slices.Sorted(maps.Keys(s.Snapshot.Signed.Meta)) {
			role := strings.TrimSuffix(name, ".json")
			m, err := s.role(role)
			if errors.Is(err, errNoRole) {
				continue // removed: the snapshot lists it for good, and nobody asks for it
			}
			if err != nil {
				return err
			}
			steps = append(steps, write(inPublished, versioned(role, m.Signed.Version), s.raw[role]))
			for _, target := range slices.Sorted(maps.Keys(m.Signed.Targets)) {
				t := m.Signed.Targets[target]
				at := prefixedTarget(target, t.Hashes["sha256"].String())
				if data, err := r.readPublished(at); err == nil && t.VerifyLengthHashes(data) == nil {
					continue
				}
				data, err := r.target(target, t)
				if err != nil {
					return err
				}
				steps = append(steps, write(inPublished, at, data))
			}
		}
		steps = append(steps, write(inPublished, versioned(metadata.SNAPSHOT, s.Snapshot.Signed.Version), s.raw[metadata.SNAPSHOT]))
		steps = r.only(steps)
		data, err := r.readPublished("timestamp.json")
		if err != nil || string(data) != string(s.raw[metadata.TIMESTAMP]) {
			steps = append(steps, reveal("timestamp.json", s.raw[metadata.TIMESTAMP]))
		}
		roots, err := r.strayRoots(s)
		if err != nil {
			return err
		}
		strays = append(roots, strays...)
		for _, s := range steps {
			out.Written = append(out.Written, s.Name)
		}
		for _, name := range strays {
			out.Removed = append(out.Removed, name)
			steps = append([]step{remove(inPublished, name)}, steps...)
		}
		if len(steps) > 0 {
			if err := r.commit(ctx, steps); err != nil {
				return err
			}
		}
		out.Walked, err = r.walk(ctx, walk{before: newState(nil), after: s})
		var expired *metadata.ErrExpiredMetadata
		if errors.As(err, &expired) {
			return nil // as it was; what has expired is renewed next
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tuf: republish: %w", err)
	}
	return out, nil
}

// CheckRepublish returns the error with which [Repository.Republish] would refuse because what is published is newer.
func (r *Repository) CheckRepublish(discard map[string]int64) error {
	s, err := r.load()
	if errors.Is(err, ErrCutOff) {
		var p pending
		if p, err = r.decided(); err == nil {
			s, err = r.after(p)
		}
	}
	if err == nil && !s.empty() {
		_, err = r.newest(s, discard)
	}
	if err != nil {
		return fmt.Errorf("tuf: republish: %w", err)
	}
	return nil
}

// newest fails when something newer than s is published that its holders signed: the repository's directory is an old
// copy. To put s back would take denials back, and leave clients with a root that nothing here follows. It returns the
// files that are discarded by name. What the online key signed counts for nothing: a thief may have it.
func (r *Repository) newest(s *state, discard map[string]int64) ([]string, error) {
	if err := r.newestRoot(s); err != nil {
		return nil, err
	}
	newer, err := r.newerRoles(s)
	if err != nil {
		return nil, err
	}
	var old, files []string
	for _, role := range slices.Sorted(maps.Keys(newer)) {
		versions := newer[role]
		last := slices.Max(versions)
		if discard[role] != last {
			old = append(old, fmt.Sprintf("version %d of %s is published, signed by its holders, and this directory has version %d (to discard it: %s=%d)", last, role, publishedVersion(s, role), role, last))
		}
		for _, v := range versions {
			files = append(files, versioned(role, v))
		}
	}
	if len(old) > 0 {
		return nil, fmt.Errorf("%s: it is an old copy, and would take that back; rebuild it from the published directory. If thieves signed that, name what is to be discarded", strings.Join(old, "; "))
	}
	for _, role := range slices.Sorted(maps.Keys(discard)) {
		if newer[role] == nil {
			return nil, fmt.Errorf("there is no version %d of %s to discard: nothing newer than version %d is published that its holders signed", discard[role], role, publishedVersion(s, role))
		}
	}
	return files, nil
}

// newerRoles returns the versions of each targets role that are published, above the one in s, and signed by those who
// hold the role in s, whether or not the published timestamp leads to them: it may be a thief's.
func (r *Repository) newerRoles(s *state) (map[string][]int64, error) {
	entries, err := os.ReadDir(r.published)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	out := map[string][]int64{}
	d := r.draft(s)
	for _, e := range entries {
		number, rest, _ := strings.Cut(e.Name(), ".")
		v, err := strconv.ParseInt(number, 10, 64)
		role := strings.TrimSuffix(rest, ".json")
		if err != nil || e.Name() != versioned(role, v) || v <= publishedVersion(s, role) {
			continue
		}
		switch role {
		case metadata.ROOT, metadata.SNAPSHOT, metadata.TIMESTAMP:
			continue
		}
		ring, err := d.ring(role)
		if errors.Is(err, errNoRole) {
			continue
		}
		if err != nil {
			return nil, err
		}
		data, err := r.readPublished(e.Name())
		if err != nil {
			continue // clients cannot read it either
		}
		m, err := parseTargets(data)
		if err != nil || m.Signed.Version != v {
			continue
		}
		if doc, err := newDocument(role, m); err == nil && ring.met(doc) {
			out[role] = append(out[role], v)
		}
	}
	return out, nil
}

// newestRoot fails when clients were led further than s, by a root that its holders signed.
func (r *Repository) newestRoot(s *state) error {
	var next *state
	for roots := slices.Clone(s.roots); ; {
		data, err := r.readPublished(versioned(metadata.ROOT, s.first+int64(len(roots))))
		if err != nil {
			break
		}
		roots = append(roots, data)
		longer := newState(nil)
		if longer.chain(slices.Clone(roots), historyFile) != nil {
			break // somebody's, whom no client follows
		}
		next = longer
	}
	if next == nil {
		return nil
	}
	next.RefTime = time.Time{}
	data, err := r.readPublished("timestamp.json")
	if err != nil {
		return nil
	}
	if t, err := next.UpdateTimestamp(data); err != nil || t.Signed.Version <= s.Timestamp.Signed.Version {
		return nil
	}
	return fmt.Errorf("root %d is published, signed by the holders of root %d and in use, and this directory does not know it: it is an old copy; rebuild it from the published directory. If thieves signed that root, found a new repository and have clients pin its root",
		next.Root.Signed.Version, s.Root.Signed.Version)
}

// strayRoots lists files that clients would take for roots after the newest one.
func (r *Repository) strayRoots(s *state) ([]string, error) {
	entries, err := os.ReadDir(r.published)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		v, err := strconv.ParseInt(strings.TrimSuffix(e.Name(), ".root.json"), 10, 64)
		if err == nil && e.Name() == versioned(metadata.ROOT, v) && v > s.Root.Signed.Version {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// A Kit is what clients need to trust a repository whose old root can vouch for nothing any more, or that is new to
// them: it has to reach each by a way that does not depend on that root.
type Kit struct {
	Root   []byte // the content of 1.root.json
	SHA256 string // of Root, in hex
	Text   string // for people, to be sent by several ways
}

// RepinKit makes the kit for a root. Name is what people call the repository, url where clients find it.
func RepinKit(root []byte, name, url string) (Kit, error) {
	m, err := parseRoot(root)
	if err != nil {
		return Kit{}, fmt.Errorf("tuf: kit: %w", err)
	}
	doc, err := newDocument(metadata.ROOT, m)
	if err != nil {
		return Kit{}, fmt.Errorf("tuf: kit: %w", err)
	}
	ring, err := rootRing(m, metadata.ROOT)
	if err != nil {
		return Kit{}, fmt.Errorf("tuf: kit: %w", err)
	}
	if !ring.met(doc) {
		return Kit{}, fmt.Errorf("tuf: kit: root %d is not signed by %d of its own holders: publish it first", m.Signed.Version, ring.threshold)
	}
	sum := sha256.Sum256(root)
	k := Kit{Root: root, SHA256: hex.EncodeToString(sum[:])}
	file := versioned(metadata.ROOT, m.Signed.Version)
	var b strings.Builder
	fmt.Fprintf(&b, "New trust root of %s\n\n", name)
	fmt.Fprintf(&b, "The root of trust of %s has to be replaced by hand: the old one can no longer vouch for a new one.\n", name)
	fmt.Fprintf(&b, "Do not take this text alone as proof. Compare the checksum with one that reached you by another way\n(a call, a printed notice, a web page of another operator), or with the fingerprints that holders name.\n\n")
	fmt.Fprintf(&b, "File:       %s\nSHA-256:    %s\nRepository: %s\nExpires:    %s\nSigned by:  %d of these must sign each change\n", file, k.SHA256, url, m.Signed.Expires.Format(time.RFC3339), ring.threshold)
	for _, id := range ring.ids {
		fmt.Fprintf(&b, "  %s  SHA256:%s\n", orNobody(ownerOf(ring.keys[id])), fingerprint(ring.keys[id]))
	}
	fmt.Fprintf(&b, "\nCheck the file, then give it to each client:\n")
	fmt.Fprintf(&b, "  sha256sum %s\n", file)
	fmt.Fprintf(&b, "  cosign initialize --mirror %s --root %s --root-checksum %s\n", url, file, k.SHA256)
	fmt.Fprintf(&b, "  policy-controller: replace the root and mirror of the TrustRoot resource\n")
	fmt.Fprintf(&b, "  other clients: replace the root.json they were installed with, and delete their cache of this repository\n")
	fmt.Fprintf(&b, "\nUntil then clients refuse what is published under the new root, and still trust the old one.\n")
	k.Text = b.String()
	return k, nil
}

// Targets returns the content of every target of the repository that is whole, by name, to found another line with or
// to look through. It fails when one is damaged or missing.
func (r *Repository) Targets() (map[string][]byte, error) {
	s, err := r.load()
	if err != nil {
		return nil, fmt.Errorf("tuf: targets: %w", err)
	}
	out := map[string][]byte{}
	if s.empty() {
		return out, nil
	}
	d := r.draft(s)
	take := func(role string, m *targetsMeta) error {
		for name, t := range m.Signed.Targets {
			if by, err := d.roleFor(name); err != nil || by != role {
				continue // not one that clients get from this role
			}
			data, err := r.target(name, t)
			if err != nil {
				return err
			}
			out[name] = data
		}
		return nil
	}
	if err := d.each(func(role string, m *targetsMeta) error {
		if err := take(role, m); err != nil || m.Signed.Delegations == nil || m.Signed.Delegations.SuccinctRoles == nil {
			return err
		}
		for _, bin := range m.Signed.Delegations.SuccinctRoles.GetRoles() {
			b, err := d.get(bin, role)
			if err == nil {
				err = take(bin, b)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("tuf: targets: %w", err)
	}
	return out, nil
}

// PublishedRole returns a version of a role that was published, as it still lies in the published directory: the last
// known good to Restore from.
func (r *Repository) PublishedRole(role string, version int64) ([]byte, error) {
	if role != metadata.TARGETS {
		if err := checkRole(role); err != nil {
			return nil, fmt.Errorf("tuf: %w", err)
		}
	}
	data, err := r.readPublished(versioned(role, version))
	if err != nil {
		return nil, fmt.Errorf("tuf: version %d of %s: %w", version, role, err)
	}
	return data, nil
}
