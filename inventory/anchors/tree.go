package anchors

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxDepth bounds how deep a document may be nested.
const maxDepth = 100

// jsonDocuments reads one JSON object after the other. A name that appears
// twice is refused, as consumers do: which of the two counts differs.
func jsonDocuments(content []byte) ([]map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(content))
	var out []map[string]any
	for {
		v, err := jsonValue(dec, 0)
		if err == io.EOF && len(out) > 0 {
			return out, nil
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fmt.Errorf("it cannot be read as JSON: %s", brief(err))
		}
		m, ok := v.(map[string]any)
		if !ok {
			return nil, errors.New("it cannot be read: expected JSON objects")
		}
		out = append(out, m)
	}
}

func jsonValue(dec *json.Decoder, depth int) (any, error) {
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	delim, isDelim := token.(json.Delim)
	if !isDelim {
		return token, nil
	}
	if depth == maxDepth {
		return nil, fmt.Errorf("it is nested more than %d deep", maxDepth)
	}
	object, array := map[string]any{}, []any{}
	for dec.More() {
		name := ""
		if delim == '{' {
			token, err := dec.Token()
			if err != nil {
				return nil, whole(err)
			}
			name = token.(string)
			if _, twice := object[name]; twice {
				return nil, fmt.Errorf("%.100q appears twice in one object", name)
			}
		}
		v, err := jsonValue(dec, depth+1)
		if err != nil {
			return nil, whole(err)
		}
		if delim == '{' {
			object[name] = v
		} else {
			array = append(array, v)
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, whole(err)
	}
	if delim == '{' {
		return object, nil
	}
	return array, nil
}

// whole is an error within a document, where its end is none of the stream.
func whole(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// yamlDocuments reads the documents that are mappings. A name that appears
// twice is refused.
func yamlDocuments(content []byte) ([]map[string]any, error) {
	dec := yaml.NewDecoder(bytes.NewReader(content))
	left := maxContent
	var out []map[string]any
	for {
		var node yaml.Node
		err := dec.Decode(&node)
		if err == io.EOF {
			return out, nil
		}
		var v any
		if err == nil {
			err = expand(&node, &left, 0)
		}
		if err == nil {
			err = node.Decode(&v)
		}
		if err != nil {
			return nil, fmt.Errorf("it cannot be read as YAML: %s", brief(err))
		}
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
}

// expand bounds what aliases make of a document: each stands for all that its
// anchor has, aliases included.
func expand(n *yaml.Node, left *int, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("it is nested more than %d deep", maxDepth)
	}
	if *left -= 1 + len(n.Value); *left < 0 {
		return fmt.Errorf("with its aliases replaced it is larger than %d bytes", maxContent)
	}
	if n.Alias != nil {
		return expand(n.Alias, left, depth+1)
	}
	for _, c := range n.Content {
		if err := expand(c, left, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// brief is an error of a decoder on one line: it may repeat much of the file.
// protojson varies the space in its messages.
func brief(err error) string {
	return short(strings.Join(strings.Fields(err.Error()), " "))
}

// reader reads the mappings of a policy and notes what it does not understand.
type reader struct {
	notes   []string
	objects []*object
}

// note adds a note. One more than are given shows that there were more.
func (r *reader) note(format string, args ...any) {
	if len(r.notes) <= maxNotes {
		r.notes = append(r.notes, short(fmt.Sprintf(format, args...)))
	}
}

// end notes the fields that nobody asked for.
func (r *reader) end() {
	for _, o := range r.objects {
		for _, name := range slices.Sorted(maps.Keys(o.fields)) {
			if !o.read[name] && o.fields[name] != nil {
				r.note("%s is not known here: look whether it pins or exempts anything", o.at(name))
			}
		}
	}
	r.objects = nil
}

// object is one mapping of a policy. It keeps which fields were asked for.
type object struct {
	r      *reader
	path   string
	fields map[string]any
	read   map[string]bool
}

// object takes a value for a mapping. Of what is none it makes one without
// fields, with a note.
func (r *reader) object(path string, value any) *object {
	fields, ok := value.(map[string]any)
	if !ok && value != nil {
		r.note("%s is no mapping of names to values: it was not read", path)
	}
	o := &object{r: r, path: path, fields: fields, read: map[string]bool{}}
	r.objects = append(r.objects, o)
	return o
}

// at is the path of a field.
func (o *object) at(name string) string {
	plain := !strings.ContainsFunc(name, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-')
	})
	switch {
	case !plain || len(name) > 100:
		return fmt.Sprintf("%s[%.100q]", o.path, name)
	case o.path == "":
		return name
	}
	return o.path + "." + name
}

// skip marks fields that pin nothing.
func (o *object) skip(names ...string) {
	for _, n := range names {
		o.read[n] = true
	}
}

// has reports whether a field has a value.
func (o *object) has(name string) bool { return o.fields[name] != nil }

// text returns a field that is text, or "".
func (o *object) text(name string) string {
	o.skip(name)
	text, ok := o.fields[name].(string)
	if !ok && o.has(name) {
		o.r.note("%s is no text: it was not read", o.at(name))
	}
	return text
}

// list returns the elements of a field that is a list.
func (o *object) list(name string) []any {
	o.skip(name)
	list, ok := o.fields[name].([]any)
	if !ok && o.has(name) {
		o.r.note("%s is no list: it was not read", o.at(name))
	}
	return list
}

// texts returns the elements of a field that is a list of texts.
func (o *object) texts(name string) []string {
	var out []string
	for i, v := range o.list(name) {
		text, ok := v.(string)
		if !ok {
			o.r.note("%s[%d] is no text: it was not read", o.at(name), i)
			continue
		}
		out = append(out, text)
	}
	return out
}

// object returns a field that is a mapping; without the field, one that is empty.
func (o *object) object(name string) *object {
	o.skip(name)
	return o.r.object(o.at(name), o.fields[name])
}

// objects returns the elements of a field that is a list of mappings.
func (o *object) objects(name string) []*object {
	var out []*object
	for i, v := range o.list(name) {
		out = append(out, o.r.object(fmt.Sprintf("%s[%d]", o.at(name), i), v))
	}
	return out
}

// is reports whether a field is true.
func (o *object) is(name string) bool {
	o.skip(name)
	yes, ok := o.fields[name].(bool)
	if !ok && o.has(name) {
		o.r.note("%s is neither true nor false: it was not read", o.at(name))
	}
	return yes
}

// decoded returns text that is base64.
func (o *object) decoded(name string) []byte {
	return decoded(o.r, o.at(name), o.text(name))
}

func decoded(r *reader, path, text string) []byte {
	out, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		r.note("%s is no base64: it was not read", path)
		return nil
	}
	return out
}
