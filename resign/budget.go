package resign

import (
	"context"

	"github.com/reseal/reseal/inventory"
)

const (
	// DefaultMemory is how many bytes of signatures are in the making and waiting to
	// be published at most, over all chunks.
	DefaultMemory = 256 << 20
	// An image signature weighs light bytes, and a claim as many more as heavy times
	// what it is made of: its payload is there in several forms at once.
	light, heavy = 4 << 10, 5
)

// weigh estimates the memory that each unit takes until it is published, in bytes.
func (r *run) weigh(ctx context.Context, units []*unit) error {
	var sources []string
	for _, u := range units {
		u.weight = light + heavy*int64(len(u.Summary))
		if u.PredicateType != inventory.SignPredicate && u.Summary == nil {
			sources = append(sources, u.SourceContent)
		}
	}
	if len(sources) == 0 {
		return nil
	}
	sizes, err := r.Store.VaultSizes(ctx, sources)
	if err != nil {
		return err
	}
	for _, u := range units {
		if u.PredicateType != inventory.SignPredicate && u.Summary == nil {
			u.weight += heavy * sizes[u.SourceContent]
		}
	}
	return nil
}

// groups divides a chunk into what is worked on together, in the order in which it
// is published. Each chunk has its share of the memory, so that none waits for what
// it has itself; one unit may be more.
func (r *run) groups(units []*unit) (out [][]*unit) {
	share := r.Memory / aheadOfServices
	if weightOf(units) <= share {
		return [][]*unit{units}
	}
	var ordered []*unit
	for _, artifact := range places(units) {
		for _, p := range artifact {
			ordered = append(ordered, p.units...)
		}
	}
	var sum int64
	for n, u := range ordered {
		if sum += u.weight; n == 0 || sum > share {
			out, sum = append(out, nil), u.weight
		}
		out[len(out)-1] = append(out[len(out)-1], u)
	}
	return out
}

// within does something with units while there is memory for them.
func (r *run) within(ctx context.Context, units []*unit, do func() error) error {
	sum := min(weightOf(units), r.Memory) // what is larger has all of it
	if err := r.memory.Acquire(ctx, sum); err != nil {
		return err
	}
	defer r.memory.Release(sum)
	return do()
}

func weightOf(units []*unit) (sum int64) {
	for _, u := range units {
		sum += u.weight
	}
	return sum
}
