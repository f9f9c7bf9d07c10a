//go:build (e2e || bench) && linux

package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
)

// A sigstore is a real Fulcio and a real Rekor v2 beside the world's timestamp
// authority, with an OIDC issuer and a CT log of the test's own in front of
// Fulcio.
type sigstore struct {
	issuer  string // of people
	actions string // issuer of workflows
	fulcio  string // URL that certificates are asked of
	ca      string // SHA-256 of Fulcio's certificate, hex
	tsa     string // SHA-256 of the timestamp authority's certificate, hex
}

// The services of a signing configuration.
const (
	noServices = "without-tsa.json"
	timestamps = "with-tsa.json"
	timesAndV2 = "with-log.json" // timestamp authority and Rekor v2
)

// sigstore starts the services, and replaces the trusted root and the signing
// configurations with ones that know them all. More flags of "cosign
// trusted-root create" add to the trusted root.
func (w *world) sigstore(more ...string) *sigstore {
	w.Helper()
	issuer := w.newIssuer()
	ctLog := w.newCTLog()
	s := &sigstore{issuer: issuer, actions: issuer + "/actions"}

	w.write("fulcio.yaml", fmt.Sprintf(`oidc-issuers:
  %[1]s: {issuer-url: %[1]q, client-id: sigstore, type: email}
  %[2]s: {issuer-url: %[2]q, client-id: sigstore, type: github-workflow}
`, s.issuer, s.actions))
	address, host, port := w.address()
	_, grpcHost, grpcPort := w.address()
	_, _, metrics := w.address()
	s.fulcio = "http://" + address
	w.serve(s.fulcio+"/api/v1/rootCert", "fulcio", "serve", "--ca", "ephemeralca", "--config-path", "fulcio.yaml",
		"--host", host, "--port", port, "--grpc-host", grpcHost, "--grpc-port", grpcPort, "--metrics-port", metrics,
		"--legacy-unix-domain-socket", "fulcio.sock", "--ct-log-url", ctLog, "--ct-log-public-key-path", "ct.pub")
	w.write("fulcio.pem", w.get(s.fulcio+"/api/v1/rootCert"))
	s.ca, s.tsa = w.certificate("fulcio.pem"), w.certificate("tsa.pem")

	public, private, err := ed25519.GenerateKey(rand.Reader)
	w.check(err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	w.check(err)
	w.write("rekor.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	w.writePublicKey("rekor.pub", public)
	w.check(os.Mkdir(w.path("log"), 0o700))
	rekor, host, port := w.address()
	_, grpcHost, grpcPort = w.address()
	_, _, metrics = w.address()
	w.serve("http://"+rekor+"/healthz", "rekor-tiles", "serve", "--http-address", host, "--http-port", port,
		"--grpc-address", grpcHost, "--grpc-port", grpcPort, "--http-metrics-port", metrics,
		"--hostname", "rekor.local", "--storage-dir", "log", "--signer-filepath", "rekor.key",
		"--checkpoint-interval", "200ms", "--batch-max-age", "50ms")

	const since = "start-time=2020-01-01T00:00:00Z"
	w.ok(w.cosign3(append([]string{"trusted-root", "create", "--out", "trusted_root.json",
		"--fulcio", "url=" + s.fulcio + ",certificate-chain=fulcio.pem," + since,
		"--ctfe", "url=" + ctLog + ",public-key=ct.pub," + since,
		"--rekor", "url=http://rekor.local,public-key=rekor.pub,origin=rekor.local," + since,
		"--tsa", "url=" + w.tsa + ",certificate-chain=tsa.pem," + since}, more...)...))
	services := []string{"--fulcio", "url=" + s.fulcio + ",api-version=1,operator=e2e," + since,
		"--oidc-provider", "url=" + s.issuer + ",api-version=1,operator=e2e," + since}
	for _, c := range []struct {
		file string
		more []string
	}{
		{timestamps, []string{"--tsa", "url=" + w.tsa + ",api-version=1,operator=e2e," + since, "--tsa-config", "ANY"}},
		{timesAndV2, []string{"--rekor", "url=http://" + rekor + ",api-version=2,operator=e2e," + since, "--rekor-config", "ANY"}},
	} {
		services = append(services, c.more...)
		w.ok(w.cosign3(append([]string{"signing-config", "create", "--out", c.file}, services...)...))
	}
	return s
}

// address returns a free address and its parts.
func (w *world) address() (address, host, port string) {
	w.Helper()
	address = freeAddress(w.T)
	host, port, err := net.SplitHostPort(address)
	w.check(err)
	return address, host, port
}

// certificate returns the SHA-256 of the first certificate of a PEM file, hex.
func (w *world) certificate(name string) string {
	w.Helper()
	block, _ := pem.Decode([]byte(w.read(name)))
	if block == nil || block.Type != "CERTIFICATE" {
		w.Fatalf("%s has no certificate: %s", name, w.read(name))
	}
	return fingerprint(block.Bytes)
}

// publicKey returns the fingerprint of the key in a PEM file.
func (w *world) publicKey(name string) string {
	w.Helper()
	block, _ := pem.Decode([]byte(w.read(name)))
	if block == nil || block.Type != "PUBLIC KEY" {
		w.Fatalf("%s has no public key: %s", name, w.read(name))
	}
	return fingerprint(block.Bytes)
}

func (w *world) writePublicKey(name string, key any) {
	w.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	w.check(err)
	w.write(name, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// newIssuer starts an OIDC issuer, which also issues for workflows, and writes
// the tokens "alice.token", "bob.token" and "workflow.token".
func (w *world) newIssuer() string {
	w.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.check(err)
	point, err := key.PublicKey.Bytes() // 4, X, Y
	w.check(err)
	encode := base64.RawURLEncoding.EncodeToString
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		path, discovery := strings.CutSuffix(r.URL.Path, "/.well-known/openid-configuration")
		issuer := "http://" + r.Host + path
		switch {
		case discovery:
			json.NewEncoder(rw).Encode(map[string]any{"issuer": issuer, "jwks_uri": "http://" + r.Host + "/keys", //nolint:errcheck // the client will tell
				"id_token_signing_alg_values_supported": []string{"ES256"}})
		case r.URL.Path == "/keys":
			json.NewEncoder(rw).Encode(map[string]any{"keys": []any{map[string]string{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "e2e", //nolint:errcheck // the client will tell
				"x": encode(point[1:33]), "y": encode(point[33:])}}})
		default:
			http.NotFound(rw, r)
		}
	}))
	w.Cleanup(server.Close)
	token := func(file, issuer string, claims map[string]any) {
		w.Helper()
		now := time.Now()
		maps.Copy(claims, map[string]any{"iss": issuer, "aud": "sigstore", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()})
		body, err := json.Marshal(claims)
		w.check(err)
		signed := encode([]byte(`{"alg":"ES256","kid":"e2e","typ":"JWT"}`)) + "." + encode(body)
		sum := sha256.Sum256([]byte(signed))
		r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
		w.check(err)
		signature := make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
		w.write(file, signed+"."+encode(signature))
	}
	for _, who := range []string{"alice", "bob"} {
		token(who+".token", server.URL, map[string]any{"sub": who, "email": who + "@e2e.example", "email_verified": true})
	}
	token("workflow.token", server.URL+"/actions", map[string]any{
		"sub": "repo:e2e/app:ref:refs/heads/main", "repository": "e2e/app", "repository_id": "1", "repository_owner": "e2e", "repository_owner_id": "2",
		"repository_visibility": "private", "ref": "refs/heads/main", "sha": strings.Repeat("a", 40), "event_name": "push", "workflow": "release",
		"workflow_ref": "e2e/app/.github/workflows/release.yml@refs/heads/main", "workflow_sha": strings.Repeat("a", 40),
		"job_workflow_ref": "e2e/app/.github/workflows/release.yml@refs/heads/main", "job_workflow_sha": strings.Repeat("a", 40),
		"runner_environment": "self-hosted", "run_id": "7", "run_attempt": "1"})
	return server.URL
}

// newCTLog starts a CT log that keeps no entries: it answers add-pre-chain
// (RFC 6962, 4.2) with a certificate timestamp, which is all that Fulcio and
// verifiers want of it. Its key is ct.pub.
func (w *world) newCTLog() string {
	w.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.check(err)
	w.writePublicKey("ct.pub", key.Public())
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	w.check(err)
	id := sha256.Sum256(der)
	answer := func(r *http.Request) (any, error) {
		var submitted ct.AddChainRequest
		if err := json.NewDecoder(r.Body).Decode(&submitted); err != nil {
			return nil, err
		}
		var chain []*ctx509.Certificate
		for _, der := range submitted.Chain {
			cert, err := ctx509.ParseCertificate(der)
			if ctx509.IsFatal(err) {
				return nil, err
			}
			chain = append(chain, cert)
		}
		sct := ct.SignedCertificateTimestamp{SCTVersion: ct.V1, LogID: ct.LogID{KeyID: id}, Timestamp: uint64(time.Now().UnixMilli())}
		leaf, err := ct.MerkleTreeLeafFromChain(chain, ct.PrecertLogEntryType, sct.Timestamp)
		if err != nil {
			return nil, err
		}
		input, err := ct.SerializeSCTSignatureInput(sct, ct.LogEntry{Leaf: *leaf})
		if err != nil {
			return nil, err
		}
		signed, err := cttls.CreateSignature(*key, cttls.SHA256, input)
		if err != nil {
			return nil, err
		}
		signature, err := cttls.Marshal(signed)
		return ct.AddChainResponse{SCTVersion: ct.V1, ID: id[:], Timestamp: sct.Timestamp, Signature: signature}, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /ct/v1/add-pre-chain", func(rw http.ResponseWriter, r *http.Request) {
		a, err := answer(r)
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		json.NewEncoder(rw).Encode(a) //nolint:errcheck // the client will tell
	})
	server := httptest.NewServer(mux)
	w.Cleanup(server.Close)
	return server.URL
}

// postgres starts a PostgreSQL cluster, where it is installed, and returns the
// URL of its database.
func (w *world) postgres() (url string, ok bool) {
	w.Helper()
	programs := map[string]string{"initdb": "", "postgres": "", "pg_isready": ""}
	for name := range programs {
		path, err := exec.LookPath(name)
		if debian, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); err != nil && len(debian) > 0 {
			path = debian[len(debian)-1]
		} else if err != nil {
			return "", false
		}
		programs[name] = path
	}
	w.check(os.Mkdir(w.path("postgres"), 0o700))
	attributes := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 { // it does not run as root
		who, err := user.Lookup("postgres")
		w.check(err)
		uid, err := strconv.ParseUint(who.Uid, 10, 32)
		w.check(err)
		gid, err := strconv.ParseUint(who.Gid, 10, 32)
		w.check(err)
		attributes.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		w.check(errors.Join(os.Chown(w.path("postgres"), int(uid), int(gid)), os.Chmod(w.dir, 0o711), os.Chmod(filepath.Dir(w.dir), 0o711)))
	}
	_, host, port := w.address()
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(programs[name], args...)
		cmd.Dir, cmd.SysProcAttr = w.path("postgres"), attributes
		return cmd
	}
	if out, err := command("initdb", "-D", w.path("postgres", "data"), "-A", "trust", "-E", "UTF8", "-U", "reseal").CombinedOutput(); err != nil {
		w.Fatalf("initdb: %v: %s", err, out)
	}
	log, err := os.Create(w.path("postgres.log"))
	w.check(err)
	defer log.Close()
	server := command("postgres", "-D", w.path("postgres", "data"), "-h", host, "-p", port, "-k", w.path("postgres"), "-F")
	server.Stdout, server.Stderr = log, log
	w.check(server.Start())
	w.Cleanup(func() {
		server.Process.Signal(syscall.SIGINT) //nolint:errcheck // "fast shutdown"; it may be gone already
		server.Wait()                         //nolint:errcheck // it is stopped
	})
	for deadline := time.Now().Add(30 * time.Second); command("pg_isready", "-h", host, "-p", port).Run() != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("PostgreSQL does not answer: %s", w.read("postgres.log"))
		}
	}
	return fmt.Sprintf("postgres://reseal@%s:%s/postgres?sslmode=disable", host, port), true
}
