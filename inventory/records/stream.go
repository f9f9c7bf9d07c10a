package records

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
)

// maxEntry bounds one object. The largest real ones are pods: etcd takes 1.5
// MiB, which kubectl prints with indentation.
const maxEntry = 8 << 20

// byteOrderMark is what some editors put before UTF-8.
var byteOrderMark = []byte("\xef\xbb\xbf")

var errTooLarge = fmt.Errorf("it is larger than %d bytes", maxEntry)

type line struct {
	number int // from 1
	text   []byte
}

// lines yields the lines that are not blank, without the space around them. A
// line that is longer than limit is an error, and the next one is read. The
// text is valid until then.
func lines(in *bufio.Reader, limit int) iter.Seq2[line, error] {
	return func(yield func(line, error) bool) {
		for n := 1; ; n++ {
			text, whole, err := readLine(in, limit)
			if !whole {
				err = discardLine(in)
			}
			if n == 1 {
				text = bytes.TrimPrefix(text, byteOrderMark)
			}
			text = bytes.TrimSpace(text)
			switch {
			case !whole || len(text) > limit:
				if !yield(line{}, fmt.Errorf("line %d: it is longer than %d bytes", n, limit)) {
					return
				}
			case err != nil && err != io.EOF:
				yield(line{}, fmt.Errorf("line %d: %w", n, err))
				return
			case len(text) > 0 && !yield(line{n, text}, nil):
				return
			}
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(line{}, fmt.Errorf("line %d: %w", n+1, err))
				return
			}
		}
	}
}

// readLine reads to the end of a line or of the stream. One that is longer
// than limit is left unread at some point after it, and is not whole.
func readLine(in *bufio.Reader, limit int) (text []byte, whole bool, err error) {
	for {
		part, err := in.ReadSlice('\n')
		text = append(text, part...)
		if err != bufio.ErrBufferFull {
			return text, true, err
		}
		if len(text) > limit {
			return text, false, nil
		}
	}
}

func discardLine(in *bufio.Reader) error {
	for {
		if _, err := in.ReadSlice('\n'); err != bufio.ErrBufferFull {
			return err
		}
	}
}

// entry is one JSON object of a stream.
type entry struct {
	at     string // where it is, for errors: "line 3", "entry 7"
	object json.RawMessage
}

// entries yields the JSON values of a stream: one object a line, or, whatever
// the line breaks, objects one after the other, the elements of an array, or
// those of the array that an object has under one of the names in lists. Such
// lists are read element by element and may be of any length.
func entries(r io.Reader, lists ...string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		head, whole, err := firstLine(in)
		if err != nil && err != io.EOF {
			yield(entry{}, err)
			return
		}
		rest := io.MultiReader(bytes.NewReader(head), in)
		if text := bytes.TrimSpace(head); !whole || len(text) < 2 || text[0] != '{' || text[len(text)-1] != '}' {
			w := walker{in: &meter{r: rest}, lists: lists, yield: yield}
			w.values()
			return
		}
		for l, err := range lines(bufio.NewReaderSize(rest, 64<<10), maxEntry) {
			if err != nil {
				if !yield(entry{}, err) {
					return
				}
				continue
			}
			w := walker{in: &meter{r: bytes.NewReader(l.text)}, lists: lists, line: l.number, yield: yield}
			if !w.values() {
				return
			}
		}
	}
}

// firstLine reads the first line that is not blank, with the blank ones before it.
func firstLine(in *bufio.Reader) (head []byte, whole bool, err error) {
	for {
		var text []byte
		text, whole, err = readLine(in, maxEntry)
		if len(head) == 0 {
			text = bytes.TrimPrefix(text, byteOrderMark)
		}
		head = append(head, text...)
		if err != nil || !whole || len(bytes.TrimSpace(text)) > 0 || len(head) > maxEntry {
			return head, whole, err
		}
	}
}

// meter limits how much is read for one entry: a JSON decoder holds a whole
// value in memory. What the decoder read ahead is not counted, which is as much
// again at most.
type meter struct {
	r    io.Reader
	left int
}

func (m *meter) Read(p []byte) (int, error) {
	if m.left <= 0 {
		return 0, errTooLarge
	}
	n, err := m.r.Read(p[:min(len(p), m.left)])
	m.left -= n
	return n, err
}

// walker finds the entries in one JSON text.
type walker struct {
	in    *meter
	dec   *json.Decoder
	lists []string
	line  int // that the text is, or 0
	count int // of entries so far
	yield func(entry, error) bool
}

// at says where the entry in hand is.
func (w *walker) at() string {
	switch {
	case w.line == 0:
		return fmt.Sprintf("entry %d", w.count)
	case w.count > 1:
		return fmt.Sprintf("line %d entry %d", w.line, w.count)
	}
	return fmt.Sprintf("line %d", w.line)
}

// next makes room for the next entry.
func (w *walker) next() {
	w.count++
	w.in.left = maxEntry
}

// fail reports that the text cannot be read on, and whether a text after it
// is wanted.
func (w *walker) fail(err error) bool {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if !errors.Is(err, errTooLarge) {
		err = fmt.Errorf("it is not JSON: %w", err)
	}
	return w.yield(entry{}, fmt.Errorf("%s: %w", w.at(), err))
}

// values reads all of the text. It reports whether more is wanted.
func (w *walker) values() bool {
	w.dec = json.NewDecoder(w.in)
	for {
		w.next()
		token, err := w.dec.Token()
		if err == io.EOF {
			return true
		}
		if err != nil {
			return w.fail(err)
		}
		var broken, wanted bool
		switch token {
		case json.Delim('['):
			w.count--
			broken, wanted = w.array()
		case json.Delim('{'):
			broken, wanted = w.object()
		default:
			wanted = w.yield(entry{}, fmt.Errorf("%s: %.40v is no JSON object", w.at(), token))
		}
		if broken || !wanted {
			return wanted
		}
	}
}

// array yields the elements of the array that was just opened.
func (w *walker) array() (broken, wanted bool) {
	for w.dec.More() {
		w.next()
		var element json.RawMessage
		if err := w.dec.Decode(&element); err != nil {
			return true, w.fail(err)
		}
		if !w.yield(entry{w.at(), element}, nil) {
			return false, false
		}
	}
	if _, err := w.dec.Token(); err != nil {
		w.count++
		return true, w.fail(err)
	}
	return false, true
}

// object yields the object that was just opened, or the elements of the lists
// in it.
func (w *walker) object() (broken, wanted bool) {
	fields := map[string]json.RawMessage{}
	listed := false
	for w.dec.More() {
		name, err := w.dec.Token()
		if err != nil {
			return true, w.fail(err)
		}
		if !slices.Contains(w.lists, name.(string)) {
			var value json.RawMessage
			if err := w.dec.Decode(&value); err != nil {
				return true, w.fail(err)
			}
			fields[name.(string)] = value
			continue
		}
		if !listed {
			w.count-- // the object is no entry itself
		}
		listed = true
		open, err := w.dec.Token()
		switch {
		case err != nil:
			return true, w.fail(err)
		case open == nil: // null: an empty list
		case open != json.Delim('['):
			return true, w.yield(entry{}, fmt.Errorf("%s: %s is no array", w.at(), name))
		default:
			if broken, wanted := w.array(); broken || !wanted {
				return broken, wanted
			}
		}
		w.in.left = maxEntry
		clear(fields)
	}
	if _, err := w.dec.Token(); err != nil {
		return true, w.fail(err)
	}
	if listed {
		return false, true
	}
	object, err := json.Marshal(fields)
	if err != nil {
		return true, w.fail(err)
	}
	return false, w.yield(entry{w.at(), object}, nil)
}
