package inventory

import "time"

// RecordKind is the kind of system that kept a record.
type RecordKind string

// The kinds of records.
const (
	RecordCI  RecordKind = "ci"  // a CI system's account of what it signed
	RecordKMS RecordKind = "kms" // a key service's audit log: one use of a key
)

// Record is what a system other than a registry tells of one use of a signer:
// a signature that is in the inventory and in no record was made behind the
// back of whoever keeps the records.
type Record struct {
	ID        string     `json:"id"` // the same record has the same ID, however often it is imported
	Source    string     `json:"source"`
	By        string     `json:"by,omitempty"` // ID of the signer who authenticated the record
	Kind      RecordKind `json:"kind"`
	Signer    string     `json:"signer,omitempty"`    // ID of the signer, where the record or who imported it names one
	Key       string     `json:"key,omitempty"`       // the key as its service names it: an ARN or a resource name
	Digest    string     `json:"digest,omitempty"`    // "sha256:<hex>" of the artifact, where the record tells
	Message   string     `json:"message,omitempty"`   // "sha256:<hex>" of the bytes that were signed, where a key service tells: of a ".sig", its Signature.PayloadDigest
	Run       string     `json:"run,omitempty"`       // URL of the CI run
	Principal string     `json:"principal,omitempty"` // who asked the key service, or on whose behalf the CI ran
	Time      time.Time  `json:"time"`
	Failed    bool       `json:"failed,omitempty"` // asked for and refused: nothing was signed
}
