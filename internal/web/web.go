// Package web makes pages for people who were not in the room: one HTML file
// each, with everything in it, without scripts, that fetches nothing.
package web

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"math"
	"time"

	"github.com/reseal/reseal/internal/durable"
)

// Tone says how something is to be taken. Colour is never the only sign of it.
type Tone string

// The tones.
const (
	Neutral Tone = "neutral"
	Good    Tone = "good"
	Bad     Tone = "bad"
)

// Page is the report of a drill, in words and numbers ready to be shown.
type Page struct {
	Title     string
	Subtitle  string
	Passed    bool
	Verdict   string   // the outcome in one sentence
	Sentences []string // what a manager should know
	Tiles     []Tile
	Timeline  Timeline
	Events    []Event
	Decisions Table
	Holds     []Hold
	Consumers []Consumer
	Findings  []string // why it did not pass
	Footer    string
}

// Tile is one number of the score.
type Tile struct {
	Label string
	Value string
	Note  string // what the number means
	Tone  Tone
}

// Timeline is drawn to scale, in seconds from its start.
type Timeline struct {
	Caption string
	Seconds float64 // its length
	Bars    []Bar
	Marks   []Mark
}

// Bar is something that lasted.
type Bar struct {
	Label    string
	From, To float64
	Note     string
	Tone     Tone
}

// Mark is a moment.
type Mark struct {
	At    float64
	Label string
}

// Event is one line of what happened.
type Event struct {
	At   time.Time
	What string
	Text string
	Tone Tone
}

// Table is a table with a header row; the first cell of each row is its
// header.
type Table struct {
	Caption string
	Columns []string
	Rows    [][]string
}

// Hold is something that waits for a person, and why.
type Hold struct {
	Artifact string
	Digest   string
	Kind     string // of image, by its story
	What     string
	Reason   string
	Expected bool
}

// Consumer is how one verifier fared.
type Consumer struct {
	Name     string
	Reads    string
	Exposure string
	Outage   string
	Tone     Tone
}

//go:embed report.tmpl
var files embed.FS

// Render returns the page as HTML.
func Render(p Page) ([]byte, error) {
	t, err := template.New("report.tmpl").Funcs(template.FuncMap{
		"utc": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") },
		"iso": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	}).ParseFS(files, "report.tmpl")
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, struct {
		Page
		Chart chart
	}{p, draw(p.Timeline)}); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return b.Bytes(), nil
}

// WriteFile renders the page into a file, which is replaced as a whole.
func WriteFile(file string, p Page) error {
	content, err := Render(p)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(file, content, 0o644); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// The measures of the drawing, in its own units.
const (
	chartWidth = 900
	plotLeft   = 130 // the labels stand left of it
	plotRight  = 800 // the notes of late bars stand right of it
	rowHeight  = 26
	barHeight  = 16
	minBar     = 3 // or a step of milliseconds would not be seen
	axisHeight = 34
)

// chart is the timeline in the drawing's coordinates.
type chart struct {
	Width, Height, PlotTop, PlotBottom, Left, Right float64
	Bars                                            []chartBar
	Marks                                           []chartMark
	Ticks                                           []chartMark
}

type chartBar struct {
	Bar
	X, Y, Width, TextY, NoteX float64
	NoteAnchor                string
}

type chartMark struct {
	X, Y   float64
	Label  string
	Anchor string
}

func draw(t Timeline) chart {
	length := t.Seconds
	if !(length > 0) || math.IsInf(length, 0) {
		length = 1
	}
	at := func(s float64) float64 {
		return plotLeft + (plotRight-plotLeft)*min(max(s/length, 0), 1)
	}
	top := float64(14 + 15*len(t.Marks))
	c := chart{Width: chartWidth, Left: plotLeft, Right: plotRight, PlotTop: top, PlotBottom: top + float64(rowHeight*len(t.Bars))}
	c.Height = c.PlotBottom + axisHeight
	for n, b := range t.Bars {
		y := top + float64(n*rowHeight)
		bar := chartBar{Bar: b, X: at(b.From), Y: y + (rowHeight-barHeight)/2, TextY: y + rowHeight/2 + 4, NoteAnchor: "start"}
		bar.Width = max(at(b.To)-bar.X, minBar)
		bar.NoteX = bar.X + bar.Width + 6
		if bar.NoteX > plotRight-40 && bar.X-plotLeft > 80 {
			bar.NoteX, bar.NoteAnchor = bar.X-6, "end"
		}
		c.Bars = append(c.Bars, bar)
	}
	for n, m := range t.Marks {
		mark := chartMark{X: at(m.At), Y: float64(14 + 15*n), Label: m.Label, Anchor: "start"}
		if mark.X > (plotLeft+plotRight)/2 {
			mark.Anchor = "end"
		}
		c.Marks = append(c.Marks, mark)
	}
	const ticks = 4
	for n := range ticks + 1 {
		s := length * float64(n) / ticks
		c.Ticks = append(c.Ticks, chartMark{X: at(s), Y: c.PlotBottom + 18, Label: fmt.Sprintf("%.3g s", s)})
	}
	return c
}
