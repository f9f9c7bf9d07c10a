package trustedroot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxDocument bounds a file, in bytes: clients take no target above it.
const maxDocument = 5 << 20

// document is a protobuf message with the text it was read from. What an edit
// does not touch is written as it was, to the letter, so that a signer who looks
// at the difference sees the edit and nothing else.
type document struct {
	fields []string                   // names in the order of the text
	texts  map[string]json.RawMessage // by what they say: see textKey
}

// spaces makes plain ones of the no-break spaces that protobuf puts in its
// errors, here and there, so that nobody relies on them.
var spaces = strings.NewReplacer("\u00a0", " ", "\n", " ")

// decode reads JSON into a message of which it knows every field. One that it
// does not know is refused: writing the file back would drop it, and clients
// built on sigstore-go refuse such a file, too.
func decode(what string, text []byte, m proto.Message) (document, error) {
	d := document{texts: map[string]json.RawMessage{}}
	if len(text) > maxDocument {
		return d, fmt.Errorf("the %s is larger than %d bytes", what, maxDocument)
	}
	if err := protojson.Unmarshal(text, m); err != nil {
		why := spaces.Replace(err.Error())
		if strings.Contains(why, "unknown field") || strings.Contains(why, "invalid value for enum") {
			return d, fmt.Errorf("the %s has something that is not known here and that an edit would lose: %s: use a newer reseal, or take it out by hand", what, why)
		}
		return d, fmt.Errorf("the %s cannot be read: %s", what, why)
	}
	// protojson has seen to it that this is an object whose names are known and
	// stand there once.
	dec := json.NewDecoder(bytes.NewReader(text))
	if _, err := dec.Token(); err != nil {
		return d, fmt.Errorf("the %s cannot be read: %w", what, err)
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return d, fmt.Errorf("the %s cannot be read: %w", what, err)
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return d, fmt.Errorf("the %s cannot be read: %w", what, err)
		}
		f := field(m, fmt.Sprint(name))
		if f == nil || !m.ProtoReflect().Has(f) || f.Message() == nil {
			continue
		}
		d.fields = append(d.fields, f.JSONName())
		v := m.ProtoReflect().Get(f)
		if !f.IsList() {
			d.texts[textKey(f, v.Message())] = raw
			continue
		}
		var entries []json.RawMessage
		if err := json.Unmarshal(raw, &entries); err != nil || len(entries) != v.List().Len() {
			return d, fmt.Errorf("the %s cannot be read: %s is no list of as many entries as it seems", what, f.JSONName())
		}
		for i, e := range entries {
			if key := textKey(f, v.List().Get(i).Message()); d.texts[key] == nil {
				d.texts[key] = e
			}
		}
	}
	return d, nil
}

// field finds a field by its name in JSON or in the protobuf.
func field(m proto.Message, name string) protoreflect.FieldDescriptor {
	fields := m.ProtoReflect().Descriptor().Fields()
	if f := fields.ByJSONName(name); f != nil {
		return f
	}
	return fields.ByTextName(name)
}

// textKey says what a message in a field says.
func textKey(f protoreflect.FieldDescriptor, m protoreflect.Message) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m.Interface())
	if err != nil { // it holds text that is no UTF-8, which no JSON had
		return ""
	}
	return f.JSONName() + " " + string(b)
}

// encode writes a message as Sigstore writes these files: two spaces, a line
// end, and the fields in the order given where the text it came from has no
// other. The same message from the same text gives the same bytes.
func (d document) encode(m proto.Message, order []string) ([]byte, error) {
	names := slices.Clone(d.fields)
	for i, name := range order {
		if slices.Contains(names, name) {
			continue
		}
		at := 0
		if i > 0 {
			at = slices.Index(names, order[i-1]) + 1
		}
		names = slices.Insert(names, at, name)
	}
	var b bytes.Buffer
	put := func(name string, value []byte) {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%s", name, value)
	}
	r := m.ProtoReflect()
	for _, name := range names {
		f := field(m, name)
		switch {
		case f == nil || !r.Has(f):
		case f.IsList():
			var list bytes.Buffer
			for i := range r.Get(f).List().Len() {
				text, err := d.text(f, r.Get(f).List().Get(i).Message())
				if err != nil {
					return nil, err
				}
				if i > 0 {
					list.WriteByte(',')
				}
				list.Write(text)
			}
			put(name, fmt.Appendf(nil, "[%s]", list.Bytes()))
		case f.Message() != nil:
			text, err := d.text(f, r.Get(f).Message())
			if err != nil {
				return nil, err
			}
			put(name, text)
		default: // of scalars there is only text
			text, err := json.Marshal(r.Get(f).String())
			if err != nil {
				return nil, err
			}
			put(name, text)
		}
	}
	var out bytes.Buffer
	// Compacted first: json.Indent keeps the inside of what is empty.
	if err := json.Compact(&out, fmt.Appendf(nil, "{%s}", b.Bytes())); err != nil {
		return nil, fmt.Errorf("writing JSON: %w", err)
	}
	compact := bytes.Clone(out.Bytes())
	out.Reset()
	if err := json.Indent(&out, compact, "", "  "); err != nil {
		return nil, fmt.Errorf("writing JSON: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// text returns the JSON of a message, as it was where it has not changed.
func (d document) text(f protoreflect.FieldDescriptor, m protoreflect.Message) ([]byte, error) {
	if was, ok := d.texts[textKey(f, m)]; ok {
		return was, nil
	}
	// protojson varies its spaces from one build to the next: encode compacts them.
	b, err := protojson.Marshal(m.Interface())
	if err != nil {
		return nil, fmt.Errorf("writing JSON: %s", spaces.Replace(err.Error()))
	}
	return b, nil
}
