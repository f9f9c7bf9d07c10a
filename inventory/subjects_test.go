package inventory

import (
	"slices"
	"testing"
)

func TestSubjects(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, payload string
		want          []string
		fails         bool
	}{
		{name: "one", payload: `{"subject":[{"name":"a","digest":{"sha256":"aa"}}]}`, want: []string{"sha256:aa"}},
		{name: "several, one of them twice and in capitals", payload: `{"subject":[{"digest":{"sha256":"BB"}},{"digest":{"sha256":"aa"}},{"digest":{"SHA256":"bb"}}]}`, want: []string{"sha256:aa", "sha256:bb"}},
		{name: "another algorithm besides", payload: `{"subject":[{"digest":{"sha256":"aa","sha512":"cc"}}]}`, want: []string{"sha256:aa", "sha512:cc"}},
		{name: "none", payload: `{"subject":[]}`},
		{name: "no statement", payload: `[]`, fails: true},
		{name: "said twice", payload: `{"subject":[{"digest":{"sha256":"aa"}}],"subject":[{"digest":{"sha256":"bb"}}]}`, fails: true},
		{name: "said in another case", payload: `{"subject":[{"digest":{"sha256":"aa"}}],"Subject":[{"digest":{"sha256":"bb"}}]}`, fails: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := Subjects([]byte(tc.payload))
			if !slices.Equal(got, tc.want) || (err != nil) != tc.fails {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}
