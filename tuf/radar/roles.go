package radar

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// How many roles that share the targets by hash are read one by one.
const (
	maxBinsHere = 16384
	maxBinsWeb  = 256
)

// How many delegated roles are read in all.
const (
	maxDelegatedHere = 2 * maxBinsHere
	maxDelegatedWeb  = 2 * maxBinsWeb
)

// maxMatches is how many times a target is held against a path for one role.
const maxMatches = 20_000_000

// maxNamed is how many targets are named in one problem.
const maxNamed = 5

// A version beyond this was not counted up to in any life: somebody wanted honest versions to look old (fast-forward).
const (
	maxPlausible = 10_000_000
	maxSkew      = 5 * time.Minute
)

// roles reads what root leads to, in the order clients do.
func (l *look) roles(ctx context.Context, root *version) error {
	l.add(subject{name: metadata.ROOT, ring: root.ring, fields: root.root.UnrecognizedFields, expires: root.root.Expires, verified: l.RootChain.Last == root.version}, root.document)
	l.keyring(metadata.ROOT, root.ring)
	if !root.root.ConsistentSnapshot {
		l.say(Warning, "no-consistent-snapshot", metadata.ROOT, "set consistent_snapshot in the next root and publish files under versioned names",
			"root says that files are replaced in place: clients fail while something is published")
	}

	timestamp, d, err := readRole[metadata.TimestampType](ctx, l, root, metadata.TIMESTAMP, nil, maxTimestamp)
	if err != nil {
		return err
	}
	l.served(ctx, d)
	l.clock()
	var meta *metadata.MetaFiles
	if timestamp != nil {
		if meta = timestamp.Meta["snapshot.json"]; meta == nil {
			l.say(Error, "malformed", metadata.TIMESTAMP, "sign the timestamp anew", "timestamp lists no snapshot.json")
		}
	}
	if meta == nil && l.files.layout == Published {
		l.say(Error, "incomplete", "", "repair the timestamp first, and look again", "without a timestamp nobody knows which snapshot and targets are meant: they were not looked at")
		return nil
	}
	snapshot, _, err := readRole[metadata.SnapshotType](ctx, l, root, metadata.SNAPSHOT, meta, maxSnapshot)
	if err != nil {
		return err
	}
	l.entries(timestamp, snapshot)
	if meta = nil; snapshot != nil {
		if meta = snapshot.Meta["targets.json"]; meta == nil {
			l.say(Error, "malformed", metadata.SNAPSHOT, "sign the snapshot anew", "snapshot lists no targets.json")
		}
	}
	if meta == nil && l.files.layout == Published {
		return nil
	}
	targets, _, err := readRole[metadata.TargetsType](ctx, l, root, metadata.TARGETS, meta, maxTargets)
	if err != nil || targets == nil {
		return err
	}
	l.mixed(root)
	if err := l.targets(ctx, metadata.TARGETS, targets, root.root.ConsistentSnapshot); err != nil {
		return err
	}
	return l.delegations(ctx, root, targets, snapshot)
}

// subject is a role to be judged.
type subject struct {
	name, delegator string
	ring            ring
	fields          map[string]any // where its periods are declared
	expires         time.Time
	verified        bool
	quiet           bool // its keys were judged before
}

// readRole reads and judges a top-level role. It returns nil when there is nothing to go on with, and an error when ctx
// ended.
func readRole[T metadata.Roles](ctx context.Context, l *look, root *version, role string, meta *metadata.MetaFiles, limit int64) (*T, *document, error) {
	r, ok := rootRing(root.root, role)
	if !ok {
		l.say(Error, "malformed", role, "publish a next root that has it", "root lists no role %s", role)
		return nil, nil, nil
	}
	l.keyring(role, r)
	data, err := l.file(ctx, role, meta, limit, root.root.ConsistentSnapshot)
	if data == nil {
		return nil, nil, err
	}
	t, d := readSigned[T](l, role, "root", r, root.root, meta, data, false)
	return t, d, nil
}

// file returns the content of a role's metadata, or nil and a problem.
func (l *look) file(ctx context.Context, role string, meta *metadata.MetaFiles, limit int64, consistent bool) ([]byte, error) {
	var v int64
	if meta != nil {
		v = meta.Version
		if meta.Length > 0 {
			limit = min(meta.Length, maxDeclared)
		}
	}
	if l.files.layout == Source {
		limit = maxDeclared // clients do not read these
	}
	name := l.files.role(role, v, consistent)
	data, err := l.files.read(ctx, name, limit)
	switch {
	case err == nil:
		return data, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, fs.ErrNotExist):
		l.say(Error, "missing", role, "publish again, or restore the file from a backup or a mirror", "%s is missing", name)
	case errors.Is(err, errTooLong):
		l.refuse(Error, "too-long", role, goTUF, "publish it smaller, or with its length in the snapshot", "%s: %v: clients stop reading there", name, err)
	default:
		l.say(Error, "unreadable", role, "make it readable, and look again", "%s cannot be read: %v", name, err)
	}
	return nil, nil
}

// readSigned judges metadata of a role that delegator answers for.
func readSigned[T, D metadata.Roles](l *look, role, delegator string, r ring, by *D, meta *metadata.MetaFiles, data []byte, quiet bool) (*T, *document) {
	name := role
	d, err := parse(name, data)
	if err != nil {
		l.say(Error, "malformed", role, "restore the file from a backup or a mirror", "%s cannot be read: %v", name, err)
		return nil, nil
	}
	t, err := decode[T](d, role)
	if err != nil {
		l.say(Error, "malformed", role, "restore the file from a backup or a mirror", "%s cannot be read: %v", name, err)
		return nil, nil
	}
	s := subject{name: role, delegator: delegator, ring: r, quiet: quiet, verified: true, fields: r.fields}
	switch t := any(t).(type) {
	case *metadata.TimestampType:
		s.expires = t.Expires
	case *metadata.SnapshotType:
		s.expires = t.Expires
	case *metadata.TargetsType:
		s.expires, s.fields = t.Expires, t.UnrecognizedFields
	}
	if n := len(r.signers(d)); n < r.threshold || r.threshold < 1 {
		s.verified = false
		if l.files.layout == Source && d.waits() && (meta == nil || meta.Version < d.version) {
			l.event(Event{Role: role, Version: d.version, Needs: []Need{l.need(delegator, r, d)}})
		} else {
			whose := "of its role"
			if delegator != metadata.ROOT && delegator != metadata.TARGETS {
				whose = "that " + delegator + " lists for it" // another role may list others
			}
			l.say(Error, "unsigned", role, "have it signed by its holders, and find out how it came there", "%s %d is signed by %d of the keys %s, and %d must: every client refuses it", role, d.version, n, whose, r.threshold)
		}
	} else if err := accepts[D, T](by, role, data); err != nil {
		l.refuse(Error, "go-tuf-refuses", role, goTUF, "have it signed anew, with keys and in a form that go-tuf reads", "%s %d has the signatures it needs, and a client of go-tuf refuses it all the same: %v", role, d.version, err)
	}
	s.verified = l.listed(role, d, meta) && s.verified
	l.add(s, d)
	return t, d
}

// listed holds metadata against what the role above says of it.
func (l *look) listed(role string, d *document, meta *metadata.MetaFiles) bool {
	switch {
	case meta == nil:
		return true
	case l.files.layout == Source && d.version > meta.Version:
		l.say(Warning, "unpublished", role, "publish: sign snapshot and timestamp", "%s is at version %d, and the snapshot still lists %d: no client sees it", role, d.version, meta.Version)
		return true
	case d.version != meta.Version:
		l.say(Error, "version-mismatch", role, "publish again", "%s holds version %d where version %d is listed: every client refuses it", role, d.version, meta.Version)
		return false
	}
	if l.files.layout == Source && !matches(meta, d.data) {
		return true // it may be written in another form than the published one
	}
	if !matches(meta, d.data) {
		l.say(Error, "hash-mismatch", role, "restore the file that was signed from a mirror, or publish again", "%s %d is not the file that is listed: length or hash differ, and every client refuses it", role, d.version)
		return false
	}
	return true
}

func matches(meta *metadata.MetaFiles, data []byte) bool { return meta.VerifyLengthHashes(data) == nil }

// add enters a role into the status, with the problems of its time, its version and its signatures.
func (l *look) add(s subject, d *document) {
	r := Role{
		Name: s.name, Delegator: s.delegator, Version: d.version, Expires: s.expires.UTC(), DaysLeft: daysLeft(l.now, s.expires),
		Threshold: s.ring.threshold, Verified: s.verified, Keys: []Key{},
		ExpiryPeriod: period(s.fields, fieldExpiry), SigningPeriod: period(s.fields, fieldSigning),
		Online: s.name == metadata.SNAPSHOT || s.name == metadata.TIMESTAMP,
	}
	l.learn(s.ring)
	signed := s.ring.signers(d)
	r.Signatures = len(signed)
	online := 0
	for _, h := range s.ring.keys {
		k := Key{ID: h.id, Owner: h.field(fieldOwner), URI: h.field(fieldOnline), Type: h.key.Type, Scheme: h.key.Scheme, Signed: signed[h.fingerprint]}
		if h.public != nil {
			k.Fingerprint = h.fingerprint
		}
		if k.URI != "" {
			online++
		}
		r.Keys = append(r.Keys, k)
	}
	r.Online = r.Online || online > 0 && online == len(r.Keys)
	r.Expiry = l.time(r)
	l.Roles = append(l.Roles, r)
	l.form(r, d)
	if !s.quiet {
		l.signatures(r, s.ring, d)
	}
}

// time tells of an expiry that is past, near, or odd, and returns how bad it is.
func (l *look) time(r Role) (expiry Severity) {
	do := "have its holders sign it anew"
	if r.Online {
		do = "run the job that signs snapshot and timestamp, and find out why it did not run"
	}
	left := r.Expires.Sub(l.now)
	warn := time.Duration(l.o.WarnDays) * day
	life := time.Duration(r.ExpiryPeriod) * day
	if life == 0 && r.Online {
		life = map[string]time.Duration{metadata.TIMESTAMP: 2 * day}[r.Name]
		life = cmp.Or(life, 14*day)
	}
	if life > 0 {
		warn = min(warn, life/2)
	}
	when := r.Expires.Format("2006-01-02 15:04 UTC")
	switch {
	case left <= 0:
		expiry = Error
		l.say(expiry, "expired", r.Name, do, "%s %d expired on %s, %s ago: every client refuses it", r.Name, r.Version, when, about(-left))
	case left <= warn:
		expiry = Warning
		l.say(expiry, "expires-soon", r.Name, do, "%s %d expires on %s, in %s", r.Name, r.Version, when, about(left))
	case r.SigningPeriod > 0 && !r.Online && left <= time.Duration(r.SigningPeriod)*day:
		expiry = Warning
		l.say(expiry, "signing-period", r.Name, do, "%s %d is to be signed anew: it expires on %s, in %s, and its signing period is %d days", r.Name, r.Version, when, about(left), r.SigningPeriod)
	}
	if r.ExpiryPeriod > 0 && left > life+maxSkew+day {
		l.say(Warning, "clock-skew", r.Name, "compare the clocks of this machine and of whoever signed it", "%s %d expires in %s, and its period is %d days: the signer's clock is ahead, this one is behind, or somebody gave it a longer life",
			r.Name, r.Version, about(left), r.ExpiryPeriod)
	}
	return expiry
}

// about writes a duration in days, or in hours when it is short.
func about(d time.Duration) string {
	switch n := int(d / day); {
	case n >= 2:
		return fmt.Sprintf("%d days", n)
	case d >= time.Hour:
		return fmt.Sprintf("%d hours", int(d/time.Hour))
	default:
		return fmt.Sprintf("%d minutes", int(d/time.Minute))
	}
}

// form tells of what some clients mind in how metadata is written.
func (l *look) form(r Role, d *document) {
	if _, err := time.Parse("2006-01-02T15:04:05Z", d.expires); err != nil || strings.Contains(d.expires, ".") {
		l.refuse(Warning, "expiry-form", r.Name, python, "sign it anew with an expiry in whole seconds, in UTC", "%s %d expires %q, and the specification has whole seconds and a Z (4.2)", r.Name, r.Version, d.expires)
	}
	if !strings.HasPrefix(d.spec, "1.") {
		l.say(Error, "spec-version", r.Name, "sign it anew for version 1.0 of the specification", "%s %d says it follows version %q of the specification", r.Name, r.Version, d.spec)
	}
	if r.Version < 1 {
		l.say(Error, "malformed", r.Name, "sign it anew", "%s has version %d", r.Name, r.Version)
	}
	if r.Version > maxPlausible && !l.said("fast-forward", r.Name) {
		l.say(Error, "fast-forward", r.Name, fastForward(r.Name), "%s is at version %d: nobody counts so far, and clients refuse every lower one", r.Name, r.Version)
	}
}

func fastForward(role string) string {
	switch role {
	case metadata.ROOT:
		return "a root cannot go back: count on from there"
	case metadata.SNAPSHOT, metadata.TIMESTAMP:
		return "replace the online key in a new root: clients then forget the versions it signed"
	}
	return "replace the role's keys and the online key: clients then forget the versions they signed"
}

// signatures tells of signatures that count for nothing.
func (l *look) signatures(r Role, ring ring, d *document) {
	if twice := d.twice(); len(twice) > 0 {
		l.refuse(Error, "duplicate-signature", r.Name, goTUF, "take the repeated signatures away: signatures are not signed", "%s %d lists more than one signature by key %s", r.Name, r.Version, shorts(twice))
	}
	var unknown, bad []string
	for _, m := range d.signatures {
		n := slices.IndexFunc(ring.keys, func(h holder) bool { return h.id == m.KeyID })
		switch {
		case m.Sig == "":
		case n < 0 && r.Name != metadata.ROOT: // a root is signed by the holders before it, too
			unknown = append(unknown, m.KeyID)
		case n >= 0 && !ring.keys[n].verify(d.payload, m.Sig) && ring.keys[n].public != nil:
			bad = append(bad, l.who(ring.keys[n]))
		}
	}
	if len(unknown) > 0 {
		l.say(Notice, "unknown-signature", r.Name, "nothing: clients take no notice", "%s %d has signatures by keys that are none of its role: %s", r.Name, r.Version, shorts(unknown))
	}
	if len(bad) > 0 {
		l.say(Warning, "bad-signature", r.Name, "have them sign again, and find out who wrote it", "%s %d has signatures that do not verify, by %s", r.Name, r.Version, strings.Join(bad, ", "))
	}
}

func shorts(ids []string) string {
	out := make([]string, len(ids))
	for n, id := range ids {
		out[n] = short(id)
	}
	return strings.Join(out, ", ")
}

// keyring tells of weak thresholds and odd keys.
func (l *look) keyring(role string, r ring) {
	l.learn(r)
	online := role == metadata.SNAPSHOT || role == metadata.TIMESTAMP
	n := r.distinct()
	switch {
	case len(r.unknown) > 0:
		l.refuse(Error, "unknown-key", role, goTUF, "publish the key, or take its id out of the role", "%s names keys that are not published: %s", role, shorts(r.unknown))
	case r.threshold < 1:
		l.say(Error, "threshold", role, "publish a threshold of at least 1", "%s has the threshold %d: clients refuse it", role, r.threshold)
	case n < r.threshold:
		l.say(Error, "threshold", role, "add keys, or lower the threshold", "%s needs %d signatures and has %d different keys: it cannot be signed any more", role, r.threshold, n)
	case online:
	case r.threshold == 1 && role == metadata.ROOT:
		l.say(Warning, "threshold-1", role, "raise the threshold in the next root", "one key alone can change root: its theft is the theft of everything")
	case r.threshold == 1:
		l.say(Warning, "threshold-1", role, "raise the threshold", "one key alone can sign %s", role)
	case n == r.threshold:
		l.say(Warning, "no-spare-key", role, "add a holder", "%s needs all of its %d holders: when one key is lost it cannot be signed any more", role, n)
	}
	seen := map[string]string{}
	for _, h := range r.keys {
		if h.public == nil {
			l.refuse(Error, "unreadable-key", role, goTUF, "replace the key", "the key %s of %s cannot be read (%v): clients of go-tuf refuse the whole role", l.who(h), role, h.why)
			continue
		}
		if other := seen[h.fingerprint]; other != "" {
			l.say(Warning, "duplicate-key", role, "take one of them out", "%s lists one key twice, as %s and %s: it counts once", role, short(other), short(h.id))
		}
		seen[h.fingerprint] = h.id
		if h.old {
			l.refuse(Error, "old-key", role, goTUF, "publish the key in PEM, with the type ecdsa", "the key %s of %s is written in a way that clients of go-tuf do not read: they refuse the whole role", l.who(h), role)
		}
		if !h.trueID() {
			l.refuse(Notice, "key-id", role, onCI, "nothing for clients; tuf-on-ci wants TUF_ON_CI_NO_VERIFY_KID to take the repository over", "the id %s of the key %s of %s is not the hash of the key as it is published", short(h.id), l.who(h), role)
		}
		if m := h.misfit(); m != "" {
			l.say(Warning, "key-scheme", role, "publish the key with its own scheme", "%s of %s is %s: what clients make of its signatures differs", l.who(h), role, m)
		}
	}
}

// mixed tells of keys that are in offline roles and in online ones.
func (l *look) mixed(root *version) {
	online := map[string]string{}
	for _, role := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP} {
		r, _ := rootRing(root.root, role)
		for _, h := range r.keys {
			online[h.fingerprint] = role
		}
	}
	for _, role := range []string{metadata.ROOT, metadata.TARGETS} {
		r, _ := rootRing(root.root, role)
		l.shared(role, r, online)
	}
}

func (l *look) shared(role string, r ring, online map[string]string) {
	for _, h := range r.keys {
		if other := online[h.fingerprint]; other != "" && h.field(fieldOnline) == "" || other != "" && (role == metadata.ROOT || role == metadata.TARGETS) {
			l.say(Warning, "shared-key", role, "give the online role a key of its own, in a new root", "the key %s signs %s and %s: whoever takes the online machine has a key of %s", l.who(h), role, other, role)
		}
	}
}

// clock compares the server's clock with ours.
func (l *look) clock() {
	if d := l.files.here.Sub(l.files.date).Abs(); !l.files.date.IsZero() && d > maxSkew {
		l.say(Warning, "clock-skew", "", "set the clock that is wrong: what has expired depends on it", "this machine's clock and the server's differ by %s", d.Round(time.Second))
	}
}

// entries tells of versions in the lists of timestamp and snapshot that nobody counted up to.
func (l *look) entries(timestamp *metadata.TimestampType, snapshot *metadata.SnapshotType) {
	list := map[string]*metadata.MetaFiles{}
	if timestamp != nil {
		maps.Copy(list, timestamp.Meta)
	}
	if snapshot != nil {
		maps.Copy(list, snapshot.Meta)
	}
	for _, name := range slices.Sorted(maps.Keys(list)) {
		role := strings.TrimSuffix(name, ".json")
		switch m := list[name]; {
		case m == nil:
			l.say(Error, "malformed", role, "sign the list anew", "%s is listed as null", name)
		case m.Version > maxPlausible && !l.said("fast-forward", role):
			l.say(Error, "fast-forward", role, fastForward(role), "%s is listed at version %d: nobody counts so far, and clients refuse every lower one", name, m.Version)
		}
	}
}

// targets counts the targets of a role and compares the files at hand.
func (l *look) targets(ctx context.Context, role string, t *metadata.TargetsType, consistent bool) error {
	l.Roles[len(l.Roles)-1].Targets = len(t.Targets)
	var two, wrong []string
	for _, name := range slices.Sorted(maps.Keys(t.Targets)) {
		f := t.Targets[name]
		if f == nil {
			l.say(Error, "malformed", role, "sign the role anew", "target %s is listed as null", name)
			continue
		}
		if len(f.Hashes) > 1 {
			two = append(two, name)
		}
		if l.files.dir == nil || l.o.SkipTargets {
			continue
		}
		if err := l.target(ctx, name, f, consistent); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			wrong = append(wrong, fmt.Sprintf("%s (%v)", name, err))
		}
	}
	if len(two) > 0 {
		l.refuse(Warning, "two-hashes", role, goTUF, "list one hash, sha256", "%d targets of %s are listed with more than one hash, %s: clients of go-tuf pick one at random for the file's name", len(two), role, some(two, maxNamed))
	}
	if len(wrong) > 0 {
		l.say(Error, "target-mismatch", role, "restore the files, or publish the targets anew", "%d of %d target files of %s are not what is signed: %s", len(wrong), len(t.Targets), role, some(wrong, maxNamed))
	}
	return nil
}

func some(list []string, most int) string {
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return strings.Join(list[:most], ", ") + ", ..."
}

// target compares the file of a target with what is signed. With several hashes each name a client may ask for is tried.
func (l *look) target(ctx context.Context, name string, f *metadata.TargetFiles, consistent bool) error {
	if !fs.ValidPath(name) {
		return errors.New("its name leads out of the repository")
	}
	if len(f.Hashes) == 0 {
		return errors.New("no hash is listed")
	}
	for _, algorithm := range slices.Sorted(maps.Keys(f.Hashes)) {
		want := f.Hashes[algorithm]
		sum, ok := map[string]func() hash.Hash{"sha256": sha256.New, "sha512": sha512.New}[algorithm]
		if !ok {
			return fmt.Errorf("the hash %s is unknown", algorithm)
		}
		r, err := l.files.open(ctx, l.files.target(name, want.String(), consistent))
		if errors.Is(err, fs.ErrNotExist) {
			return errors.New("missing")
		}
		if err != nil {
			return err
		}
		h := sum()
		n, err := io.Copy(h, io.LimitReader(r, f.Length+1))
		r.Close()
		switch {
		case err != nil:
			return err
		case n != f.Length:
			return errors.New("another length")
		case hex.EncodeToString(h.Sum(nil)) != want.String():
			return errors.New("another content")
		}
	}
	return nil
}

// descent is a reading of the delegated roles.
type descent struct {
	root     *version
	snapshot *metadata.SnapshotType
	online   map[string]string // fingerprint of a key → the online role that it signs
	parent   map[string]string // a role that was read → the one that led to it
	read     int               // so many roles
	most     int               // so many are read
	unread   int
}

// delegator is a role, and what is below it.
type delegator struct {
	name string
	*metadata.TargetsType
}

// delegations reads all roles that targets leads to, those of each level before the next. A role is entered once for
// each that delegates to it, for each names its keys, and is followed once: clients, too, visit a role once (5.6.7).
func (l *look) delegations(ctx context.Context, root *version, t *metadata.TargetsType, snapshot *metadata.SnapshotType) error {
	d := &descent{root: root, snapshot: snapshot, online: map[string]string{}, parent: map[string]string{metadata.TARGETS: ""}, most: maxDelegatedHere}
	if l.files.dir == nil {
		d.most = maxDelegatedWeb
	}
	for _, role := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP} {
		r, _ := rootRing(root.root, role)
		for _, h := range r.keys {
			d.online[h.fingerprint] = role
		}
	}
	for queue := []delegator{{metadata.TARGETS, t}}; len(queue) > 0; queue = queue[1:] {
		below, err := l.below(ctx, d, queue[0])
		if err != nil {
			return err
		}
		queue = append(queue, below...)
	}
	if d.unread > 0 {
		l.say(Warning, "unread", "", "look at a copy in a directory, and find out who delegates to so many", "%d delegated roles were not looked at: after %d of them it ends", d.unread, d.most)
	}
	return nil
}

// below reads the roles that a role delegates to, and returns those that delegate further.
func (l *look) below(ctx context.Context, d *descent, by delegator) ([]delegator, error) {
	t := by.TargetsType
	if t.Delegations == nil {
		return nil, nil
	}
	if s := t.Delegations.SuccinctRoles; s != nil {
		if s.BitLength < 1 || s.BitLength > 32 {
			l.say(Error, "malformed", by.name, "sign "+by.name+" anew", "%s shares its targets among 2 to the %d roles", by.name, s.BitLength)
			return nil, nil
		}
		r := newRing(s.KeyIDs, t.Delegations.Keys, s.Threshold, s.UnrecognizedFields)
		l.keyring(s.NamePrefix, r)
		l.shared(s.NamePrefix, r, d.online)
		digits := len(fmt.Sprintf("%x", uint64(1)<<s.BitLength-1))
		return l.bins(ctx, d, by, s.NamePrefix+"-*", r, 1<<s.BitLength, func(n int) metadata.DelegatedRole {
			return metadata.DelegatedRole{Name: fmt.Sprintf("%s-%0*x", s.NamePrefix, digits, n), KeyIDs: s.KeyIDs, Threshold: s.Threshold}
		})
	}
	var binned []metadata.DelegatedRole
	var next []delegator
	for _, x := range t.Delegations.Roles {
		if len(x.PathHashPrefixes) > 0 {
			binned = append(binned, x)
			continue
		}
		roles, problems := len(l.Roles), len(l.Problems)
		r := newRing(x.KeyIDs, t.Delegations.Keys, x.Threshold, x.UnrecognizedFields)
		l.keyring(x.Name, r)
		l.shared(x.Name, r, d.online)
		below, err := l.one(ctx, d, by, x, r, false)
		if err != nil {
			return nil, err
		}
		if len(l.Roles) > roles {
			l.Roles[roles].Paths, l.Roles[roles].Terminating = x.Paths, x.Terminating
		}
		l.once(problems)
		next = append(next, below...)
	}
	if len(binned) == 0 {
		return next, nil
	}
	l.refuse(Warning, "hash-prefixes", by.name, goTUF, "delegate by paths or by succinct roles (TAP 15)", "%d roles are delegated by path_hash_prefixes, which go-tuf 2.4 compares with base64 instead of hexadecimal: its clients do not find most of those targets", len(binned))
	first := binned[0]
	r := newRing(first.KeyIDs, t.Delegations.Keys, first.Threshold, first.UnrecognizedFields)
	for _, x := range binned[1:] {
		if !slices.Equal(x.KeyIDs, first.KeyIDs) || x.Threshold != first.Threshold {
			r = ring{threshold: r.threshold} // not alike: each is judged by its own keys all the same
		}
	}
	l.keyring(first.Name, r)
	below, err := l.bins(ctx, d, by, fmt.Sprintf("%s ... %s", first.Name, binned[len(binned)-1].Name), r, len(binned), func(n int) metadata.DelegatedRole { return binned[n] })
	return append(next, below...), err
}

// once takes away what was said already before the last problems, of a role that several delegate to.
func (l *look) once(before int) {
	last := slices.DeleteFunc(slices.Clone(l.Problems[before:]), func(p Problem) bool {
		return slices.ContainsFunc(l.Problems[:before], func(x Problem) bool { return x.Code == p.Code && x.Role == p.Role && x.What == p.What })
	})
	l.Problems = append(l.Problems[:before], last...)
}

// enter reports whether a delegated role is to be read, and whether it was not before. A role that leads to itself is
// told.
func (d *descent) enter(l *look, by, role string) (read, first bool) {
	switch {
	case role != metadata.TARGETS && slices.Contains(metadata.TOP_LEVEL_ROLE_NAMES[:], role):
		l.say(Error, "malformed", by, "give the role another name", "%s delegates to %s, which is a role of root: what clients make of it differs", by, role)
		return false, false
	case d.read >= d.most:
		d.unread++
		return false, false
	}
	for at := by; at != ""; at = d.parent[at] {
		if at == role {
			l.say(Warning, "cycle", by, "take that delegation out", "%s delegates to %s, which leads to %s itself: clients pass by a role that they have seen", by, role, by)
			return false, false
		}
	}
	if _, seen := d.parent[role]; !seen {
		d.parent[role], first = by, true
	}
	d.read++
	return true, first
}

// misplaced tells of targets that are not within what is delegated: no client looks for them there.
func (l *look) misplaced(by delegator, x metadata.DelegatedRole, t *metadata.TargetsType) {
	if n := max(len(x.Paths), len(x.PathHashPrefixes)); n*len(t.Targets) > maxMatches {
		l.say(Notice, "unread", x.Name, "delegate by patterns, or by bins", "whether the %d targets of %s are among the %d paths that %s delegates was not looked at: more than %d comparisons", len(t.Targets), x.Name, n, by.name, maxMatches)
		return
	}
	within := func(name string) bool {
		ok, err := x.IsDelegatedPath(name)
		return ok && err == nil
	}
	sum := func(name string) string {
		h := sha256.Sum256([]byte(name))
		return hex.EncodeToString(h[:])
	}
	if s := by.Delegations.SuccinctRoles; s != nil {
		within = func(name string) bool { return s.GetRolesForTarget(name)[0].Name == x.Name }
	} else if len(x.PathHashPrefixes) > 0 {
		within = func(name string) bool {
			return slices.ContainsFunc(x.PathHashPrefixes, func(p string) bool { return strings.HasPrefix(sum(name), p) })
		}
	}
	var outside []string
	for _, name := range slices.Sorted(maps.Keys(t.Targets)) {
		if !within(name) {
			outside = append(outside, name)
		}
	}
	if len(outside) > 0 {
		l.say(Warning, "misplaced", x.Name, "delegate them, or list them where they belong", "%d of %d targets of %s are not among what %s delegates to it, and no client looks for them there: %s",
			len(outside), len(t.Targets), x.Name, by.name, some(outside, maxNamed))
	}
}

// one reads a delegated role, and returns it when it delegates further and was not followed yet.
func (l *look) one(ctx context.Context, d *descent, by delegator, x metadata.DelegatedRole, r ring, quiet bool) ([]delegator, error) {
	role := x.Name
	read, first := d.enter(l, by.name, role)
	if !read {
		return nil, nil
	}
	var meta *metadata.MetaFiles
	if d.snapshot != nil {
		meta = d.snapshot.Meta[role+".json"]
	}
	if meta == nil && (d.snapshot != nil || l.files.layout == Published) {
		if l.files.layout == Published {
			l.say(Error, "unlisted", role, "publish the role", "%s delegates to %s, and the snapshot does not list it: clients that look for its targets fail", by.name, role)
			return nil, nil
		}
		l.say(Warning, "unpublished", role, "publish: sign snapshot and timestamp", "%s delegates to %s, and the snapshot does not list it yet", by.name, role)
	}
	consistent := d.root.root.ConsistentSnapshot
	data, err := l.file(ctx, role, meta, maxTargets, consistent)
	if data == nil {
		return nil, err
	}
	m, _ := readSigned[metadata.TargetsType](l, role, by.name, r, by.TargetsType, meta, data, quiet)
	if m == nil {
		return nil, nil
	}
	l.misplaced(by, x, m)
	if !first {
		l.Roles[len(l.Roles)-1].Targets = len(m.Targets)
		return nil, nil // its targets, and what is below it, were looked at
	}
	if err := l.targets(ctx, role, m, consistent); err != nil || m.Delegations == nil {
		return nil, err
	}
	return []delegator{{role, m}}, nil
}

// bins reads many roles that are alike and enters them as one: the one that expires first, with the sum of the targets.
func (l *look) bins(ctx context.Context, d *descent, by delegator, name string, r ring, count int, nth func(int) metadata.DelegatedRole) ([]delegator, error) {
	b := &Bins{Count: count}
	most := maxBinsHere
	if l.files.dir == nil {
		most = maxBinsWeb
	}
	all, problems := l.Roles, l.Problems
	l.Roles, l.Problems = nil, nil
	var next []delegator
	for n := range min(count, most, d.most-d.read) {
		x, of := nth(n), r
		before := len(l.Roles)
		if by.Delegations.SuccinctRoles == nil {
			of = newRing(x.KeyIDs, by.Delegations.Keys, x.Threshold, x.UnrecognizedFields)
		}
		below, err := l.one(ctx, d, by, x, of, true)
		if err != nil {
			return nil, err
		}
		next = append(next, below...)
		if len(l.Roles) == before {
			b.Missing++
		} else {
			b.Read++
		}
	}
	found, of := l.Roles, l.Problems
	l.Roles, l.Problems = all, problems
	// One line for each kind of problem, not one for each bin.
	kinds := map[string]int{}
	for _, p := range of {
		if kinds[p.Code]++; kinds[p.Code] == 1 {
			l.Problems = append(l.Problems, p)
		}
	}
	for n, p := range l.Problems {
		if k := kinds[p.Code]; k > 1 && slices.ContainsFunc(of, func(x Problem) bool { return x.What == p.What && x.Role == p.Role }) {
			l.Problems[n].What += fmt.Sprintf("; and %d more like it", k-1)
		}
	}
	if b.Read+b.Missing < count {
		l.say(Notice, "unread", name, "look at a copy in a directory", "%d of %d roles were not read: %d are", count-b.Read-b.Missing, count, b.Read+b.Missing)
	}
	if len(found) == 0 {
		return next, nil
	}
	sum := slices.MinFunc(found, func(a, b Role) int { return a.Expires.Compare(b.Expires) })
	sum.Name, sum.Bins, sum.Targets = name, b, 0
	for _, x := range found {
		sum.Targets += x.Targets
		sum.Verified = sum.Verified && x.Verified
		sum.Version = max(sum.Version, x.Version)
	}
	l.Roles = append(l.Roles, sum)
	return next, nil
}
