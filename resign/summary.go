package resign

import (
	"context"
	"fmt"
	"slices"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/verify"
)

// message returns the payload that is signed for a claim: that of a summary, or
// the stored one of the claim itself, to the byte. What is approved is the
// statement; where its bytes are kept is only what the database says.
func (r *run) message(ctx context.Context, u *unit) ([]byte, error) {
	message := u.Summary
	if message == nil {
		stored, err := r.Store.Vault(ctx, u.SourceContent)
		if err != nil {
			return nil, err
		}
		if message, err = verify.Payload(u.SourceFormat, stored); err != nil {
			return nil, fmt.Errorf("the payload to re-issue: %w", err)
		}
		if err := inventory.CheckStatement(message); err != nil { // an older scan may have taken it
			return nil, fmt.Errorf("the payload to re-issue can be read in two ways: %w", err)
		}
	}
	if is := u.PredicateType + "#" + inventory.Digest(message); is != u.StatementKey {
		return nil, fmt.Errorf("the payload to re-issue is not the one that was approved (%s, not %s): see \"reseal db check\"", is, u.StatementKey)
	}
	subjects, err := inventory.Subjects(message)
	if err != nil {
		return nil, fmt.Errorf("the payload to re-issue: %w", err)
	}
	for _, digest := range subjects {
		if digest != u.Digest && !slices.Contains(u.Also, digest) {
			return nil, fmt.Errorf("the payload to re-issue is also about %s, which the plan does not know to be good: whoever attaches the new signature to that has it accepted", digest)
		}
	}
	return message, nil
}
