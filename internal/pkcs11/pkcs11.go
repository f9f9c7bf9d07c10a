// Package pkcs11 signs with keys in a hardware token, through its PKCS #11
// module.
//
// A module is a shared library, so this needs cgo and the build tag pkcs11key:
// "make build-pkcs11". Any other build says so when such a key is asked for.
package pkcs11

import "strings"

// scheme starts the URI of a PKCS #11 object (RFC 7512).
const scheme = "pkcs11:"

// Is reports whether a reference names an object in a token.
func Is(reference string) bool { return strings.HasPrefix(reference, scheme) }

// Redact returns a reference without its query, which may have a PIN in it.
func Redact(reference string) string {
	path, _, _ := strings.Cut(reference, "?")
	// Somebody may put the PIN where it does not belong.
	parts := strings.FieldsFunc(path, func(r rune) bool { return r == ';' || r == '&' })
	out := parts[:0]
	for _, p := range parts {
		if !strings.Contains(strings.ToLower(p), "pin") {
			out = append(out, p)
		}
	}
	return strings.Join(out, ";")
}
