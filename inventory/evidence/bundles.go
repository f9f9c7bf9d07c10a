package evidence

import (
	"context"
	"errors"
	"fmt"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/verify"
)

// File is a detached Sigstore bundle, or a blob signature, as it was found in a
// file.
type File struct {
	Name       string           // of the file, for messages and problems
	Artifact   string           // name of the artifact, if that is known
	Digest     string           // of the artifact ("sha256:<hex>"); empty: what the bundle says it is about
	Repository string           // where the artifact is; empty: it is a file
	Format     inventory.Format // Blob or, by default, Detached
	Content    []byte           // of a blob signature in its stored form
	Parts      [][]byte         // what the stored form was made of, to be kept as it was
	Subject    []byte           // the artifact itself, where it is at hand
}

// Imported counts what an import took in.
type Imported struct {
	Files      int64 `json:"files"`
	Artifacts  int64 `json:"artifacts"`
	Signatures int64 `json:"signatures"`
	Verified   int64 `json:"verified"`
	Unverified int64 `json:"unverified"`
	Problems   int64 `json:"problems"`
}

// Import takes detached bundles and blob signatures into the inventory, one
// signature for each artifact a bundle is about. What cannot be read at all is kept in the vault
// and listed as a problem. All of it is kept together or none is.
func Import(ctx context.Context, s *store.Store, v *verify.Verifier, by journal.Author, files []File, r *Imported) error {
	var now Imported
	err := s.Update(ctx, by, func(tx *store.Tx) error {
		now = Imported{}
		for _, f := range files {
			if err := put(ctx, tx, v, f, &now); err != nil {
				return fmt.Errorf("%s: %w", f.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.Files += now.Files
	r.Artifacts += now.Artifacts
	r.Signatures += now.Signatures
	r.Verified += now.Verified
	r.Unverified += now.Unverified
	r.Problems += now.Problems
	return nil
}

func put(ctx context.Context, tx *store.Tx, v *verify.Verifier, f File, r *Imported) error {
	r.Files++
	for _, content := range append([][]byte{f.Content}, f.Parts...) {
		if _, err := tx.PutVault(ctx, content); err != nil {
			return err
		}
	}
	if f.Format == "" {
		f.Format = inventory.Detached
	}
	if f.Repository == "" {
		f.Repository = inventory.Files
	}
	digests := []string{f.Digest}
	if f.Digest == "" {
		var err error
		if digests, err = f.subjects(); err != nil {
			r.Problems++
			return tx.PutProblem(ctx, inventory.Problem{Repository: f.Repository, Reference: f.Name,
				Problem: fmt.Sprintf("it cannot be said what it signs: %v", err)})
		}
	}
	for _, digest := range digests {
		a := inventory.Artifact{Repository: f.Repository, Digest: digest}
		if f.Artifact != "" && len(digests) == 1 && f.Repository == inventory.Files { // elsewhere a tag is the registry's word
			a.Tags = []string{f.Artifact}
		}
		if err := tx.PutArtifact(ctx, a); err != nil {
			return err
		}
		sig := v.Stored(verify.Subject{Repository: f.Repository, Digest: digest, Content: f.Subject}, f.Format, nil, f.Content)
		sig.Manifest = sig.Content // nothing else holds it
		if err := tx.PutSignature(ctx, sig); err != nil {
			return err
		}
		r.Artifacts++
		r.Signatures++
		if sig.Verified {
			r.Verified++
		} else {
			r.Unverified++
		}
	}
	return nil
}

// subjects returns what a file says it is about.
func (f File) subjects() ([]string, error) {
	if f.Format == inventory.Blob {
		return nil, errors.New("a blob signature does not say so itself, and the file is not beside it")
	}
	return verify.Subjects(f.Content)
}
