package drill

import (
	"time"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/runbooks"
)

// ReportSchema is the version of a drill's report.
const ReportSchema = "reseal.drill/v1"

// Report is how a drill went. Times are the sandbox's, which is real time from
// the first step on.
type Report struct {
	Schema    string    `json:"schema"`
	Name      string    `json:"name"`
	Title     string    `json:"title"`
	StartedAt time.Time `json:"started_at"` // of the response, not of the attack
	EndedAt   time.Time `json:"ended_at"`
	// FirstRogue is when the attacker first signed; exposure starts there.
	FirstRogue time.Time `json:"first_rogue"`
	Images     int       `json:"images"` // good ones
	Rogue      int       `json:"rogue"`  // things the attacker made
	Deployed   int       `json:"deployed"`
	Passed     bool      `json:"passed"`

	// From the first step until no consumer accepted anything of the attacker's,
	// and until every good image passed with the new key; nil: never.
	TimeToContain *float64 `json:"time_to_contain_seconds"`
	TimeToRecover *float64 `json:"time_to_recover_seconds"`
	// The longest of any consumer.
	Exposure float64 `json:"exposure_seconds"`
	Outage   float64 `json:"outage_seconds"`

	Laundered    int   `json:"laundered"`     // things of the attacker's, or that nothing proves good, accepted with the new key
	Dark         int   `json:"dark"`          // deployed good images that a consumer refused at any time
	AcceptedDark int   `json:"accepted_dark"` // of the scenario's: always 0, nothing is accepted by name
	Probes       int64 `json:"probes"`        // verifications that the score rests on

	Steps     []Step     `json:"steps"`
	Groups    []Group    `json:"groups"`
	Consumers []Consumer `json:"consumers"`
	Holds     []Hold     `json:"holds"`
	Findings  []string   `json:"findings"` // why it did not pass
	Events    []Event    `json:"events"`

	Dir        string            `json:"dir"`
	ReportPath string            `json:"report"`              // HTML
	JSONPath   string            `json:"report_json"`         // this
	Addresses  []sandbox.Address `json:"addresses,omitempty"` // when kept
}

// Step is how one step went.
type Step struct {
	Name    string         `json:"name"`
	State   runbooks.State `json:"state"` // done, failed or skipped
	Seconds float64        `json:"seconds"`
	Summary string         `json:"summary"`
}

// Group is images that have the same story, and what the plan made of them.
type Group struct {
	Name      string                 `json:"group"`
	Rogue     bool                   `json:"rogue"` // the attacker had a hand in it
	Images    int                    `json:"images"`
	Deployed  int                    `json:"deployed"`
	Verdicts  map[trust.Verdict]int  `json:"verdicts"`  // of signatures
	Decisions map[trust.Decision]int `json:"decisions"` // of statements
}

// Consumer is how one consumer fared.
type Consumer struct {
	Name     string  `json:"name"`
	Reads    string  `json:"reads"`
	Exposure float64 `json:"exposure_seconds"` // from the first rogue signature until nothing rogue was accepted
	Exposed  bool    `json:"exposed"`          // it still is, at the end
	Outage   float64 `json:"outage_seconds"`   // while at least one deployed good image was refused
}

// Hold is a statement that waits for a person.
type Hold struct {
	Artifact string `json:"artifact"`
	Tag      string `json:"tag,omitempty"`
	Group    string `json:"group"`
	What     string `json:"what"` // "image signature" or a predicate type
	Reason   string `json:"reason"`
	Expected bool   `json:"expected"` // by the scenario
}
