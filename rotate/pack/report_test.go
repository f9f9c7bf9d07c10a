package pack

import (
	"bytes"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// report is a report with something in every part.
func report() Report { return reportOf(func(s string) string { return s }) }

// reportOf makes the same report with every string replaced.
func reportOf(s func(string) string) Report {
	from, until, closed := made.AddDate(0, 0, -20), made.AddDate(0, 0, -10), made
	minute := time.Minute
	lines := []Line{{s("registry.example/app"), s("sha256:aa"), s("nobody can date it"), true}, {s("registry.example/other"), s("sha256:bb"), s("so"), false}}
	return Report{
		MadeAt: made,
		Incident: Facts{ID: s("INC-1"), Title: s("leaked"), Class: s("signing-key"), Severity: s("high"), State: s("open"), Signers: []string{s("key:sha256:cc")},
			Authorities: []string{s("log")}, From: &from, Until: &until, OpenedBy: s("alice"), OpenedAt: made.AddDate(0, 0, -5), ClosedAt: &closed,
			Changes: []Event{{made, s("alice"), s("amended"), s("from"), s("earlier")}}},
		BreakGlass: []Override{{s("sha256:dd"), s("bob"), s("nobody answered"), made}},
		Missing:    []string{s("2 artifacts on hold")},
		Timeline:   []Event{{made, s("alice"), s("incident.opened"), s("INC-1"), s("leak")}},
		Before:     map[string]int64{"resign": 10, "hold": 5, "deny": 1}, After: map[string]int64{"none": 10, "hold": 5, s("odd"): 1},
		Decisions: []Group{{s("hold"), s("nobody can date it"), 5, 2}},
		Consumers: []Consumer{{s("ci"), s("legacy"), &minute, nil, &minute, s("exact")}},
		Approvals: []Approved{{s("plan sha256:dd"), s("carol"), s("SSH key"), s(""), made}},
		Holds:     lines, AcceptedDark: lines[:1], Rogue: lines, Recall: lines[:1],
		Vouchers:    []Voucher{{s("a1"), s("attestation"), s("builder"), 4}},
		Sensitivity: []Shift{{s("7 days earlier"), map[string]int64{"hold": 9}}},
		Orders:      []Order{{s("contain first"), true, s("1m"), s("none"), s("chosen")}},
		Anchors:     []Anchor{{made, 100, s("tsa"), s("tsa.example")}},
	}
}

func render(t testing.TB, r Report) (html, markdown string) {
	t.Helper()
	var h, m bytes.Buffer
	must(t, r.HTML(&h))
	must(t, r.Markdown(&m))
	return h.String(), m.String()
}

func TestReportSaysEverything(t *testing.T) {
	t.Parallel()
	html, markdown := render(t, report())
	for _, want := range []string{"INC-1", "leaked", "BREAK-GLASS", "nobody answered", "bob", "2 artifacts on hold", "nobody can date it", "SSH key", "carol", "builder",
		"7 days earlier", "contain first", "tsa.example", "incident.opened", "earlier", "1m0s", "resign 10", "none 10", "odd 1", "sha256:bb"} {
		if !strings.Contains(html, want) {
			t.Errorf("the page does not say %q", want)
		}
		if !strings.Contains(markdown, want) {
			t.Errorf("the text does not say %q", want)
		}
	}
	// Break-glass comes before everything else.
	for what, text := range map[string]string{"page": html[strings.Index(html, "<body>"):], "text": markdown} {
		if strings.Index(text, "BREAK-GLASS") > strings.Index(text, "leaked") {
			t.Errorf("%s: break-glass is not at the top", what)
		}
	}
	r := report()
	r.BreakGlass = nil
	html, markdown = render(t, r)
	if strings.Contains(html, "BREAK-GLASS") || strings.Contains(markdown, "BREAK-GLASS") {
		t.Error("a glass is broken that was not")
	}
	if strings.Contains(html, "<script") || strings.Contains(html, "http://") || strings.Contains(html, "https://") || strings.Contains(html, "ZgotmplZ") {
		t.Error("the page is not self-contained")
	}
}

func TestReportOfNothing(t *testing.T) {
	t.Parallel()
	html, markdown := render(t, Report{})
	if !strings.Contains(html, "nothing") || !strings.Contains(markdown, "nothing") {
		t.Error("an empty report says nothing")
	}
}

func TestReportIsBounded(t *testing.T) {
	t.Parallel()
	r := Report{}
	for n := range 2 * most {
		r.Holds = append(r.Holds, Line{Repository: "r", Digest: fmt.Sprintf("sha256:%d", n)})
		r.Timeline = append(r.Timeline, Event{Action: "a"})
	}
	html, markdown := render(t, r)
	for _, text := range []string{html, markdown} {
		if strings.Count(text, fmt.Sprintf("and %d more", most)) != 2 || strings.Contains(text, fmt.Sprintf("sha256:%d ", most+1)) {
			t.Error("a long list is not cut, or does not say so")
		}
	}
}

// hostile is what an attacker would have a tag, a name or a reason be.
var hostile = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `</table></svg><h1>all good</h1>`, `</style><style>*{display:none}`, `javascript:alert(1)`, `{{.Incident}}`,
	"line\nbreak\r\n# heading\n\n| a | b |", "`code` **bold** _it_ ~~no~~", "[click](https://evil.example)", "![x](https://evil.example/x.png)", "https://evil.example www.evil.example a@evil.example",
	`a | b \| c \`, `\`, "> quote", "1. list", "- list", "+ list", "* * *", "---", "===", "    code", "&lt;script&gt;", "a\u202egnp.exe", "a\x00b\x1b[31mred", "a\u200bb", "\xff\xfe", "]]>", "<!-- x",
	"<https://evil.example>", "$x$", "# x", strings.Repeat("long ", 1000),
}

var tag = regexp.MustCompile(`<[^>]*>`)

// shape is what of a page must not depend on what is said in it: its tags.
func shape(html string) []string { return tag.FindAllString(html, -1) }

// opening is what makes a line of Markdown something else than text.
var opening = regexp.MustCompile(`^(    |\t| {0,3}([-+*#>|=]|[0-9]+[.)]))`)

// cells counts, for each line, what Markdown takes for structure.
func cells(markdown string) (out []string) {
	for _, l := range strings.Split(markdown, "\n") {
		structure := ""
		for i := 0; i < len(l); i++ {
			switch {
			case l[i] == '\\':
				i++ // escaped
			case strings.IndexByte("|<>`*_[]!#~$@{}^=+", l[i]) >= 0, strings.HasPrefix(l[i:], "://"), strings.HasPrefix(l[i:], "www."), strings.HasPrefix(l[i:], "---"):
				structure += string(l[i])
			}
		}
		out = append(out, opening.FindString(l)+structure)
	}
	return out
}

func attackReport(t *testing.T) {
	plainHTML, plainMarkdown := render(t, reportOf(func(string) string { return "x" }))
	check := func(t interface {
		Errorf(string, ...any)
		Helper()
	}, html, markdown, s string) {
		t.Helper()
		if got := shape(html); !reflect.DeepEqual(got, shape(plainHTML)) {
			t.Errorf("%q changes the page", s)
		}
		got, want := cells(markdown), cells(plainMarkdown)
		if len(got) != len(want) {
			t.Errorf("%q adds %d lines to the text", s, len(got)-len(want))
			return
		}
		for n := range got {
			if got[n] != want[n] {
				t.Errorf("%q changes the text: %q instead of %q in %q", s, got[n], want[n], strings.Split(markdown, "\n")[n])
			}
		}
		for _, text := range []string{html, markdown} {
			if strings.ContainsAny(text, "\u202e\u200b\x00\x1b\r") {
				t.Errorf("%q hides something", s)
			}
		}
	}
	for _, s := range hostile {
		html, markdown := render(t, reportOf(func(string) string { return s }))
		check(t, html, markdown, s)
	}
	rapid.Check(t, func(r *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.StringOf(rapid.RuneFrom([]rune("<>&\"'`*_[]()!#|\\~\n\r -+=.:/@w1a$^{}")))).Filter(func(s string) bool { return strings.TrimSpace(s) != "" }).Draw(r, "text")
		html, markdown := render(t, reportOf(func(string) string { return s }))
		check(r, html, markdown, s)
	})
}

func TestBars(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		m := rapid.MapOf(rapid.SampledFrom([]string{"none", "resign", "hold", "deny", "odd"}), rapid.Int64Range(-5, 1<<40)).Draw(r, "counts")
		var x int64
		for _, b := range bars(m) {
			if b.X != x || b.Width < 0 {
				r.Errorf("%+v leaves a gap or overlaps at %d", b, x)
			}
			x += b.Width
		}
		if x > 1000 {
			r.Errorf("%d is wider than the bar", x)
		}
	})
}
