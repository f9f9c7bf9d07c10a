package keyless

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	// audience is whom tokens for Fulcio are for.
	audience = "sigstore"
	// maxToken bounds a token, in bytes.
	maxToken = 64 << 10
	// serviceAccountToken is where cosign looks for a token that Kubernetes
	// projects into a container, and rotates.
	serviceAccountToken = "/var/run/sigstore/cosign/oidc-token"
)

// Tokens gives identity tokens. It prints as where they come from.
type Tokens struct {
	Name string // for people: "the file /run/token"
	Read func(context.Context) (string, error)
}

// String says where the tokens come from.
func (t Tokens) String() string { return t.Name }

// File reads the token from a file, which whoever rotates tokens writes anew.
func File(path string) Tokens {
	return Tokens{Name: "the file " + path, Read: func(context.Context) (string, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		return readToken(f)
	}}
}

// Ambient finds where the environment keeps tokens, as cosign does: the
// variable SIGSTORE_ID_TOKEN, a token that Kubernetes projects, GitHub Actions.
// getenv is os.Getenv.
func Ambient(getenv func(string) string) (Tokens, error) {
	return ambient(getenv, serviceAccountToken)
}

func ambient(getenv func(string) string, projected string) (Tokens, error) {
	if getenv("SIGSTORE_ID_TOKEN") != "" {
		return Tokens{Name: "the variable SIGSTORE_ID_TOKEN", Read: func(context.Context) (string, error) {
			return getenv("SIGSTORE_ID_TOKEN"), nil
		}}, nil
	}
	if _, err := os.Stat(projected); err == nil {
		return File(projected), nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Tokens{}, fmt.Errorf("identity token: %w", err)
	}
	address, bearer := getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if address != "" && bearer != "" {
		return actions(address, bearer), nil
	}
	return Tokens{}, fmt.Errorf("there is no identity token: give --identity-token FILE or set SIGSTORE_ID_TOKEN; "+
		"in Kubernetes project a service account token to %s; in GitHub Actions permit id-token: write", projected)
}

// actions asks GitHub Actions for a token (GitHub, "OpenID Connect reference").
func actions(address, bearer string) Tokens {
	return Tokens{Name: "GitHub Actions", Read: func(ctx context.Context) (string, error) {
		// An error of net/url would repeat the address.
		u, err := url.Parse(address)
		if err != nil || u.Host == "" {
			return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is no URL")
		}
		q := u.Query()
		q.Set("audience", audience)
		u.RawQuery = q.Encode()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is no URL")
		}
		req.Header.Set("Authorization", "bearer "+bearer)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			// What net/http says of it repeats the address, in which there may be secrets.
			if of := new(url.Error); errors.As(err, &of) {
				err = of.Err
			}
			return "", busy{why: "it cannot be reached: " + without(bearer, err).Error()}
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return "", refusal(resp, bearer)
		}
		var payload struct {
			Value string `json:"value"`
		}
		if err := json.NewDecoder(io.LimitReader(resp.Body, 2*maxToken)).Decode(&payload); err != nil {
			return "", errors.New("its answer cannot be read")
		}
		return payload.Value, nil
	}}
}

func readToken(r io.Reader) (string, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxToken+1))
	if err == nil && len(raw) > maxToken {
		err = fmt.Errorf("it is longer than %d bytes", maxToken)
	}
	return string(raw), err
}

// read returns a token that has not expired.
func (t Tokens) read(ctx context.Context, now time.Time) (string, error) {
	raw, err := t.Read(ctx)
	if err != nil {
		return "", fmt.Errorf("identity token of %s: %w", t.Name, err)
	}
	raw = strings.TrimSpace(raw)
	c, err := parseToken(raw)
	if err != nil {
		return "", fmt.Errorf("identity token of %s: %w", t.Name, err)
	}
	if end := c.expiry(); !end.IsZero() && !now.Before(end) {
		return "", fmt.Errorf("the identity token of %s (of %s, issued by %s) expired at %s, %s ago: get a new one and run this again",
			t.Name, c.Subject, c.Issuer, stamp(end), now.Sub(end).Round(time.Second))
	}
	return raw, nil
}

// claims are what is read of a token. Nothing in it is verified: Fulcio does
// that.
type claims struct {
	Issuer  string      `json:"iss"`
	Subject string      `json:"sub"`
	Expires json.Number `json:"exp"`
}

func (c claims) expiry() time.Time {
	seconds, err := c.Expires.Float64()
	if err != nil || seconds <= 0 || seconds > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0).UTC()
}

var errNoToken = errors.New("it is no JWT (three parts with dots between them)")

// parseToken reads the claims of a token (RFC 7519). Its errors say nothing of
// what is in it.
func parseToken(raw string) (claims, error) {
	var c claims
	if !LooksLikeToken(raw) {
		return c, errNoToken
	}
	body, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		return c, errNoToken
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return c, errors.New("its claims cannot be read")
	}
	return c, nil
}

// LooksLikeToken reports whether text is a token rather than the name of a file
// that has one.
func LooksLikeToken(text string) bool {
	parts := strings.Split(text, ".")
	return len(parts) == 3 && strings.HasPrefix(text, "eyJ") && parts[1] != "" && !strings.ContainsAny(text, "/\\ \t\n")
}
