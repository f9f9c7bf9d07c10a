package trustedroot

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/reseal/reseal/inventory"
)

// What a change does to an entry.
const (
	Added   = "added"
	Removed = "removed"
	Ended   = "ended"   // it has an end, or an earlier one, and is as it was otherwise
	Changed = "changed" // anything else
)

// Change is one difference between two files, for whoever signs the second.
type Change struct {
	What    string   `json:"what"`
	Subject string   `json:"subject"` // the entry, with its whole ID
	Details []string `json:"details"`
}

// String is the change in words, over several lines.
func (c Change) String() string {
	return c.What + " " + c.Subject + "\n  " + strings.Join(c.Details, "\n  ")
}

// Diff says what is different in a new trusted root. It is empty only where the
// two say the same: what is not foreseen here is named by its field.
func Diff(old, new []byte) ([]Change, error) {
	a, b, err := both(old, new)
	if err != nil {
		return nil, err
	}
	var out []Change
	if a.pb.GetMediaType() != b.pb.GetMediaType() {
		out = append(out, Change{Changed, "the file", []string{fmt.Sprintf("its media type is %s, it was %s", b.pb.GetMediaType(), a.pb.GetMediaType())}})
	}
	for _, k := range Kinds() {
		list := pairs(entries(a.pb, k), entries(b.pb, k))
		for _, p := range list {
			switch {
			case p.old == nil:
				out = append(out, Change{Added, p.new.String(), p.new.details()})
			case p.new == nil:
				out = append(out, Change{Removed, p.old.String(), append([]string{"nothing of it counts any more"}, p.old.details()...)})
			default:
				if c, ok := changed(p.new.String(), p.old.Authority.period(), p.new.Authority.period(), p.old.message(), p.new.message()); ok {
					out = append(out, c)
				}
			}
		}
		out = append(out, reordered(k, list)...)
	}
	return out, nil
}

// DiffConfig says what is different in a new signing config.
func DiffConfig(old, new []byte) ([]Change, error) {
	a, err := ParseConfig(old)
	if err != nil {
		return nil, fmt.Errorf("before: %w", err)
	}
	b, err := ParseConfig(new)
	if err != nil {
		return nil, fmt.Errorf("after: %w", err)
	}
	var out []Change
	for _, k := range ServiceKinds() {
		list := pairs(services(a.pb, k), services(b.pb, k))
		for _, p := range list {
			switch {
			case p.old == nil:
				out = append(out, Change{Added, p.new.String(), []string{window(p.new.Start, p.new.End)}})
			case p.new == nil:
				out = append(out, Change{Removed, p.old.String(), []string{"no client uses it any more", window(p.old.Start, p.old.End)}})
			default:
				if c, ok := changed(p.new.String(), [2]time.Time{p.old.Start, p.old.End}, [2]time.Time{p.new.Start, p.new.End}, p.old.pb, p.new.pb); ok {
					out = append(out, c)
				}
			}
		}
		out = append(out, reordered(k, list)...)
		x, y := selection(a.pb, k), selection(b.pb, k)
		if !proto.Equal(x, y) {
			out = append(out, Change{Changed, fmt.Sprintf("the choice of %s services", k), []string{fmt.Sprintf("clients use %s, they used %s", choice(y), choice(x))}})
		}
	}
	return out, nil
}

// choice says how many services clients use.
func choice(s *prototrustroot.ServiceConfiguration) string {
	if s == nil {
		return "what they like, as the file does not say"
	}
	if s.GetCount() > 0 {
		return fmt.Sprintf("%s %d", s.GetSelector(), s.GetCount())
	}
	return s.GetSelector().String()
}

// both reads two trusted roots.
func both(old, new []byte) (a, b *Root, err error) {
	if a, err = Parse(old); err != nil {
		return nil, nil, fmt.Errorf("before: %w", err)
	}
	if b, err = Parse(new); err != nil {
		return nil, nil, fmt.Errorf("after: %w", err)
	}
	return a, b, nil
}

// service is a service where it stands.
type service struct {
	Service
	pb *prototrustroot.Service
}

func (s service) identity() string       { return fmt.Sprintf("%d %s", s.Version, s.URL) }
func (s service) message() proto.Message { return s.pb }
func (e entry) identity() string         { return e.ID }

func services(pb *prototrustroot.SigningConfig, k ServiceKind) []service {
	var out []service
	for _, m := range *list(pb, k) {
		out = append(out, service{describe(k, m), m})
	}
	return out
}

// listEntry is an entry of a file that is compared with those of another.
type listEntry interface {
	identity() string
	message() proto.Message
}

// pair is an entry as it was and as it is.
type pair[E listEntry] struct {
	old, new *E
	at       int // where it was
}

// pairs finds for each entry what it was: an entry that says exactly the same,
// or else the next of the same identity. In the order of the new file, with what
// is no longer there at the end.
func pairs[E listEntry](was, is []E) []pair[E] {
	taken := make([]bool, len(was))
	of := make([]int, len(is))
	take := func(n int, like func(E) bool) {
		if of[n] >= 0 {
			return
		}
		for i := range was {
			if !taken[i] && like(was[i]) {
				taken[i], of[n] = true, i
				return
			}
		}
	}
	for n := range is {
		of[n] = -1
		take(n, func(e E) bool { return proto.Equal(e.message(), is[n].message()) })
	}
	for n := range is {
		take(n, func(e E) bool { return e.identity() == is[n].identity() })
	}
	var out []pair[E]
	for n := range is {
		p := pair[E]{new: &is[n]}
		if of[n] >= 0 {
			p.old, p.at = &was[of[n]], of[n]
		}
		out = append(out, p)
	}
	for i := range was {
		if !taken[i] {
			out = append(out, pair[E]{old: &was[i]})
		}
	}
	return out
}

// reordered says that entries stand in another order. It matters to clients
// that take the first, or the last, of two.
func reordered[K ~string, E listEntry](k K, list []pair[E]) []Change {
	kept := slices.DeleteFunc(slices.Clone(list), func(p pair[E]) bool { return p.old == nil || p.new == nil })
	before := slices.SortedFunc(slices.Values(kept), func(a, b pair[E]) int { return a.at - b.at })
	if slices.Equal(before, kept) {
		return nil
	}
	names := func(list []pair[E]) string {
		var out []string
		for _, p := range list {
			out = append(out, (*p.new).identity())
		}
		return strings.Join(out, ", ")
	}
	return []Change{{Changed, fmt.Sprintf("the order of each %s", string(k)), []string{"now: " + names(kept), "before: " + names(before)}}}
}

func (a Authority) period() [2]time.Time { return [2]time.Time{a.Start, a.End} }

// details says everything of an entry that a signer may want to compare.
func (e entry) details() []string {
	out := []string{window(e.Start, e.End)}
	if e.Operator != "" {
		out = append(out, "run by "+e.Operator)
	}
	if e.log != nil {
		out = append(out, fmt.Sprintf("key %s, SHA-256 of it %s", e.Key, e.KeySHA256), fmt.Sprintf("its tree is hashed with %s", e.log.GetHashAlgorithm()))
		if id := e.log.GetCheckpointKeyId().GetKeyId(); len(id) > 0 {
			out = append(out, "checkpoint key ID "+hex.EncodeToString(id))
		}
		return out
	}
	if s := e.ca.GetSubject(); s != nil {
		out = append(out, fmt.Sprintf("called %q of %q", s.GetCommonName(), s.GetOrganization()))
	}
	for i, raw := range e.ca.GetCertChain().GetCertificates() {
		line := fmt.Sprintf("certificate %s, SHA-256 %s", e.subjects[i], e.Certificates[i])
		if c, err := x509.ParseCertificate(raw.GetRawBytes()); err == nil {
			line += ", " + window(c.NotBefore, c.NotAfter)
		}
		out = append(out, line)
	}
	return out
}

// changed says what is different in an entry, if anything is.
func changed(subject string, was, is [2]time.Time, old, new proto.Message) (Change, bool) {
	if proto.Equal(old, new) {
		return Change{}, false
	}
	c := Change{What: Changed, Subject: subject}
	compare("", old.ProtoReflect(), new.ProtoReflect(), func(path, before, after string) {
		c.Details = append(c.Details, fmt.Sprintf("%s is %s, it was %s", path, after, before))
	})
	earlier := !is[1].IsZero() && (was[1].IsZero() || is[1].Before(was[1]))
	if len(c.Details) == 1 && earlier && was[0].Equal(is[0]) {
		until := "it had no end"
		if !was[1].IsZero() {
			until = "its end was " + stamp(was[1])
		}
		c.What, c.Details = Ended, []string{fmt.Sprintf("it ends at %s, %s", stamp(is[1]), until)}
	}
	return c, true
}

// compare calls tell for every field in which two messages of a kind differ.
func compare(path string, a, b protoreflect.Message, tell func(path, before, after string)) {
	fields := a.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		at := strings.TrimPrefix(path+"."+f.JSONName(), ".")
		x, y := a.Get(f), b.Get(f)
		switch {
		case f.IsList():
			for n := range max(x.List().Len(), y.List().Len()) {
				at := fmt.Sprintf("%s[%d]", at, n)
				switch {
				case n >= x.List().Len():
					tell(at, "not there", words(f, y.List().Get(n)))
				case n >= y.List().Len():
					tell(at, words(f, x.List().Get(n)), "not there")
				case f.Message() != nil:
					compare(at, x.List().Get(n).Message(), y.List().Get(n).Message(), tell)
				case !x.List().Get(n).Equal(y.List().Get(n)):
					tell(at, words(f, x.List().Get(n)), words(f, y.List().Get(n)))
				}
			}
		case f.Message() != nil && f.Message().FullName() != "google.protobuf.Timestamp" && a.Has(f) && b.Has(f):
			compare(at, x.Message(), y.Message(), tell)
		case a.Has(f) != b.Has(f) || !x.Equal(y):
			before, after := "not there", "not there"
			if a.Has(f) {
				before = words(f, x)
			}
			if b.Has(f) {
				after = words(f, y)
			}
			tell(at, before, after)
		}
	}
}

// words writes the value of a field for people: a certificate or key as its
// SHA-256, as they have it from elsewhere.
func words(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch {
	case f.Message() != nil:
		m := v.Message().Interface()
		if t, ok := m.(*timestamppb.Timestamp); ok {
			return stamp(t.AsTime())
		}
		var parts []string
		compare("", v.Message().New(), v.Message(), func(path, _, after string) { parts = append(parts, path+" "+after) })
		return "{" + strings.Join(parts, ", ") + "}"
	case f.Kind() == protoreflect.EnumKind:
		if e := f.Enum().Values().ByNumber(v.Enum()); e != nil {
			return string(e.Name())
		}
		return fmt.Sprint(v.Enum())
	case f.Kind() == protoreflect.BytesKind && f.Name() == "raw_bytes":
		return "SHA-256 " + sha256Hex(v.Bytes())
	case f.Kind() == protoreflect.BytesKind:
		return hex.EncodeToString(v.Bytes())
	case f.Kind() == protoreflect.StringKind:
		return fmt.Sprintf("%q", v.String())
	}
	return v.String()
}

// Loss is what a change takes away: evidence of an authority that counted and
// counts no more.
type Loss struct {
	Authority Authority `json:"authority"` // as it was
	Why       string    `json:"why"`

	// After and Before bound the times of the evidence that no longer counts,
	// both exclusive; zero: no bound.
	After  time.Time `json:"after,omitzero"`
	Before time.Time `json:"before,omitzero"`

	// Evidence names the authority as the inventory's evidence does. Everything
	// that rests on it rests on one of these.
	Evidence []inventory.Authority `json:"evidence"`

	// Untold is set of a log that is taken away: signatures by keys name a log in
	// the inventory only where it gave them a time, which one of Rekor v2 does not.
	Untold string `json:"untold,omitempty"`
}

// Lost says what would stop verifying with a new trusted root: authorities that
// are dropped, that end earlier or start later, or of which the key or the chain
// is another, and logs that a second entry may hide.
func Lost(old, new []byte) ([]Loss, error) {
	a, b, err := both(old, new)
	if err != nil {
		return nil, err
	}
	var out []Loss
	for _, k := range Kinds() {
		list := pairs(entries(a.pb, k), entries(b.pb, k))
		for _, p := range list {
			of := p.old
			add := func(after, before time.Time, format string, args ...any) {
				l := Loss{Authority: of.Authority, Why: fmt.Sprintf(format, args...), After: after, Before: before, Evidence: of.evidence()}
				if k == Log && after.IsZero() && before.IsZero() {
					l.Untold = fmt.Sprintf("the inventory does not tell which signatures by keys are in %s and in no other log, if it is one of Rekor v2: clients that ask for a log entry would refuse those", of)
				}
				out = append(out, l)
			}
			if of == nil {
				if of = hidden(list, p.new); of != nil {
					add(time.Time{}, time.Time{}, "it is there twice now, and clients use one of the two")
				}
				continue
			}
			if p.new == nil {
				add(time.Time{}, time.Time{}, "it is dropped")
				continue
			}
			was, is := p.old.Authority, p.new.Authority
			if !is.End.IsZero() && (was.End.IsZero() || is.End.Before(was.End)) {
				add(is.End, time.Time{}, "it ends at %s", stamp(is.End))
			}
			if is.Start.After(was.Start) {
				add(time.Time{}, is.Start, "it starts at %s", stamp(is.Start))
			}
			if why := altered(*p.old, *p.new); why != "" {
				add(time.Time{}, time.Time{}, "%s", why)
			}
		}
	}
	return out, nil
}

// hidden returns the log that was there before and that a new entry may hide:
// clients know logs by their ID alone. Nil: there is none.
func hidden(list []pair[entry], by *entry) *entry {
	for _, p := range list {
		if by.log != nil && p.old != nil && p.old.ID == by.ID && !proto.Equal(p.old.message(), by.message()) {
			return p.old
		}
	}
	return nil
}

// altered reports a change of what the evidence of an authority is checked
// with, other than its period.
func altered(was, is entry) string {
	var fields []string
	compare("", was.message().ProtoReflect(), is.message().ProtoReflect(), func(path, _, _ string) {
		switch {
		case strings.Contains(path, "validFor"), path == "operator", strings.HasPrefix(path, "subject"), path == "uri":
		default:
			fields = append(fields, path)
		}
	})
	if len(fields) == 0 {
		return ""
	}
	return "what its evidence is checked with is another: " + strings.Join(fields, ", ")
}

// evidence names an authority as the inventory does: see verify.
func (e entry) evidence() []inventory.Authority {
	ids := e.Certificates // the issuer, and every CA above it
	if e.kind != CA {
		ids = []string{e.ID}
	}
	out := []inventory.Authority{}
	for _, id := range ids {
		out = append(out, inventory.Authority{Role: e.kind.role(), ID: id})
	}
	return out
}

// Fact is what the inventory knows of an authority.
type Fact struct {
	inventory.Authority
	Signatures int64     // at their place, with verified evidence of it
	Alone      int64     // of these, with nothing beside it
	Deployed   int64     // deployed artifacts with such a signature
	Latest     time.Time // of its verified times; zero: it gives none
}

// Toll is how much a loss takes at most.
type Toll struct {
	Loss
	Signatures int64 `json:"signatures"` // have evidence of it that no longer counts, or may
	Alone      int64 `json:"alone"`      // of these, rest on it alone: they stop verifying, or lose their only proof of time
	Deployed   int64 `json:"deployed"`   // artifacts with such a signature
}

// Tolls says how many stored signatures would stop verifying, by what the
// inventory counts: at most as many as are alone. Only verifying them under both
// trusted roots says how many exactly. What does not verify any more after a
// time that is later than any of the authority's takes nothing.
func Tolls(lost []Loss, facts []Fact) []Toll {
	out := make([]Toll, 0, len(lost))
	for _, l := range lost {
		t := Toll{Loss: l}
		for _, f := range facts {
			if !slices.Contains(l.Evidence, f.Authority) || !l.After.IsZero() && !f.Latest.IsZero() && !f.Latest.After(l.After) {
				continue
			}
			// Of a chain every certificate is in the evidence, the anchor in all of it.
			t.Signatures, t.Alone, t.Deployed = max(t.Signatures, f.Signatures), max(t.Alone, f.Alone), max(t.Deployed, f.Deployed)
		}
		out = append(out, t)
	}
	return out
}
