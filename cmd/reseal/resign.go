package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/internal/services"
	"github.com/reseal/reseal/resign"
)

func resignCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "resign",
		Usage:     "sign again, with the new signer, what the plan proved good",
		ArgsUsage: "PLAN",
		Description: `Each statement is signed in the formats it was consumed in. Stop it whenever
you like, or lose the machine: the same command resumes, and signs nothing
twice. Run on several machines at once with one PostgreSQL inventory, or several
times on one, it shares the work. With --workers it signs nothing itself, and
leaves the plan to "reseal worker" on any number of machines. --status tells how
far all of them have come.

Services that prove when a signature was made are named one by one or by a
signing configuration (version 0.2). A legacy signature holds one timestamp and
one entry of a Rekor v1 log; a bundle holds them all. With --batch one statement
signs up to 1024 images of a repository as bundles: fewer uses of the key and
entries of the log, but whoever has one of these signatures sees the other
digests, and a digest among them that turns out bad can be denied, not have its
signature taken away alone. Nothing is published that rests on a service, or a certificate
authority, that an incident is about: the run stops and says which one.

New signatures of files are put into the directory --files-out: under the names
of the files that --files has, as FILE.sigstore.json or FILE.sig, and of what is
not there under their digest. Nothing that is there is overwritten, and old
signatures stay where they are. A file is looked into before it is signed, for
what is signed may be more than a file; --files-by-digest does without.

Examples:
  reseal resign 3f9a2c --key next.key
  reseal resign 3f9a2c --key next.key --timestamp-server-url https://tsa.example/api/v1/timestamp --apply
  reseal resign 3f9a2c --key awskms:///alias/release-standby --apply
  reseal resign 3f9a2c --key next.key --only-deployed --limit 10 --apply
  reseal resign 3f9a2c --key next.key --files dist/ --files-out resigned/ --apply
  reseal resign 3f9a2c --workers --apply
  reseal resign 3f9a2c --status` + exits("4 the plan is not approved", "5 over a ceiling"),
		Flags: slices.Concat(signerFlags(), servicesFlags(), filesFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "batch", Usage: "sign many images of a repository with one statement"},
			&cli.Int64Flag{Name: "limit", Usage: "no more than `N` statements"},
			&cli.BoolFlag{Name: "only-deployed", Usage: "only what is deployed"},
			&cli.StringSliceFlag{Name: "repository", Usage: "only in this `REPOSITORY`; with a * at the end: in all that start so (repeat)"},
			&cli.Float64Flag{Name: "rate", Usage: "no more than `N` signatures a second"},
			&cli.IntFlag{Name: "parallel", Value: 8, Usage: "work on `N` artifacts at once"},
			&cli.BoolFlag{Name: "workers", Usage: "leave it to the workers"},
			&cli.BoolFlag{Name: "status", Usage: "tell how far it has come, and do nothing"},
			&applyFlag,
		}),
		Action: func(c *cli.Context) error {
			switch {
			case c.Int64("limit") < 0 || c.Float64("rate") < 0 || c.Int("parallel") < 1:
				return usageError{errors.New("--limit and --rate cannot be negative, and --parallel is at least 1")}
			case c.Bool("status") && (c.Bool("apply") || c.Bool("workers")):
				return usageError{errors.New("--status does nothing: leave out --apply and --workers")}
			case c.Bool("status"):
				return in(func(c *cli.Context, a *app.App) error { return resignStatus(c, ui, a) })(c)
			case c.Bool("workers") && (c.String("key") != "" || c.String("fulcio-url") != ""):
				return usageError{errors.New("--workers needs no signer here: each worker has its own")}
			case c.Bool("workers") && c.Int64("limit") > 0:
				return usageError{errors.New("--workers takes whole repositories: --only-deployed and --repository limit what is left to them")}
			case c.Bool("workers"):
				return in(func(c *cli.Context, a *app.App) error { return enqueue(c, ui, a) })(c)
			}
			return withSigner(ui, func(c *cli.Context, a *app.App, who app.SignerOptions) error { return resignHere(c, ui, a, who) })(c)
		},
	}
}

// selection reads which part of a plan is to be worked on.
func selection(c *cli.Context) app.Selection {
	return app.Selection{Limit: c.Int64("limit"), Deployed: c.Bool("only-deployed"), Repositories: c.StringSlice("repository")}
}

// resignHere re-signs in this process.
func resignHere(c *cli.Context, ui *ui, a *app.App, who app.SignerOptions) error {
	full, err := a.FindPlan(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	total, err := a.ToResign(c.Context, full, selection(c))
	if err != nil {
		return err
	}
	stamps, err := ui.services(c, a)
	if err != nil {
		return err
	}
	source, err := a.OpenSigner(c.Context, who)
	if err != nil {
		return err
	}
	files, closeFiles, err := a.OpenFiles(filesOptions(c))
	if err != nil {
		return err
	}
	defer closeFiles() //nolint:errcheck // nothing is left to be written
	p := ui.progress("signatures", total)
	why := reasons{}
	r, runErr := a.Resign(c.Context, app.ResignOptions{
		Plan: full, Signer: source, Services: stamps, Files: files, Apply: c.Bool("apply"), Batch: c.Bool("batch"), Parallel: c.Int("parallel"),
		Rate: c.Float64("rate"), Only: selection(c),
		Progress: func(done int64, r resign.Result, hosts []app.HostStatus) {
			p.at(done, fmt.Sprintf("%d failed, %d held%s", r.Failed, r.Held, hostWords(hosts)))
		},
		Failed: func(f resign.Failure) { why.add(f.Why) },
	})
	p.end()
	if runErr != nil && r.Incident == "" {
		return runErr
	}
	if wantsJSON(c) {
		return errors.Join(ui.object("resign", r), runErr)
	}
	ui.brokenGlass(r.BreakGlass)
	signed := fmt.Sprintf("%d signed", r.Signed)
	if !r.Applied {
		signed = fmt.Sprintf("%d to sign", r.Planned-r.Already-r.Held-r.Failed)
	}
	ui.printf("%d planned: %s, %d signed already, %d held back, %d failed; %d denied, %d on hold; %d requests in %s",
		r.Planned, signed, r.Already, r.Held, r.Failed, r.Denied, r.OnHold, r.Requests,
		time.Duration(r.DurationSeconds*float64(time.Second)).Round(time.Millisecond))
	if r.Left > 0 {
		ui.printf("%d were left alone, where one after the other failed", r.Left)
	}
	ui.hosts(r.Hosts)
	for _, line := range why.lines() {
		ui.printf("  %s", line)
	}
	ui.dryRun(r.Applied)
	return runErr
}

// mostReasons is how many different reasons are told apart: many name a digest.
const mostReasons = 100

// reasons counts why signatures were not made; "": for other reasons.
type reasons map[string]int

func (r reasons) add(why string) {
	if r[why] == 0 && len(r) >= mostReasons {
		why = ""
	}
	r[why]++
}

// lines returns the reasons, the most frequent first and the others last.
func (r reasons) lines() (out []string) {
	for _, why := range slices.SortedFunc(maps.Keys(r), func(a, b string) int { return cmp.Or(r[b]-r[a], cmp.Compare(a, b)) }) {
		if why != "" {
			out = append(out, fmt.Sprintf("%d times: %s", r[why], why))
		}
	}
	if n := r[""]; n > 0 {
		out = append(out, fmt.Sprintf("%d times: other reasons (\"reseal resign PLAN --status\" tells the most frequent)", n))
	}
	return out
}

// hosts prints how far the work on each registry has come.
func (u *ui) hosts(list []app.HostStatus) {
	for _, h := range list {
		u.printf("registry:   %s: %d of %d done, %d held back, %d failed", h.Host, h.Done, h.Planned, h.Held, h.Failed)
	}
}

// mostHosts is how many registries a line of progress has room for.
const mostHosts = 4

// hostWords says the same in a line of progress; "": there is but one registry.
func hostWords(list []app.HostStatus) string {
	var b strings.Builder
	for n, h := range list {
		if n == mostHosts {
			fmt.Fprintf(&b, "; %d more registries", len(list)-n)
			break
		}
		fmt.Fprintf(&b, "; %s %d of %d", h.Host, h.Done+h.Held+h.Failed, h.Planned)
		if h.Failed+h.Held > 0 {
			fmt.Fprintf(&b, " (%d failed, %d held)", h.Failed, h.Held)
		}
	}
	return b.String()
}

// filesFlags say where files are and where their signatures go.
func filesFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "files-out", Usage: "`DIR` that new signatures of files are put in"},
		&cli.StringFlag{Name: "files", Usage: "`DIR` below which the files are, whatever they are called"},
		&cli.BoolFlag{Name: "files-by-digest", Usage: "sign files that are not at hand, by their digest alone"},
	}
}

func filesOptions(c *cli.Context) app.FileOptions {
	return app.FileOptions{In: c.String("files"), Out: c.String("files-out"), ByDigest: c.Bool("files-by-digest")}
}

// servicesFlags name the services that give new signatures their proofs.
func servicesFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "timestamp-server-url", Usage: "RFC 3161 authority `URL` that stamps every new signature (repeat)"},
		&cli.StringSliceFlag{Name: "rekor-url", Usage: "Rekor v1 log `URL` that every new signature is entered in (repeat)"},
		&cli.StringSliceFlag{Name: "rekor-v2-url", Usage: "Rekor v2 log `URL`, which needs a timestamp authority besides (repeat)"},
		&cli.StringFlag{Name: "signing-config", Usage: "signing configuration `FILE` that names the services"},
	}
}

// services opens the services that flags name.
func (u *ui) services(c *cli.Context, a *app.App) (services.Services, error) {
	config, err := u.signingConfig(c)
	if err != nil {
		return services.Services{}, err
	}
	return a.Services(config, services.Endpoints{Timestamps: c.StringSlice("timestamp-server-url"),
		RekorV1: c.StringSlice("rekor-url"), RekorV2: c.StringSlice("rekor-v2-url")})
}

// signingConfig reads the signing configuration, if a flag names one.
func (u *ui) signingConfig(c *cli.Context) ([]byte, error) {
	file := c.String("signing-config")
	if file == "" {
		return nil, nil
	}
	config, err := u.read(file, maxFile)
	if err != nil {
		return nil, fmt.Errorf("--signing-config: %w", err)
	}
	return config, nil
}
