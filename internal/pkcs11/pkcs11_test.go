package pkcs11

import (
	"strings"
	"testing"
)

const pin = "83479"

func noPIN() ([]byte, error) { return nil, nil }

func TestRedact(t *testing.T) {
	t.Parallel()
	for reference, want := range map[string]string{
		"pkcs11:token=dr;object=k1;id=%01?module-path=/usr/lib/m.so&pin-value=" + pin: "pkcs11:token=dr;object=k1;id=%01",
		"pkcs11:token=dr;object=k1?pin-value=" + pin + "?x":                           "pkcs11:token=dr;object=k1",
		"pkcs11:token=dr;pin-value=" + pin + ";object=k1":                             "pkcs11:token=dr;object=k1",
		"pkcs11:token=dr&PIN-VALUE=" + pin:                                            "pkcs11:token=dr",
		"pkcs11:pin-value=" + pin:                                                     "",
		"pkcs11:":                                                                     "pkcs11:",
	} {
		if got := Redact(reference); got != want || strings.Contains(got, pin) {
			t.Errorf("%s: got %q, want %q", reference, got, want)
		}
	}
	if !Is("pkcs11:token=a") || Is("cosign.key") || Is("awskms:///x") {
		t.Error("references are told apart by another rule")
	}
}

// TestSecrets finds no PIN in any error, whatever the build.
func TestSecrets(t *testing.T) {
	t.Parallel()
	for _, reference := range []string{
		"pkcs11:?pin-value=" + pin,
		"pkcs11:token=dr;object=k1?pin-value=" + pin,
		"pkcs11:token=dr;object=k1?module-path=/none.so&pin-value=" + pin,
		"pkcs11:token=dr;object=k1?module-path=/none.so&pin-value=" + pin + "%zz",
		"pkcs11:token=dr;object=k1?module-path=/none.so&pin-value=%zz" + pin,
		"pkcs11:slot-id=" + pin + ";pin-value=" + pin + ";object=k1?module-path=none.so",
		"pkcs11:token=dr;object=k1?module-path=relative.so&pin-value=" + pin,
		"pkcs11:token=dr;object=k1?module-path=" + t.TempDir() + "&pin-value=" + pin,
	} {
		k, err := Open(reference, noPIN)
		if err == nil {
			t.Fatalf("opened %v", k)
		}
		if text := strings.ReplaceAll(err.Error(), "slot-id="+pin, ""); strings.Contains(text, pin) || !strings.Contains(text, "key pkcs11:") {
			t.Errorf("%s: got %q", reference, text)
		}
	}
}
