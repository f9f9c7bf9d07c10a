package trustedroot

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"pgregory.net/rapid"
)

func fulcio(n int, from time.Time) Service {
	return Service{Kind: Fulcio, URL: "https://fulcio" + string(rune('0'+n)) + ".acme.example", Version: 1, Operator: "acme.example", Start: from}
}

// services makes a signing config.
func configWith(t testing.TB, list ...Service) *Config {
	t.Helper()
	c := NewConfig()
	for _, s := range list {
		if _, err := c.Add(s, now); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// rereadConfig gives back what a file says, having shown it to sigstore-go.
func rereadConfig(t testing.TB, c *Config) *Config {
	t.Helper()
	b := bytesOf(t, c)
	if _, err := root.NewSigningConfigFromJSON(b); err != nil {
		t.Fatalf("sigstore-go does not read it: %v\n%s", err, b)
	}
	return must(ParseConfig(b))(t)
}

func picked(t *testing.T, c *Config, k ServiceKind, at time.Time) string {
	t.Helper()
	var urls []string
	for _, s := range must(c.Picks(k, at))(t) {
		urls = append(urls, s.URL)
	}
	return strings.Join(urls, " ")
}

// TestServices walks through the life of a service: the next one overlaps it,
// then it ends and is removed, and clients find one at every time.
func TestServices(t *testing.T) {
	c := configWith(t, fulcio(1, start))
	handover := now.AddDate(0, 1, 0)
	warnings, err := c.Add(fulcio(2, handover), now)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "no client uses it before") {
		t.Fatalf("%q, %v", warnings, err)
	}
	c = rereadConfig(t, c)
	if got := c.Services(); got[0].URL != "https://fulcio2.acme.example" || got[1].URL != "https://fulcio1.acme.example" {
		t.Errorf("not the newest first: %v", got)
	}
	if got := picked(t, c, Fulcio, now); got != "https://fulcio1.acme.example" {
		t.Errorf("now: %s", got)
	}
	if got := picked(t, c, Fulcio, handover); got != "https://fulcio2.acme.example" {
		t.Errorf("later: %s", got)
	}
	before := bytesOf(t, c)
	if _, _, err := c.End(Fulcio, "https://fulcio1.acme.example", 0, handover.Add(-time.Hour), now, false); !errors.Is(err, ErrNoService) || !strings.Contains(err.Error(), "2026-06-30T23:00:00.000000001Z") {
		t.Errorf("a gap of an hour: %v", err)
	}
	if !bytes.Equal(bytesOf(t, c), before) {
		t.Error("a refused edit changed the file")
	}
	s, warnings, err := c.End(Fulcio, "https://fulcio1.acme.example/", 0, handover.Add(time.Hour), now, false)
	if err != nil || len(warnings) > 0 || !s.End.Equal(handover.Add(time.Hour)) {
		t.Fatalf("%v, %q, %v", s, warnings, err)
	}
	c = rereadConfig(t, c)
	if _, _, err := c.Remove(Fulcio, "https://fulcio2.acme.example", 0, now, false); !errors.Is(err, ErrNoService) {
		t.Errorf("the one that goes on: %v", err)
	}
	if _, _, err := c.Remove(Fulcio, "https://fulcio1.acme.example", 0, now, false); !errors.Is(err, ErrNoService) {
		t.Errorf("the one of now: %v", err)
	}
	if _, _, err := c.Remove(Fulcio, "https://fulcio1.acme.example", 0, handover, false); err != nil {
		t.Errorf("after its time: %v", err)
	}
	if _, _, err := c.Remove(Fulcio, "https://fulcio2.acme.example", 0, handover, false); !errors.Is(err, ErrNoService) {
		t.Errorf("the last: %v", err)
	}
	if _, w, err := c.Remove(Fulcio, "https://fulcio2.acme.example", 0, handover, true); err != nil || len(w) != 1 || !strings.Contains(w[0], "could not sign") {
		t.Errorf("the last, wittingly: %q, %v", w, err)
	}
	if got := bytesOf(t, rereadConfig(t, c)); !bytes.Equal(got, bytesOf(t, NewConfig())) {
		t.Errorf("a trace is left: %s", got)
	}
}

// TestChoice is how many services clients use.
func TestChoice(t *testing.T) {
	tsa := func(operator string) Service {
		return Service{Kind: Timestamp, URL: "https://tsa." + operator, Version: 1, Operator: operator, Start: start}
	}
	c := configWith(t, tsa("a.example"), tsa("b.example"))
	if got := picked(t, c, Timestamp, now); got != "https://tsa.b.example https://tsa.a.example" && got != "https://tsa.a.example https://tsa.b.example" {
		t.Errorf("any of %s", got)
	}
	if _, err := c.Use(Timestamp, "exact", 2, now); err != nil {
		t.Fatal(err)
	}
	c = rereadConfig(t, c)
	if how, n := c.Uses(Timestamp); how != "EXACT" || n != 2 {
		t.Errorf("%s %d", how, n)
	}
	if _, _, err := c.Remove(Timestamp, "a.example", 0, now, false); !errors.Is(err, ErrNoService) {
		t.Errorf("two are needed, one is left: %v", err)
	}
	for name, err := range map[string]error{
		"three of two":     first(c.Use(Timestamp, "exact", 3, now)),
		"exactly none":     first(c.Use(Timestamp, "exact", 0, now)),
		"a count of all":   first(c.Use(Timestamp, "all", 2, now)),
		"undefined":        first(c.Use(Timestamp, "service_selector_undefined", 0, now)),
		"many Fulcios":     first(c.Use(Fulcio, "all", 0, now)),
		"another selector": first(c.Use(Rekor, "some", 0, now)),
	} {
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := c.Use(Timestamp, "all", 0, now); err != nil {
		t.Error(err)
	}
	// Without the choice sigstore-go breaks off; it is set with the first service.
	bare := must(ParseConfig([]byte(`{"mediaType": "` + root.SigningConfigMediaType02 + `", "tsaUrls": [{"url": "https://tsa.a.example", "majorApiVersion": 1, "validFor": {"start": "2026-01-01T00:00:00Z"}}]}`)))(t)
	if _, err := bare.Picks(Timestamp, now); err == nil || !strings.Contains(err.Error(), "set it") {
		t.Errorf("no choice: %v", err)
	}
	if _, err := bare.Add(tsa("b.example"), now); err != nil {
		t.Fatal(err)
	}
	if _, err := bare.Picks(Timestamp, now); err != nil {
		t.Errorf("it is not set: %v", err)
	}
}

func first(_ []string, err error) error { return err }

// TestServicesRefused is what no signing config gets.
func TestServicesRefused(t *testing.T) {
	c := configWith(t, fulcio(1, start), Service{Kind: Rekor, URL: "https://rekor.acme.example", Version: 1, Operator: "acme.example", Start: start})
	with := func(change func(*Service)) Service {
		s := fulcio(2, start)
		change(&s)
		return s
	}
	for name, test := range map[string]struct {
		s    Service
		want string
	}{
		"a duplicate":    {fulcio(1, now), "is in the file already"},
		"a kind":         {with(func(s *Service) { s.Kind = "tuf" }), "no kind of service"},
		"API version 0":  {with(func(s *Service) { s.Version = 0 }), "no client knows API version 0"},
		"API version 2":  {with(func(s *Service) { s.Version = 2 }), "no client knows API version 2"},
		"no operator":    {with(func(s *Service) { s.Operator = "" }), "needs an operator"},
		"a bad operator": {with(func(s *Service) { s.Operator = "https://acme.example" }), "without scheme"},
		"no start":       {with(func(s *Service) { s.Start = time.Time{} }), "needs a start"},
		"an early end":   {with(func(s *Service) { s.End = s.Start.Add(-1) }), "is before its start"},
		"no address":     {with(func(s *Service) { s.URL = "fulcio" }), "is no address"},
	} {
		if _, err := c.Add(test.s, now); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	w, err := c.Add(Service{Kind: Rekor, URL: "https://log2026.acme.example", Version: 2, Operator: "acme.example", Start: start}, now)
	if err != nil || len(w) != 2 || !strings.Contains(w[0], "use no log of version 1 any more") || !strings.Contains(w[1], "find no timestamp authority") {
		t.Errorf("a log of Rekor v2: %q, %v", w, err)
	}
	if _, _, err := c.Remove(Rekor, "acme.example", 0, now, false); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("an operator of two: %v", err)
	}
	if s, _, err := c.Remove(Rekor, "acme.example", 2, now, false); err != nil || s.URL != "https://log2026.acme.example" {
		t.Errorf("by its version: %v, %v", s, err)
	}
	if _, _, err := c.End(Fulcio, "https://fulcio1.acme.example", 0, start.Add(-1), now, true); err == nil {
		t.Error("an end before the start is taken")
	}
	if _, _, err := c.End(Timestamp, "https://tsa.example", 0, now, now, true); err == nil || !strings.Contains(err.Error(), "has no tsa service") {
		t.Errorf("none of the kind: %v", err)
	}
}

// TestDiffConfig is what a signer is shown.
func TestDiffConfig(t *testing.T) {
	c := configWith(t, fulcio(1, start))
	old := bytesOf(t, c)
	if _, err := c.Add(fulcio(2, now), now); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.End(Fulcio, "https://fulcio1.acme.example", 0, now, now, false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Use(Rekor, "all", 0, now); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, d := range must(DiffConfig(old, bytesOf(t, c)))(t) {
		lines = append(lines, d.String())
	}
	want := `added fulcio service https://fulcio2.acme.example (API version 1, of acme.example)
  valid from 2026-06-01T00:00:00Z
ended fulcio service https://fulcio1.acme.example (API version 1, of acme.example)
  it ends at 2026-06-01T00:00:00Z, it had no end
changed the choice of rekor services
  clients use ALL, they used ANY`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestServicesAddThenRemove: what is added and removed again leaves no trace.
func TestServicesAddThenRemove(t *testing.T) {
	texts := [][]byte{bytesOf(t, NewConfig()), bytesOf(t, configWith(t, fulcio(1, start)))}
	for _, name := range []string{"signing_config.v0.2.json", "signing_config_rekor_v2.v0.2.json"} {
		t.Run(name, func(t *testing.T) { texts = append(texts, shared(t, name)) })
	}
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.SampledFrom(texts).Draw(rt, "file")
		c := must(ParseConfig(text))(t)
		var added []Service
		for n := range rapid.IntRange(1, 5).Draw(rt, "services") {
			s := fulcio(n+2, start.AddDate(0, 0, rapid.IntRange(-4000, 1000).Draw(rt, "days")))
			s.Kind = rapid.SampledFrom(ServiceKinds()).Draw(rt, "kind")
			if _, err := c.Add(s, now); err != nil {
				rt.Fatal(err)
			}
			c, added = rereadConfig(t, c), append(added, s)
		}
		for _, s := range rapid.Permutation(added).Draw(rt, "removed") {
			if _, _, err := c.Remove(s.Kind, s.URL, s.Version, now, true); err != nil {
				rt.Fatal(err)
			}
			c = rereadConfig(t, c)
		}
		if got := bytesOf(t, c); !bytes.Equal(got, text) {
			gone, come := lineDiff(text, got)
			rt.Fatalf("a trace is left: -%q +%q", gone, come)
		}
	})
}
