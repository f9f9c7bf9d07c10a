package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/pack"
	"github.com/reseal/reseal/rotate/trust"
)

// Sealed is an evidence pack that was made.
type Sealed struct {
	Path     string `json:"path"`
	Incident string `json:"incident"`
	Manifest string `json:"manifest"` // digest of the manifest, which the journal has
	Entry    int64  `json:"entry"`    // of the journal, that seals it
}

// PackEvidence writes the evidence pack of an incident and seals it: as a tar
// when the name ends so, as a directory otherwise.
func (a *App) PackEvidence(ctx context.Context, incident, target string) (Sealed, error) {
	out := Sealed{Path: target, Incident: incident}
	if err := a.checkpoint(ctx); err != nil {
		return out, err
	}
	c, size, err := a.evidence(ctx, incident)
	if err != nil {
		return out, err
	}
	form := pack.Directory
	if filepath.Ext(target) == ".tar" {
		form = pack.Tar
	}
	out.Manifest, err = pack.Write(target, form, c, func(manifest string) (pack.Seal, error) {
		var s pack.Seal
		s, out.Entry, err = a.seal(ctx, incident, manifest, size)
		return s, err
	})
	if err != nil {
		return out, err
	}
	return out, a.store.Update(ctx, a.by("evidence pack of %s", incident), func(tx *store.Tx) error {
		tx.Record(journal.Draft{Action: packedAction, Subject: incident, Digest: out.Manifest})
		return nil
	})
}

// packedAction is the action of the entry made when a sealed pack stands where
// it was asked for. After a crash before that there is a seal and no pack.
const packedAction = "evidence.packed"

// seal journals the digest of a pack's manifest and proves that entry, and that
// the journal of the pack, of the given size, is the beginning of this one. What
// was done about the incident since is not in the pack: then it is not sealed.
func (a *App) seal(ctx context.Context, incident, manifest string, size int64) (pack.Seal, int64, error) {
	if err := a.store.Update(ctx, a.by("evidence pack of %s", incident), func(tx *store.Tx) error {
		names, err := a.names(ctx, incident)
		if err != nil {
			return err
		}
		for e, err := range a.acts(ctx, size, names, nil) {
			if err != nil {
				return err
			}
			return fmt.Errorf("%s happened to %s while it was packed (entry %d of the journal): pack it again", e.Action, incident, e.Index)
		}
		tx.Record(journal.Draft{Action: pack.SealedAction, Subject: incident, Digest: manifest})
		return nil
	}); err != nil {
		return pack.Seal{}, 0, err
	}
	next := a.Journal(ctx, size)
	for {
		e, err := next()
		if err != nil {
			return pack.Seal{}, 0, fmt.Errorf("the journal entry that seals %s is not there: %w", manifest, err)
		}
		if e.Action != pack.SealedAction || e.Digest != manifest {
			continue
		}
		signed, err := a.signedCheckpoint(ctx)
		if err != nil {
			return pack.Seal{}, 0, err
		}
		now, err := a.opened(signed)
		if err != nil {
			return pack.Seal{}, 0, err
		}
		entry, err := a.proven(ctx, e.Index, now.Size)
		if err != nil {
			return pack.Seal{}, 0, err
		}
		grown, err := a.store.JournalConsistency(ctx, size, now.Size)
		return pack.Seal{Entry: entry, Checkpoint: signed, Consistency: hashes(grown.Hashes)}, e.Index, err
	}
}

// hashes are those of a proof as a pack holds them.
func hashes(list []tlog.Hash) [][]byte {
	out := [][]byte{}
	for _, h := range list {
		out = append(out, h[:])
	}
	return out
}

// opened reads a checkpoint of this journal.
func (a *App) opened(signed []byte) (journal.Checkpoint, error) {
	key, err := a.journalVerifier()
	if err != nil {
		return journal.Checkpoint{}, err
	}
	return journal.OpenCheckpoint(signed, key)
}

// proven returns an entry with its proof.
func (a *App) proven(ctx context.Context, index, size int64) (pack.Entry, error) {
	p, err := a.store.JournalProof(ctx, index, size)
	return pack.Entry{Line: []byte(p.Entry), Index: p.Index, Hashes: hashes(p.Hashes)}, err
}

// evidence gathers what a pack holds. size is that of the journal it is proven
// under.
func (a *App) evidence(ctx context.Context, incident string) (c pack.Contents, size int64, err error) {
	versions, err := a.store.DocumentVersions(ctx, store.KindIncident, incident)
	if errors.Is(err, inventory.ErrNotFound) {
		err = fmt.Errorf("%w: \"reseal incident list\" lists those that are known", err)
	}
	if err != nil {
		return c, 0, err
	}
	last := len(versions) - 1
	c = pack.Contents{MadeAt: a.now(), Incident: versions[last], History: versions[:last], Revocations: map[string][]byte{}}
	if c.Approvers, err = a.store.DocumentVersions(ctx, store.KindApprovers, "approvers"); err != nil {
		return c, 0, err
	}
	plans, err := a.Plans(ctx, incident)
	if err != nil {
		return c, 0, err
	}
	for _, p := range plans {
		x, err := a.planEvidence(ctx, p.Plan)
		if err != nil {
			return c, 0, err
		}
		c.Plans = append(c.Plans, x)
	}
	motions, err := a.Motions(ctx)
	if err != nil {
		return c, 0, err
	}
	for _, m := range motions {
		if m.Subject != incident {
			continue
		}
		x, err := a.motionEvidence(ctx, m)
		if err != nil {
			return c, 0, err
		}
		c.Motions = append(c.Motions, x)
	}
	receipts, err := a.anchored(ctx)
	if err != nil {
		return c, 0, err
	}
	for _, x := range receipts {
		body, err := json.Marshal(x.Receipt)
		if err != nil {
			return c, 0, err
		}
		c.Receipts = append(c.Receipts, body)
	}
	public, err := os.ReadFile(filepath.Join(a.options.Home, journalPubFile))
	if err != nil {
		return c, 0, fmt.Errorf("journal public key: %w", err)
	}
	c.JournalKey = strings.TrimSpace(string(public))
	if c.Checkpoint, err = a.signedCheckpoint(ctx); err != nil {
		return c, 0, err
	}
	now, err := a.opened(c.Checkpoint)
	if err != nil {
		return c, 0, err
	}
	names, err := a.names(ctx, incident)
	if err != nil {
		return c, 0, err
	}
	acts := a.acts(ctx, 0, names, c.Documents())
	applied := map[string]bool{}
	for e, err := range acts {
		if err != nil {
			return c, 0, err
		}
		if e.Action == "revocation.done" {
			statement, err := a.store.Vault(ctx, e.Digest)
			if err != nil {
				return c, 0, err
			}
			var said rotate.Revocation
			if err := json.Unmarshal(statement, &said); err != nil {
				return c, 0, fmt.Errorf("revocation statement %s: %w", e.Digest, err)
			}
			c.Revocations[filepath.Base(e.Subject)], applied[said.Predicate.Plan] = statement, true
		}
		for n := range c.Plans {
			applied[c.Plans[n].Digest] = applied[c.Plans[n].Digest] || strings.HasSuffix(e.Action, ".done") && e.Digest == c.Plans[n].Digest
		}
	}
	for n, p := range plans {
		c.Plans[n].Applied = applied[p.Plan] || len(p.Reissues) > 0
	}
	c.Entries = func(yield func(pack.Entry, error) bool) {
		for e, err := range acts {
			var x pack.Entry
			if err == nil {
				if e.Index >= now.Size {
					return
				}
				x, err = a.proven(ctx, e.Index, now.Size)
			}
			if !yield(x, err) || err != nil {
				return
			}
		}
	}
	c.Before, c.After = a.statementsBefore(ctx, plans), a.statementsAfter(ctx, plans)
	c.Report, err = a.IncidentReport(ctx, incident)
	return c, now.Size, err
}

// planEvidence gathers a plan and who signed for it.
func (a *App) planEvidence(ctx context.Context, digest string) (pack.Plan, error) {
	x := pack.Plan{Digest: digest, Lines: rotate.Lines(ctx, a.store, digest)}
	var err error
	if x.Approvals, x.Proposal, err = a.signedFor(ctx, digest); err != nil {
		return x, err
	}
	x.BreakGlass, err = a.store.Documents(ctx, store.KindBreakGlass, digest+" ")
	return x, err
}

func (a *App) motionEvidence(ctx context.Context, m rotate.MotionState) (pack.Motion, error) {
	body, err := a.store.Document(ctx, store.KindMotion, m.Digest)
	if err != nil {
		return pack.Motion{}, err
	}
	x := pack.Motion{Body: body, Carried: m.Carried != nil}
	x.Approvals, x.Proposal, err = a.signedFor(ctx, m.Digest)
	return x, err
}

// signedFor returns the approvals of a plan or motion, and the proposal apart.
func (a *App) signedFor(ctx context.Context, digest string) (approvals [][]byte, proposal []byte, err error) {
	bodies, err := a.store.Documents(ctx, store.KindApproval, digest+" ")
	for _, b := range bodies {
		var x rotate.Approval
		if err := json.Unmarshal(b, &x); err != nil {
			return nil, nil, fmt.Errorf("approval of %s: %w", digest, err)
		}
		if x.Proposal {
			proposal = b
		} else {
			approvals = append(approvals, b)
		}
	}
	return approvals, proposal, err
}

// names returns what the journal knows the acts about an incident by.
func (a *App) names(ctx context.Context, incident string) ([]string, error) {
	out := []string{incident, "revocations/" + incident + ".json"}
	plans, err := a.Plans(ctx, incident)
	if err != nil {
		return nil, err
	}
	for _, p := range plans {
		out = append(out, p.Plan)
	}
	motions, err := a.Motions(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range motions {
		if m.Subject == incident {
			out = append(out, m.Digest)
		}
	}
	return out, nil
}

// acts yields the journal's entries, from the one given on, about what is
// named: whose subject or reason names it, or whose digest is one of those
// given.
func (a *App) acts(ctx context.Context, from int64, names, digests []string) iter.Seq2[journal.Entry, error] {
	wanted := map[string]bool{}
	for _, d := range append(slices.Clone(digests), names...) {
		wanted[d] = true
	}
	about := func(text string) bool {
		return slices.ContainsFunc(strings.FieldsFunc(text, func(r rune) bool { return !strings.ContainsRune(nameRunes, r) }), func(word string) bool {
			return wanted[word] || wanted[strings.Trim(word, "._-:/")] // as a sentence ends, or a clause
		})
	}
	return func(yield func(journal.Entry, error) bool) {
		next := a.Journal(ctx, from)
		for {
			e, err := next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err == nil && !wanted[e.Digest] && !about(e.Subject) && !about(e.Reason) {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// nameRunes are what names of incidents, files and digests are made of.
const nameRunes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/"

// statementsBefore yields what every statement was decided on.
func (a *App) statementsBefore(ctx context.Context, plans []PlanState) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, p := range plans {
			stop := errors.New("enough")
			err := rotate.Items(ctx, a.store, p.Plan, "", func(i rotate.Item) error {
				line, err := json.Marshal(struct {
					Plan string `json:"plan"`
					rotate.Item
				}{p.Plan, i})
				if !yield(line, err) || err != nil {
					return stop
				}
				return nil
			})
			if errors.Is(err, stop) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// statementsAfter yields how every statement of the newest plan stands now.
func (a *App) statementsAfter(ctx context.Context, plans []PlanState) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if len(plans) == 0 {
			return
		}
		stop := errors.New("enough")
		err := a.assessNow(ctx, plans[len(plans)-1].Plan, func(i rotate.Item) error {
			line, err := json.Marshal(i)
			if !yield(line, err) || err != nil {
				return stop
			}
			return nil
		})
		if err != nil && !errors.Is(err, stop) {
			yield(nil, err)
		}
	}
}

// assessNow decides every statement as a plan would now.
func (a *App) assessNow(ctx context.Context, digest string, visit func(rotate.Item) error) error {
	p, _, err := rotate.LoadPlan(ctx, a.store, digest)
	if err != nil {
		return err
	}
	policy, err := p.Current(ctx, a.store)
	if err != nil {
		return err
	}
	_, err = rotate.Assess(ctx, a.store, policy, visit)
	return err
}

// sealed reports whether the last act about an incident is in a sealed pack,
// which was written to its end.
func (a *App) sealed(ctx context.Context, incident string) (bool, error) {
	names, err := a.names(ctx, incident)
	if err != nil {
		return false, err
	}
	manifest, packed := "", false // of the seal that nothing but its pack followed
	for e, err := range a.acts(ctx, 0, names, nil) {
		if err != nil {
			return false, err
		}
		switch {
		case e.Action == pack.SealedAction && e.Subject == incident:
			manifest, packed = e.Digest, false
		case e.Action == packedAction && e.Subject == incident && e.Digest == manifest:
			packed = true
		default:
			manifest, packed = "", false
		}
	}
	return packed, nil
}

// VerifyEvidence verifies an evidence pack. key is the journal's, see
// JournalKey; nil: the pack's own, which shows that it is whole but not whose it
// is.
func VerifyEvidence(path string, key note.Verifier) (pack.Result, error) {
	fsys, closer, err := pack.Open(path)
	if err != nil {
		return pack.Result{}, err
	}
	r := pack.Verify(fsys, pack.Options{Journal: key})
	return r, closer.Close()
}

// IncidentReport gathers what the report of an incident says.
func (a *App) IncidentReport(ctx context.Context, incident string) (pack.Report, error) {
	i, err := rotate.LoadIncident(ctx, a.store, incident)
	if err != nil {
		return pack.Report{}, err
	}
	r := pack.Report{MadeAt: a.now(), Before: map[string]int64{}, After: map[string]int64{}, Incident: pack.Facts{ID: i.ID, Title: i.Title,
		Class: string(i.Class), Severity: i.Severity, State: string(i.State), From: i.From, Until: i.Until, OpenedBy: i.OpenedBy, OpenedAt: i.OpenedAt, ClosedAt: i.ClosedAt}}
	for _, s := range i.Signers {
		r.Incident.Signers = append(r.Incident.Signers, s.String())
	}
	for _, s := range i.Selectors {
		text, err := json.Marshal(s)
		if err != nil {
			return r, err
		}
		r.Incident.Signers = append(r.Incident.Signers, string(text))
	}
	for _, x := range i.Authorities {
		r.Incident.Authorities = append(r.Incident.Authorities, string(x.Role)+" "+x.ID)
	}
	for _, ch := range i.Changes {
		r.Incident.Changes = append(r.Incident.Changes, pack.Event{At: ch.At, Actor: ch.Actor, Action: ch.What, Subject: i.ID, Reason: ch.Reason})
	}
	for _, d := range slices.Sorted(maps.Keys(i.Rogue)) {
		r.Rogue = append(r.Rogue, pack.Line{Digest: d, Reason: i.Rogue[d]})
	}
	receipts, err := a.anchored(ctx)
	if err != nil {
		return r, err
	}
	for _, x := range receipts {
		n := pack.Anchor{At: x.Receipt.Time, Size: x.size, Where: x.Receipt.Where}
		if x.Receipt.Authority != nil {
			n.Authority = x.Receipt.Authority.ID
		}
		r.Anchors = append(r.Anchors, n)
	}
	plans, err := a.Plans(ctx, incident)
	if err != nil {
		return r, err
	}
	if err := a.reportActs(ctx, &r, i); err != nil {
		return r, err
	}
	for _, p := range plans {
		if err := a.reportSignatures(ctx, &r, p); err != nil {
			return r, err
		}
	}
	if len(plans) > 0 {
		if err := a.reportPlan(ctx, &r, plans[len(plans)-1]); err != nil {
			return r, err
		}
	}
	if i.State == rotate.Open {
		closing, err := rotate.Missing(ctx, a.store, i.ID, world{a})
		if err != nil {
			return r, err
		}
		r.Missing = closing.Missing
	}
	return r, nil
}

// maxTimeline bounds the timeline of a report.
const maxTimeline = 2000

// reportActs fills in the timeline, and when each consumer stopped trusting the
// old signer.
func (a *App) reportActs(ctx context.Context, r *pack.Report, i rotate.Incident) error {
	names, err := a.names(ctx, i.ID)
	if err != nil {
		return err
	}
	contained := map[string]time.Time{} // by anchor
	signed := 0                         // in the run of signatures at the end of the timeline
	for e, err := range a.acts(ctx, 0, names, nil) {
		if err != nil {
			return err
		}
		if e.Action == "anchor.write.done" {
			contained[e.Subject] = e.Time
		}
		if strings.HasSuffix(e.Action, ".intended") {
			continue
		}
		now := pack.Event{At: e.Time, Actor: e.Actor, Action: e.Action, Subject: e.Subject, Reason: e.Reason}
		if last := len(r.Timeline) - 1; e.Action == "resign.done" && last >= 0 && r.Timeline[last].Action == now.Action {
			// A run of signatures is one event: a million of them would hide the rest.
			signed++
			now.Subject = fmt.Sprintf("%d signatures, the last on %s", signed, e.Subject)
			r.Timeline[last] = now
			continue
		}
		signed = 1
		if len(r.Timeline) < maxTimeline {
			r.Timeline = append(r.Timeline, now)
		}
	}
	for _, c := range a.config.Consumers {
		x := pack.Consumer{Name: c.Name, Reads: string(c.Reads), Note: "its anchor was not rewritten"}
		if at, ok := contained[c.Anchor]; ok {
			took := at.Sub(i.OpenedAt)
			x.Contained, x.Note = &took, "its anchor was rewritten at "+at.Format(time.RFC3339)
		}
		r.Consumers = append(r.Consumers, x)
	}
	return nil
}

// reportSignatures fills in who signed for a plan, and who broke the glass.
func (a *App) reportSignatures(ctx context.Context, r *pack.Report, p PlanState) error {
	bodies, err := a.store.Documents(ctx, store.KindApproval, p.Plan+" ")
	if err != nil {
		return err
	}
	for _, b := range bodies {
		var x rotate.Approval
		if err := json.Unmarshal(b, &x); err != nil {
			return fmt.Errorf("approval of %s: %w", p.Plan, err)
		}
		note := "approves"
		if x.Proposal {
			note = "proposes"
		}
		r.Approvals = append(r.Approvals, pack.Approved{What: "plan " + p.Plan, Name: x.Approver, Kind: x.Form(), Note: note, At: x.At})
	}
	bodies, err = a.store.Documents(ctx, store.KindBreakGlass, p.Plan+" ")
	if err != nil {
		return err
	}
	for _, b := range bodies {
		var x rotate.BreakGlass
		if err := json.Unmarshal(b, &x); err != nil {
			return fmt.Errorf("break-glass of %s: %w", p.Plan, err)
		}
		r.BreakGlass = append(r.BreakGlass, pack.Override{Plan: p.Plan, By: x.By, Reason: x.Reason, At: x.At})
	}
	return nil
}

// varies is what makes reasons of one kind differ: times and digests.
var varies = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ|[0-9a-f]{12,}`)

// reportPlan fills in what the newest plan decided and how it stands now.
func (a *App) reportPlan(ctx context.Context, r *pack.Report, st PlanState) error {
	p, t, err := rotate.LoadPlan(ctx, a.store, st.Plan)
	if err != nil {
		return err
	}
	for d, n := range t.Decisions {
		r.Before[string(d)] = n
	}
	for _, s := range t.Sensitivity {
		x := pack.Shift{From: fmt.Sprintf("%s (%d days earlier)", s.From.Format(time.RFC3339), s.Days), Decisions: map[string]int64{}}
		for d, n := range s.Decisions {
			x.Decisions[string(d)] = n
		}
		r.Sensitivity = append(r.Sensitivity, x)
	}
	for _, o := range t.Orders {
		for _, k := range o.Consumers {
			r.Orders = append(r.Orders, pack.Order{Name: fmt.Sprintf("%s, %s", o.Order, k.Consumer), Chosen: o.Order == p.Order,
				Exposure: time.Duration(k.ExposureSeconds * float64(time.Second)).Round(time.Second).String(),
				Outage:   fmt.Sprintf("%d workloads would fail", k.WouldFail), Note: o.Assumed})
		}
	}
	for _, v := range p.Vouchers {
		who := v.Signer.String()
		if v.Person != "" {
			who = v.Person
		}
		r.Vouchers = append(r.Vouchers, pack.Voucher{ID: v.ID(), Kind: string(v.Kind), Who: who, Alone: t.Vouched[v.ID()]})
	}
	groups := map[[2]string]*pack.Group{}
	line := func(i rotate.Item) pack.Line {
		return pack.Line{Repository: i.Repository, Digest: i.Digest, Reason: i.Reason, Deployed: i.Deployed}
	}
	err = rotate.Items(ctx, a.store, st.Plan, "", func(i rotate.Item) error {
		key := [2]string{string(i.Decision), varies.ReplaceAllString(i.Reason, "…")}
		if groups[key] == nil {
			groups[key] = &pack.Group{Decision: key[0], Reason: key[1]}
		}
		groups[key].Statements++
		if i.Deployed {
			groups[key].Deployed++
		}
		if i.Recall && len(r.Recall) <= maxTimeline {
			r.Recall = append(r.Recall, line(i))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, g := range groups {
		r.Decisions = append(r.Decisions, *g)
	}
	slices.SortFunc(r.Decisions, func(x, y pack.Group) int {
		return cmp.Or(trust.Compare(trust.Decision(x.Decision), trust.Decision(y.Decision)), cmp.Compare(y.Statements, x.Statements), cmp.Compare(x.Reason, y.Reason))
	})
	return a.assessNow(ctx, st.Plan, func(i rotate.Item) error {
		r.After[string(i.Decision)]++
		if i.Decision != trust.Hold {
			return nil
		}
		list := &r.Holds
		if slices.Contains(p.AcceptDark, i.Digest) {
			list = &r.AcceptedDark
		}
		if len(*list) <= maxTimeline {
			*list = append(*list, line(i))
		}
		return nil
	})
}
