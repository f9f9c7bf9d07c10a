package trust

import (
	"slices"
	"testing"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

func TestVoucherCheck(t *testing.T) {
	t.Parallel()
	list := inventory.Digest(nil)
	for name, v := range map[string]Voucher{
		"attestation":           {Kind: Attestation, Signer: build, PredicateType: provenanceType, Content: map[string]string{"a": "b"}},
		"attestation of before": {Signer: build, PredicateType: vexType},
		"list":                  {Kind: KnownGood, Signer: release, List: list},
		"list of a person":      {Kind: KnownGood, Signer: build, List: list, Person: "alice", Repositories: []string{"r.example/a"}},
		"CI runs":               {Kind: CIRun, Signer: build, Standing: ptr(at(1))},
	} {
		if err := v.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, v := range map[string]Voucher{
		"nothing":                     {},
		"nobody":                      {PredicateType: provenanceType},
		"an unknown signer":           {Signer: signer.Identity{Kind: signer.Unknown}, PredicateType: provenanceType},
		"a person alone":              {Kind: KnownGood, Person: "alice", List: list},
		"no predicate type":           {Signer: build},
		"an image signature":          {Signer: build, PredicateType: inventory.SignPredicate},
		"an unknown kind":             {Kind: "word", Signer: build, PredicateType: provenanceType},
		"no list":                     {Kind: KnownGood, Signer: build},
		"a list that is no digest":    {Kind: KnownGood, Signer: build, List: "good.txt"},
		"a list with a type":          {Kind: KnownGood, Signer: build, List: list, PredicateType: provenanceType},
		"a list with content":         {Kind: KnownGood, Signer: build, List: list, Content: map[string]string{"a": "b"}},
		"an attestation with a list":  {Signer: build, PredicateType: provenanceType, List: list},
		"an attestation of a person":  {Signer: build, PredicateType: provenanceType, Person: "alice"},
		"CI runs with a type":         {Kind: CIRun, Signer: build, PredicateType: provenanceType},
		"CI runs with a list":         {Kind: CIRun, Signer: build, List: list},
		"CI runs signed by a person":  {Kind: CIRun, Signer: build, Person: "alice"},
		"CI runs with a content rule": {Kind: CIRun, Signer: build, Content: map[string]string{"a": "b"}},
	} {
		if v.Check() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestVoucherID(t *testing.T) {
	t.Parallel()
	v := Voucher{Signer: build, PredicateType: provenanceType, Content: map[string]string{"a": "1", "b": "2"}, Repositories: []string{"r.example/b", "r.example/a"}}
	id := v.ID()
	if len(id) != 16 {
		t.Errorf("%q is not 16 digits", id)
	}
	for name, same := range map[string]func(*Voucher){
		"standing":              func(v *Voucher) { v.Standing = ptr(at(1)) },
		"with its kind":         func(v *Voucher) { v.Kind = Attestation },
		"in another order":      func(v *Voucher) { v.Repositories = []string{"r.example/a", "r.example/b", "r.example/a"} },
		"with an equal content": func(v *Voucher) { v.Content = map[string]string{"b": "2", "a": "1"} },
	} {
		o := v
		if same(&o); o.ID() != id {
			t.Errorf("%s it has another name", name)
		}
	}
	if !slices.Equal(v.Repositories, []string{"r.example/b", "r.example/a"}) {
		t.Error("naming a voucher changes it")
	}
	ids := map[string]string{id: "the voucher"}
	for name, change := range map[string]func(*Voucher){
		"kind": func(v *Voucher) { v.Kind = KnownGood }, "signer": func(v *Voucher) { v.Signer = other }, "type": func(v *Voucher) { v.PredicateType = vexType },
		"content": func(v *Voucher) { v.Content = map[string]string{"a": "12"} }, "no content": func(v *Voucher) { v.Content = nil },
		"person": func(v *Voucher) { v.Person = "alice" }, "list": func(v *Voucher) { v.List = inventory.Digest(nil) },
		"repositories": func(v *Voucher) { v.Repositories = []string{"r.example/a"} }, "anywhere": func(v *Voucher) { v.Repositories = nil },
	} {
		o := v
		change(&o)
		if is, taken := ids[o.ID()]; taken {
			t.Errorf("%s: has the name of %s", name, is)
		}
		ids[o.ID()] = name
	}
}

// TestVouched is about which vouchers a decision rests on: one that stands alone
// there must not be withdrawn unnoticed.
func TestVouched(t *testing.T) {
	t.Parallel()
	list := Voucher{Kind: KnownGood, Signer: build, List: inventory.Digest(nil)}
	attested := Voucher{Signer: build, PredicateType: provenanceType}
	never := Voucher{Kind: KnownGood, Signer: thief, List: inventory.Digest(nil)}
	proven := seen(sig(thief, upper(1, tsa)), 1)
	bare := seen(sig(thief), 1)
	for name, tc := range map[string]struct {
		sigs []inventory.Signature
		keep bool
		want []int
	}{
		"proven":         {[]inventory.Signature{proven, provenance(build)}, false, nil},
		"both":           {[]inventory.Signature{bare, provenance(build)}, false, []int{1, 2}},
		"one alone":      {[]inventory.Signature{bare}, false, []int{1}},
		"one alone kept": {[]inventory.Signature{bare}, true, []int{1}},
	} {
		p := Policy{Primary: "I", Incidents: []Incident{leaked("I", 10, thief)}, Skew: skew, Successor: next, Keep: tc.keep,
			Vouchers: []Voucher{never, list, attested}, Listed: func(Voucher, string) bool { return true }}
		st := inventory.Statements(artifact, tc.sigs)
		if out, _ := Decide(st[0], st, p); !slices.Equal(out.Vouched, tc.want) || Compare(out.Decision, Resign) < 0 {
			t.Errorf("%s: %s, vouched by %v, want %v", name, out.Decision, out.Vouched, tc.want)
		}
	}
}

// TestPredicateSaysOneThing has provenance say a thing twice: what it says is not
// known.
func TestPredicateSaysOneThing(t *testing.T) {
	t.Parallel()
	want := map[string]string{"builder.id": "good"}
	for payload, known := range map[string]bool{
		`{"predicate":{"builder":{"id":"good"}}}`:                                              true,
		`{"predicate":{"builder":{"id":"evil","id":"good"}}}`:                                  false,
		`{"predicate":{"builder":{"id":"evil"},"builder":{"id":"good"}}}`:                      false,
		`{"predicate":{"builder":{"id":"evil"}},"predicate":{"builder":{"id":"good"}}}`:        false,
		`{"predicate":{"builder":{"id":"evil"}},"Predicate":{"builder":{"id":"good"}}}`:        false,
		`{"Predicate":{"builder":{"id":"good"}}}`:                                              false,
		`{"predicate":{"builder":{"id":"good"},"materials":[{"uri":"a"},{"uri":"a","x":{}}]}}`: true,
	} {
		if says, got := PredicateSays([]byte(payload), want); got != known || says != known {
			t.Errorf("%s says %t, known %t, want %t", payload, says, got, known)
		}
	}
}
