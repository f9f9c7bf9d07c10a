package sandbox

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

const (
	// signingCertPath is Fulcio's, API v2.
	signingCertPath = "/api/v2/signingCert"
	// maxCertificateRequest bounds a request, which is a key and a signature.
	maxCertificateRequest = 64 << 10
	// tokenAudience is what Fulcio wants a token to be for.
	tokenAudience = "sigstore"
)

// FulcioFault is what goes wrong when a certificate is asked for.
type FulcioFault int

// The faults of Fulcio.
const (
	FulcioHealthy    FulcioFault = iota
	FulcioThrottled              // 429 with Retry-After: 0
	FulcioBroken                 // 503
	FulcioSilent                 // no answer until the client gives up
	FulcioOtherKey               // certifies a key that nobody asked it to
	FulcioOtherName              // names somebody else
	FulcioBackdated              // certifies as of nine minutes ago
	FulcioIndiscreet             // refuses, and repeats the token it was given
)

// Fulcio is the front door of the sandbox's certificate authority: it
// certifies whoever brings a token that the sandbox issued and holds the key.
// It is safe for concurrent use.
type Fulcio struct {
	authority *authority
	key       *signingKey // signs tokens

	mu         sync.Mutex
	principals map[string]Principal // by the ID of the token
	requests   int
	fault      FulcioFault
	faults     int // how many more requests it befalls
}

func newFulcio(a *authority) (*Fulcio, error) {
	key, err := newSigningKey()
	if err != nil {
		return nil, err
	}
	return &Fulcio{authority: a, key: key, principals: map[string]Principal{}}, nil
}

// Requests returns how many certificates were asked for so far.
func (f *Fulcio) Requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests
}

// Fail lets a fault befall the next n requests.
func (f *Fulcio) Fail(fault FulcioFault, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.faults = fault, n
}

// Token issues an identity token that names the principal and lives that long
// from the sandbox clock's now.
func (f *Fulcio) Token(p Principal, life time.Duration) (string, error) {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: f.key.PrivateKey}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("sandbox: token: %w", err)
	}
	now, id := f.authority.clock.Now(), rand.Text()
	raw, err := jwt.Signed(s).Claims(tokenClaims{
		Claims: jwt.Claims{Issuer: p.Issuer, Subject: p.Email + p.URI, Audience: jwt.Audience{tokenAudience}, ID: id,
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(life))},
		Email: p.Email, Verified: p.Email != "",
	}).Serialize()
	if err != nil {
		return "", fmt.Errorf("sandbox: token: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.principals[id] = p
	return raw, nil
}

type tokenClaims struct {
	jwt.Claims
	Email    string `json:"email,omitempty"`
	Verified bool   `json:"email_verified,omitempty"`
}

// subject is what holders of a key sign to prove that they have it.
func (c tokenClaims) subject() string {
	if c.Email != "" {
		return c.Email
	}
	return c.Subject
}

// check verifies a token and returns whom it names.
func (f *Fulcio) check(raw string) (tokenClaims, Principal, error) {
	var c tokenClaims
	token, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return c, Principal{}, err
	}
	if err := token.Claims(f.key.Public(), &c); err != nil {
		return c, Principal{}, err
	}
	if err := c.ValidateWithLeeway(jwt.Expected{AnyAudience: jwt.Audience{tokenAudience}, Time: f.authority.clock.Now()}, 0); err != nil {
		return c, Principal{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return c, f.principals[c.ID], nil
}

// certificateRequest is CreateSigningCertificateRequest of Fulcio's API, as
// clients send it: with a key and a proof of possession, and no CSR.
type certificateRequest struct {
	PublicKeyRequest struct {
		PublicKey struct {
			Content string `json:"content"`
		} `json:"publicKey"`
		ProofOfPossession []byte `json:"proofOfPossession"`
	} `json:"publicKeyRequest"`
}

// next counts a request and returns what goes wrong with it.
func (f *Fulcio) next() FulcioFault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests++
	if f.faults == 0 {
		return FulcioHealthy
	}
	f.faults--
	return f.fault
}

func (f *Fulcio) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+signingCertPath, func(w http.ResponseWriter, r *http.Request) {
		fault := f.next()
		body, ok := readBody(w, r, maxCertificateRequest)
		if !ok {
			return
		}
		raw := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		switch fault {
		case FulcioThrottled:
			w.Header().Set("Retry-After", "0")
			fulcioError(w, http.StatusTooManyRequests, 8, "rate limit exceeded")
			return
		case FulcioBroken:
			fulcioError(w, http.StatusServiceUnavailable, 14, "the certificate authority is not available")
			return
		case FulcioSilent:
			<-r.Context().Done()
			return
		case FulcioIndiscreet:
			fulcioError(w, http.StatusBadRequest, 3, "cannot use the token "+raw)
			return
		}
		claims, principal, err := f.check(raw)
		if err != nil {
			fulcioError(w, http.StatusUnauthorized, 16, "There was an error processing the identity token")
			return
		}
		var request certificateRequest
		if err := json.Unmarshal(body, &request); err != nil {
			fulcioError(w, http.StatusBadRequest, 3, "parsing the request: "+err.Error())
			return
		}
		pub, err := possessed(request, claims.subject())
		if err != nil {
			fulcioError(w, http.StatusBadRequest, 3, err.Error())
			return
		}
		now := f.authority.clock.Now()
		switch fault {
		case FulcioOtherKey:
			pub = f.key.Public()
		case FulcioOtherName:
			principal.Email, principal.URI = "somebody-else@example.com", ""
		case FulcioBackdated:
			now = now.Add(-9 * time.Minute)
		}
		cert, err := f.authority.issueAt(r.Context(), principal, pub, now)
		if err != nil {
			fulcioError(w, http.StatusInternalServerError, 13, err.Error())
			return
		}
		var out struct {
			Signed struct {
				Chain struct {
					Certificates []string `json:"certificates"`
				} `json:"chain"`
			} `json:"signedCertificateEmbeddedSct"`
		}
		for _, c := range []*x509.Certificate{cert, f.authority.intermediate, f.authority.root} {
			out.Signed.Chain.Certificates = append(out.Signed.Chain.Certificates, string(certificatesPEM(c)))
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out) // the client went away: nobody to tell
	})
	return mux
}

// possessed checks that whoever asks has the private key, and returns the
// public one.
func possessed(r certificateRequest, subject string) (crypto.PublicKey, error) {
	pub, err := cryptoutils.UnmarshalPEMToPublicKey([]byte(r.PublicKeyRequest.PublicKey.Content))
	if err != nil {
		return nil, fmt.Errorf("the public key: %w", err)
	}
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a key of type %T is not certified here", pub)
	}
	digest := sha256.Sum256([]byte(subject))
	if !ecdsa.VerifyASN1(key, digest[:], r.PublicKeyRequest.ProofOfPossession) {
		return nil, fmt.Errorf("the signature supplied in the request could not be verified")
	}
	return key, nil
}

// fulcioError answers as Fulcio's gateway does: with a gRPC status.
func fulcioError(w http.ResponseWriter, status, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct { // the client went away: nobody to tell
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{code, message})
}
