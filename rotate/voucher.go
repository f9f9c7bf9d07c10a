package rotate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/verify"
)

// standing is a standing voucher as it is kept. Since when it stands is what
// the journal says of its entry, not what the document could.
type standing struct {
	Schema  string        `json:"schema"`
	Voucher trust.Voucher `json:"voucher"`
	Entry   int64         `json:"entry"` // index of its entry in the journal
	Removed bool          `json:"removed,omitempty"`
}

const voucherPut = "voucher.put"

// PutVoucher keeps a voucher as a standing policy. It vouches in incidents that
// began after this was journaled.
func PutVoucher(ctx context.Context, s *store.Store, by journal.Author, v trust.Voucher) (id string, err error) {
	v.Standing = nil
	if err := v.Check(); err != nil {
		return "", err
	}
	id = v.ID()
	return id, s.Update(ctx, by, func(tx *store.Tx) error {
		incidents, err := Incidents(ctx, s)
		if err != nil {
			return err
		}
		if i := names(Rules(incidents), v.Signer); i != "" {
			return fmt.Errorf("voucher %s is itself under incident %s: it proves nothing", v.Signer, i)
		}
		var known standing
		if err := load(ctx, s, store.KindVoucher, id, &known); err == nil && !known.Removed {
			return fmt.Errorf("voucher %s stands already: putting it again would only make it younger", id)
		} else if err != nil && !errors.Is(err, inventory.ErrNotFound) {
			return err
		}
		at, err := s.JournalCheckpoint(ctx) // there is one writer: the next entry is this one's
		if err != nil {
			return err
		}
		body, err := canonical(standing{Schema: VoucherSchema, Voucher: v, Entry: at.Size})
		if err != nil {
			return err
		}
		return tx.PutDocument(ctx, store.KindVoucher, id, voucherPut, body)
	})
}

// RemoveVoucher takes a standing voucher away. Plans that list it keep it.
func RemoveVoucher(ctx context.Context, s *store.Store, by journal.Author, id string) error {
	return s.Update(ctx, by, func(tx *store.Tx) error {
		var v standing
		if err := load(ctx, s, store.KindVoucher, id, &v); err != nil {
			return err
		}
		if v.Removed {
			return fmt.Errorf("voucher %s was removed already", id)
		}
		v.Removed = true
		body, err := canonical(v)
		if err != nil {
			return err
		}
		return tx.PutDocument(ctx, store.KindVoucher, id, "voucher.removed", body)
	})
}

// Vouchers returns the standing vouchers, in order of ID, each with the time of
// its entry in the journal.
func Vouchers(ctx context.Context, s *store.Store) ([]trust.Voucher, error) {
	bodies, err := s.Documents(ctx, store.KindVoucher, "")
	if err != nil {
		return nil, err
	}
	var out []trust.Voucher
	for _, body := range bodies {
		var v standing
		if err := json.Unmarshal(body, &v); err != nil {
			return nil, fmt.Errorf("voucher: %w", err)
		}
		if v.Removed {
			continue
		}
		at, err := journaledAt(ctx, s, v, inventory.Digest(body))
		if err != nil {
			return nil, err
		}
		v.Voucher.Standing = &at
		out = append(out, v.Voucher)
	}
	return out, nil
}

// journaledAt returns the time of the entry by which a voucher was put.
func journaledAt(ctx context.Context, s *store.Store, v standing, digest string) (time.Time, error) {
	line, err := s.Journal(ctx, v.Entry)()
	if err != nil && !errors.Is(err, io.EOF) {
		return time.Time{}, err
	}
	if e, parseErr := journal.ParseEntry(line); err == nil && parseErr == nil && e.Index == v.Entry && e.Action == voucherPut &&
		e.Subject == v.Voucher.ID() && e.Digest == digest {
		return e.Time, nil
	}
	return time.Time{}, fmt.Errorf("voucher %s is not what entry %d of the journal says was kept: it was changed by another hand; see \"reseal journal verify\"", v.Voucher.ID(), v.Entry)
}

// vouch adds the standing vouchers that stood before the plan's incident began
// to those the plan itself lists. What the plan lists needs its approval, also
// where it stands besides. One that cannot count in this plan is left out: else
// whoever put it could keep any plan from being made.
func (p *Plan) vouch(ctx context.Context, s *store.Store, primary trust.Incident, approvers Approvers) error {
	for n := range p.Vouchers {
		p.Vouchers[n].Standing = nil
	}
	if primary.From == nil {
		return nil // nothing stood before what began nobody knows when
	}
	all, err := Vouchers(ctx, s)
	if err != nil {
		return err
	}
	for _, v := range all {
		if v.Standing.Before(primary.From.Add(-p.Skew)) && p.checkVoucher(ctx, s, v, approvers) == nil &&
			!slices.ContainsFunc(p.Vouchers, func(o trust.Voucher) bool { return o.ID() == v.ID() }) {
			p.Vouchers = append(p.Vouchers, v)
		}
	}
	return nil
}

// checkVouchers refuses vouchers that prove nothing or that the plan's own
// people would vouch by.
func (p *Plan) checkVouchers(ctx context.Context, s *store.Store, approvers Approvers) error {
	for _, v := range p.Vouchers {
		if err := p.checkVoucher(ctx, s, v, approvers); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) checkVoucher(ctx context.Context, s *store.Store, v trust.Voucher, approvers Approvers) error {
	if err := v.Check(); err != nil {
		return err
	}
	if i := names(p.Incidents, v.Signer); i != "" {
		return fmt.Errorf("voucher %s is itself under an incident (%s): it proves nothing", v.Signer, i)
	}
	if v.Signer == p.NewSigner {
		return fmt.Errorf("voucher %s is the new signer: what it signs was re-signed on other proof and proves nothing itself", v.Signer)
	}
	// A list may also be signed with a person's key and not in their name.
	for _, x := range approvers.People {
		if v.Kind == trust.KnownGood && x.is(p.Proposer) && (x.holds(v.Signer) || x.is(v.Person)) {
			return fmt.Errorf("%s proposes the plan and cannot vouch in it by a list of their own", x.Name)
		}
	}
	if v.Person == "" {
		r, err := s.Signer(ctx, v.Signer.ID())
		if err != nil && !errors.Is(err, inventory.ErrNotFound) {
			return err
		}
		if !r.Enrolled() || !r.State.Trusted() {
			return fmt.Errorf("voucher %s is not enrolled as trusted: nobody's verifiers ever believed it", v.Signer)
		}
		return nil
	}
	if _, err := approvers.person(v.Person); err != nil {
		return fmt.Errorf("the list %s is signed by %s, who is not an enrolled approver", v.List, v.Person)
	}
	return nil
}

// maxListed bounds the digests of a known-good list.
const maxListed = 1_000_000

// list is a known-good list: its digests, sorted, each once.
type list [][sha256.Size]byte

// parseList reads a known-good list: a digest a line; what follows a # says
// something to people.
func parseList(content []byte) (list, error) {
	var out list
	n := 0
	for line := range bytes.Lines(content) {
		n++
		line, _, _ = bytes.Cut(line, []byte("#"))
		text := string(bytes.TrimSpace(line))
		if text == "" {
			continue
		}
		if err := inventory.CheckDigest(text); err != nil {
			return nil, fmt.Errorf("known-good list, line %d: %w", n, err)
		}
		if len(out) == maxListed {
			return nil, fmt.Errorf("known-good list: more than %d digests: make several lists", maxListed)
		}
		d, err := rawDigest(text)
		if err != nil {
			return nil, fmt.Errorf("known-good list, line %d: %w", n, err)
		}
		out = append(out, d)
	}
	slices.SortFunc(out, compareRaw)
	out = slices.Compact(out)
	if len(out) == 0 {
		return nil, errors.New("known-good list: it names no digest")
	}
	return out, nil
}

func rawDigest(text string) (d [sha256.Size]byte, err error) {
	_, err = hex.Decode(d[:], []byte(trimAlgorithm(text)))
	return d, err
}

func compareRaw(a, b [sha256.Size]byte) int { return bytes.Compare(a[:], b[:]) }

func (l list) holds(digest string) bool {
	if inventory.CheckDigest(digest) != nil {
		return false
	}
	d, err := rawDigest(digest)
	if err != nil {
		return false
	}
	_, found := slices.BinarySearchFunc(l, d, compareRaw)
	return found
}

// PutList keeps the bytes of a known-good list and returns their digest and how
// many digests it holds. Whether signedBy, a signer or an enrolled person,
// signed it is for the caller to check first.
func PutList(ctx context.Context, s *store.Store, by journal.Author, signedBy string, content []byte) (digest string, n int, err error) {
	l, err := parseList(content)
	if err != nil {
		return "", 0, err
	}
	err = s.Update(ctx, by, func(tx *store.Tx) error {
		if digest, err = tx.PutVault(ctx, content); err != nil {
			return err
		}
		tx.Record(journal.Draft{Action: "list.kept", Subject: "signed by " + signedBy, Digest: digest})
		return nil
	})
	return digest, len(l), err
}

// loadLists reads the lists of vouchers, by the digest of the list.
func loadLists(ctx context.Context, s *store.Store, vouchers []trust.Voucher) (map[string]list, error) {
	out := map[string]list{}
	for _, v := range vouchers {
		if v.Kind != trust.KnownGood || out[v.List] != nil {
			continue
		}
		content, err := s.Vault(ctx, v.List)
		if err != nil {
			return nil, fmt.Errorf("known-good list of voucher %s: %w", v.ID(), err)
		}
		if out[v.List], err = parseList(content); err != nil {
			return nil, fmt.Errorf("voucher %s: %w", v.ID(), err)
		}
	}
	return out, nil
}

// void says of each voucher, by ID, why it does not count any more: its signer
// vouched for what is known to be rogue, so its word is worth nothing elsewhere
// either.
func void(ctx context.Context, s *store.Store, vouchers []trust.Voucher, rogue map[string]string, lists map[string]list) (map[string]string, error) {
	out := map[string]string{}
	runs := runs(ctx, s)
	for _, v := range vouchers {
		for _, d := range slices.Sorted(maps.Keys(rogue)) {
			vouched := false
			var err error
			switch v.Kind {
			case trust.KnownGood:
				vouched = lists[v.List].holds(d)
			case trust.CIRun:
				vouched = slices.ContainsFunc(runs(d), func(r inventory.Record) bool { return r.By == v.Signer.ID() })
			default:
				vouched, err = attested(ctx, s, v, d)
			}
			if err != nil {
				return nil, err
			}
			if vouched {
				out[v.ID()] = "it vouched for " + d + ", which is rogue"
				break
			}
		}
	}
	return out, nil
}

// attested reports whether the signer of a voucher ever attested a digest as
// the voucher demands, anywhere: quarantine does not make it unsaid.
func attested(ctx context.Context, s *store.Store, v trust.Voucher, digest string) (bool, error) {
	for at := (store.Place{}); ; {
		arts, next, err := s.Artifacts(ctx, store.Selection{Digest: digest}, at, page)
		if err != nil || len(arts) == 0 {
			return false, err
		}
		at = next
		for _, a := range arts {
			sigs, err := s.SignaturesEver(ctx, a)
			if err != nil {
				return false, err
			}
			for _, g := range sigs {
				if !g.Verified || g.Signer != v.Signer || g.PredicateType != v.PredicateType {
					continue
				}
				if predicateSays(ctx, s, g, v.Content) {
					return true, nil
				}
			}
		}
	}
}

// predicateSays reports whether an attestation says all that is demanded, as far
// as anybody can tell: what cannot be read may have said it.
func predicateSays(ctx context.Context, s *store.Store, g inventory.Signature, content map[string]string) bool {
	if len(content) == 0 {
		return true
	}
	payload, err := payloadOf(ctx, s)(g)
	if err != nil {
		return true
	}
	says, known := trust.PredicateSays(payload, content)
	return says || !known
}

// payloadOf returns what reads the signed payload of a signature.
func payloadOf(ctx context.Context, s *store.Store) func(inventory.Signature) ([]byte, error) {
	return func(g inventory.Signature) ([]byte, error) {
		content, err := s.Vault(ctx, g.Content)
		if err != nil {
			return nil, err
		}
		return verify.Payload(g.Format, content)
	}
}
