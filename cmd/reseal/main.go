// Command reseal recovers an organisation from a compromised software signer.
//
// This package parses flags, prints, and turns errors into words and exit
// codes. Everything else is done by the packages below it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
)

// version is set at build time: -ldflags "-X main.version=...".
var version = "development"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends what does not heed the first
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program, for main and for the tests.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ui := &ui{in: stdin, out: stdout, err: stderr}
	root := newApp(ui)
	err := root.RunContext(ctx, arrange(root, args))
	if err != nil && ctx.Err() != nil {
		err = errInterrupted
	}
	return ui.fail(err)
}

func newApp(ui *ui) *cli.App {
	cli.VersionPrinter = func(c *cli.Context) { fmt.Fprintf(c.App.Writer, "reseal %s\n", version) }
	return &cli.App{
		Name:    "reseal",
		Usage:   "recover from a compromised software signer",
		Version: version,
		Description: `reseal knows every signature each signer made, decides which can still be
believed and why, revokes the signer at every verifier, and re-signs in bulk
what is provably good. Everything that changes the outside world is a dry run
unless --apply is given.

A recovery, in order:
  reseal scan, incident open, impact, incident plan, incident approve,
  contain, resign, cutover, verify.
Try it without any server: reseal drill signing-key`,
		Writer: ui.out, ErrWriter: ui.err, Reader: ui.in,
		HideHelpCommand: true,
		// A comma belongs to a value: signer=builder,type=...
		DisableSliceFlagSeparator: true,
		Flags:                     globalFlags(true),
		ExitErrHandler:            func(*cli.Context, error) {}, // run does it
		OnUsageError:              func(_ *cli.Context, err error, _ bool) error { return usageError{err} },
		CommandNotFound: func(c *cli.Context, name string) {
			ui.unknown = fmt.Errorf("there is no command %q: \"reseal --help\" lists them", name)
		},
		Commands: finish(commands(ui)),
	}
}

// commands is every command there is.
func commands(ui *ui) []*cli.Command {
	return []*cli.Command{
		initCommand(ui), scanCommand(ui), importCommand(ui), deployedCommand(ui), reverifyCommand(ui), exportCommand(ui),
		signersCommand(ui), signerCommand(ui), artifactsCommand(ui), signaturesCommand(ui), authoritiesCommand(ui), anchorsCommand(ui), problemsCommand(ui),
		impactCommand(ui), incidentCommand(ui), rotationCommand(ui), containCommand(ui), resignCommand(ui), workerCommand(ui), cutoverCommand(ui),
		restoreCommand(ui), verifyCommand(ui), voucherCommand(ui), sourceCommand(ui), approversCommand(ui),
		reportCommand(ui), evidenceCommand(ui), journalCommand(ui), dbCommand(ui), tufCommand(ui), runbookCommand(ui), drillCommand(ui),
	}
}

// finish gives commands what they have in common: help, usage errors, global
// flags, and the check of what a command line must have.
func finish(list []*cli.Command) []*cli.Command {
	for _, c := range list {
		c.HideHelpCommand = true
		c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return usageError{err} }
		c.CustomHelpTemplate = helpTemplate
		if len(c.Subcommands) > 0 {
			finish(c.Subcommands)
			c.Action = func(ctx *cli.Context) error {
				if ctx.Args().Present() {
					return usageError{fmt.Errorf("there is no command \"%s %s\"", ctx.Command.FullName(), ctx.Args().First())}
				}
				return cli.ShowSubcommandHelp(ctx)
			}
			continue
		}
		c.Action = checked(c.Action, optional(c.Flags), c.ArgsUsage)
		c.Flags = append(c.Flags, globalFlags(false)...)
	}
	return list
}

// optional takes the mark off the flags that are required and returns their
// names, so that checked can say in our words that one is missing.
func optional(flags []cli.Flag) []string {
	var names []string
	for _, f := range flags {
		switch f := f.(type) {
		case *cli.StringFlag:
			if f.Required {
				f.Required, names = false, append(names, f.Name)
			}
		case *cli.StringSliceFlag:
			if f.Required {
				f.Required, names = false, append(names, f.Name)
			}
		}
	}
	return names
}

// checked refuses a command line with a required flag missing, or with other
// arguments than the usage names: one for each word, none or one for "[WORD]",
// one or more for "WORD...".
func checked(do cli.ActionFunc, required []string, usage string) cli.ActionFunc {
	least, most := 0, 0
	for _, word := range strings.Fields(usage) {
		most++
		if !strings.HasPrefix(word, "[") {
			least++
		}
		if strings.HasSuffix(word, "...") {
			most = math.MaxInt
		}
	}
	return func(c *cli.Context) error {
		for _, name := range required {
			if !c.IsSet(name) {
				return usageError{fmt.Errorf("%s needs --%s: see %s --help", c.Command.HelpName, name, c.Command.HelpName)}
			}
		}
		switch n := c.NArg(); {
		case most == 0 && n > 0:
			return usageError{fmt.Errorf("%s takes no arguments, got %q", c.Command.HelpName, c.Args().First())}
		case n < least, n > most:
			return usageError{fmt.Errorf("%s takes %s, got %d arguments", c.Command.HelpName, usage, n)}
		}
		return do(c)
	}
}

// globalFlags are understood before and after the command. Only the outer ones
// read the environment, so that a flag always wins over it.
func globalFlags(outer bool) []cli.Flag {
	env := func(name string) []string {
		if outer {
			return []string{name}
		}
		return nil
	}
	return []cli.Flag{
		&cli.StringFlag{Name: "home", Usage: "`DIR` with configuration and database (default: ~/.reseal)", EnvVars: env("RESEAL_HOME"), Category: "Global"},
		&cli.StringFlag{Name: "db", Usage: "database `FILE` or postgres:// URL (default: reseal.db in the home)", EnvVars: env("RESEAL_DB"), Category: "Global"},
		&cli.StringFlag{Name: "actor", Usage: "`NAME` of who acts, for the journal (default: your user name)", EnvVars: env("RESEAL_ACTOR"), Category: "Global"},
		&cli.BoolFlag{Name: "json", Usage: "print one JSON object instead of text", EnvVars: env("RESEAL_JSON"), Category: "Global"},
	}
}

// global returns a global flag, wherever on the line it was given.
func global(c *cli.Context, name string) string {
	for _, at := range c.Lineage() {
		if at.IsSet(name) {
			return at.String(name)
		}
	}
	return ""
}

func wantsJSON(c *cli.Context) bool {
	for _, at := range c.Lineage() {
		if at.Bool("json") {
			return true
		}
	}
	return false
}

// options returns where and as whom a command works.
func options(c *cli.Context) (app.Options, error) {
	o := app.Options{Home: global(c, "home"), Database: global(c, "db"), Actor: global(c, "actor")}
	if o.Home == "" {
		dir, err := os.UserHomeDir()
		if err != nil {
			return o, fmt.Errorf("no home directory is known: give --home: %w", err)
		}
		o.Home = filepath.Join(dir, ".reseal")
	}
	if o.Actor == "" {
		if u, err := user.Current(); err == nil {
			o.Actor = u.Username
		}
	}
	return o, nil
}

// in runs what a command does with an open home.
func in(do func(*cli.Context, *app.App) error) cli.ActionFunc {
	return func(c *cli.Context) (err error) {
		o, err := options(c)
		if err != nil {
			return err
		}
		a, err := app.Open(c.Context, o)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, a.Close()) }()
		return do(c, a)
	}
}

// arrange moves the flags of a command before its arguments, where the flag
// package expects them, so that people may write them in any order. What
// follows "--" stays as it is.
func arrange(root *cli.App, line []string) []string {
	if len(line) == 0 {
		return line
	}
	out, rest := line[:1:1], line[1:]
	flags, list := root.Flags, root.Commands
	for {
		n := 0
		for n < len(rest) && strings.HasPrefix(rest[n], "-") && rest[n] != "--" {
			n += width(flags, rest[n])
		}
		if n >= len(rest) || rest[n] == "--" {
			return append(out, rest...)
		}
		var next *cli.Command
		for _, c := range list {
			if c.HasName(rest[n]) {
				next = c
			}
		}
		if next == nil {
			break
		}
		out, rest = append(out, rest[:n+1]...), rest[n+1:]
		flags, list = next.Flags, next.Subcommands
	}
	var first, last []string
	for n := 0; n < len(rest); {
		if rest[n] == "--" {
			last = append(last, rest[n+1:]...)
			break
		}
		w := 1
		if strings.HasPrefix(rest[n], "-") && rest[n] != "-" {
			w = min(width(flags, rest[n]), len(rest)-n)
			first = append(first, rest[n:n+w]...)
		} else {
			last = append(last, rest[n])
		}
		n += w
	}
	out = append(out, first...)
	if len(last) > 0 && strings.HasPrefix(last[0], "-") {
		out = append(out, "--")
	}
	return append(out, last...)
}

// width is how many words a flag takes: itself, and its value when that is not
// joined to it by "=".
func width(flags []cli.Flag, word string) int {
	name := strings.TrimLeft(word, "-")
	if strings.Contains(name, "=") {
		return 1
	}
	for _, f := range flags {
		for _, n := range f.Names() {
			if n != name {
				continue
			}
			if _, isBool := f.(*cli.BoolFlag); isBool {
				return 1
			}
			return 2
		}
	}
	return 1
}
