package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/inventory/restore"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/tuf/trustedroot"
)

// The rules of the terminal:
//
// Results go to standard output and nothing else does. Progress, notes and
// errors go to standard error. With --json the result is one object, with a
// "schema" that names its version. Progress is one line that changes on a
// terminal, and a plain line now and then elsewhere. Sentences start small and
// say what to do next.

// ui is the only thing that prints.
type ui struct {
	in       io.Reader
	out, err io.Writer
	unknown  error // set when the command does not exist
}

// Exit codes.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitApproval    = 4
	exitCeiling     = 5
	exitInterrupted = 130
)

var (
	errInterrupted = errors.New("interrupted: run the same command again, it resumes where it stopped")
	errRefused     = errors.New("verification refused")
)

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exitCode turns an error into an exit code.
func exitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, errRefused):
		return exitRefused
	case errors.Is(err, rotate.ErrNeedsApproval), errors.Is(err, errAttention):
		return exitApproval
	case errors.As(err, new(app.MatchesError)), errors.Is(err, app.ErrWouldStop), errors.Is(err, trustedroot.ErrAmbiguous):
		return exitApproval
	case errors.Is(err, rotate.ErrOverLimit), errors.Is(err, rotate.ErrNotCovered), errors.Is(err, rotate.ErrNotReady), errors.Is(err, rotate.ErrNoParity), errors.Is(err, restore.ErrOverLimit), errors.Is(err, trustedroot.ErrNoService):
		return exitCeiling
	}
	return exitFailed
}

// fail says what went wrong and returns the exit code.
func (u *ui) fail(err error) int {
	if err == nil && u.unknown != nil {
		err = usageError{u.unknown}
	}
	if err == nil {
		return exitDone
	}
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	fmt.Fprintf(u.err, "reseal: %s\n", strings.Join(lines, "\n        "))
	return exitCode(err)
}

// notef tells a person something that is not the result.
func (u *ui) notef(format string, args ...any) {
	fmt.Fprintln(u.err, printable(fmt.Sprintf(format, args...)))
}

// printf prints one line of the result.
func (u *ui) printf(format string, args ...any) {
	fmt.Fprintln(u.out, printable(fmt.Sprintf(format, args...)))
}

// printable returns text as one line that does nothing to a terminal: what is
// no visible character is spelled out. Names, tags, titles and reasons are
// whatever somebody wrote, the attacker included.
func printable(text string) string {
	if strings.IndexFunc(text, hidden) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if hidden(r) {
			fmt.Fprintf(&b, `\u{%x}`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// hidden reports whether a character moves, colours or reorders text, ends a
// line, or stands for bytes that are none.
func hidden(r rune) bool {
	return !unicode.IsGraphic(r) || r == unicode.ReplacementChar || r == '\u2028' || r == '\u2029'
}

// inertJSON escapes what JSON may leave as it is and a terminal obeys.
func inertJSON(body []byte) []byte {
	out := make([]byte, 0, len(body))
	for _, r := range string(body) {
		switch {
		case !hidden(r) || r == '\n' || r == unicode.ReplacementChar:
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// object prints the result as one JSON object with its schema first. What names
// its own schema goes to line.
func (u *ui) object(schema string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	head := fmt.Sprintf(`{"schema":"reseal.%s/v1"`, schema)
	if string(body) != "{}" {
		head += ","
	}
	_, err = fmt.Fprintf(u.out, "%s%s\n", head, inertJSON(body[1:]))
	return err
}

// line prints a value that names its own schema as one JSON object.
func (u *ui) line(v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(u.out, "%s\n", inertJSON(body))
	return err
}

// table prints rows in columns; the first row is the heading.
func (u *ui) table(rows [][]string) {
	w := tabwriter.NewWriter(u.out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		cells := make([]string, len(r))
		for i, cell := range r {
			cells[i] = printable(cell)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	w.Flush()
}

// rows prints a listing as it comes: lines of text, objects with --json, or
// records with --csv.
type rows struct {
	ui     *ui
	schema string
	json   bool
	csv    *csv.Writer // nil: not asked for
}

// rows starts a listing whose objects have a schema and whose records have
// these fields.
func (u *ui) rows(c *cli.Context, schema string, fields ...string) *rows {
	r := &rows{ui: u, schema: schema, json: wantsJSON(c)}
	if c.Bool("csv") && !r.json {
		r.csv = csv.NewWriter(u.out)
		_ = r.csv.Write(fields) // its error is in end
	}
	return r
}

// put prints one entry.
func (r *rows) put(object any, text string, record ...string) error {
	switch {
	case r.json:
		return r.ui.object(r.schema, object)
	case r.csv != nil:
		return r.csv.Write(inert(record))
	}
	_, err := fmt.Fprintln(r.ui.out, printable(text))
	return err
}

// end completes the listing.
func (r *rows) end() error {
	if r.csv == nil {
		return nil
	}
	r.csv.Flush()
	return r.csv.Error()
}

// csv prints a table with its heading as records.
func (u *ui) csv(table [][]string) error {
	w := csv.NewWriter(u.out)
	for _, record := range table {
		if err := w.Write(inert(record)); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

// inert keeps a spreadsheet from taking text for a formula, and a terminal from
// obeying it: names of signers and repositories are whoever pushed them (OWASP,
// "CSV Injection").
func inert(record []string) []string {
	out := slices.Clone(record)
	for i, field := range out {
		out[i] = printable(field)
		if field != "" && strings.ContainsRune("=+-@\t\r", rune(field[0])) {
			out[i] = "'" + out[i]
		}
	}
	return out
}

func csvFlag() cli.Flag {
	return &cli.BoolFlag{Name: "csv", Usage: "print comma-separated values with a heading"}
}

func (u *ui) isTerminal() bool {
	f, ok := u.err.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// errNoTerminal is why nobody can be asked.
var errNoTerminal = errors.New("this is no terminal")

// ask asks something on the terminal. When ctx ends it waits no longer, and leaves
// the terminal as it was: Ctrl-C at a prompt must not cost the echo.
func (u *ui) ask(ctx context.Context, prompt string, read func(*os.File) ([]byte, error)) ([]byte, error) {
	f, ok := u.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, errNoTerminal
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	before, err := term.GetState(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	fmt.Fprint(u.err, printable(prompt))
	type answer struct {
		text []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() { // ends with the process when nobody answers
		text, err := read(f)
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		if errors.Is(a.err, io.EOF) {
			a.err = errors.New("no answer was given")
		}
		return a.text, a.err
	case <-ctx.Done():
		fmt.Fprintln(u.err)
		return nil, errors.Join(ctx.Err(), term.Restore(int(f.Fd()), before))
	}
}

// secret asks for something that is not shown.
func (u *ui) secret(ctx context.Context, prompt string) ([]byte, error) {
	return u.ask(ctx, prompt, func(f *os.File) ([]byte, error) {
		p, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(u.err)
		return p, err
	})
}

// password returns COSIGN_PASSWORD, or asks for it on a terminal.
func (u *ui) password(ctx context.Context, file string) func() ([]byte, error) {
	return func() ([]byte, error) {
		if p, ok := os.LookupEnv("COSIGN_PASSWORD"); ok {
			return []byte(p), nil
		}
		p, err := u.secret(ctx, fmt.Sprintf("password for %s: ", file))
		if errors.Is(err, errNoTerminal) {
			err = fmt.Errorf("no password for %s: set COSIGN_PASSWORD, or run this on a terminal", file)
		}
		return p, err
	}
}

// newPassword returns COSIGN_PASSWORD, or asks twice for a new one on a terminal.
func (u *ui) newPassword(ctx context.Context, file string) func() ([]byte, error) {
	return func() ([]byte, error) {
		first, err := u.password(ctx, file)()
		if _, given := os.LookupEnv("COSIGN_PASSWORD"); given || err != nil {
			return first, err
		}
		again, err := u.password(ctx, file+", once more")()
		if err == nil && !bytes.Equal(first, again) {
			err = errors.New("the two passwords differ: nothing was written")
		}
		return first, err
	}
}

// read returns the content of a file that a flag names; "-" is standard input.
func (u *ui) read(file string, limit int64) ([]byte, error) {
	var r io.Reader = u.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = &fs.PathError{Op: "read", Path: file, Err: fmt.Errorf("longer than %d bytes", limit)}
	}
	return b, err
}

// progress shows how far a long command has come.
type progress struct {
	ui    *ui
	what  string
	total int64 // 0: unknown
	every time.Duration
	start time.Time

	mu   sync.Mutex
	last time.Time
	open bool // a line without an end is on the terminal
}

func (u *ui) progress(what string, total int64) *progress {
	every := 10 * time.Second
	if u.isTerminal() {
		every = 100 * time.Millisecond
	}
	now := time.Now()
	return &progress{ui: u, what: what, total: total, every: every, start: now, last: now}
}

// of reports how much there is by now, too.
func (p *progress) of(done, total int64, detail string) {
	p.mu.Lock()
	p.total = total
	p.mu.Unlock()
	p.at(done, detail)
}

// at reports that done units are done, with a word about the rest.
func (p *progress) at(done int64, detail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.last) < p.every {
		return
	}
	p.last = now
	rate := float64(done) / now.Sub(p.start).Seconds()
	line := fmt.Sprintf("%s: %d", p.what, done)
	if p.total > 0 {
		line += fmt.Sprintf(" of %d", p.total)
	}
	line += fmt.Sprintf(", %.0f/s", rate)
	if left := p.total - done; p.total > 0 && left > 0 && rate > 0 {
		line += fmt.Sprintf(", %s left", time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
	}
	if detail != "" {
		line += ", " + detail
	}
	line = printable(line)
	if p.ui.isTerminal() {
		fmt.Fprintf(p.ui.err, "\r\x1b[K%s", p.ui.fitting(line))
		p.open = true
		return
	}
	fmt.Fprintln(p.ui.err, line)
}

// fitting cuts a line so that it stays one on the terminal, and can be cleared.
func (u *ui) fitting(line string) string {
	if f, ok := u.err.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 1 {
			if r := []rune(line); len(r) >= width {
				return string(r[:width-1])
			}
		}
	}
	return line
}

// end clears the line.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open {
		fmt.Fprint(p.ui.err, "\r\x1b[K")
		p.open = false
	}
}

// helpTemplate is a command's help, with its examples and exit codes.
const helpTemplate = `{{.HelpName}}: {{.Usage}}

Usage: {{.HelpName}}{{if .Subcommands}} command{{end}}{{if .VisibleFlags}} [flags]{{end}}{{if .ArgsUsage}} {{.ArgsUsage}}{{end}}
{{if .Description}}
{{.Description}}
{{end}}{{if .Subcommands}}{{range .VisibleCategories}}
{{if .Name}}{{.Name}}{{else}}Commands{{end}}:
{{range .VisibleCommands}}   {{printf "%-12s" .Name}}  {{.Usage}}
{{end}}{{end}}{{end}}{{if .VisibleFlags}}
Flags:
{{range .VisibleFlags}}   {{.}}
{{end}}{{end}}`

// exits is the end of every command's description.
func exits(special ...string) string {
	return "\n\nExit codes: 0 done, 1 failed, 2 wrong usage, " + strings.Join(append(special, "130 interrupted (resumable)"), ", ")
}

// refused is the error of a verification that says no.
func refused(v app.Verified) error { return fmt.Errorf("%w: %s: %s", errRefused, v.Subject, v.Why) }
