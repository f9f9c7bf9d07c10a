package trustedroot

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/reseal/reseal/inventory"
)

// configOrder is the order of fields in Sigstore's own signing config.
var configOrder = []string{"mediaType", "caUrls", "oidcUrls", "rekorTlogUrls", "tsaUrls", "rekorTlogConfig", "tsaConfig"}

// ErrNoService is returned for an edit after which clients would find no
// service of a kind.
var ErrNoService = errors.New("no service left")

// ServiceKind is what a service of a signing config is for.
type ServiceKind string

// The kinds of services.
const (
	Fulcio    ServiceKind = "fulcio" // issues certificates
	OIDC      ServiceKind = "oidc"   // identifies people
	Rekor     ServiceKind = "rekor"  // logs signatures
	Timestamp ServiceKind = "tsa"    // stamps signatures
)

// ServiceKinds lists every kind, in the order of the file.
func ServiceKinds() []ServiceKind { return []ServiceKind{Fulcio, OIDC, Rekor, Timestamp} }

// ParseServiceKind reads a kind.
func ParseServiceKind(s string) (ServiceKind, error) {
	if k := ServiceKind(s); slices.Contains(ServiceKinds(), k) {
		return k, nil
	}
	return "", fmt.Errorf("%q is no kind of service: use fulcio, oidc, rekor or tsa", s)
}

// versions are the API versions that clients know.
func (k ServiceKind) versions() []uint32 {
	if k == Rekor {
		return []uint32{1, 2}
	}
	return []uint32{1}
}

// Service is one entry of a signing config.
type Service struct {
	Kind     ServiceKind `json:"kind"`
	URL      string      `json:"url"`
	Version  uint32      `json:"api_version"` // major
	Operator string      `json:"operator,omitempty"`
	Start    time.Time   `json:"start,omitzero"` // no client uses it before
	End      time.Time   `json:"end,omitzero"`   // nor after; zero: it has no end
}

// String names a service for a message.
func (s Service) String() string {
	return fmt.Sprintf("%s service %s (API version %d, of %s)", s.Kind, s.URL, s.Version, cmp.Or(s.Operator, "nobody named"))
}

// Config is a signing config that is being edited: which services clients use.
// Its methods change it only where they return no error.
type Config struct {
	pb  *prototrustroot.SigningConfig
	doc document
}

// NewConfig returns a signing config without services, of which clients use any
// one log and any one timestamp authority.
func NewConfig() *Config {
	anyOne := func() *prototrustroot.ServiceConfiguration {
		return &prototrustroot.ServiceConfiguration{Selector: prototrustroot.ServiceSelector_ANY}
	}
	return &Config{pb: &prototrustroot.SigningConfig{MediaType: root.SigningConfigMediaType02, RekorTlogConfig: anyOne(), TsaConfig: anyOne()}}
}

// ParseConfig reads a signing config. What it does not know, it refuses by name.
func ParseConfig(text []byte) (*Config, error) {
	c := &Config{pb: &prototrustroot.SigningConfig{}}
	var err error
	if c.doc, err = decode("signing config", text, c.pb); err != nil {
		return nil, err
	}
	if t := c.pb.GetMediaType(); t != root.SigningConfigMediaType02 {
		return nil, fmt.Errorf("the file is no signing config that clients read: its media type is %q, expected %s", t, root.SigningConfigMediaType02)
	}
	return c, nil
}

// Bytes returns the file. Entries that were not edited are as they were, to the
// letter; the same edits of the same file give the same bytes.
func (c *Config) Bytes() ([]byte, error) { return c.doc.encode(c.pb, configOrder) }

// Services lists the services of every kind, in the order of the file.
func (c *Config) Services() []Service {
	var out []Service
	for _, k := range ServiceKinds() {
		for _, s := range *list(c.pb, k) {
			out = append(out, describe(k, s))
		}
	}
	return out
}

// Uses says of a kind how many of its services a client uses: "ANY", "ALL" or
// "EXACT" with a count. Of Fulcio and OIDC it is always one.
func (c *Config) Uses(k ServiceKind) (selector string, count uint32) {
	s := selection(c.pb, k)
	if s == nil {
		return prototrustroot.ServiceSelector_ANY.String(), 0
	}
	return s.GetSelector().String(), s.GetCount()
}

func (c *Config) mentions(url string) bool {
	return slices.ContainsFunc(c.pb.GetRekorTlogUrls(), func(s *prototrustroot.Service) bool { return sameAddress(s.GetUrl(), url) })
}

// list is where the services of a kind stand.
func list(pb *prototrustroot.SigningConfig, k ServiceKind) *[]*prototrustroot.Service {
	switch k {
	case Fulcio:
		return &pb.CaUrls
	case OIDC:
		return &pb.OidcUrls
	case Rekor:
		return &pb.RekorTlogUrls
	}
	return &pb.TsaUrls
}

// selection is how many of a kind clients use, or nil.
func selection(pb *prototrustroot.SigningConfig, k ServiceKind) *prototrustroot.ServiceConfiguration {
	switch k {
	case Rekor:
		return pb.GetRekorTlogConfig()
	case Timestamp:
		return pb.GetTsaConfig()
	}
	return nil
}

func describe(k ServiceKind, s *prototrustroot.Service) Service {
	out := Service{Kind: k, URL: s.GetUrl(), Version: s.GetMajorApiVersion(), Operator: s.GetOperator()}
	out.Start, out.End = period(s.GetValidFor())
	return out
}

// Picks returns the services that a client of today may use at a time, by
// sigstore-go's own choice, where there is more than one in turn.
func (c *Config) Picks(k ServiceKind, at time.Time) ([]Service, error) { return picks(c.pb, k, at) }

func picks(pb *prototrustroot.SigningConfig, k ServiceKind, at time.Time) ([]Service, error) {
	services := make([]root.Service, 0, len(*list(pb, k)))
	for _, s := range *list(pb, k) {
		services = append(services, root.NewService(s))
	}
	var chosen []root.Service
	if s := selection(pb, k); k == Rekor || k == Timestamp {
		if s == nil {
			return nil, errors.New("the file does not say how many of them clients use, and sigstore-go breaks off there: set it")
		}
		how := root.ServiceConfiguration{Selector: s.GetSelector(), Count: s.GetCount()}
		if _, err := root.SelectServices(services, how, k.versions(), at); err != nil {
			return nil, err
		}
		if how.Selector == prototrustroot.ServiceSelector_ANY || how.Selector == prototrustroot.ServiceSelector_EXACT {
			how = root.ServiceConfiguration{Selector: prototrustroot.ServiceSelector_ALL} // it picks among these
		}
		var err error
		if chosen, err = root.SelectServices(services, how, k.versions(), at); err != nil {
			return nil, err
		}
	} else {
		one, err := root.SelectService(services, k.versions(), at)
		if err != nil {
			return nil, err
		}
		chosen = []root.Service{one}
	}
	var out []Service
	for _, s := range chosen {
		out = append(out, Service{Kind: k, URL: s.URL, Version: s.MajorAPIVersion, Operator: s.Operator, Start: s.ValidityPeriodStart, End: s.ValidityPeriodEnd})
	}
	return out, nil
}

// gap returns the first time from now on at which a client finds no service of
// a kind, and why; a zero time is none. Of what has no services there is none.
func gap(pb *prototrustroot.SigningConfig, k ServiceKind, now time.Time) (time.Time, error) {
	if len(*list(pb, k)) == 0 {
		return time.Time{}, nil
	}
	times := []time.Time{now}
	for _, s := range *list(pb, k) {
		d := describe(k, s)
		if d.Start.After(now) {
			times = append(times, d.Start)
		}
		if !d.End.IsZero() && !d.End.Before(now) { // it serves at its end, too
			times = append(times, d.End.Add(time.Nanosecond))
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	for _, t := range times {
		if _, err := picks(pb, k, t); err != nil {
			return t, err
		}
	}
	return time.Time{}, nil
}

// edit makes a change, unless it leaves clients without a service that they had
// until now. With leave that is a warning.
func (c *Config) edit(k ServiceKind, now time.Time, leave bool, change func(*prototrustroot.SigningConfig)) ([]string, error) {
	pb := proto.Clone(c.pb).(*prototrustroot.SigningConfig)
	change(pb)
	if _, err := root.NewSigningConfigFromProtobuf(pb); err != nil {
		return nil, fmt.Errorf("clients would not read the file any more: %w", err)
	}
	before, _ := gap(c.pb, k, now)
	had := len(*list(c.pb, k)) > 0 && before.IsZero()
	at, why := gap(pb, k, now)
	var warnings []string
	switch {
	case len(*list(c.pb, k)) > 0 && len(*list(pb, k)) == 0:
		err := fmt.Errorf("%w: it is the last %s service: clients that need one could not sign; add another before", ErrNoService, k)
		if !leave {
			return nil, err
		}
		warnings = append(warnings, err.Error())
	case !at.IsZero():
		err := fmt.Errorf("%w: from %s on clients would find no %s service: %w", ErrNoService, stamp(at), k, why)
		if had && !leave {
			return nil, err
		}
		warnings = append(warnings, err.Error())
	}
	c.pb = pb
	return warnings, nil
}

// Add adds a service, the newest first, as clients look for them. It returns
// what some clients make of it.
func (c *Config) Add(s Service, now time.Time) ([]string, error) {
	if _, err := ParseServiceKind(string(s.Kind)); err != nil {
		return nil, err
	}
	u, err := checkURL("the "+string(s.Kind)+" service", s.URL)
	if err != nil {
		return nil, err
	}
	s.Start, s.End = s.Start.UTC(), s.End.UTC()
	switch {
	case !slices.Contains(s.Kind.versions(), s.Version):
		return nil, fmt.Errorf("%s: no client knows API version %d of it: use one of %v", s, s.Version, s.Kind.versions())
	case s.Operator == "":
		return nil, fmt.Errorf("the %s service %s needs an operator, such as sigstore.dev: of services of one operator clients use one", s.Kind, s.URL)
	case checkOperator(s.Operator) != nil:
		return nil, checkOperator(s.Operator)
	case s.Start.IsZero():
		return nil, fmt.Errorf("%s needs a start: of several, clients use the one that started last", s)
	case !s.End.IsZero() && s.End.Before(s.Start):
		return nil, fmt.Errorf("%s: its end %s is before its start %s", s, stamp(s.End), stamp(s.Start))
	}
	for _, m := range *list(c.pb, s.Kind) {
		if other := describe(s.Kind, m); sameAddress(other.URL, s.URL) && other.Version == s.Version {
			return nil, fmt.Errorf("%s is in the file already, %s: to change it remove it first", other, window(other.Start, other.End))
		}
	}
	warnings := urlWarnings(u)
	switch {
	case s.Start.After(now):
		warnings = append(warnings, fmt.Sprintf("no client uses it before its start, %s", stamp(s.Start)))
	case !s.End.IsZero() && s.End.Before(now):
		warnings = append(warnings, fmt.Sprintf("it has ended, at %s: no client uses it", stamp(s.End)))
	}
	if s.Version == 2 {
		warnings = append(warnings, "from its start on clients that know API version 2 use no log of version 1 any more: whoever verifies must know the new log before, and read its bundles")
		if _, err := picks(c.pb, Timestamp, laterOf(now, s.Start)); err != nil {
			warnings = append(warnings, "entries of API version 2 have no time of their own, and clients find no timestamp authority then: add one before")
		}
	}
	more, err := c.edit(s.Kind, now, false, func(pb *prototrustroot.SigningConfig) {
		services := list(pb, s.Kind)
		at := slices.IndexFunc(*services, func(other *prototrustroot.Service) bool {
			o := describe(s.Kind, other)
			return cmp.Or(s.Start.Compare(o.Start), cmp.Compare(s.Version, o.Version), strings.Compare(o.URL, s.URL)) > 0
		})
		if at < 0 {
			at = len(*services)
		}
		*services = slices.Insert(*services, at, &prototrustroot.Service{Url: s.URL, MajorApiVersion: s.Version, ValidFor: validFor(s.Start, s.End), Operator: s.Operator})
		for k, how := range map[ServiceKind]**prototrustroot.ServiceConfiguration{Rekor: &pb.RekorTlogConfig, Timestamp: &pb.TsaConfig} {
			if k == s.Kind && *how == nil {
				*how = &prototrustroot.ServiceConfiguration{Selector: prototrustroot.ServiceSelector_ANY}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return append(warnings, more...), nil
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// find returns the place of the one service that a selector means: its URL or
// operator. Version 0 is any.
func (c *Config) find(k ServiceKind, selector string, version uint32) (int, Service, error) {
	var at []int
	var all, found []string
	for i, m := range *list(c.pb, k) {
		s := describe(k, m)
		line := "  " + s.String() + ", " + window(s.Start, s.End)
		all = append(all, line)
		if (version == 0 || s.Version == version) && (sameAddress(selector, s.URL) || selector != "" && selector == s.Operator) {
			at, found = append(at, i), append(found, line)
		}
	}
	switch {
	case len(at) == 1:
		return at[0], describe(k, (*list(c.pb, k))[at[0]]), nil
	case len(at) > 1:
		return 0, Service{}, fmt.Errorf("%s service %q is %w: it may be any of these, give the URL and the API version\n%s", k, selector, ErrAmbiguous, strings.Join(found, "\n"))
	case len(all) == 0:
		return 0, Service{}, fmt.Errorf("%s service %q: %w: the file has no %s service", k, selector, inventory.ErrNotFound, k)
	}
	return 0, Service{}, fmt.Errorf("%s service %q: %w: there are\n%s", k, selector, inventory.ErrNotFound, strings.Join(all, "\n"))
}

// End makes clients use a service until a time and no longer. It is refused
// where they would find none of the kind then, unless that is what leave says.
func (c *Config) End(k ServiceKind, selector string, version uint32, at, now time.Time, leave bool) (Service, []string, error) {
	at = at.UTC()
	i, s, err := c.find(k, selector, version)
	switch {
	case err != nil:
		return Service{}, nil, err
	case at.IsZero():
		return Service{}, nil, fmt.Errorf("%s: when does it end?", s)
	case at.Before(s.Start):
		return Service{}, nil, fmt.Errorf("%s starts at %s: an end at %s lies before it, so remove it", s, stamp(s.Start), stamp(at))
	}
	warnings, err := c.edit(k, now, leave, func(pb *prototrustroot.SigningConfig) {
		m := (*list(pb, k))[i]
		if m.ValidFor == nil {
			m.ValidFor = validFor(s.Start, at)
			m.ValidFor.Start = nil
		}
		m.ValidFor.End = timestamppb.New(at)
	})
	if err != nil {
		return Service{}, nil, err
	}
	return describe(k, (*list(c.pb, k))[i]), warnings, nil
}

// Remove takes a service out of the file. It is refused where clients would
// find none of the kind then, unless that is what leave says.
func (c *Config) Remove(k ServiceKind, selector string, version uint32, now time.Time, leave bool) (Service, []string, error) {
	i, s, err := c.find(k, selector, version)
	if err != nil {
		return Service{}, nil, err
	}
	warnings, err := c.edit(k, now, leave, func(pb *prototrustroot.SigningConfig) {
		services := list(pb, k)
		*services = slices.Delete(*services, i, i+1)
	})
	if err != nil {
		return Service{}, nil, err
	}
	return s, warnings, nil
}

// Use sets how many logs or timestamp authorities a client uses: "any" one,
// "all" of them, or "exact" with a count. Clients take one of each operator.
func (c *Config) Use(k ServiceKind, selector string, count uint32, now time.Time) ([]string, error) {
	if k != Rekor && k != Timestamp {
		return nil, fmt.Errorf("of %s services clients always use one: only of rekor and tsa is it said how many", k)
	}
	how, ok := prototrustroot.ServiceSelector_value[strings.ToUpper(selector)]
	s := prototrustroot.ServiceSelector(how)
	switch {
	case !ok || s == prototrustroot.ServiceSelector_SERVICE_SELECTOR_UNDEFINED:
		return nil, fmt.Errorf("%q does not say how many services are used: use any, all or exact", selector)
	case (s == prototrustroot.ServiceSelector_EXACT) != (count > 0):
		return nil, errors.New("a count goes with exact, and with nothing else")
	}
	return c.edit(k, now, false, func(pb *prototrustroot.SigningConfig) {
		set := &prototrustroot.ServiceConfiguration{Selector: s, Count: count}
		if k == Rekor {
			pb.RekorTlogConfig = set
		} else {
			pb.TsaConfig = set
		}
	})
}

// Agree says what does not go together: services in use now or later of which a
// verifier with the trusted root would trust nothing.
func Agree(r *Root, c *Config, now time.Time) []string {
	kinds := map[ServiceKind]Kind{Fulcio: CA, Rekor: Log, Timestamp: TSA}
	var out []string
	for _, s := range c.Services() {
		k, ok := kinds[s.Kind]
		if !ok || !s.End.IsZero() && s.End.Before(now) {
			continue
		}
		at := laterOf(now, s.Start)
		if !slices.ContainsFunc(entries(r.pb, k), func(e entry) bool { return sameAddress(e.URL, s.URL) && e.at(at) }) {
			out = append(out, fmt.Sprintf("%s is in the signing config, and the trusted root has no %s of that address that is valid at %s: what it makes nobody would trust", s, k, stamp(at)))
		}
	}
	return out
}
