package trust

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"

	"github.com/reseal/reseal/signer"
)

// Selector selects keyless signatures by what their certificates say. All that
// it names must hold; what it leaves empty is not looked at. Texts must be
// equal to the byte; patterns (RE2) match the whole text.
type Selector struct {
	Issuer        string `json:"issuer,omitempty"`
	IssuerRegexp  string `json:"issuer_regexp,omitempty"`
	Subject       string `json:"subject,omitempty"`
	SubjectRegexp string `json:"subject_regexp,omitempty"`
	Workflow      string `json:"workflow,omitempty"`   // Build Signer URI
	Ref           string `json:"ref,omitempty"`        // Source Repository Ref
	SHA           string `json:"sha,omitempty"`        // Source Repository Digest
	Repository    string `json:"repository,omitempty"` // Source Repository URI
	Trigger       string `json:"trigger,omitempty"`    // Build Trigger
	Run           string `json:"run,omitempty"`        // Run Invocation URI
}

// Check refuses a selector that selects everything, one that names a thing
// twice, and a pattern that is not anchored at both ends.
func (s Selector) Check() error {
	switch {
	case s == (Selector{}):
		return errors.New("a selector names nothing: it would select every keyless signature")
	case s.Issuer != "" && s.IssuerRegexp != "":
		return errors.New("a selector names the issuer twice: give the text or the pattern")
	case s.Subject != "" && s.SubjectRegexp != "":
		return errors.New("a selector names the subject twice: give the text or the pattern")
	}
	for _, expression := range []string{s.IssuerRegexp, s.SubjectRegexp} {
		if expression == "" {
			continue
		}
		if _, err := Pattern(expression); err != nil {
			return err
		}
	}
	return nil
}

// Pattern compiles an RE2 expression that matches whole texts only. One that
// could match a part of a text is refused: with "^a|b$", any text that begins
// with a would do.
func Pattern(expression string) (*regexp.Regexp, error) {
	tree, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", expression, err)
	}
	// Line anchors, as of (?m), are other operators.
	if tree.Op != syntax.OpConcat || tree.Sub[0].Op != syntax.OpBeginText || tree.Sub[len(tree.Sub)-1].Op != syntax.OpEndText {
		return nil, fmt.Errorf("pattern %q is not anchored as a whole: write ^(?:…)$", expression)
	}
	return regexp.Compile(expression)
}

// namesRun reports whether the selector looks at more than who signed.
func (s Selector) namesRun() bool {
	return s.Workflow != "" || s.Ref != "" || s.SHA != "" || s.Repository != "" || s.Trigger != "" || s.Run != ""
}

// Matches reports whether a signature by a signer with a certificate is
// selected.
func (s Selector) Matches(id signer.Identity, c *signer.Certificate) bool {
	return s.matches(id, c, patterns{})
}

func (s *Selector) matches(id signer.Identity, c *signer.Certificate, p patterns) bool {
	if id.Kind != signer.Keyless {
		return false
	}
	if s.namesRun() && (c == nil || s.Workflow != "" && s.Workflow != c.Workflow || s.Ref != "" && s.Ref != c.Ref || s.SHA != "" && s.SHA != c.SHA ||
		s.Repository != "" && s.Repository != c.Repository || s.Trigger != "" && s.Trigger != c.Trigger || s.Run != "" && s.Run != c.Run) {
		return false
	}
	return s.names(id, p)
}

// names reports whether some certificate of a signer could be selected.
func (s *Selector) names(id signer.Identity, p patterns) bool {
	return id.Kind == signer.Keyless && (s.Issuer == "" || s.Issuer == id.Issuer) && (s.Subject == "" || s.Subject == id.Subject) &&
		matches(s.IssuerRegexp, p.issuer, id.Issuer) && matches(s.SubjectRegexp, p.subject, id.Subject)
}

// matches reports whether a value matches an expression, which compiled is of
// if it is given. A pattern that no incident may have is taken to match: what
// cannot be read never adds trust.
func matches(expression string, compiled *regexp.Regexp, value string) bool {
	if expression == "" {
		return true
	}
	if compiled == nil || compiled.String() != expression {
		var err error
		if compiled, err = Pattern(expression); err != nil {
			return true
		}
	}
	return compiled.MatchString(value)
}
