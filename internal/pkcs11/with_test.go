//go:build pkcs11key

package pkcs11

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/reseal/reseal/signer"
)

var _ signer.Signer = (*Key)(nil)

// module is Debian's SoftHSM, a token in files.
const module = "/usr/lib/softhsm/libsofthsm2.so"

// install installs SoftHSM and a tool that makes keys in it.
func install(t *testing.T) {
	t.Helper()
	_, tool := exec.LookPath("pkcs11-tool")
	if _, err := os.Stat(module); err == nil && tool == nil {
		return
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("SoftHSM is not installed (apt-get install softhsm2 opensc) and only root can install it")
	}
	for _, args := range [][]string{{"update"}, {"install", "-y", "--no-install-recommends", "softhsm2", "opensc"}} {
		run(t, apt, args...)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// newToken makes a token with two keys and returns the start of a reference to
// one of them.
func newToken(t *testing.T) func(object string) string {
	t.Helper()
	install(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "softhsm2.conf")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "tokens"), 0o700),
		os.WriteFile(config, []byte("directories.tokendir = "+dir+"/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", config)
	run(t, "softhsm2-util", "--init-token", "--free", "--label", "dr", "--pin", pin, "--so-pin", pin)
	for id, label := range []string{"k1", "k2"} {
		run(t, "pkcs11-tool", "--module", module, "--login", "--pin", pin, "--token-label", "dr", "--keypairgen",
			"--key-type", "EC:prime256v1", "--label", label, "--id", fmt.Sprintf("%02d", id+1))
	}
	return func(object string) string {
		return fmt.Sprintf("pkcs11:token=dr;object=%s?module-path=%s", object, module)
	}
}

func open(t *testing.T, reference string, pin func() ([]byte, error)) signer.Signer {
	t.Helper()
	k, err := Open(reference, pin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.(*Key).Close)
	return k
}

// TestToken signs with keys in a token; the process has it open several times.
func TestToken(t *testing.T) {
	reference := newToken(t)
	given := func() ([]byte, error) { return []byte(pin), nil }

	// The refusals come first: a process that has logged in stays logged in.
	none := errors.New("no terminal")
	for _, tc := range []struct {
		name, reference string
		pin             func() ([]byte, error)
		says            string
	}{
		{"wrong PIN", reference("k1"), func() ([]byte, error) { return []byte("00000"), nil }, "PIN"},
		{"no PIN", reference("k1"), noPIN, ""},
		{"nobody to ask", reference("k1"), func() ([]byte, error) { return nil, none }, "no terminal"},
		{"no such key", reference("k3"), given, "no such key pair"},
		{"no such token", strings.Replace(reference("k1"), "token=dr", "token=other", 1), given, "could not find"},
	} {
		k, err := Open(tc.reference, tc.pin)
		if err == nil {
			k.(*Key).Close()
			t.Errorf("%s: opened", tc.name)
			continue
		}
		if text := err.Error(); !strings.Contains(text, tc.says) || !strings.HasPrefix(text, "key pkcs11:token=") || strings.Contains(text, pin) || strings.Contains(text, "00000") {
			t.Errorf("%s: got %q, want %q", tc.name, text, tc.says)
		}
	}

	k := open(t, reference("k1"), given)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, k); got != k.Identity().ID() {
			t.Errorf("%s prints %q", verb, got)
		}
	}
	var wg sync.WaitGroup
	for n := range 32 {
		wg.Go(func() {
			message := fmt.Appendf(nil, "message %d", n)
			sig, err := k.Sign(t.Context(), message)
			digest := sha256.Sum256(message)
			if err != nil || !ecdsa.VerifyASN1(k.PublicKey().(*ecdsa.PublicKey), digest[:], sig) {
				t.Errorf("signature %d does not verify, %v", n, err)
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Sign(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}

	unasked := func() ([]byte, error) { t.Error("it asked for a PIN that is in the reference"); return nil, nil }
	second := open(t, reference("k2")+"&pin-value="+pin, unasked)
	if second.Identity() == k.Identity() {
		t.Error("two keys have one identity")
	}
}
