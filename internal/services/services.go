// Package services reaches the timestamp authorities and transparency logs that
// give new signatures their proofs of time.
//
// How long is waited for one and how often it is asked again is set here, once:
// an answer of 429 or 5xx, a refused connection and an answer that breaks off
// are repeated a few times, as the service asks for if it does. What they answer
// is not judged here.
package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekortiles "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	rekorclient "github.com/sigstore/rekor/pkg/client"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"
)

const (
	attempts      = 5                // of one request
	attemptTime   = 30 * time.Second // for one attempt, reading the answer included
	firstWait     = 250 * time.Millisecond
	longestWait   = time.Minute // however long a service asks for
	maxAnswer     = 10 << 20    // bytes
	maxDiagnostic = 300         // bytes of an answer that is no success, in an error
	perHost       = 256         // connections kept open
)

// The versions of Rekor.
const (
	RekorV1 = 1 // gives a signed time, and what legacy signatures can hold
	RekorV2 = 2 // gives no time: it goes with a timestamp authority
)

// Endpoints are the services to use, by their URLs.
type Endpoints struct {
	Timestamps []string // RFC 3161 authorities: each stamps
	RekorV1    []string // each logs
	RekorV2    []string
	Fulcio     string // for keyless signers
}

// Services are asked for proofs of every new signature. None is a choice, too.
// They are safe for concurrent use.
type Services struct {
	Timestamps []*sign.TimestampAuthority
	Logs       []Log
}

// Log is a transparency log.
type Log struct {
	Version int
	sign.Transparency
}

// None reports whether no service is asked for anything.
func (s Services) None() bool { return len(s.Timestamps) == 0 && len(s.Logs) == 0 }

// FromSigningConfig returns the services that a Sigstore signing configuration,
// version 0.2, chooses at a time by its own rules.
func FromSigningConfig(raw []byte, now time.Time) (Endpoints, error) {
	var e Endpoints
	pb, err := root.NewSigningConfigProtobuf(raw)
	if err != nil {
		return e, fmt.Errorf("signing configuration: %w", err)
	}
	config, err := root.NewSigningConfigFromProtobuf(pb)
	if err != nil {
		return e, fmt.Errorf("signing configuration: %w", err)
	}
	if list := config.RekorLogURLs(); len(list) > 0 {
		if pb.GetRekorTlogConfig() == nil {
			return e, errors.New("signing configuration: rekorTlogUrls without rekorTlogConfig: say how many of them are to be used")
		}
		chosen, err := root.SelectServices(list, config.RekorLogURLsConfig(), sign.RekorAPIVersions, now)
		if err != nil {
			return e, fmt.Errorf("signing configuration: transparency logs: %w", err)
		}
		for _, s := range chosen {
			if s.MajorAPIVersion == RekorV2 {
				e.RekorV2 = append(e.RekorV2, s.URL)
			} else {
				e.RekorV1 = append(e.RekorV1, s.URL)
			}
		}
	}
	if list := config.TimestampAuthorityURLs(); len(list) > 0 {
		if pb.GetTsaConfig() == nil {
			return e, errors.New("signing configuration: tsaUrls without tsaConfig: say how many of them are to be used")
		}
		chosen, err := root.SelectServices(list, config.TimestampAuthorityURLsConfig(), sign.TimestampAuthorityAPIVersions, now)
		if err != nil {
			return e, fmt.Errorf("signing configuration: timestamp authorities: %w", err)
		}
		for _, s := range chosen {
			e.Timestamps = append(e.Timestamps, s.URL)
		}
	}
	if list := config.FulcioCertificateAuthorityURLs(); len(list) > 0 {
		chosen, err := root.SelectService(list, sign.FulcioAPIVersions, now)
		if err != nil {
			return e, fmt.Errorf("signing configuration: certificate authorities: %w", err)
		}
		e.Fulcio = chosen.URL
	}
	return e, nil
}

// Open makes the clients. Nothing is asked of a service yet.
func Open(e Endpoints) (Services, error) {
	var s Services
	if len(e.RekorV2) > 0 && len(e.Timestamps) == 0 {
		return s, errors.New("a Rekor v2 log gives no time: name a timestamp authority, too (--timestamp-server-url, or tsaUrls of the signing configuration)")
	}
	for _, list := range [][]string{e.Timestamps, e.RekorV1, e.RekorV2} {
		for _, at := range list {
			if err := CheckURL(at); err != nil {
				return s, err
			}
		}
	}
	client := NewClient()
	for _, at := range e.Timestamps {
		s.Timestamps = append(s.Timestamps, sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: at, Timeout: -1, Transport: client.Transport}))
	}
	for _, at := range e.RekorV1 {
		rekor, err := rekorclient.GetRekorClient(at, rekorclient.WithRetryCount(attempts-1), rekorclient.WithRetryWaitMin(firstWait),
			rekorclient.WithRetryWaitMax(longestWait), rekorclient.WithNoDisableKeepalives(true))
		if err != nil {
			return s, fmt.Errorf("transparency log: %w", err)
		}
		// Complete, because sigstore-go fills in what is missing without a lock.
		s.Logs = append(s.Logs, Log{RekorV1, sign.NewRekor(&sign.RekorOptions{BaseURL: at, Version: RekorV1, Timeout: attempts * attemptTime, Client: rekor.Entries})})
	}
	for _, at := range e.RekorV2 {
		writer := rekorV2{strings.TrimSuffix(at, "/") + "/api/v2/log/entries", client}
		s.Logs = append(s.Logs, Log{RekorV2, sign.NewRekor(&sign.RekorOptions{BaseURL: at, Version: RekorV2, Timeout: attempts * attemptTime, ClientV2: writer})})
	}
	return s, nil
}

// CheckURL refuses what is no URL of a service. One with a password in it would
// put that into errors.
func CheckURL(at string) error {
	u, err := url.Parse(at)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return errors.New("the URL of a service cannot be read: write it as https://HOST/PATH")
	case u.User != nil:
		return fmt.Errorf("the URL of the service at %s carries a user or password: leave them out", u.Host)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return fmt.Errorf("the URL of the service at %s has a query, which errors would repeat: leave it out", u.Host)
	}
	return nil
}

// NewClient returns a client for services, which repeats requests.
func NewClient() *http.Client {
	base := &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: perHost, IdleConnTimeout: 90 * time.Second, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: attemptTime / 3}
	c := retryablehttp.NewClient()
	c.Logger = nil
	c.HTTPClient = &http.Client{Transport: whole{base}, Timeout: attemptTime}
	c.RetryMax, c.RetryWaitMin, c.RetryWaitMax = attempts-1, firstWait, longestWait
	c.Backoff = func(least, most time.Duration, n int, resp *http.Response) time.Duration {
		return min(retryablehttp.DefaultBackoff(least, most, n, resp), most)
	}
	c.ErrorHandler = retryablehttp.PassthroughErrorHandler // the last answer says more than "giving up"
	return &http.Client{Transport: &retryablehttp.RoundTripper{Client: c}}
}

// whole reads answers to their end, so that one that breaks off is repeated
// like one that never came.
type whole struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (w whole) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("the answer of %s broke off: %w", req.URL.Host, err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("the answer of %s has more than %d bytes", req.URL.Host, maxAnswer)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// rekorV2 adds entries to a Rekor v2 log. The library's own client repeats
// nothing and keeps two connections.
type rekorV2 struct {
	entries string // URL
	client  *http.Client
}

// Add implements sign.RekorV2Client (rekor-tiles, "POST /api/v2/log/entries").
func (r rekorV2) Add(ctx context.Context, entry any) (*protorekor.TransparencyLogEntry, error) {
	hashed, ok := entry.(*rekortiles.HashedRekordRequestV002)
	if !ok {
		return nil, fmt.Errorf("a Rekor v2 log takes no %T", entry)
	}
	body, err := protojson.Marshal(&rekortiles.CreateEntryRequest{Spec: &rekortiles.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: hashed}})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.entries, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil { // from memory, see whole
		return nil, err
	}
	if resp.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("%s answered %s: %s", req.URL.Host, resp.Status, bytes.TrimSpace(body[:min(len(body), maxDiagnostic)]))
	}
	var out protorekor.TransparencyLogEntry
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, &out); err != nil {
		return nil, fmt.Errorf("%s answered what is no log entry: %w", req.URL.Host, err)
	}
	return &out, nil
}
