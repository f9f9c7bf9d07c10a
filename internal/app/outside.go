package app

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
)

// watchFor is how long the incidents are taken to be what they were.
const watchFor = time.Second

// watch tells what is signed from what an incident takes away, under the
// incidents as they are.
type watch struct {
	store *store.Store

	mu        sync.Mutex
	at        time.Time
	incidents []trust.Incident
}

// outside is resign.Engine.Outside.
func (w *watch) outside(ctx context.Context, s inventory.Signature, made bool) (why string, err error) {
	incidents, err := w.now(ctx)
	if err != nil {
		return "", err
	}
	i, by := trust.Tied(s, incidents)
	if i == nil || !made && !trust.Lost(s, incidents) {
		return "", nil
	}
	what, instead := "the new signer", "make a plan with another"
	switch by.Role {
	case inventory.RoleTSA:
		what, instead = "the timestamp authority "+by.ID, "name another with --timestamp-server-url or --signing-config"
	case inventory.RoleLog:
		what, instead = "the log "+by.ID, "name another with --rekor-url, --rekor-v2-url or --signing-config"
	case inventory.RoleCA:
		what, instead = "the certificate authority "+by.ID, "name another with --fulcio-url or --signing-config"
	case inventory.RoleCT:
		what, instead = "the certificate transparency log "+by.ID, "name a certificate authority that uses another with --fulcio-url or --signing-config"
	}
	return fmt.Sprintf("%s is under incident %s, and nothing new may rest on it: %s", what, i.ID, instead), nil
}

func (w *watch) now(ctx context.Context) ([]trust.Incident, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.at.IsZero() && time.Since(w.at) < watchFor {
		return w.incidents, nil
	}
	at := time.Now()
	all, err := rotate.Incidents(ctx, w.store)
	if err != nil {
		return nil, err
	}
	w.at, w.incidents = at, trust.Compiled(rotate.Rules(all))
	return w.incidents, nil
}
