package resign

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/reseal/reseal/internal/registry"
)

const (
	// patience is after how many failures in a row there is no more use in going
	// on where they are.
	patience = 50
	// several is in how many repositories they have to be for that to be all of a
	// registry or, if nothing can be signed, everywhere: whoever writes to one
	// repository can make everything in it fail.
	several = 3
	// mostLeft is how many repositories an error names.
	mostLeft = 5
)

// ErrGaveUp is returned when one unit after the other failed.
var ErrGaveUp = errors.New("one signature after the other fails, so the run was stopped: see the reason, and run the same command again when it is gone")

// LeftError is returned at the end of a run that has signed what it could and has
// left some repositories alone, in which one unit after the other failed. It is
// ErrGaveUp for errors.Is.
type LeftError struct {
	Why map[string]string // by repository, or "HOST/*": what failed there last
}

func (e LeftError) Error() string {
	names := slices.Sorted(maps.Keys(e.Why))
	var list []string
	for _, name := range names[:min(len(names), mostLeft)] {
		list = append(list, fmt.Sprintf("%s (%s)", name, e.Why[name]))
	}
	if more := len(names) - len(list); more > 0 {
		list = append(list, fmt.Sprintf("%d more", more))
	}
	return "one signature after the other failed there, so the rest was left alone: " + strings.Join(list, "; ") +
		": run the same command again when the reason is gone"
}

// Is implements the convention of package errors.
func (LeftError) Is(target error) bool { return target == ErrGaveUp }

// OrNil returns the error, or nil when nothing was left alone.
func (e LeftError) OrNil() error {
	if len(e.Why) == 0 {
		return nil
	}
	return e
}

// In says why a repository was left alone, or "".
func (e LeftError) In(repository string) string {
	if why, ok := e.Why[repository]; ok {
		return why
	}
	return e.Why[everywhereOn(repository)]
}

// everywhereOn stands for all repositories of a registry.
func everywhereOn(repository string) string {
	host, _, _ := strings.Cut(repository, "/")
	return host + "/*"
}

// unmade is why there is no signature to publish, where that is up to the signer
// or to the services.
type unmade struct{ error }

func (u unmade) Unwrap() error { return u.error }

// Patience counts what fails in a row, in each repository, on each registry and
// in signing itself, and remembers where to go on no more. The zero value is
// ready; runs that follow one another may share one.
type Patience struct {
	mu      sync.Mutex
	signing streak
	in      map[string]*streak // by repository, and "HOST/*" of what is up to the registry; reset: gone
	left    map[string]string  // see LeftError
}

// streak is what failed in a row.
type streak struct {
	n            int
	repositories []string // no more than several
	batch        *batch   // of the last
	why          string
}

func (s *streak) add(u *unit) {
	if u.batch == nil || u.batch != s.batch { // one batch fails once
		s.n++
	}
	s.batch, s.why = u.batch, u.record.Why
	if len(s.repositories) < several && !slices.Contains(s.repositories, u.Repository) {
		s.repositories = append(s.repositories, u.Repository)
	}
}

// failed counts a unit that failed. What keeps a file from being signed, without
// a key or a network, says nothing about the next one.
func (p *Patience) failed(u *unit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	isUnmade := errors.As(u.err, new(unmade))
	if errors.Is(u.err, errAsk) || u.format.InFiles() && !isUnmade {
		return
	}
	names := []string{u.Repository}
	switch {
	case isUnmade:
		p.signing.add(u)
	case registry.Down(u.err):
		names = append(names, everywhereOn(u.Repository))
	}
	if p.in == nil {
		p.in = map[string]*streak{}
	}
	for _, name := range names {
		if p.in[name] == nil {
			p.in[name] = &streak{}
		}
		p.in[name].add(u)
	}
}

// worked ends what failed in a row where a unit is.
func (p *Patience) worked(u *unit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signing = streak{}
	delete(p.in, u.Repository)
	delete(p.in, everywhereOn(u.Repository))
}

// judge leaves alone where units failed again and again, or gives up.
func (p *Patience) judge(units []*unit) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.signing.n >= patience && len(p.signing.repositories) == several {
		return ErrGaveUp
	}
	leave := func(name string, atLeast int) {
		if s := p.in[name]; s != nil && s.n >= patience && len(s.repositories) >= atLeast {
			if p.left == nil {
				p.left = map[string]string{}
			}
			p.left[name] = s.why
		}
	}
	for _, u := range units {
		leave(u.Repository, 1)
		leave(everywhereOn(u.Repository), several)
	}
	return nil
}

// has reports whether a repository is left alone.
func (p *Patience) has(repository string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return LeftError{p.left}.In(repository) != ""
}

// err returns what was left alone, or nil.
func (p *Patience) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return LeftError{maps.Clone(p.left)}.OrNil()
}
