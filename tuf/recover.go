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
	Removed []string `json:"removed"` // roots that were never published from here: clients would stumble over them
	Walked  []Walked `json:"walked"`
}

// Republish makes the published directory say again what was last published from here, whatever happened to it: lost,
// rolled back, or overwritten by somebody with the online key. It needs no keys. Clients that were shown higher
// versions in the meantime follow only after a new online key (see SetOnline).
func (r *Repository) Republish(ctx context.Context) (*Republished, error) {
	out := &Republished{Written: []string{}, Removed: []string{}}
	err := r.change(ctx, func() error {
		s, err := r.load()
		if err != nil {
			return err
		}
		if s.empty() {
			return errors.New("nothing was published yet: publish the first event")
		}
		if err := r.newest(s); err != nil {
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
		strays, err := r.strayRoots(s)
		if err != nil {
			return err
		}
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

// newest fails when clients were led further than s, by a root that its holders signed: the repository's directory is an
// old copy. To put s back would leave those clients with a root that nothing here follows.
func (r *Repository) newest(s *state) error {
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
