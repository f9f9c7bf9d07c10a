// Package app wires reseal together: a home directory with its configuration
// becomes a store, a registry client, verifiers and signers, and the acting
// packages are composed into what people do with the tool. It prints nothing
// and decides nothing of its own.
package app

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"go.yaml.in/yaml/v3"
	"golang.org/x/mod/sumdb/note"

	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/tuf/trustedroot"
	"github.com/reseal/reseal/verify"
)

// The files of a home directory.
const (
	configFile      = "config.yaml"
	databaseFile    = "reseal.db"
	trustedRootFile = "trusted_root.json"
	journalKeyFile  = "journal.key" // private: signs checkpoints
	journalPubFile  = "journal.pub" // give this to whoever verifies the journal
	checkpointFile  = "checkpoint"
	revocationsDir  = "revocations"
)

// Config is the configuration file of a home directory, config.yaml.
type Config struct {
	// Consumers are the verifiers as deployed, each with the file that says
	// which key it accepts.
	Consumers []rotate.Consumer `yaml:"consumers"`
	// KMSPlugins are the schemes of key references (NAME://...) for which the
	// program sigstore-kms-NAME may be run from the PATH. No other program is.
	KMSPlugins []string `yaml:"kms_plugins,omitempty"`
	// VerifierID is the URI by which summaries of provenance say who verified it.
	// Whoever reads them accepts it from the signers that may say so. Left out, it
	// is made of the new signer's ID; one of your own outlives that signer.
	VerifierID string `yaml:"verifier_id,omitempty"`
}

// Options say where and as whom to work.
type Options struct {
	Home     string           // directory
	Database string           // file; default: reseal.db in Home
	Actor    string           // who acts, for the journal
	Now      func() time.Time // default time.Now
	Publish  rotate.Publish   // makes revocation statements known; default: files in Home
	Registry *registry.Client // default: with the user's docker credentials
}

// App is reseal at work in one home directory.
type App struct {
	options Options
	config  Config
	store   *store.Store
	root    root.TrustedMaterial // nil when none is configured
}

// InitOptions is what a new home starts with.
type InitOptions struct {
	Approvers   rotate.Approvers
	Signers     []signer.Record
	Consumers   []rotate.Consumer
	TrustedRoot []byte // JSON; nil: none
}

// Init makes a new home. Everything is checked before anything is written; a
// home that exists is refused.
func Init(ctx context.Context, o Options, in InitOptions) (err error) {
	o = o.withDefaults()
	by := journal.Author{Actor: o.Actor, Reason: "reseal init"}
	if err := by.Check(); err != nil {
		return err
	}
	if err := in.Approvers.Check(); err != nil {
		return err
	}
	if in.TrustedRoot != nil {
		if _, err := root.NewTrustedRootFromJSON(in.TrustedRoot); err != nil {
			return fmt.Errorf("trusted root: %w", err)
		}
	}
	taken := map[string]string{}
	for i := range in.Signers {
		r := &in.Signers[i]
		if err := checkSigner(r); err != nil {
			return err
		}
		if r.State == signer.Standby {
			if err := in.Approvers.CheckApart(r.Identity); err != nil {
				return fmt.Errorf("signer %s: %w", r.Name, err)
			}
		}
		for _, what := range []string{r.Name, r.Identity.ID()} {
			if other, ok := taken[what]; ok {
				return fmt.Errorf("signers %s and %s have the same name or key", other, r.Name)
			}
			taken[what] = r.Name
		}
	}
	for i := range in.Consumers {
		if err := checkConsumer(&in.Consumers[i]); err != nil {
			return err
		}
	}
	config, err := yaml.Marshal(Config{Consumers: in.Consumers})
	if err != nil {
		return err
	}
	private, public, err := note.GenerateKey(nil, journal.Origin)
	if err != nil {
		return fmt.Errorf("journal key: %w", err)
	}

	if _, err := os.Stat(filepath.Join(o.Home, configFile)); err == nil {
		return fmt.Errorf("%s is a reseal home already: choose another place, or work with what exists already", o.Home)
	}
	if err := os.MkdirAll(o.Home, 0o700); err != nil {
		return fmt.Errorf("home: %w", err)
	}
	s, err := store.Create(ctx, o.Database, o.Now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	files := []struct {
		name    string
		content []byte
		mode    os.FileMode
	}{
		{journalKeyFile, []byte(private + "\n"), 0o600},
		{journalPubFile, []byte(public + "\n"), 0o644},
		{trustedRootFile, in.TrustedRoot, 0o644},
	}
	for _, f := range files {
		if f.content == nil {
			continue
		}
		if err := durable.WriteFile(filepath.Join(o.Home, f.name), f.content, f.mode); err != nil {
			return err
		}
	}
	if err := rotate.Enroll(ctx, s, by, in.Approvers); err != nil {
		return err
	}
	if err := s.Update(ctx, by, func(tx *store.Tx) error {
		for _, r := range in.Signers {
			if err := tx.PutSigner(ctx, r); err != nil {
				return err
			}
		}
		tx.Record(journal.Draft{Action: "home.made", Subject: "config.yaml", Digest: inventory.Digest(config)})
		return nil
	}); err != nil {
		return err
	}
	// Last: without it there is no home.
	return durable.WriteFile(filepath.Join(o.Home, configFile), config, 0o644)
}

func (o Options) withDefaults() Options {
	if o.Database == "" {
		o.Database = filepath.Join(o.Home, databaseFile)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Registry == nil {
		o.Registry = registry.New(registry.Options{UserAgent: "reseal"})
	}
	return o
}

// checkSigner completes a record: a keyless signer is given by its identity,
// any other by its public key.
func checkSigner(r *signer.Record) error {
	if r.Name == "" || strings.ContainsAny(r.Name, " \t\n:") {
		return fmt.Errorf("signer name %q: use a word without spaces or colons", r.Name)
	}
	if r.Identity.Kind == signer.Keyless {
		if r.Identity.Issuer == "" || r.Identity.Subject == "" {
			return fmt.Errorf("signer %s: a keyless signer is an identity and its issuer: give both", r.Name)
		}
		return nil
	}
	_, id, err := signer.ParsePublicKey(r.PublicKey)
	if err != nil {
		return fmt.Errorf("signer %s: %w", r.Name, err)
	}
	r.Identity = id
	return nil
}

func checkConsumer(c *rotate.Consumer) error {
	switch c.Reads {
	case inventory.Legacy, inventory.Bundle, inventory.Detached, inventory.Blob:
	default:
		return fmt.Errorf("consumer %s reads %q: use legacy or bundle, or of files detached or blob", c.Name, c.Reads)
	}
	path, err := filepath.Abs(c.Anchor)
	if err != nil {
		return fmt.Errorf("consumer %s: %w", c.Name, err)
	}
	c.Anchor = path
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("anchor of consumer %s: %w", c.Name, err)
	}
	if _, _, err := signer.ParsePublicKey(content); err != nil {
		return fmt.Errorf("anchor %s of consumer %s: %w", path, c.Name, err)
	}
	return nil
}

// Open opens a home made by Init.
func Open(ctx context.Context, o Options) (*App, error) {
	o = o.withDefaults()
	a := &App{options: o}
	raw, err := os.ReadFile(filepath.Join(o.Home, configFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, dbErr := os.Stat(o.Database); dbErr == nil {
			return nil, fmt.Errorf("making the home %s was interrupted: remove it with its database %s and run \"reseal init\" again", o.Home, o.Database)
		}
		return nil, fmt.Errorf("%s is no reseal home: \"reseal init\" makes one, --home or RESEAL_HOME names another", o.Home)
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&a.config); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", filepath.Join(o.Home, configFile), err)
	}
	raw, err = os.ReadFile(filepath.Join(o.Home, trustedRootFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("trusted root: %w", err)
	default:
		if a.root, err = root.NewTrustedRootFromJSON(raw); err != nil {
			return nil, fmt.Errorf("trusted root %s: %w", filepath.Join(o.Home, trustedRootFile), err)
		}
	}
	a.store, err = store.Open(ctx, o.Database, o.Now)
	return a, err
}

// Close signs a checkpoint over the journal and releases the home.
func (a *App) Close() error {
	return errors.Join(a.checkpoint(context.Background()), a.store.Close())
}

// by is the author of what is done for a reason.
func (a *App) by(format string, args ...any) journal.Author {
	return journal.Author{Actor: a.options.Actor, Reason: fmt.Sprintf(format, args...)}
}

// verifier checks signatures against the trusted root and every key that has a
// name here, and the extra ones given.
func (a *App) verifier(ctx context.Context, extra ...crypto.PublicKey) (*verify.Verifier, error) {
	return a.verifierOf(ctx, a.root, extra...)
}

// under checks signatures as verifier does, against another trusted root.
func (a *App) under(ctx context.Context, trustedRoot []byte) (*verify.Verifier, error) {
	r, err := trustedroot.Parse(trustedRoot)
	if err != nil {
		return nil, err
	}
	material, err := r.Material()
	if err != nil {
		return nil, err
	}
	return a.verifierOf(ctx, material)
}

func (a *App) verifierOf(ctx context.Context, material root.TrustedMaterial, extra ...crypto.PublicKey) (*verify.Verifier, error) {
	signers, err := a.store.Records(ctx)
	if err != nil {
		return nil, err
	}
	keys := extra
	for _, r := range signers {
		if len(r.PublicKey) == 0 {
			continue
		}
		pub, _, err := signer.ParsePublicKey(r.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("signer %s: %w", r.Identity.ID(), err)
		}
		keys = append(keys, pub)
	}
	return verify.New(verify.Trust{Root: material, Keys: keys})
}
