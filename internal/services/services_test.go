package services

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// config is a signing configuration with the services given, as JSON.
func config(services string) []byte {
	return []byte(`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json"` + services + `}`)
}

func service(url string, version int, operator, from string) string {
	return fmt.Sprintf(`{"url":%q,"majorApiVersion":%d,"operator":%q,"validFor":{"start":%q}}`, url, version, operator, from)
}

func TestFromSigningConfig(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	const past, future = "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"
	for _, tc := range []struct {
		name string
		raw  []byte
		want Endpoints
		err  string
	}{
		{"nothing", config(""), Endpoints{}, ""},
		{"the newest version of a log", config(`,"rekorTlogUrls":[` + service("https://one", 1, "a", past) + "," + service("https://two", 2, "a", past) + `],"rekorTlogConfig":{"selector":"ANY"}`),
			Endpoints{RekorV2: []string{"https://two"}}, ""},
		{"one that is valid later", config(`,"rekorTlogUrls":[` + service("https://one", 1, "a", past) + "," + service("https://two", 2, "a", future) + `],"rekorTlogConfig":{"selector":"ANY"}`),
			Endpoints{RekorV1: []string{"https://one"}}, ""},
		{"all timestamp authorities", config(`,"tsaUrls":[` + service("https://b", 1, "b", past) + "," + service("https://a", 1, "a", past) + `],"tsaConfig":{"selector":"ALL"}`),
			Endpoints{Timestamps: []string{"https://a", "https://b"}}, ""},
		{"the CA", config(`,"caUrls":[` + service("https://fulcio", 1, "a", past) + `]`), Endpoints{Fulcio: "https://fulcio"}, ""},
		{"another version of the format", []byte(`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.1+json"}`), Endpoints{}, "signing configuration"},
		{"no JSON", []byte("{"), Endpoints{}, "signing configuration"},
		{"how many logs is missing", config(`,"rekorTlogUrls":[` + service("https://one", 1, "a", past) + `]`), Endpoints{}, "rekorTlogConfig"},
		{"how many authorities is missing", config(`,"tsaUrls":[` + service("https://a", 1, "a", past) + `]`), Endpoints{}, "tsaConfig"},
		{"none is valid", config(`,"tsaUrls":[` + service("https://a", 1, "a", future) + `],"tsaConfig":{"selector":"ANY"}`), Endpoints{}, "timestamp authorities"},
		{"more than there are", config(`,"tsaUrls":[` + service("https://a", 1, "a", past) + `],"tsaConfig":{"selector":"EXACT","count":2}`), Endpoints{}, "timestamp authorities"},
	} {
		got, err := FromSigningConfig(tc.raw, now)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: got %+v, %v, want an error that says %q", tc.name, got, err, tc.err)
			}
			continue
		}
		if len(got.Timestamps) == 2 && got.Timestamps[0] > got.Timestamps[1] { // in no order
			got.Timestamps[0], got.Timestamps[1] = got.Timestamps[1], got.Timestamps[0]
		}
		if err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v, %v, want %+v", tc.name, got, err, tc.want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for what, e := range map[string]Endpoints{
		"a log without a time":    {RekorV2: []string{"https://log"}},
		"no URL":                  {Timestamps: []string{"tsa.example"}},
		"another protocol":        {RekorV1: []string{"ftp://log.example"}},
		"a password in the URL":   {Timestamps: []string{"https://user:secret@tsa.example/"}},
		"a token in the query":    {Timestamps: []string{"https://tsa.example/?apikey=secret"}},
		"a password in the log's": {RekorV2: []string{"https://user:secret@log.example/"}, Timestamps: []string{"https://tsa.example"}},
	} {
		if _, err := Open(e); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v", what, err)
		}
	}
	s, err := Open(Endpoints{})
	if err != nil || !s.None() {
		t.Errorf("nothing: %+v, %v", s, err)
	}
	s, err = Open(Endpoints{Timestamps: []string{"https://tsa.example"}, RekorV1: []string{"https://v1.example"}, RekorV2: []string{"https://v2.example"}})
	if err != nil || s.None() || len(s.Timestamps) != 1 || len(s.Logs) != 2 || s.Logs[0].Version != RekorV1 || s.Logs[1].Version != RekorV2 {
		t.Errorf("all: %+v, %v", s, err)
	}
}

// TestClient repeats what may be repeated, and not for ever.
func TestClient(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		fail  int64 // answers that fail, before a good one
		how   func(http.ResponseWriter)
		want  int64 // requests
		fails bool
	}{
		{"good", 0, nil, 1, false},
		{"busy", 2, func(w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) }, 3, false},
		{"down for a while", 3, func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) }, 4, false},
		{"breaks off", 2, func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "half") //nolint:errcheck // it is cut off
			panic(http.ErrAbortHandler)
		}, 3, false},
		{"refuses", 1 << 20, func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) }, 1, true},
		{"down for good", 1 << 20, func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) }, attempts, true},
		{"endless", 1 << 20, func(w http.ResponseWriter) {
			for range maxAnswer/(1<<20) + 2 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}, attempts, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var seen atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if string(body) != "question" {
					t.Errorf("asked %q", body)
				}
				if seen.Add(1) <= tc.fail {
					tc.how(w)
					return
				}
				io.WriteString(w, "answer") //nolint:errcheck // the client will tell
			}))
			defer server.Close()
			resp, err := NewClient().Post(server.URL, "text/plain", strings.NewReader("question"))
			if err == nil {
				body, readErr := io.ReadAll(resp.Body)
				if err = errors.Join(readErr, resp.Body.Close()); err == nil && resp.StatusCode != http.StatusOK {
					err = errors.New(resp.Status)
				} else if string(body) != "answer" {
					err = fmt.Errorf("%.20q", body)
				}
			}
			if (err != nil) != tc.fails || seen.Load() != tc.want {
				t.Errorf("got %v after %d requests, want %d", err, seen.Load(), tc.want)
			}
		})
	}
}
