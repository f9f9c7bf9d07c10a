package tuf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/reseal/reseal/signer"
)

const (
	requestSchema   = "reseal.tuf-request/v1"
	signatureSchema = "reseal.tuf-signature/v1"

	// The content of changed targets travels with a request as far as it is this small, in bytes: enough for what a
	// person, or a Guard, looks into.
	maxContent    = 256 << 10
	maxAllContent = 2 << 20
)

// requestFile is what goes to the holders: what to sign, and what it takes to check it without believing anybody.
type requestFile struct {
	Schema string                     `json:"schema"`
	Event  string                     `json:"event"`
	By     string                     `json:"by,omitempty"`
	Reason string                     `json:"reason,omitempty"`
	Roots  []json.RawMessage          `json:"roots"`  // that were published, in their order
	Before map[string]json.RawMessage `json:"before"` // published metadata of what changes and of what delegates to it
	After  map[string]json.RawMessage `json:"after"`  // metadata to sign

	// Content of targets, by SHA-256.
	Content map[string][]byte `json:"content,omitempty"`
}

// signatureFile is what comes back.
type signatureFile struct {
	Schema     string          `json:"schema"`
	Event      string          `json:"event"`
	Signatures []roleSignature `json:"signatures"`
}

type roleSignature struct {
	Role    string            `json:"role"`
	Version int64             `json:"version"`
	Digest  string            `json:"digest"` // SHA-256 of what was signed
	KeyID   string            `json:"keyid"`
	Sig     metadata.HexBytes `json:"sig"`
}

// Export returns the open event as one file for its holders to sign, on machines that need nothing else.
func (r *Repository) Export() ([]byte, error) {
	data, err := r.export()
	if err != nil {
		return nil, fmt.Errorf("tuf: export: %w", err)
	}
	return data, nil
}

func (r *Repository) export() ([]byte, error) {
	s, err := r.load()
	if err != nil {
		return nil, err
	}
	e, d, err := r.openEvent(s)
	if err != nil {
		return nil, err
	}
	if stale := e.stale(s); len(stale) > 0 {
		return nil, errors.New(stale[0])
	}
	f := requestFile{Schema: requestSchema, Event: e.ID, By: e.By, Reason: e.Reason, Roots: []json.RawMessage{},
		Before: map[string]json.RawMessage{}, After: map[string]json.RawMessage{}, Content: map[string][]byte{}}
	for _, root := range s.roots {
		f.Roots = append(f.Roots, root)
	}
	for _, role := range e.Roles {
		doc, err := d.document(role)
		if err != nil {
			return nil, err
		}
		*doc.signatures = []metadata.Signature{}
		if f.After[role], err = doc.encode(); err != nil {
			return nil, err
		}
		if role == metadata.ROOT || s.empty() {
			continue
		}
		// Up to the top, both ways: the delegation that is in force and the one that will be.
		for _, get := range []func(string) (string, error){d.delegator, func(role string) (string, error) { return delegatorOf(role, s.fetch) }} {
			for at := role; at != metadata.ROOT; {
				m, err := s.role(at)
				if err == nil && m != nil {
					f.Before[at] = s.raw[at]
				} else if err != nil && !errors.Is(err, errNoRole) {
					return nil, err
				}
				if at, err = get(at); errors.Is(err, errNoRole) {
					break
				} else if err != nil {
					return nil, err
				}
			}
		}
		r.addContent(&f, d, role)
	}
	return json.MarshalIndent(f, "", " ")
}

// addContent puts into the request what changed targets contain, before and after.
func (r *Repository) addContent(f *requestFile, d *draft, role string) {
	total := 0
	for _, c := range f.Content {
		total += len(c)
	}
	add := func(name string, t *metadata.TargetFiles) {
		digest := t.Hashes["sha256"].String()
		if t.Length > maxContent || total+int(t.Length) > maxAllContent || f.Content[digest] != nil {
			return
		}
		data := d.files[name]
		if data == nil || t.VerifyLengthHashes(data) != nil {
			var err error
			if data, err = r.target(name, t); err != nil {
				return // what cannot be had cannot be shown
			}
		}
		f.Content[digest] = data
		total += len(data)
	}
	var old map[string]*metadata.TargetFiles
	if m := d.Targets[role]; m != nil {
		old = m.Signed.Targets
	}
	now := d.roles[role].Signed.Targets
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if was := old[name]; was == nil || !sameTarget(was, now[name]) {
			add(name, now[name])
			if was != nil {
				add(name, was)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if now[name] == nil {
			add(name, old[name])
		}
	}
}

// A Request is a signing request as a holder reads it: what it says is computed here, from the metadata to be signed
// and the metadata it replaces, both verified from a root that the holder knows.
type Request struct {
	file  requestFile
	draft *draft
	guard Guard
	words Words
	now   time.Time

	known   string // see Options
	another bool
}

// ReadRequest reads a signing request. trustedRoot is a root of the repository that the holder knows, any version of
// it, by a way of their own; only the first event of a repository has none. It fails when the request does not descend
// from that root, or is older than it, and with a [StaleRequestError] when it contradicts what Known remembers. Of the
// options, Guard, Words, Now, Known and AnotherRoot are used.
func ReadRequest(data, trustedRoot []byte, o Options) (*Request, error) {
	q, err := readRequest(data, trustedRoot, o)
	if err != nil {
		return nil, fmt.Errorf("tuf: signing request: %w", err)
	}
	return q, nil
}

func readRequest(data, trustedRoot []byte, o Options) (q *Request, err error) {
	defer func() {
		if p := recover(); p != nil {
			q, err = nil, fmt.Errorf("malformed metadata: %v", p)
		}
	}()
	q = &Request{guard: o.Guard, words: o.Words, now: time.Now(), known: o.Known, another: o.AnotherRoot}
	if o.Now != nil {
		q.now = o.Now()
	}
	if err := strictJSON(data, &q.file); err != nil {
		return nil, err
	}
	if q.file.Schema != requestSchema {
		return nil, fmt.Errorf("schema %q: this version reads %s", q.file.Schema, requestSchema)
	}
	s := newState(nil)
	switch {
	case len(q.file.Roots) == 0 && len(trustedRoot) > 0:
		return nil, errors.New("it is for the first root of a repository, and you know a root already: it is no request for the repository that you know")
	case len(q.file.Roots) > 0 && len(trustedRoot) == 0:
		return nil, errors.New("give the root that you know of this repository, received by a way you trust: without it nobody can say what the request changes")
	}
	if err := s.follow(q.file.Roots, trustedRoot); err != nil {
		return nil, err
	}
	if err := s.take(q.file.Before); err != nil {
		return nil, err
	}
	d := &draft{state: s, roles: map[string]*targetsMeta{}, files: map[string][]byte{}, expiry: func(p time.Duration) time.Time { return q.now.Add(p) }}
	d.target = func(name string, t *metadata.TargetFiles) ([]byte, error) {
		data, ok := q.file.Content[t.Hashes["sha256"].String()]
		if !ok || t.VerifyLengthHashes(data) != nil {
			return nil, fmt.Errorf("target %s does not come with the request: %w", name, fs.ErrNotExist)
		}
		return data, nil
	}
	q.draft = d
	if len(q.file.After) == 0 {
		return nil, errors.New("there is nothing in it to sign")
	}
	for role, data := range q.file.After {
		if role == metadata.ROOT {
			d.root, err = parseRoot(data)
		} else {
			if role != metadata.TARGETS {
				err = checkRole(role)
			}
			if err == nil {
				d.roles[role], err = parseTargets(data)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", role, err)
		}
	}
	if d.rootView() == nil {
		return nil, errors.New("there is no root in it")
	}
	if err := d.withheld(); err != nil {
		return nil, err
	}
	for _, role := range d.changed() {
		if _, err := d.rings(role); err != nil {
			return nil, err
		}
		doc, err := d.document(role)
		if err != nil {
			return nil, err
		}
		was := int64(0)
		if role == metadata.ROOT && !s.empty() {
			was = s.Root.Signed.Version
		} else if m := s.Targets[role]; m != nil {
			was = m.Signed.Version
		}
		if doc.version <= was || doc.version > maxVersion || role == metadata.ROOT && doc.version != was+1 {
			return nil, fmt.Errorf("%s has version %d, and %d is published: clients would refuse it", role, doc.version, was)
		}
	}
	if id, err := d.id(q.file.By, q.file.Reason); err != nil {
		return nil, err
	} else if id != q.file.Event {
		return nil, fmt.Errorf("it is damaged: it says to be of event %s and is of %s", q.file.Event, id)
	}
	if q.known != "" {
		return q, q.contradicted()
	}
	return q, nil
}

// withheld refuses a request without published metadata of what it changes: what a change takes away would not be seen.
func (d *draft) withheld() error {
	for _, role := range d.changed() {
		if role == metadata.ROOT || d.empty() {
			continue
		}
		_, err := delegatorOf(role, func(name, _ string) (*targetsMeta, error) {
			if m := d.Targets[name]; m != nil {
				return m, nil
			}
			return nil, errNoRole
		})
		if d.Targets[role] == nil && (err == nil || d.Targets[metadata.TARGETS] == nil) {
			return fmt.Errorf("%s is published and does not come with it, so that nobody can say what the request takes away: somebody left it out; ask the repository's operator by another way", role)
		}
	}
	return nil
}

// follow takes a chain of roots that contains the trusted one.
func (s *state) follow(roots []json.RawMessage, trusted []byte) error {
	if len(roots) == 0 {
		return nil
	}
	known, err := parseRoot(trusted)
	if err != nil {
		return fmt.Errorf("the root that you know: %w", err)
	}
	var chain [][]byte
	for _, data := range roots {
		chain = append(chain, data)
	}
	if err := s.chain(chain, func(v int64) string { return fmt.Sprintf("root %d", v) }); err != nil {
		return err
	}
	if at := known.Signed.Version - s.first; at >= 0 && at < int64(len(chain)) {
		same, err := sameRoot(trusted, chain[at])
		if err != nil {
			return err
		}
		if same {
			return nil
		}
	}
	if known.Signed.Version > s.Root.Signed.Version {
		return fmt.Errorf("it begins at root %d, and you know root %d: it is old, or somebody wants an old state back", s.Root.Signed.Version, known.Signed.Version)
	}
	return fmt.Errorf("root %d that you know is not a root of this request: it is for another repository, or somebody made up its past; ask the repository's operator by another way", known.Signed.Version)
}

// take takes published metadata of targets roles, verified by who delegates to them. Expired metadata is taken: it is
// what is to be renewed.
func (s *state) take(before map[string]json.RawMessage) error {
	if len(before) > 0 && s.empty() {
		return errors.New("it has published metadata and no published root")
	}
	get := func(role, by string) (*targetsMeta, error) {
		if m := s.Targets[role]; m != nil {
			return m, nil
		}
		data, ok := before[role]
		if !ok {
			return nil, fmt.Errorf("role %q: %w", role, errNoRole)
		}
		m, err := parseTargets(data)
		if err != nil {
			return nil, fmt.Errorf("published %s: %w", role, err)
		}
		var ring keyring
		if by == metadata.ROOT {
			ring, err = rootRing(s.Root, role)
		} else {
			ring, err = delegatedRing(s.Targets[by], role)
		}
		if err != nil {
			return nil, err
		}
		doc, err := newDocument(role, m)
		if err != nil {
			return nil, err
		}
		if !ring.met(doc) {
			return nil, fmt.Errorf("published %s is not signed by %d of %s", role, ring.threshold, ring.names())
		}
		s.Targets[role], s.raw[role] = m, data
		return m, nil
	}
	for _, role := range slices.Sorted(maps.Keys(before)) {
		by, err := delegatorOf(role, get)
		if err == nil {
			_, err = get(role, by)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Event returns the id of the event that the request is of, and who proposes it and why, in their own words.
func (q *Request) Event() (id, by, reason string) {
	return q.file.Event, visible(q.file.By), visible(q.file.Reason)
}

// Diff says what signing the request would change.
func (q *Request) Diff() Diff {
	d := q.draft.diff(q.guard, q.words, q.now)
	d.Event, d.By, d.Reason = q.Event()
	return d
}

// Sign signs every role of the request that the key is asked for, and returns the file to send back. Look at the Diff
// first. What Known is to remember is kept before the key is used.
func (q *Request) Sign(ctx context.Context, s signer.Signer) ([]byte, error) {
	out := signatureFile{Schema: signatureSchema, Event: q.file.Event}
	type part struct {
		doc document
		id  string
		key *metadata.Key
	}
	var parts []part
	var asked []string
	for _, role := range q.draft.changed() {
		doc, err := q.draft.document(role)
		if err != nil {
			return nil, fmt.Errorf("tuf: sign: %w", err)
		}
		rings, err := q.draft.rings(role)
		if err != nil {
			return nil, fmt.Errorf("tuf: sign: %w", err)
		}
		done := map[string]bool{}
		for _, ring := range rings {
			asked = append(asked, role+": "+ring.names())
			id := ring.idOf(s.PublicKey())
			if id == "" || done[id] {
				continue
			}
			done[id] = true
			parts = append(parts, part{doc, id, ring.keys[id]})
		}
	}
	if len(parts) == 0 {
		slices.Sort(asked)
		return nil, fmt.Errorf("tuf: sign: key %s is not asked for anything; asked are: %s", s.Identity().ID(), list(slices.Compact(asked)))
	}
	if err := q.remember(ctx, slices.ContainsFunc(parts, func(p part) bool { return p.doc.role == metadata.ROOT })); err != nil {
		return nil, fmt.Errorf("tuf: sign: %w", err)
	}
	for _, p := range parts {
		sig, err := signOne(ctx, p.doc, p.id, p.key, s)
		if err != nil {
			return nil, fmt.Errorf("tuf: %w", err)
		}
		out.Signatures = append(out.Signatures, roleSignature{p.doc.role, p.doc.version, p.doc.digest(), p.id, sig.Signature})
	}
	data, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		return nil, fmt.Errorf("tuf: sign: %w", err)
	}
	return append(data, '\n'), nil
}

// SignRequest is ReadRequest and Sign in one, for a holder who was shown the Diff already.
func SignRequest(ctx context.Context, request []byte, s signer.Signer, trustedRoot []byte, o Options) ([]byte, error) {
	q, err := ReadRequest(request, trustedRoot, o)
	if err != nil {
		return nil, err
	}
	return q.Sign(ctx, s)
}

func parseSignatures(data []byte) (signatureFile, error) {
	var f signatureFile
	if err := strictJSON(data, &f); err != nil {
		return f, err
	}
	if f.Schema != signatureSchema {
		return f, fmt.Errorf("schema %q: this version reads %s", f.Schema, signatureSchema)
	}
	if len(f.Signatures) == 0 {
		return f, errors.New("there are no signatures in it")
	}
	for i, s := range f.Signatures {
		if slices.ContainsFunc(f.Signatures[:i], func(o roleSignature) bool { return o.Role == s.Role && o.KeyID == s.KeyID }) {
			return f, fmt.Errorf("%s is signed twice with key %s", s.Role, s.KeyID)
		}
	}
	return f, nil
}

// A Signed is one signature that was taken into the event.
type Signed struct {
	Role  string `json:"role"`
	KeyID string `json:"key_id"`
	Owner string `json:"owner,omitempty"`
	Again bool   `json:"again,omitempty"` // there was one by this key already; it was replaced
}

// Import takes a holder's signature file into the open event. Every signature in it is verified; one that is for
// another event, role or key refuses the whole file.
func (r *Repository) Import(ctx context.Context, data []byte) ([]Signed, error) {
	var out []Signed
	err := r.change(ctx, func() error {
		f, err := parseSignatures(data)
		if err != nil {
			return err
		}
		s, err := r.load()
		if err != nil {
			return err
		}
		e, d, err := r.openEvent(s)
		if err != nil {
			return err
		}
		var touched []string
		for _, sig := range f.Signatures {
			if !slices.Contains(e.Roles, sig.Role) {
				return fmt.Errorf("it signs %s, which event %s does not change", sig.Role, e.ID)
			}
			doc, err := d.document(sig.Role)
			if err != nil {
				return err
			}
			if doc.digest() != sig.Digest || doc.version != sig.Version {
				return fmt.Errorf("it signs another %s (version %d, of event %s) than event %s has (version %d): export the event and have it signed again", sig.Role, sig.Version, f.Event, e.ID, doc.version)
			}
			rings, err := d.rings(sig.Role)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(rings, func(k keyring) bool { return slices.Contains(k.ids, sig.KeyID) })
			if i < 0 {
				return fmt.Errorf("key %s is not asked to sign %s; asked are: %s", sig.KeyID, sig.Role, rings[len(rings)-1].names())
			}
			key := rings[i].keys[sig.KeyID]
			if err := verifySignature(key, doc.payload, sig.Sig); err != nil {
				return fmt.Errorf("the signature of %s by %s does not verify: %w", sig.Role, keyName(sig.KeyID, key), err)
			}
			again := slices.ContainsFunc(*doc.signatures, func(s metadata.Signature) bool { return s.KeyID == sig.KeyID })
			doc.put(metadata.Signature{KeyID: sig.KeyID, Signature: sig.Sig})
			out = append(out, Signed{sig.Role, sig.KeyID, visible(ownerOf(key)), again})
			if !slices.Contains(touched, sig.Role) {
				touched = append(touched, sig.Role)
			}
		}
		var steps []step
		for _, role := range touched {
			data, _, err := r.encode(d, role)
			if err != nil {
				return err
			}
			steps = append(steps, write(inSource, eventRoleFile(role), data))
		}
		return r.commit(ctx, steps)
	})
	if err != nil {
		return nil, fmt.Errorf("tuf: import: %w", err)
	}
	return out, nil
}
