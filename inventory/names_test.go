package inventory

import (
	"strings"
	"testing"
)

func TestCheckNames(t *testing.T) {
	t.Parallel()
	const subjects = `"subject":[{"name":"a","digest":{"sha256":"00"}}]`
	statement := func(fields ...string) string { return "{" + strings.Join(fields, ",") + "}" }
	with := func(field string) string {
		return statement(`"_type":"https://in-toto.io/Statement/v1"`, `"predicateType":"p"`, subjects, `"predicate":{}`, field)
	}
	const image = `"critical":{"identity":{"docker-reference":"a"},"image":{"docker-manifest-digest":"sha256:00"},"type":"cosign container image signature"}`
	statements, predicates, payloads := CheckStatement, CheckPredicate, CheckSimpleSigning
	for _, tc := range []struct {
		name  string
		check func([]byte) error
		text  string
		says  string // "": it is read
	}{
		{"a statement", statements, with(`"note":1e999`), ""},
		{"a name nobody knows, in two cases", statements, with(`"Note":1,"note":2`), ""},
		{"subjects twice", statements, with(subjects), `"subject" twice`},
		{"subjects twice, one empty", statements, with(`"subject":null`), `"subject" twice`},
		{"subjects twice, one escaped", statements, with(`"\u0073ubject":[]`), `"subject" twice`},
		{"subjects in another case, too", statements, with(`"Subject":[]`), `"Subject", which some verifiers take for "subject"`},
		{"subjects in another case alone", statements, statement(`"Subject":[]`), `"Subject", which some`},
		{"subjects with a letter that folds to s", statements, with(`"ſubject":[]`), `which some verifiers take for "subject"`},
		{"a predicate type as protobuf has it, too", statements, with(`"predicate_type":"q"`), `"predicate_type", which some`},
		{"a type as protobuf has it, too", statements, with(`"type":"q"`), `"type", which some`},
		{"predicate types twice", statements, with(`"predicateType":"q"`), `"predicateType" twice`},
		{"predicates twice", statements, with(`"predicate":{"a":1}`), `"predicate" twice`},
		{"predicates in another case", statements, with(`"PREDICATE":{}`), `"PREDICATE", which`},
		{"a name nobody knows, twice", statements, with(`"note":1,"note":1`), `"note" twice`},
		{"digests twice", statements, statement(`"subject":[{"digest":{}},{"digest":{"sha256":"00"},"digest":{"sha256":"11"}}]`), `"digest" twice`},
		{"digests in another case", statements, statement(`"subject":[{"digest":{"sha256":"00"},"Digest":{}}]`), `"Digest", which`},
		{"one digest twice", statements, statement(`"subject":[{"digest":{"sha256":"00","sha256":"11"}}]`), `"sha256" twice`},
		{"annotations twice", statements, statement(`"subject":[{"annotations":{"a":{"b":1,"b":2}}}]`), `"b" twice`},
		{"annotations in two cases", statements, statement(`"subject":[{"annotations":{"a":1,"A":2}}]`), ""},
		{"a subject that is none", statements, statement(`"subject":{"digest":"x"}`), ""},
		{"inside the predicate, which is another's word", statements, statement(`"predicate":{"a":1,"a":2}`), ""},
		{"inside the predicate, which is asked about", predicates, statement(`"predicate":{"x":[{"a":1,"a":2}]}`), `"a" twice`},
		{"inside the predicate, in two cases", predicates, statement(`"predicate":{"a":1,"A":2}`), ""},
		{"an image's signature", payloads, statement(image, `"optional":{"a":{"b":[1,{}]}}`), ""},
		{"an image's signature by an early cosign", payloads, `{"Critical":{"Identity":{"docker-reference":""},"Image":{"Docker-manifest-digest":"sha256:00"},"Type":"x"},"Optional":null}`, ""},
		{"two of an image", payloads, statement(image, image), `"critical" twice`},
		{"two of an image, one as an early cosign had it", payloads, statement(image, `"Critical":{}`), `"Critical" twice`},
		{"two digests of an image", payloads, `{"critical":{"image":{"docker-manifest-digest":"a","docker-manifest-digest":"b"}}}`, "twice"},
		{"two digests of an image, in two cases", payloads, `{"critical":{"image":{"docker-manifest-digest":"a","Docker-Manifest-Digest":"b"}}}`, "twice"},
		{"two names of an image", payloads, `{"critical":{"identity":{"docker-reference":"a","docker-reference":"b"}}}`, "twice"},
		{"two notes of one name", payloads, statement(image, `"optional":{"a":{"b":1,"b":2}}`), `"b" twice`},
		{"no JSON", statements, `{"a"`, "EOF"},
		{"nothing", payloads, ``, "EOF"},
		{"nested too deep", predicates, `{"predicate":` + strings.Repeat("[", 1_000_000), "too deep"},
	} {
		err := tc.check([]byte(tc.text))
		switch {
		case tc.says == "" && err != nil:
			t.Errorf("%s: refused: %v", tc.name, err)
		case tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)):
			t.Errorf("%s: got %v, want it to say %s", tc.name, err, tc.says)
		}
	}
}

// TestSummarisesOneReading has a summary say a thing twice: it then says nothing.
func TestSummarisesOneReading(t *testing.T) {
	t.Parallel()
	a := Artifact{Repository: "registry.example/app", Digest: "sha256:" + strings.Repeat("0", 64)}
	whole, err := Summary{Artifact: a, Verifier: "https://v.example", Plan: a.Digest, Inputs: []SummaryInput{{Digest: "sha256:" + strings.Repeat("1", 64)}}}.Payload()
	if err != nil {
		t.Fatal(err)
	}
	if got := Summarises(whole, a); len(got) != 1 {
		t.Fatalf("a summary summarises %v", got)
	}
	for _, name := range []string{`"subject":`, `"predicateType":`, `"predicate":`, `"resourceUri":`, `"verificationResult":`, `"inputAttestations":`} {
		for _, other := range []string{name, strings.ToUpper(name)} {
			twice := strings.Replace(string(whole), name, other+`null,`+name, 1)
			if got := Summarises([]byte(twice), a); len(got) != 0 {
				t.Errorf("with %s besides it summarises %v", other, got)
			}
		}
	}
}
