package sandbox

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// maxTransitRequest bounds a request, which is a digest or a signature.
const maxTransitRequest = 64 << 10

// Transit stands in for the transit engine of HashiCorp Vault, as far as
// Sigstore's hashivault:// uses it: keys of ECDSA P-256 are made, read,
// rotated, and sign and verify digests. It shows how a client behaves, not how
// Vault does. It is an http.Handler, for a server on loopback, and safe for
// concurrent use.
type Transit struct {
	token string

	mu       sync.Mutex
	keys     map[string][]*ecdsa.PrivateKey // versions, the first is 1
	throttle int                            // how many more requests are refused
	silent   int                            // how many more requests are not answered
	reads    int
	signs    int
}

// NewTransit makes an engine without keys that answers to one token.
func NewTransit(token string) *Transit {
	return &Transit{token: token, keys: map[string][]*ecdsa.PrivateKey{}}
}

// Throttle refuses the next n requests with 429, as Vault does when a rate
// limit quota is used up.
func (v *Transit) Throttle(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.throttle = n
}

// Silence lets the next n requests wait for an answer until the client gives up.
func (v *Transit) Silence(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.silent = n
}

// Rotate makes a key, or gives it a new version, with which it signs from then on.
func (v *Transit) Rotate(name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("sandbox: transit key %q: %w", name, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys[name] = append(v.keys[name], key)
	return nil
}

// Requests returns how often public keys were read, and how often keys were
// asked to sign, refused requests included.
func (v *Transit) Requests() (reads, signs int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.reads, v.signs
}

// begin counts a request and returns what goes wrong with it.
func (v *Transit) begin(r *http.Request) (throttled, silent bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case r.Method == http.MethodGet:
		v.reads++
	case strings.Contains(r.URL.Path, "/sign/"):
		v.signs++
	}
	if v.silent > 0 {
		v.silent--
		return false, true
	}
	if v.throttle > 0 {
		v.throttle--
		return true, false
	}
	return false, false
}

func (v *Transit) versions(name string) []*ecdsa.PrivateKey {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.keys[name]
}

// ServeHTTP implements http.Handler (Vault HTTP API, "Transit secrets engine").
func (v *Transit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	throttled, silent := v.begin(r)
	body, ok := readBody(w, r, maxTransitRequest)
	if !ok {
		return
	}
	switch {
	case silent:
		<-r.Context().Done()
		return
	case throttled:
		transitError(w, http.StatusTooManyRequests, "request path %q: rate limit quota exceeded", r.URL.Path)
		return
	case subtle.ConstantTimeCompare([]byte(r.Header.Get("X-Vault-Token")), []byte(v.token)) != 1:
		transitError(w, http.StatusForbidden, "permission denied")
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/transit/")
	parts := strings.Split(path, "/")
	write := r.Method == http.MethodPut || r.Method == http.MethodPost
	if !ok || len(parts) < 2 {
		transitError(w, http.StatusNotFound, "no handler for route %q", r.URL.Path)
		return
	}
	name := parts[1]
	keys := v.versions(name)
	switch {
	case parts[0] == "keys" && len(parts) == 2 && write && len(keys) > 0:
		w.WriteHeader(http.StatusNoContent) // it stays as it is
	case parts[0] == "keys" && write && (len(parts) == 2 || len(parts) == 3 && parts[2] == "rotate" && len(keys) > 0):
		if err := v.Rotate(name); err != nil {
			transitError(w, http.StatusInternalServerError, "%v", err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case len(keys) == 0:
		transitError(w, http.StatusNotFound, "encryption key not found")
	case parts[0] == "keys" && len(parts) == 2:
		transitKey(w, name, keys)
	case parts[0] == "sign" && len(parts) == 3 && parts[2] == "sha2-256" && write:
		transitSign(w, keys, body)
	case parts[0] == "verify" && len(parts) == 3 && parts[2] == "sha2-256" && write:
		transitVerify(w, keys, body)
	default:
		transitError(w, http.StatusNotFound, "no handler for route %q", r.URL.Path)
	}
}

func transitKey(w http.ResponseWriter, name string, keys []*ecdsa.PrivateKey) {
	versions := map[string]any{}
	for i, key := range keys {
		pem, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
		if err != nil {
			transitError(w, http.StatusInternalServerError, "%v", err)
			return
		}
		versions[strconv.Itoa(i+1)] = map[string]any{"name": "P-256", "public_key": string(pem)}
	}
	transitData(w, map[string]any{"name": name, "type": "ecdsa-p256", "latest_version": len(keys), "keys": versions})
}

// transitRequest asks for a signature, or for its verification.
type transitRequest struct {
	Input      []byte `json:"input"` // base64
	Prehashed  bool   `json:"prehashed"`
	KeyVersion string `json:"key_version"`
	Signature  string `json:"signature"` // "vault:v1:" and base64
}

func readTransit(w http.ResponseWriter, body []byte) (transitRequest, bool) {
	var r transitRequest
	if err := json.Unmarshal(body, &r); err != nil {
		transitError(w, http.StatusBadRequest, "failed to parse JSON input: %v", err)
		return r, false
	}
	if !r.Prehashed {
		transitError(w, http.StatusBadRequest, "only digests are signed here")
		return r, false
	}
	return r, true
}

func transitSign(w http.ResponseWriter, keys []*ecdsa.PrivateKey, body []byte) {
	r, ok := readTransit(w, body)
	if !ok {
		return
	}
	version := len(keys)
	if n, err := strconv.Atoi(r.KeyVersion); err == nil && n > 0 {
		version = n
	}
	if version > len(keys) {
		transitError(w, http.StatusBadRequest, "cannot sign: requested version is higher than the latest key version")
		return
	}
	sig, err := ecdsa.SignASN1(rand.Reader, keys[version-1], r.Input)
	if err != nil {
		transitError(w, http.StatusInternalServerError, "%v", err)
		return
	}
	transitData(w, map[string]any{"key_version": version, "signature": fmt.Sprintf("vault:v%d:%s", version, base64.StdEncoding.EncodeToString(sig))})
}

func transitVerify(w http.ResponseWriter, keys []*ecdsa.PrivateKey, body []byte) {
	r, ok := readTransit(w, body)
	if !ok {
		return
	}
	parts := strings.SplitN(r.Signature, ":", 3)
	if len(parts) != 3 || parts[0] != "vault" {
		transitError(w, http.StatusBadRequest, "invalid signature: no prefix")
		return
	}
	version, err := strconv.Atoi(strings.TrimPrefix(parts[1], "v"))
	sig, decodeErr := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || decodeErr != nil || version < 1 || version > len(keys) {
		transitError(w, http.StatusBadRequest, "invalid signature")
		return
	}
	transitData(w, map[string]any{"valid": ecdsa.VerifyASN1(&keys[version-1].PublicKey, r.Input, sig)})
}

func transitData(w http.ResponseWriter, data map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"data": data}) // the client went away: nobody to tell
}

func transitError(w http.ResponseWriter, status int, format string, args ...any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string][]string{"errors": {fmt.Sprintf(format, args...)}}) // the client went away: nobody to tell
}
