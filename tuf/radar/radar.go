// Package radar tells the state of any TUF repository: who can sign what, until when, and what is wrong with it.
//
// It only reads: a directory or a web address in the layout that Sigstore publishes, or a directory in the layout that
// tuf-on-ci keeps its sources in. It never stops at the first fault as a client must. Signatures are checked over the
// bytes as they stand, key by key, and beside that with go-tuf's own checks: where the two differ, the status names the
// clients that refuse what others accept. Without a pinned root the first root found is believed, as it says of itself.
//
// Section numbers refer to the TUF specification, version 1.0.
package radar

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

const day = 24 * time.Hour

// DefaultWarnDays is how many days before its expiry a role is warned about.
const DefaultWarnDays = 30

// Options say how to look. The zero value looks as a client without any knowledge does.
type Options struct {
	// Root is the content of a root that is trusted, received some other way; nil: the oldest one found is.
	Root []byte
	// WarnDays is how many days before its expiry a role is warned about; 0 means DefaultWarnDays. A role that lives
	// shorter than twice that is warned about when half of its life is over.
	WarnDays int
	// SkipTargets leaves the content of target files unread. Those of a web address are never read.
	SkipTargets bool
	// Client makes the requests; nil means one with a timeout.
	Client *http.Client
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Layout says how a repository's files are named.
type Layout string

// The layouts.
const (
	Published Layout = "published" // N.root.json, timestamp.json, targets/<sha256>.<name>: what clients read
	Source    Layout = "source"    // metadata/<role>.json, metadata/root_history: what tuf-on-ci keeps in git
)

// Severity orders problems.
type Severity string

// The severities, the worst first.
const (
	Error   Severity = "error"   // clients refuse the repository, or part of it, or cannot follow it
	Warning Severity = "warning" // somebody has to do something before it becomes an error
	Notice  Severity = "notice"  // worth knowing; nothing is to be done
	Fine    Severity = ""        // no problem at all
)

func (s Severity) rank() int { return slices.Index([]Severity{Error, Warning, Notice, Fine}, s) }

// Status is the state of one repository. Its JSON form is the contract of "tuf status --json".
type Status struct {
	Repository string    `json:"repository"`
	Layout     Layout    `json:"layout"`
	Checked    time.Time `json:"checked"`
	Severity   Severity  `json:"severity"` // of the worst problem; empty: there is none
	Pinned     int64     `json:"pinned_root,omitempty"`
	Roles      []Role    `json:"roles"`
	RootChain  Chain     `json:"root_chain"`
	Events     []Event   `json:"events"` // what is being signed
	Problems   []Problem `json:"problems"`
}

// Role is one role as it is published.
type Role struct {
	Name          string    `json:"name"`
	Delegator     string    `json:"delegator,omitempty"` // empty: the root role itself
	Version       int64     `json:"version"`
	Expires       time.Time `json:"expires"`
	DaysLeft      int       `json:"days_left"`        // whole days, negative when it has expired
	Expiry        Severity  `json:"expiry,omitempty"` // Error: it has expired; Warning: it is to be signed anew
	ExpiryPeriod  int       `json:"expiry_period_days,omitempty"`
	SigningPeriod int       `json:"signing_period_days,omitempty"` // it is to be signed anew in the last so many days
	Threshold     int       `json:"threshold"`
	Keys          []Key     `json:"keys"`       // who can sign
	Signatures    int       `json:"signatures"` // by how many distinct keys of the role it is signed
	Verified      bool      `json:"verified"`   // by the threshold, and as the role above says
	Online        bool      `json:"online"`     // signed by a machine
	Paths         []string  `json:"paths,omitempty"`
	Terminating   bool      `json:"terminating,omitempty"`
	Targets       int       `json:"targets,omitempty"` // how many it lists
	Bins          *Bins     `json:"bins,omitempty"`    // the role stands for so many alike
}

// Offline returns the roles that have expired or are to be signed anew, and that no refresh of timestamp and snapshot
// can help: root, targets and whatever is delegated. They are in the order of the status.
func (s Status) Offline() []Role {
	return slices.DeleteFunc(slices.Clone(s.Roles), func(r Role) bool {
		return r.Expiry == Fine || r.Name == metadata.TIMESTAMP || r.Name == metadata.SNAPSHOT
	})
}

// Bins sums up the roles that share the targets among them by the hash of their names.
type Bins struct {
	Count   int `json:"count"`
	Read    int `json:"read"`    // looked at
	Missing int `json:"missing"` // listed and not there
}

// Key is one key of a role.
type Key struct {
	ID          string `json:"id"`
	Owner       string `json:"owner,omitempty"`      // of an offline key
	URI         string `json:"online_uri,omitempty"` // of an online key
	Type        string `json:"type"`
	Scheme      string `json:"scheme"`
	Fingerprint string `json:"fingerprint,omitempty"` // SHA-256 of the public key's DER, hex; empty when it cannot be read
	Signed      bool   `json:"signed"`                // its signature is on the version that is published
}

// Chain is the history of the root role.
type Chain struct {
	First    int64  `json:"first"` // the oldest root at hand
	Last     int64  `json:"last"`  // the newest that a client reaches
	Verified bool   `json:"verified"`
	Roots    []Root `json:"roots"`
}

// Root is one version of root, and what it changed.
type Root struct {
	Version     int64         `json:"version"`
	SignedAbout *time.Time    `json:"signed_about,omitempty"` // expiry less the period the root declares; roots carry no date
	Expires     time.Time     `json:"expires"`
	Threshold   int           `json:"threshold"`
	Holders     []string      `json:"holders"`
	SignedBy    []string      `json:"signed_by"`             // holders of this version
	Previous    int           `json:"signatures_of_former"`  // by distinct keys of the version before
	Joined      []string      `json:"joined,omitempty"`      // compared with the version before
	Left        []string      `json:"left,omitempty"`        //
	Replaced    []Replacement `json:"replaced,omitempty"`    // the same holder with a new key
	Renamed     []string      `json:"renamed,omitempty"`     // the same key under a new id
	Changes     []string      `json:"changes,omitempty"`     // thresholds, online keys
	Verified    bool          `json:"verified"`              // by the version before and by itself
	GoTUF       bool          `json:"go_tuf"`                // a go-tuf client can start from it
	Why         string        `json:"why_refused,omitempty"` // why it is not verified
	SelfOnly    bool          `json:"self_signed,omitempty"` // no version before it is at hand
}

// Replacement is a holder's change of key.
type Replacement struct {
	Owner string `json:"owner"`
	From  string `json:"from"` // key ids
	To    string `json:"to"`
}

// Event is metadata that waits for signatures.
type Event struct {
	Role    string `json:"role"`
	Version int64  `json:"version"`
	Needs   []Need `json:"needs"`
	Ready   bool   `json:"ready"` // nothing is missing
}

// Need is one threshold an event has to reach.
type Need struct {
	By        string   `json:"by"` // whose keys: "root 15"
	Threshold int      `json:"threshold"`
	Signed    []string `json:"signed"`
	Missing   []string `json:"missing"`
}

// Problem is one thing that is wrong, and what to do about it.
type Problem struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"`
	Role     string   `json:"role,omitempty"`
	What     string   `json:"what"`
	Do       string   `json:"do"`
	Refuse   []string `json:"refused_by,omitempty"` // the clients that refuse it, where not all do
}

// Read looks at the repository in a directory or at a web address. It fails only when there is nothing to look at or ctx
// ends; whatever is wrong with the repository is in the status.
func Read(ctx context.Context, source string, o Options) (Status, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.WarnDays <= 0 {
		o.WarnDays = DefaultWarnDays
	}
	f, err := open(source, o)
	if err != nil {
		return Status{}, fmt.Errorf("tuf status of %s: %w", shown(source), err)
	}
	defer f.close()
	l := &look{o: o, files: f, now: o.Now().UTC().Truncate(time.Second), owners: map[string]string{}}
	l.Repository, l.Layout, l.Checked = shown(source), f.layout, l.now
	l.Roles, l.Events, l.Problems = []Role{}, []Event{}, []Problem{}
	if err := l.all(ctx); err != nil {
		return Status{}, fmt.Errorf("tuf status of %s: %w", shown(source), err)
	}
	slices.SortStableFunc(l.Problems, func(a, b Problem) int { return cmp.Compare(a.Severity.rank(), b.Severity.rank()) })
	if len(l.Problems) > 0 {
		l.Severity = l.Problems[0].Severity
	}
	return l.Status, nil
}

// look is one reading of one repository.
type look struct {
	Status
	o      Options
	files  *files
	now    time.Time
	owners map[string]string // fingerprint of a key → its holder, as the newest root says
}

func (l *look) all(ctx context.Context) error {
	root, err := l.roots(ctx)
	if err != nil {
		return err
	}
	if root == nil {
		return nil // the problems say why
	}
	return l.roles(ctx, root)
}

// say adds a problem.
func (l *look) say(s Severity, code, role, do, format string, args ...any) {
	l.Problems = append(l.Problems, Problem{Severity: s, Code: code, Role: role, What: fmt.Sprintf(format, args...), Do: do})
}

// said reports whether a role has a problem of that kind already.
func (l *look) said(code, role string) bool {
	return slices.ContainsFunc(l.Problems, func(p Problem) bool { return p.Code == code && p.Role == role })
}

// refuse adds a problem that not all clients mind.
func (l *look) refuse(s Severity, code, role string, clients []string, do, format string, args ...any) {
	l.say(s, code, role, do, format, args...)
	l.Problems[len(l.Problems)-1].Refuse = clients
}

// The clients that are known to differ.
var (
	goTUF  = []string{"go-tuf (sigstore-go, cosign)"}
	python = []string{"python-tuf (sigstore-python, tuf-on-ci)"}
	onCI   = []string{"tuf-on-ci"}
)

// Fields that tuf-on-ci keeps in metadata; the periods are in whole days.
const (
	fieldOwner   = "x-tuf-on-ci-keyowner"
	fieldOnline  = "x-tuf-on-ci-online-uri"
	fieldExpiry  = "x-tuf-on-ci-expiry-period"
	fieldSigning = "x-tuf-on-ci-signing-period"
)

// period returns a number of days that metadata declares, or 0.
func period(fields map[string]any, name string) int {
	if n, ok := fields[name].(float64); ok && n >= 1 && n <= 100*366 {
		return int(n)
	}
	return 0
}

// daysLeft returns the whole days from now to a time, rounded down.
func daysLeft(now, to time.Time) int {
	d := to.Sub(now)
	n := int(d / day)
	if d < 0 && d%day != 0 {
		n--
	}
	return n
}

// decode reads the signed part of metadata with go-tuf's type for it.
func decode[T metadata.Roles](d *document, role string) (t *T, err error) {
	defer malformed(&err)
	t = new(T)
	if err := json.Unmarshal(d.signed, t); err != nil {
		return nil, err
	}
	if want := cmp.Or(map[string]string{"root": "root", "snapshot": "snapshot", "timestamp": "timestamp"}[role], "targets"); d.kind != want {
		return nil, fmt.Errorf("it is metadata of type %q, not %q", d.kind, want)
	}
	return t, nil
}

// accepts asks go-tuf whether a client of it takes data as metadata of a role that delegator delegates.
func accepts[D, T metadata.Roles](delegator *D, role string, data []byte) (err error) {
	defer malformed(&err)
	m, err := new(metadata.Metadata[T]).FromBytes(data)
	if err != nil {
		return err
	}
	return (&metadata.Metadata[D]{Signed: *delegator}).VerifyDelegate(role, m)
}

// malformed makes an error of a panic: go-tuf does not expect null in place of a key or a file entry.
func malformed(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("malformed metadata: %v", p)
	}
}
