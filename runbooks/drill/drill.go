// Package drill rehearses a runbook where nothing can break: in a sandbox with
// a supply chain in it, an attacker, and a prober.
//
// The product is driven through Responder, as the people who use it would. The
// score does not come from the product: the prober verifies every image with
// cosign's own library, with the key that stands in each consumer's anchor at
// that moment, before, between, during and after the steps.
package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/runbooks"
	"github.com/reseal/reseal/signer"
)

// SigningKey is the drill in which a signing key leaks.
const SigningKey = "signing-key"

const (
	// minImages is the smallest supply chain in which every case occurs, and
	// the default.
	minImages = 24
	// maxImages keeps the memory of the sandbox's registry within bounds.
	maxImages = 5000
)

// Responder is the product as the people in the drill use it.
type Responder interface {
	// Prepare sets up a home before the attack: enrols signers, approvers and
	// consumers, and scans once.
	Prepare(ctx context.Context, s Setup) error
	// Do carries out one step of the runbook, for real.
	Do(ctx context.Context, action runbooks.Action) (Outcome, error)
}

// Setup is what the people in the drill have before the attack. Only Incident
// is from later: Prepare keeps it for the step that declares it.
type Setup struct {
	Registry     string   // host:port
	Repositories []string // with the registry: "127.0.0.1:5000/shop/api"
	TrustedRoot  []byte   // trusted_root.json
	Signers      []SignerSetup
	NewSignerKey []byte // the standby signer's private key, as cosign.key holds it
	Password     []byte // of NewSignerKey
	Approvers    []ApproverSetup
	Quorum       int
	Proposer     string // an approver too, who therefore must not approve
	Consumers    []rotate.Consumer
	Vouchers     []trust.Voucher
	Deployed     []string // "127.0.0.1:5000/shop/api@sha256:..."
	Incident     rotate.Incident
	Skew         time.Duration    // how far honest clocks may differ
	Now          func() time.Time // the sandbox's clock; it stands in the past during Prepare
	TSAURL       string           // of the timestamp authority that new signatures may use
	TUFDir       string           // web root for the TUF repository
	TUFURL       string
}

// SignerSetup is a signer to enrol.
type SignerSetup struct {
	Name         string
	State        signer.State
	PublicKeyPEM []byte
}

// ApproverSetup is a person who may approve, with the key they do it with.
type ApproverSetup struct {
	Name         string
	PublicKeyPEM []byte
	EncryptedKey []byte // as cosign.key holds it
	Password     []byte
}

// Outcome is what one step did. Everything but Summary may be empty.
type Outcome struct {
	Summary string        // one line for the timeline
	Items   []rotate.Item // of the plan; the last step that returns any counts
	Held    []Held        // what a step refused to do although the plan had it, and why
}

// Held is something that waits for a person.
type Held struct {
	Artifact string `json:"artifact"` // "repository@sha256:..."
	Reason   string `json:"reason"`
}

// Event is something that happened in the drill. Its time is the sandbox's.
type Event = runbooks.Event

// Options configure a drill. The zero value is usable.
type Options struct {
	Images int    // good images before the attack; default and least 24
	Dir    string // working directory, created when missing; empty: a temporary one
	// Keep leaves the responder's home, the anchors and the TUF repository in
	// the directory. The reports stay in any case.
	Keep    bool
	Observe func(Event) // told of each event as it happens; may be nil
	// Kept, when Keep is set, is called when all is over and the sandbox still
	// runs; it stops when Kept returns. May be nil.
	Kept func(context.Context, Report) error
}

// Run runs the signing key drill. newResponder gets an empty directory for the
// product's home; a Responder that is an io.Closer is closed at the end.
//
// A drill that was lost is a Report that says so, not an error; an error means
// that there was no drill to speak of.
func Run(ctx context.Context, o Options, newResponder func(dir string) (Responder, error)) (Report, error) {
	return run(ctx, o, func(dir string, _ *scenario) (Responder, error) { return newResponder(dir) })
}

func run(ctx context.Context, o Options, newResponder func(dir string, s *scenario) (Responder, error)) (_ Report, err error) {
	if o.Images == 0 {
		o.Images = minImages
	}
	if o.Images < minImages || o.Images > maxImages {
		return Report{}, fmt.Errorf("drill: %d images: expected %d to %d", o.Images, minImages, maxImages)
	}
	rb, err := runbooks.Load(SigningKey)
	if err != nil {
		return Report{}, fmt.Errorf("drill: %w", err)
	}
	dirs, err := makeDirs(o.Dir)
	if err != nil {
		return Report{}, fmt.Errorf("drill: %w", err)
	}
	if !o.Keep {
		defer func() { err = errors.Join(err, dirs.tidy()) }()
	}
	w, err := sandbox.Start(ctx, sandbox.Options{Dir: dirs.tuf})
	if err != nil {
		return Report{}, fmt.Errorf("drill: %w", err)
	}
	defer func() { err = errors.Join(err, w.Close()) }()

	d := &director{rb: rb, dirs: dirs, world: w, observer: o.Observe}
	report, err := d.play(ctx, o, newResponder)
	if err != nil {
		return report, fmt.Errorf("drill: %w", err)
	}
	if o.Keep && o.Kept != nil {
		return report, o.Kept(ctx, report)
	}
	return report, nil
}

// dirs are the places of a drill.
type dirs struct{ root, home, anchors, tuf string }

func makeDirs(root string) (dirs, error) {
	var err error
	if root == "" {
		root, err = os.MkdirTemp("", "reseal-drill-")
	} else if root, err = filepath.Abs(root); err == nil {
		err = os.MkdirAll(root, 0o755)
	}
	if err != nil {
		return dirs{}, err
	}
	d := dirs{root: root, home: filepath.Join(root, "home"), anchors: filepath.Join(root, "anchors"), tuf: filepath.Join(root, "tuf")}
	for _, dir := range []string{d.home, d.anchors, d.tuf} {
		// What is left of an earlier drill would be mistaken for this one's.
		if err := os.Mkdir(dir, 0o755); errors.Is(err, os.ErrExist) {
			return dirs{}, fmt.Errorf("%s is there already: choose an empty directory", dir)
		} else if err != nil {
			return dirs{}, err
		}
	}
	return d, nil
}

// tidy removes everything but the reports.
func (d dirs) tidy() error {
	return errors.Join(os.RemoveAll(d.home), os.RemoveAll(d.anchors), os.RemoveAll(d.tuf))
}

// director runs one drill.
type director struct {
	rb       runbooks.Runbook
	dirs     dirs
	world    *sandbox.World
	observer func(Event)
	events   []Event
}

func (d *director) note(at time.Time, format string, args ...any) {
	d.observe(Event{Time: at, State: runbooks.Noted, Text: fmt.Sprintf(format, args...)})
}

func (d *director) observe(e Event) {
	d.events = append(d.events, e)
	if d.observer != nil {
		d.observer(e)
	}
}

// play is the drill from the first signature to the report.
func (d *director) play(ctx context.Context, o Options, newResponder func(dir string, s *scenario) (Responder, error)) (_ Report, err error) {
	clock := d.world.Clock()
	s, err := newScenario(d.world, d.dirs, o.Images, clock.Now())
	if err != nil {
		return Report{}, err
	}
	first, last, err := s.history(ctx)
	if err != nil {
		return Report{}, err
	}
	d.note(first, "%d images are built, signed and pushed to %d repositories, until %s; %d of them are deployed",
		o.Images, len(s.repositories), last.UTC().Format(time.DateOnly), s.count(func(a *artifact) bool { return a.deployed }))

	setup, err := s.setup(ctx)
	if err != nil {
		return Report{}, err
	}
	responder, err := newResponder(d.dirs.home, s)
	if err != nil {
		return Report{}, err
	}
	if c, ok := responder.(io.Closer); ok {
		defer func() { err = errors.Join(err, c.Close()) }()
	}
	clock.Rewind(s.prepared)
	if err := responder.Prepare(ctx, setup); err != nil {
		return Report{}, fmt.Errorf("preparing: %w", err)
	}
	d.note(s.prepared, "the organisation enrols its signers and approvers and takes a first inventory")

	d.note(s.theft, "the private key of %q is stolen", s.release.Name())
	if err := s.attack(ctx, func(at time.Time, text string) { d.note(at, "%s", text) }); err != nil {
		return Report{}, err
	}
	clock.Live()
	return d.respond(ctx, o, s, responder)
}
