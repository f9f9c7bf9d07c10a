package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/signer"
)

// keyUsage says what --key takes wherever a person or a service signs.
const keyUsage = "a cosign key file (COSIGN_PASSWORD), a KMS URI (awskms://, gcpkms://, azurekms://, hashivault://), or a PKCS #11 URI (pkcs11:..., COSIGN_PKCS11_PIN)"

// signerFlags say who signs, in the words of cosign.
func signerFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "key", Usage: "sign with the key `REF`: " + keyUsage},
		&cli.StringFlag{Name: "fulcio-url", Usage: "or keyless, with certificates of the Fulcio at `URL`"},
		&cli.StringFlag{Name: "identity-token", Usage: "`FILE` of the identity token, read anew for each certificate; never the token itself (default: SIGSTORE_ID_TOKEN, a token projected by Kubernetes, or GitHub Actions)"},
		&cli.Float64Flag{Name: "certificate-rate", Value: 6, Usage: "ask for at most `N` certificates a minute; one serves for minutes"},
	}
}

// signerOptions reads signerFlags.
func signerOptions(c *cli.Context, ui *ui) (app.SignerOptions, error) {
	o := keyOptions(c, ui, c.String("key"))
	o.Fulcio, o.IdentityToken, o.CertificateRate = c.String("fulcio-url"), c.String("identity-token"), c.Float64("certificate-rate")
	if o.Key == "" && o.Fulcio == "" && c.String("signing-config") != "" {
		config, err := ui.signingConfig(c)
		if err != nil {
			return o, err
		}
		if o.Fulcio, err = app.FulcioOf(config); err != nil {
			return o, err
		}
	}
	if c.IsSet("certificate-rate") && o.CertificateRate <= 0 {
		return o, usageError{errors.New("--certificate-rate must be positive")}
	}
	if err := o.Check(); err != nil {
		return o, usageError{err}
	}
	return o, nil
}

// keyOptions says how to open a key that one flag refers to.
func keyOptions(c *cli.Context, ui *ui, reference string) app.SignerOptions {
	return app.SignerOptions{Key: reference, Password: ui.password(c.Context, reference), PIN: ui.pin(c.Context)}
}

// withSigner runs what a command does with an open home and a signer, which is not
// opened yet.
func withSigner(ui *ui, do func(*cli.Context, *app.App, app.SignerOptions) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		o, err := signerOptions(c, ui)
		if err != nil {
			return err
		}
		return in(func(c *cli.Context, a *app.App) error { return do(c, a, o) })(c)
	}
}

// pin returns COSIGN_PKCS11_PIN, or asks for it on a terminal.
func (u *ui) pin(ctx context.Context) func() ([]byte, error) {
	return func() ([]byte, error) {
		if p, ok := os.LookupEnv("COSIGN_PKCS11_PIN"); ok {
			return []byte(p), nil
		}
		p, err := u.secret(ctx, "PIN of the token: ")
		if errors.Is(err, errNoTerminal) {
			err = errors.New("no PIN for the token: set COSIGN_PKCS11_PIN, or run this on a terminal")
		}
		return p, err
	}
}

func signerListCommand(ui *ui) *cli.Command {
	c := signersCommand(ui)
	c.Name, c.Description = "list", "The same as reseal signers.\n\nExample:\n  reseal signer list --json"+exits()
	return c
}

func signerTestCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "test",
		Usage: "prove that a signer signs, before it is needed",
		Description: `Signs a statement that names itself a probe, and verifies it with the public
key, or with the certificate and the trusted root of the home. Nothing is
published; the journal says who tried which signer, and whether it signed. It
says how long a signature takes: a KMS that needs a second needs a night for
thirty thousand images.

Programs sigstore-kms-NAME for other services are run only when config.yaml of
the home allows them: kms_plugins: [NAME]. A PIN in the URI (pin-value) is seen
by everybody on this machine; COSIGN_PKCS11_PIN is not.

Examples:
  reseal signer test --key next.key
  reseal signer test --key awskms:///alias/release-standby
  reseal signer test --key "pkcs11:token=dr;object=release?module-path=/usr/lib/softhsm/libsofthsm2.so"
  reseal signer test --fulcio-url https://fulcio.example --identity-token /run/token` + exits(),
		Flags: signerFlags(),
		Action: withSigner(ui, func(c *cli.Context, a *app.App, o app.SignerOptions) error {
			r, err := a.TestSigner(c.Context, o)
			if wantsJSON(c) {
				return errors.Join(ui.object("signer-test", r), err)
			}
			if err != nil {
				return err
			}
			seconds := func(s float64) time.Duration {
				return time.Duration(s * float64(time.Second)).Round(10 * time.Microsecond)
			}
			who := signer.Identity{Kind: r.Kind, Subject: r.Subject, Issuer: r.Issuer}
			ui.printf("%s signs, and it verifies", who)
			switch {
			case r.Name != "":
				ui.printf("  enrolled:    %s, %s", r.Name, r.State)
			default:
				ui.printf("  enrolled:    no: \"reseal signer add\" enrols it")
			}
			ui.printf("  reached by:  %s, in %s", r.Reference, seconds(r.OpenSeconds))
			ui.printf("  a signature: %s", seconds(r.SignSeconds))
			if cert := r.Certificate; cert != nil {
				ui.printf("  certificate: %s to %s, used until %s", stamp(cert.NotBefore), stamp(cert.NotAfter), stamp(cert.UsedUntil))
			}
			if r.State == signer.Tainted || r.State == signer.Revoked {
				ui.notef("%s is %s: it signs, and nobody should believe it", r.Name, r.State)
			}
			return nil
		}),
	}
}

func signerPromoteCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "promote",
		Usage:     "make a standby signer the active one; the active one becomes old",
		ArgsUsage: "NAME",
		Description: `An old signer stays trusted: what it signed goes on to verify. A signer under an
incident is not promoted, nor is one that an approver signs approvals as.

Example:
  reseal signer promote next --reason "yearly rotation"` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "replaces", Usage: "`NAME` of the active signer that becomes old, where several are active"},
			&cli.StringFlag{Name: "reason", Usage: "`WHY`, for the journal", Required: true},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			r, old, err := a.PromoteSigner(c.Context, c.Args().First(), c.String("replaces"), c.String("reason"))
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				out := map[string]any{"id": r.Identity.ID(), "name": r.Name, "state": r.State}
				if old != nil {
					out["replaces"] = map[string]any{"id": old.Identity.ID(), "name": old.Name, "state": old.State}
				}
				return ui.object("signer-promote", out)
			}
			ui.printf("%s is %s: %s", r.Name, r.State, r.Identity.ID())
			if old != nil {
				ui.printf("%s is %s: %s", old.Name, old.State, old.Identity.ID())
			}
			return nil
		}),
	}
}
