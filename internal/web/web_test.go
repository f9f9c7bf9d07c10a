package web

import (
	"encoding/xml"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// evil is what an attacker would name an image.
const evil = `"><script>alert(1)</script><img src=x onerror='x'>`

func sample(text string) Page {
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	return Page{
		Title: "Drill: a key leaked " + text, Subtitle: "24 images " + text, Passed: false, Verdict: "1 laundered " + text,
		Sentences: []string{"First. " + text, "Second.", "Third."},
		Tiles:     []Tile{{"Laundered", "1", "must be 0 " + text, Bad}, {"Dark", "0", "must be 0", Good}, {"Exposure", "1 h", "so long", Neutral}},
		Timeline: Timeline{Caption: "The response " + text, Seconds: 10,
			Bars:  []Bar{{"scan " + text, 0, 1, "1 s", Neutral}, {"cutover", 9.99, 10, "10 ms", Bad}},
			Marks: []Mark{{2, "early " + text}, {9, "contained"}}},
		Events:    []Event{{at, "scan", "did it " + text, Neutral}, {at, "cutover", "failed", Bad}},
		Decisions: Table{Caption: "By group " + text, Columns: []string{"Group", "Decisions"}, Rows: [][]string{{"rogue " + text, "hold 1"}}},
		Holds:     []Hold{{"shop/web:1 " + text, "sha256:00", "proofless " + text, "image signature", "nothing proves it " + text, true}, {"shop/web:2", "sha256:01", "rogue", "image signature", "no", false}},
		Consumers: []Consumer{{"ci " + text, "bundle", "1 h", "0 ms", Bad}},
		Findings:  []string{"laundered " + text}, Footer: "Footer " + text,
	}
}

func TestGolden(t *testing.T) {
	got, err := Render(sample("& co"))
	if err != nil {
		t.Fatal(err)
	}
	// The style is not what the test is about.
	got = regexp.MustCompile(`(?s)<style>.*</style>`).ReplaceAll(got, []byte("<style></style>"))
	file := filepath.Join("testdata", "report.html")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("the page differs from %s: look at it and run the test with -update\n%s", file, got)
	}
}

func TestHostileText(t *testing.T) {
	page, err := Render(sample(evil))
	if err != nil {
		t.Fatal(err)
	}
	html := string(page)
	if n := strings.Count(html, "alert(1)"); n < 15 {
		t.Errorf("only %d places show the text", n)
	}
	for _, bad := range []string{"<script", "<img", "src=x onerror='x'>"} {
		if strings.Contains(html, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	// Nothing is fetched and nothing runs.
	for _, bad := range []string{"http://", "https://", "url(", "@import", "<link", "<a ", "javascript:"} {
		if strings.Contains(html, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
}

func TestSections(t *testing.T) {
	page, err := Render(sample(""))
	if err != nil {
		t.Fatal(err)
	}
	html := string(page)
	for _, want := range []string{`<html lang="en">`, "FAILED", "What a manager should know", "Why it failed", "Score", "Timeline of the response",
		"What was decided", "On hold", "How each consumer fared", "What happened", `<th scope="col">`, `<th scope="row">`, `role="img"`, "<desc"} {
		if !strings.Contains(html, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	// Every element is closed: but for the doctype and void elements it is XML.
	body := regexp.MustCompile(`<!DOCTYPE html>|<(meta)[^>]*>|<br>`).ReplaceAllString(html, "")
	d := xml.NewDecoder(strings.NewReader(body))
	d.Strict = true
	for {
		if _, err := d.Token(); err != nil {
			if err.Error() != "EOF" {
				t.Error(err)
			}
			break
		}
	}
	empty, err := Render(Page{Title: "nothing", Passed: true})
	if err != nil {
		t.Fatal(err)
	}
	if s := string(empty); !strings.Contains(s, "PASSED") || !strings.Contains(s, "Nothing is on hold.") || strings.Contains(s, "Why it failed") || strings.Contains(s, "NaN") {
		t.Error("the empty page is wrong")
	}
}

func TestWriteFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.html")
	for range 2 {
		if err := WriteFile(file, sample("")); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(b), "<!DOCTYPE html>") {
		t.Errorf("%v: %.40s", err, b)
	}
	if err := WriteFile(filepath.Join(file, "below"), sample("")); err == nil {
		t.Error("a file below a file was written")
	}
}
