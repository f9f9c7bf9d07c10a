package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// What callers branch on, with errors.Is.
var (
	// ErrNotFound means the registry said that it does not have this.
	ErrNotFound = errors.New("not found")
	// ErrDenied means the credentials, or their absence, do not allow this.
	ErrDenied = errors.New("denied")
	// ErrAmbiguous means that a write may or may not have happened.
	ErrAmbiguous = errors.New("the registry may or may not have done it")
	// ErrDigest means that content is not what its digest says.
	ErrDigest = errors.New("content does not match its digest")
	// ErrTooLarge means that content is larger than the bound.
	ErrTooLarge = errors.New("too large")
	// ErrUnsupported means that the registry does not offer this.
	ErrUnsupported = errors.New("not supported")
	// ErrThrottled means that the registry wants no request now. A write of a tag is
	// not kept waiting, because what it is based on would be old by then: see Anew.
	ErrThrottled = errors.New("the registry wants no requests for a while")
	// ErrMalformed means that something is not in the form it must have.
	ErrMalformed = errors.New("malformed")
)

// Error is a failed operation. Its text says what failed, where, and what to
// do next. It has no credentials in it, and neither has Err.
type Error struct {
	Op         string // "get manifest"
	Repository string // "host[:port]/path"
	Reference  string // tag or digest, if any
	Status     int    // of the registry's or token server's answer, 0 without one
	Diagnostic string // the registry's own words, cleaned
	Err        error  // one of the errors above, or a cleaned error

	wait time.Duration // it was not done, and may be after that, see Anew; 0: it is no use
}

// Error implements error.
func (e *Error) Error() string {
	parts := []string{strings.TrimSpace(e.Op + " " + e.where())}
	if e.Status != 0 {
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))))
	}
	if e.Err != nil && !e.said() {
		parts = append(parts, e.Err.Error())
	}
	if e.Diagnostic != "" {
		parts = append(parts, e.Diagnostic)
	}
	text := strings.Join(parts, ": ")
	if hint := e.hint(); hint != "" {
		text += "; " + hint
	}
	return text
}

// Unwrap implements the convention of package errors.
func (e *Error) Unwrap() error { return e.Err }

// Is implements the convention of package errors.
func (e *Error) Is(target error) bool {
	return target == ErrThrottled && e.Status == http.StatusTooManyRequests
}

// said reports whether the status already says what Err says.
func (e *Error) said() bool {
	return e.Status != 0 && (e.Err == ErrNotFound || e.Err == ErrDenied || e.Err == ErrUnsupported)
}

func (e *Error) where() string {
	switch {
	case e.Reference == "":
		return e.Repository
	case strings.Contains(e.Reference, ":"):
		return e.Repository + "@" + e.Reference
	}
	return e.Repository + ":" + e.Reference
}

func (e *Error) host() string {
	host, _, _ := strings.Cut(e.Repository, "/")
	return host
}

// hint says what to do next.
func (e *Error) hint() string {
	var dns *net.DNSError
	switch {
	case errors.Is(e.Err, ErrAmbiguous):
		return "look at what the registry has before trying again"
	case errors.Is(e.Err, ErrDigest):
		return "do not use this content: the registry, or something before it, changes what it serves"
	case e.Status == http.StatusUnauthorized:
		return "log in with docker login " + e.host() + " or set the credential helper for " + e.host()
	case e.Status == http.StatusForbidden:
		return "the credentials for " + e.host() + " do not allow this: ask for the permission, or log in as someone who has it"
	case e.Status == http.StatusMethodNotAllowed && strings.HasPrefix(e.Op, opDelete):
		return "the registry has deletion switched off: enable it there"
	case e.Status == http.StatusRequestEntityTooLarge:
		return "the registry, or a proxy before it, limits the size of uploads: raise it there"
	case e.Status == http.StatusTooManyRequests:
		return e.host() + " limits requests: wait, or work with fewer at once"
	case e.Status == http.StatusNotFound && errors.As(e.Err, new(errHandshake)):
		return "is this a registry?"
	case e.Status >= 500:
		return e.host() + " is overloaded or broken: try again later, its log says more"
	case errors.Is(e.Err, syscall.ECONNREFUSED):
		return "is the registry running and reachable?"
	case errors.Is(e.Err, http.ErrSchemeMismatch):
		return e.host() + " speaks http only: serve it with TLS"
	case isCertificate(e.Err):
		return "the certificate of " + e.host() + " is not trusted here: add its authority to the system's"
	case errors.As(e.Err, &dns):
		return "check the name " + e.host() + " and the network"
	}
	return ""
}

// failed is the error of a request that got no answer.
func (q request) failed(err error, unsure bool) error {
	e := &Error{Op: q.op, Repository: q.at.name, Reference: q.ref, Err: cleaned{err}}
	// Only the handshake gives errors of this type. Its 404 says that this is no
	// registry, and nothing about what was asked for.
	var handshake *transport.Error
	if errors.As(err, &handshake) {
		e.Status = handshake.StatusCode
		e.Diagnostic = diagnostic(handshake.Errors)
		e.Err = errHandshake{denied: isDenied(e.Status)}
	}
	return e.ambiguous(unsure)
}

// refused is the error of a request whose answer has no wanted status.
func (q request) refused(a answer, unsure bool) error {
	e := &Error{Op: q.op, Repository: q.at.name, Reference: q.ref, Status: a.status, Diagnostic: a.diagnostic()}
	switch {
	case isDenied(a.status):
		e.Err = ErrDenied
	case a.status == http.StatusNotFound && !a.isPage():
		e.Err = ErrNotFound
	case q.method == http.MethodDelete && (a.status == http.StatusMethodNotAllowed || a.hasCode(transport.UnsupportedErrorCode)):
		e.Err = ErrUnsupported
	}
	return e.ambiguous(unsure)
}

// bad is the error of an answer with a wanted status that is no good.
func (q request) bad(kind error, why string) error {
	return &Error{
		Op: q.op, Repository: q.at.name, Reference: q.ref,
		Err: fmt.Errorf("%w: %s", kind, clean(why)),
	}
}

func (e *Error) ambiguous(unsure bool) error {
	switch {
	case !unsure:
	case e.Err == nil:
		e.Err = ErrAmbiguous
	default:
		e.Err = fmt.Errorf("%w: %w", ErrAmbiguous, e.Err)
	}
	return e
}

func isDenied(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// errHandshake is a refusal by the registry's ping or by its token server.
type errHandshake struct{ denied bool }

func (errHandshake) Error() string          { return "authentication failed" }
func (e errHandshake) Is(target error) bool { return e.denied && target == ErrDenied }

// cleaned stands for an error whose text may have secrets in it. It answers
// errors.Is, and errors.As for what hints need, and hides the rest.
type cleaned struct{ err error }

func (c cleaned) Error() string        { return clean(c.err.Error()) }
func (c cleaned) Is(target error) bool { return errors.Is(c.err, target) }

func (c cleaned) As(target any) bool {
	switch target.(type) {
	case **net.DNSError, **tls.CertificateVerificationError:
		return errors.As(c.err, target)
	}
	return false
}

// Timeout reports whether the time for the request was up.
func (c cleaned) Timeout() bool {
	var timeout net.Error
	return errors.Is(c.err, context.DeadlineExceeded) || errors.As(c.err, &timeout) && timeout.Timeout()
}

var (
	urlQuery = regexp.MustCompile(`\?[^\s"']+`)
	userinfo = regexp.MustCompile(`//[^/\s"'@]*@`)
	headers  = regexp.MustCompile(`(?i)\b(bearer|basic)[ :]+[a-z0-9+/=._~-]{20,}`)
)

const maxText = 400

// clean makes text from outside fit to be shown: one line, no control
// characters, nothing secret, not long. go-containerregistry puts what token
// servers answer behind a line feed.
func clean(text string) string {
	text, _, _ = strings.Cut(strings.TrimSpace(text), "\n")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	text = urlQuery.ReplaceAllString(text, "?...")
	text = userinfo.ReplaceAllString(text, "//")
	text = headers.ReplaceAllString(text, "$1 ...")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return text
}

func malformed(err error) error { return fmt.Errorf("%w: %s", ErrMalformed, clean(err.Error())) }

func diagnostic(list []transport.Diagnostic) string {
	if len(list) == 0 {
		return ""
	}
	// Details can be long, and can repeat what was sent.
	return clean(strings.Trim(string(list[0].Code)+": "+list[0].Message, ": "))
}

// errors returns the registry's own words (distribution-spec, "Error Codes").
func (a answer) errors() []transport.Diagnostic {
	var said struct {
		Errors []transport.Diagnostic `json:"errors"`
	}
	if json.Unmarshal(a.body, &said) != nil {
		return nil
	}
	return said.Errors
}

func (a answer) diagnostic() string {
	if a.isPage() {
		return "a web page was answered, not what a registry says"
	}
	return diagnostic(a.errors())
}

func (a answer) hasCode(codes ...transport.ErrorCode) bool {
	for _, d := range a.errors() {
		for _, code := range codes {
			if d.Code == code {
				return true
			}
		}
	}
	return false
}

// isPage reports whether the answer is for people: a login page, a proxy's
// error page.
func (a answer) isPage() bool {
	return strings.HasPrefix(a.header.Get("Content-Type"), "text/html")
}

// Refused reports whether a registry refused a manifest for what is in it, as it
// does when it does not have what the manifest names.
func Refused(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Status == http.StatusBadRequest || e.Status == http.StatusNotFound)
}

// Down reports whether a registry gave no answer at all, or one that says that it
// is overloaded or broken.
func Down(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Status >= 500 || e.Status == http.StatusTooManyRequests || e.Status == 0 && errors.As(e.Err, new(cleaned))
}
