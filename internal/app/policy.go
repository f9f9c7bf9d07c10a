package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// maxList bounds a known-good list, in bytes.
const maxList = 128 << 20

// VoucherOptions say who vouches with what.
type VoucherOptions struct {
	Kind          trust.VoucherKind
	Signer        string // name or ID: who attests, or authenticated the CI records
	PredicateType string
	Content       map[string]string
	Repositories  []string
	List          string // file of a known-good list
	Bundle        string // file: who signed the list
	Signature     string // or this
	Person        string // it was this enrolled person
}

// Voucher makes a voucher. A known-good list is verified and goes to the vault.
func (a *App) Voucher(ctx context.Context, o VoucherOptions) (trust.Voucher, error) {
	v := trust.Voucher{Kind: o.Kind, PredicateType: o.PredicateType, Repositories: o.Repositories}
	if len(o.Content) > 0 {
		v.Content = o.Content
	}
	if o.Kind != trust.KnownGood {
		r, err := a.store.Signer(ctx, o.Signer)
		if err != nil {
			return v, err
		}
		if !r.Enrolled() || !r.State.Trusted() {
			return v, fmt.Errorf("signer %s is %s: only an enrolled, untainted signer can vouch", o.Signer, r.State)
		}
		v.Signer = r.Identity
		return v, v.Check()
	}
	content, err := readFile(o.List, maxList)
	if err != nil {
		return v, err
	}
	if o.Person != "" {
		if v.Signer, err = a.signedByPerson(ctx, o, content); err != nil {
			return v, err
		}
		v.Person = o.Person
	} else {
		r, err := a.signedBy(ctx, o.List, o.Bundle, o.Signature, content)
		if err != nil {
			return v, err
		}
		v.Signer = r.Identity
	}
	by := v.Signer.ID()
	if v.Person != "" {
		by = v.Person
	}
	if v.List, _, err = rotate.PutList(ctx, a.store, a.by("known-good list %s", o.List), by, content); err != nil {
		return v, fmt.Errorf("%s: %w", o.List, err)
	}
	return v, v.Check()
}

// signedByPerson checks that an enrolled person signed content.
func (a *App) signedByPerson(ctx context.Context, o VoucherOptions, content []byte) (signer.Identity, error) {
	file := o.Signature
	if file == "" {
		file = o.Bundle
	}
	if file == "" {
		return signer.Identity{}, errors.New("a person vouches with a signature: give signature=FILE or bundle=FILE")
	}
	sig, err := readFile(file, maxBundle)
	if err != nil {
		return signer.Identity{}, err
	}
	j, err := a.judge()
	if err != nil {
		return signer.Identity{}, err
	}
	return rotate.SignedByPerson(ctx, a.store, j, o.Person, content, sig)
}

// AddVoucher makes a voucher a standing one and returns its ID.
func (a *App) AddVoucher(ctx context.Context, v trust.Voucher, reason string) (string, error) {
	return rotate.PutVoucher(ctx, a.store, a.by("%s", reason), v)
}

// RemoveVoucher takes a standing voucher back, by its ID or the start of it.
func (a *App) RemoveVoucher(ctx context.Context, id, reason string) error {
	return rotate.RemoveVoucher(ctx, a.store, a.by("%s", reason), id)
}

// Vouchers lists the standing vouchers.
func (a *App) Vouchers(ctx context.Context) ([]trust.Voucher, error) {
	return rotate.Vouchers(ctx, a.store)
}

// AddSource declares a source of records complete for a signer. by names who
// authenticates them; empty for audit logs of key services.
func (a *App) AddSource(ctx context.Context, x trust.Source, about, by, reason string) (trust.Source, error) {
	r, err := a.store.Signer(ctx, about)
	if err != nil {
		return x, err
	}
	x.Signer = r.Identity
	if by != "" {
		if r, err = a.store.Signer(ctx, by); err != nil {
			return x, err
		}
		if !r.Enrolled() || !r.State.Trusted() {
			return x, fmt.Errorf("%s is %s: only an enrolled, untainted signer authenticates records", by, r.State)
		}
		x.By = r.Identity
	}
	return x, rotate.PutSource(ctx, a.store, a.by("%s", reason), x)
}

// Sources lists the sources that are declared complete.
func (a *App) Sources(ctx context.Context) ([]trust.Source, error) {
	return rotate.Sources(ctx, a.store)
}
