package rotate

import (
	"context"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/rotate/trust"
)

// A shard has about a 64th of a plan's items, so that several workers end at
// about the same time, but no fewer than pay for claiming it and no more than a
// dead worker should leave behind.
const (
	shardsWanted = 64
	leastItems   = 16
	mostItems    = 500
)

// Shards cuts what a plan re-signs into shards, in the order of the plan, so
// that what is deployed comes first. The same plan gives the same shards.
func Shards(ctx context.Context, s *store.Store, digest string, t Totals) ([]store.Shard, error) {
	most := min(max(t.Decisions[trust.Resign]/shardsWanted, leastItems), mostItems)
	var out []store.Shard
	last := "" // digest of the item before
	err := Items(ctx, s, digest, trust.Resign, func(i Item) error {
		n := len(out)
		if n == 0 || out[n-1].Repository != i.Repository || out[n-1].Deployed != i.Deployed || out[n-1].Items >= most && i.Digest != last {
			out = append(out, store.Shard{Plan: digest, N: int64(n) + 1, Repository: i.Repository, Deployed: i.Deployed, First: i.Seq})
			n++
		}
		last = i.Digest
		out[n-1].Last = i.Seq
		out[n-1].Items++
		out[n-1].Units += int64(len(i.Formats))
		return nil
	})
	return out, err
}
