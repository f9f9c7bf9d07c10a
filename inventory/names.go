package inventory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Parsers of JSON differ in which of two fields of one name they take, and in
// whether another case is another name (RFC 8259 section 4 leaves it open).
// encoding/json takes the last and ignores case; protobuf JSON does neither, and
// also takes "predicate_type" for "predicateType". What is signed must say the
// same to all of them: else what is judged here is not what a verifier reads.

// CheckStatement refuses an in-toto statement whose names can be read in two ways.
// Its predicate is not looked into.
func CheckStatement(payload []byte) error { return names(nil).ofStatement(payload) }

// CheckPredicate is CheckStatement with the predicate, at any depth.
func CheckPredicate(payload []byte) error { return names{}.ofStatement(payload) }

// CheckSimpleSigning refuses a simple signing payload (containers-signature(5))
// whose names can be read in two ways. Early cosign wrote them with capitals, which
// nobody takes for anything else.
func CheckSimpleSigning(payload []byte) error {
	return walker{anyCase: true}.check(payload, names{
		"critical": {"type": nil, "identity": {"docker-reference": nil}, "image": {"docker-manifest-digest": nil}}, "optional": {}})
}

// names are those of a JSON object that decide something, each with those of the
// objects that it holds, itself or in a list. Where there are none, whatever it
// holds has each name once, at any depth; what nil holds is not looked into.
type names map[string]names

// ofStatement checks a statement whose predicate has these names.
func (predicate names) ofStatement(payload []byte) error {
	return walker{}.check(payload, names{"_type": nil, "predicateType": nil, "predicate": predicate,
		"subject": {"name": nil, "uri": nil, "digest": {}, "annotations": {}, "content": nil, "downloadLocation": nil, "mediaType": nil}})
}

// walker walks through JSON once.
type walker struct {
	*json.Decoder
	anyCase bool // a name is itself in another case
}

func (w walker) check(content []byte, known names) error {
	w.Decoder = json.NewDecoder(bytes.NewReader(content))
	w.UseNumber()
	return w.value(known, 0)
}

// maxDepth is how deep values may be nested, as encoding/json has it.
const maxDepth = 10_000

func (w walker) value(known names, depth int) error {
	token, err := w.Token()
	switch {
	case err != nil:
		return err
	case depth > maxDepth:
		return errors.New("its values are nested too deep")
	case token != json.Delim('{') && token != json.Delim('['):
		return nil
	}
	seen := map[string]bool{}
	for w.More() {
		if token == json.Delim('[') {
			if err := w.value(known, depth+1); err != nil {
				return err
			}
			continue
		}
		t, err := w.Token()
		if err != nil {
			return err
		}
		text, _ := t.(string) // nothing else is a name
		name, holds, err := w.meant(known, text)
		if err != nil {
			return err
		}
		if seen[name] {
			return fmt.Errorf("it says %q twice, and verifiers differ in which they read", text)
		}
		if seen[name] = true; holds == nil {
			err = w.Decode(&skipped{})
		} else {
			err = w.value(holds, depth+1)
		}
		if err != nil {
			return err
		}
	}
	_, err = w.Token()
	return err
}

// meant returns which of the known names some verifier takes a name for, or the
// name itself, and what it holds.
func (w walker) meant(known names, text string) (name string, holds names, err error) {
	for name, holds := range known {
		if !strings.EqualFold(bare(name), bare(text)) {
			continue
		}
		if name != text && !w.anyCase {
			return "", nil, fmt.Errorf("it says %q, which some verifiers take for %q and others do not", text, name)
		}
		return name, holds, nil
	}
	if known != nil && len(known) == 0 {
		holds = known
	}
	return text, holds, nil
}

func bare(name string) string { return strings.ReplaceAll(name, "_", "") }

// skipped is a value that is not looked into.
type skipped struct{}

func (*skipped) UnmarshalJSON([]byte) error { return nil }
