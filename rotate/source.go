package rotate

import (
	"context"
	"slices"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/verify"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// PutSource declares that a source has a record of every use of a signer within
// an interval. Declaring it again under its name replaces it.
func PutSource(ctx context.Context, s *store.Store, by journal.Author, src trust.Source) error {
	if err := src.Check(); err != nil {
		return err
	}
	body, err := canonical(src)
	if err != nil {
		return err
	}
	return s.Update(ctx, by, func(tx *store.Tx) error {
		return tx.PutDocument(ctx, store.KindSource, src.Name, "source.declared", body)
	})
}

// Sources returns the sources that were declared complete, in order of name.
func Sources(ctx context.Context, s *store.Store) ([]trust.Source, error) {
	return loadAll[trust.Source](ctx, s, store.KindSource, "")
}

// inTotoPayload is the payload type of the envelopes that attestations are
// signed in.
const inTotoPayload = "application/vnd.in-toto+json"

// unexplained returns what reports whether a complete source covers a signature
// of which no record of ours tells. It asks the store each time. Whoever
// authenticates a source's records and is in an incident could have left some
// out and added others: such a source covers nothing. A question that the store
// does not answer accuses nobody.
func unexplained(ctx context.Context, s *store.Store, sources []trust.Source, incidents []trust.Incident) func(inventory.Signature) bool {
	sources = slices.DeleteFunc(slices.Clone(sources), func(src trust.Source) bool { return names(incidents, src.By) != "" })
	if len(sources) == 0 {
		return nil
	}
	return func(g inventory.Signature) bool {
		if !slices.ContainsFunc(sources, func(src trust.Source) bool { return trust.Covers(src, g, incidents) }) {
			return false
		}
		explained, err := explain(ctx, s, sources, g)
		return err == nil && !explained
	}
}

// explain reports whether reseal's own journaled intents or a record of the
// sources tell of a signature.
func explain(ctx context.Context, s *store.Store, sources []trust.Source, g inventory.Signature) (bool, error) {
	own, err := s.ReissuesBySignature(ctx, []string{g.ID})
	if err != nil || len(own) > 0 {
		return len(own) > 0, err
	}
	for _, src := range sources {
		if src.Signer != g.Signer {
			continue
		}
		var found bool
		switch src.Kind {
		case inventory.RecordCI:
			found, err = anyRecord(ctx, s, store.RecordFilter{Kind: inventory.RecordCI, Digest: g.Digest}, func(r inventory.Record) bool {
				return r.By == src.By.ID() && !r.Failed && (r.Signer == "" || r.Signer == g.Signer.ID())
			})
		case inventory.RecordKMS:
			found, err = usedFor(ctx, s, src, g)
		}
		if err != nil || found {
			return found, err
		}
	}
	return false, nil
}

// usedFor reports whether a key service has a record of signing what the
// signature signs: the payload or, in an envelope, its encoding.
func usedFor(ctx context.Context, s *store.Store, src trust.Source, g inventory.Signature) (bool, error) {
	use := func(r inventory.Record) bool {
		return !r.Failed && r.Signer == g.Signer.ID() && (src.By.Kind == "" || r.By == src.By.ID())
	}
	found, err := anyRecord(ctx, s, store.RecordFilter{Kind: inventory.RecordKMS, Message: g.PayloadDigest}, use)
	if err != nil || found {
		return found, err
	}
	if g.Format == inventory.Legacy || g.Format == inventory.Referrer {
		return false, nil
	}
	content, err := s.Vault(ctx, g.Content)
	if err != nil {
		return false, err
	}
	payload, err := verify.Payload(g.Format, content)
	if err != nil {
		return false, nil // no envelope: it signs its message as it is
	}
	return anyRecord(ctx, s, store.RecordFilter{Kind: inventory.RecordKMS, Message: inventory.Digest(dsse.PAE(inTotoPayload, payload))}, use)
}

// anyRecord reports whether a record selected is what is looked for.
func anyRecord(ctx context.Context, s *store.Store, f store.RecordFilter, is func(inventory.Record) bool) (bool, error) {
	if f.Digest == "" && f.Message == "" {
		return false, nil // it would select every record
	}
	for after := ""; ; {
		records, err := s.EvidenceRecords(ctx, f, after, page)
		if err != nil || len(records) == 0 {
			return false, err
		}
		if slices.ContainsFunc(records, is) {
			return true, nil
		}
		after = records[len(records)-1].ID
	}
}

// runs returns what lists the authenticated records of CI runs that made a
// digest, at most so many of each.
func runs(ctx context.Context, s *store.Store) func(string) []inventory.Record {
	return func(digest string) []inventory.Record {
		var out []inventory.Record
		_, err := anyRecord(ctx, s, store.RecordFilter{Kind: inventory.RecordCI, Digest: digest}, func(r inventory.Record) bool {
			if r.By != "" && !r.Failed {
				out = append(out, r)
			}
			return len(out) >= page
		})
		if err != nil {
			return nil // what cannot be read proves nothing
		}
		return out
	}
}
