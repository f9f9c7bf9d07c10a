package pack

import (
	"embed"
	"fmt"
	html "html/template"
	"io"
	"maps"
	"slices"
	"strings"
	"text/template"
	"time"
	"unicode"
)

//go:embed report.html.tmpl report.md.tmpl readme.md.tmpl
var templates embed.FS

// Report is what the human report says, as data. Every string in it may come
// from outside (a tag, a name, a reason): the renderers escape all of them.
// Lists are printed in the order given, and the first 500 lines of each.
type Report struct {
	MadeAt       time.Time        `json:"made_at"`
	Incident     Facts            `json:"incident"`
	BreakGlass   []Override       `json:"break_glass"`
	Missing      []string         `json:"missing"` // what is missing to close; empty and not Closed: nothing
	Timeline     []Event          `json:"timeline"`
	Before       map[string]int64 `json:"before"` // decision → statements, as the plan found them
	After        map[string]int64 `json:"after"`  // decision → statements, as they stand now
	Decisions    []Group          `json:"decisions"`
	Consumers    []Consumer       `json:"consumers"`
	Approvals    []Approved       `json:"approvals"`
	Holds        []Line           `json:"holds"`
	AcceptedDark []Line           `json:"accepted_dark"` // accepted dark by name
	Rogue        []Line           `json:"rogue"`
	Recall       []Line           `json:"recall"` // re-signed once, and dropped since
	Vouchers     []Voucher        `json:"vouchers"`
	Sensitivity  []Shift          `json:"sensitivity"`
	Orders       []Order          `json:"orders"`
	Anchors      []Anchor         `json:"anchors"`
}

// Facts is what is known of the incident.
type Facts struct {
	ID          string     `json:"id"`
	Title       string     `json:"title"`
	Class       string     `json:"class"`
	Severity    string     `json:"severity"`
	State       string     `json:"state"`
	Signers     []string   `json:"signers"`
	Authorities []string   `json:"authorities"`
	From        *time.Time `json:"from"`
	Until       *time.Time `json:"until"` // the window; nil: unknown, and no end
	OpenedBy    string     `json:"opened_by"`
	OpenedAt    time.Time  `json:"opened_at"`
	ClosedAt    *time.Time `json:"closed_at"`
	Changes     []Event    `json:"changes"` // amendments
}

// Override is one use of break-glass.
type Override struct {
	Plan   string    `json:"plan"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Event is one line of the timeline.
type Event struct {
	At      time.Time `json:"at"`
	Actor   string    `json:"actor"`
	Action  string    `json:"action"`
	Subject string    `json:"subject"`
	Reason  string    `json:"reason"`
}

// Group is the statements decided alike for the same reason.
type Group struct {
	Decision   string `json:"decision"`
	Reason     string `json:"reason"`
	Statements int64  `json:"statements"`
	Deployed   int64  `json:"deployed"`
}

// Consumer is what the incident cost one verifier. nil: not measured, or not
// over.
type Consumer struct {
	Name      string         `json:"name"`
	Reads     string         `json:"reads"`
	Exposure  *time.Duration `json:"exposure_ns"`
	Outage    *time.Duration `json:"outage_ns"`
	Contained *time.Duration `json:"contained_ns"` // how long rogue was accepted, good was refused; time to contain
	Note      string         `json:"note"`
}

// Approved is one approval, proposal or refusal to count.
type Approved struct {
	What string    `json:"what"`
	Name string    `json:"name"`
	Kind string    `json:"kind"`
	Note string    `json:"note"` // e.g. "plan sha256:…", "alice", "SSH key", "proposes"
	At   time.Time `json:"at"`
}

// Line is one artifact and what is to be said of it.
type Line struct {
	Repository string `json:"repository"`
	Digest     string `json:"digest"`
	Reason     string `json:"reason"`
	Deployed   bool   `json:"deployed"`
}

// Voucher is what rests on one voucher.
type Voucher struct {
	ID    string `json:"id"`
	Kind  string `json:"kind"`
	Who   string `json:"who"`
	Alone int64  `json:"alone"` // statements that it alone makes good
}

// Shift is what the decisions would be with another start of the window.
type Shift struct {
	From      string           `json:"from"`
	Decisions map[string]int64 `json:"decisions"`
}

// Order is what one order of the steps costs.
type Order struct {
	Name     string `json:"name"`
	Chosen   bool   `json:"chosen"`
	Exposure string `json:"exposure"`
	Outage   string `json:"outage"`
	Note     string `json:"note"`
}

// Anchor is one checkpoint of the journal that somebody outside has seen.
type Anchor struct {
	At        time.Time `json:"at"`
	Size      int64     `json:"size"` // entries
	Where     string    `json:"where"`
	Authority string    `json:"authority"`
}

// most is how many lines of a list are printed.
const most = 500

// HTML writes the report as one self-contained page without scripts.
func (r Report) HTML(w io.Writer) error {
	t, err := html.New("report.html.tmpl").Funcs(html.FuncMap(functions(visible))).ParseFS(templates, "report.html.tmpl")
	if err != nil {
		return err
	}
	return t.Execute(w, r)
}

// Markdown writes the report as Markdown, with tables as GitHub has them.
func (r Report) Markdown(w io.Writer) error {
	t, err := template.New("report.md.tmpl").Funcs(functions(escape)).ParseFS(templates, "report.md.tmpl")
	if err != nil {
		return err
	}
	return t.Execute(w, r)
}

// readme returns what a stranger reads first.
func readme(m Manifest) ([]byte, error) {
	t, err := template.New("readme.md.tmpl").Funcs(functions(escape)).ParseFS(templates, "readme.md.tmpl")
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	err = t.Execute(&b, m)
	return []byte(b.String()), err
}

// functions are what the templates call. text makes a string from outside fit
// for print.
func functions(text func(string) string) map[string]any {
	return map[string]any{
		"text":  text,
		"texts": func(list []string) string { return text(strings.Join(list, ", ")) },
		"time":  func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") },
		"window": func(from, until *time.Time) string {
			out := "from an unknown time"
			if from != nil {
				out = "from " + from.UTC().Format("2006-01-02 15:04:05Z")
			}
			if until == nil {
				return out + ", with no end"
			}
			return out + " until " + until.UTC().Format("2006-01-02 15:04:05Z")
		},
		"took": func(d *time.Duration) string {
			if d == nil {
				return "—"
			}
			return d.Round(time.Second).String()
		},
		"counts": func(m map[string]int64) string {
			var parts []string
			for _, k := range decisions(m) {
				parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
			}
			if parts == nil {
				return "nothing"
			}
			return text(strings.Join(parts, ", "))
		},
		"least": func(n int) int { return min(n, most) },
		"more":  func(n int) int { return max(0, n-most) },
		"bars":  bars,
		"axis":  axis,
		"hex":   func(digest string) string { return strings.TrimPrefix(digest, "sha256:") },
	}
}

// decisions returns the keys of a count: the known decisions first, from the
// most trusting to the least, then whatever else there is.
func decisions(m map[string]int64) []string {
	known := []string{"none", "resign", "hold", "deny"}
	rest := slices.Sorted(maps.Keys(m))
	return append(slices.DeleteFunc(slices.Clone(known), func(k string) bool { return m[k] == 0 }),
		slices.DeleteFunc(rest, func(k string) bool { return slices.Contains(known, k) || m[k] == 0 })...)
}

// bar is one piece of a bar, in thousandths of its width.
type bar struct {
	Name     string
	Count    int64
	X, Width int64
	Class    string
}

// bars divides a bar of 1000 among the decisions.
func bars(m map[string]int64) []bar {
	var total, sum int64
	for _, n := range m {
		total += max(n, 0)
	}
	var out []bar
	for _, k := range decisions(m) {
		n := max(m[k], 0)
		from := int64(float64(sum) / float64(max(total, 1)) * 1000)
		sum += n
		b := bar{Name: k, Count: n, X: from, Width: int64(float64(sum)/float64(max(total, 1))*1000) - from, Class: "other"}
		if slices.Contains([]string{"none", "resign", "hold", "deny"}, k) {
			b.Class = k
		}
		out = append(out, b)
	}
	return out
}

// mark is one point of the time axis, in thousandths of its length.
type mark struct {
	Name string
	X, Y int64
}

// axis places the turns of the incident between the first and the last.
func axis(r Report) []mark {
	type point struct {
		name string
		at   *time.Time
	}
	last := r.MadeAt
	points := []point{{"from", r.Incident.From}, {"opened", &r.Incident.OpenedAt}, {"until", r.Incident.Until}, {"closed", r.Incident.ClosedAt}, {"report", &last}}
	for _, b := range r.BreakGlass {
		points = append(points, point{"break-glass", &b.At})
	}
	points = slices.DeleteFunc(points, func(p point) bool { return p.at == nil || p.at.IsZero() })
	slices.SortStableFunc(points, func(a, b point) int { return a.at.Compare(*b.at) })
	if len(points) < 2 {
		return nil
	}
	first := *points[0].at
	length := max(points[len(points)-1].at.Sub(first), 1)
	var out []mark
	for n, p := range points {
		out = append(out, mark{p.name + " " + p.at.UTC().Format("2006-01-02 15:04Z"), int64(float64(p.at.Sub(first)) / float64(length) * 1000), int64(20 + n%4*16)})
	}
	return out
}

// longest is how many characters of a string are printed.
const longest = 1000

// visible returns a string from outside as one line in which nothing hides:
// control, formatting and direction characters are spelled out.
func visible(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > longest {
			b.WriteString("…")
			break
		}
		switch {
		case r == ' ':
			b.WriteRune(r)
		case !unicode.IsGraphic(r) || unicode.IsSpace(r) || r == unicode.ReplacementChar:
			fmt.Fprintf(&b, "\\u{%x}", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// escape returns a string from outside so that Markdown shows it as it is,
// also in a cell of a table: no markup, no HTML, no link.
func escape(s string) string {
	s = strings.TrimSpace(visible(s))
	var b strings.Builder
	for n, r := range s {
		switch {
		case r == '&':
			b.WriteString("&amp;")
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case strings.ContainsRune("\\`*_{}[]()#+!|~$\"'^=", r),
			r == '@',
			r == ':' && strings.HasPrefix(s[n:], "://"),
			r == '.' && n >= 3 && strings.EqualFold(s[n-3:n], "www"),
			r == '.' && strings.Trim(s[:n], "0123456789") == "", // at the start: a list
			r == '-' && (n == 0 || strings.HasPrefix(s[n:], "--")):
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
