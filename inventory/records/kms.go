package records

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/reseal/reseal/inventory"
)

// CloudTrail reads the Sign calls of AWS KMS from CloudTrail events: a log
// file as CloudTrail delivers it ({"Records":[…]}), the output of "aws
// cloudtrail lookup-events" ({"Events":[{"CloudTrailEvent":"…"}]}), or events
// one a line. Files may be of any size. Other events are passed over.
//
// An event tells who asked (userIdentity), for which key (resources), when and
// with what result. It does not tell what was signed: KMS leaves the message
// and its digest out of the log, and responseElements is null, so a record says
// that a key was used and never on which artifact. CloudTrail times are when
// the request was completed. A multi-Region key has one ARN in each Region.
//
// The ID stands on the event's own: sharedEventID where a call was logged in
// the accounts of both caller and key, eventID otherwise.
//
// The shapes are those of the AWS documentation: "Sign" in the AWS KMS
// Developer Guide (ct-sign.html) and "CloudTrail record contents" in the
// CloudTrail User Guide (cloudtrail-event-reference-record-contents.html).
func CloudTrail(r io.Reader) iter.Seq2[inventory.Record, error] {
	return read(entries(r, "Records", "Events"), cloudTrailRecord)
}

type cloudTrailEvent struct {
	EventID       string `json:"eventID"`
	SharedEventID string `json:"sharedEventID"`
	EventSource   string `json:"eventSource"`
	EventName     string `json:"eventName"`
	EventTime     string `json:"eventTime"`
	ErrorCode     string `json:"errorCode"`
	UserIdentity  struct {
		ARN         string `json:"arn"`
		PrincipalID string `json:"principalId"`
		InvokedBy   string `json:"invokedBy"`
	} `json:"userIdentity"`
	RequestParameters struct {
		KeyID string `json:"keyId"`
	} `json:"requestParameters"`
	Resources []struct {
		ARN  string `json:"ARN"`
		Type string `json:"type"`
	} `json:"resources"`
}

func cloudTrailRecord(object json.RawMessage) (inventory.Record, bool, error) {
	// What lookup-events lists holds the event as text.
	var listed struct {
		CloudTrailEvent *string `json:"CloudTrailEvent"`
	}
	if err := unmarshal(object, &listed); err != nil {
		return inventory.Record{}, false, err
	}
	if listed.CloudTrailEvent != nil {
		object = json.RawMessage(*listed.CloudTrailEvent)
	}
	var kind struct {
		EventSource string `json:"eventSource"`
		EventName   string `json:"eventName"`
	}
	if err := unmarshal(object, &kind); err != nil {
		return inventory.Record{}, false, err
	}
	if kind.EventSource == "" || kind.EventName == "" {
		return inventory.Record{}, false, errors.New("it is no CloudTrail event: eventSource or eventName is missing")
	}
	if kind.EventSource != "kms.amazonaws.com" || kind.EventName != "Sign" {
		return inventory.Record{}, false, nil
	}
	// Only now: other events may have other types under these names.
	var e cloudTrailEvent
	if err := unmarshal(object, &e); err != nil {
		return inventory.Record{}, false, err
	}
	rec := inventory.Record{Key: e.RequestParameters.KeyID, Failed: e.ErrorCode != "",
		Principal: firstOf(e.UserIdentity.ARN, e.UserIdentity.InvokedBy, e.UserIdentity.PrincipalID)}
	for _, res := range e.Resources {
		if res.ARN != "" && (res.Type == "AWS::KMS::Key" || res.Type == "") {
			rec.Key = res.ARN
			break
		}
	}
	rec, err := finished(sourceCloudTrail, rec, e.EventTime, "eventTime")
	if err != nil {
		return rec, true, err
	}
	event := firstOf(e.SharedEventID, e.EventID)
	if event == "" {
		return rec, true, errors.New("eventID is missing")
	}
	rec.ID = recordID(sourceCloudTrail, event)
	return rec, true, nil
}

// GCPAudit reads the AsymmetricSign calls of Google Cloud KMS from Cloud Audit
// Logs: log entries one a line, in an array as "gcloud logging read
// --format=json" prints them, or in the response of entries.list. Other
// entries, MacSign among them, are passed over. KMS logs these calls only where
// Data Access audit logs of type DATA_READ are enabled.
//
// An entry tells who asked (authenticationInfo), for which key version
// (resourceName), when and with what result (status). Where it has the request
// with the digest that was signed, that becomes Record.Message: it is the
// digest of the signed bytes, not of an artifact.
//
// The ID stands on log name, timestamp and insertId, which together name an
// entry ("LogEntry" in the Cloud Logging documentation: entries that have them
// in common are duplicates).
//
// The shapes are those of "Cloud Key Management Service audit logging"
// (cloud.google.com/kms/docs/audit-logging), AuditLog and LogEntry.
func GCPAudit(r io.Reader) iter.Seq2[inventory.Record, error] {
	return read(entries(r, "entries"), gcpRecord)
}

type gcpEntry struct {
	InsertID  string `json:"insertId"`
	LogName   string `json:"logName"`
	Timestamp string `json:"timestamp"`
	Payload   struct {
		ResourceName   string `json:"resourceName"`
		Authentication struct {
			PrincipalEmail   string `json:"principalEmail"`
			PrincipalSubject string `json:"principalSubject"`
		} `json:"authenticationInfo"`
		Status struct {
			Code int `json:"code"`
		} `json:"status"`
		Request struct {
			Name   string `json:"name"`
			Digest struct {
				SHA256 string `json:"sha256"`
			} `json:"digest"`
		} `json:"request"`
	} `json:"protoPayload"`
}

func gcpRecord(object json.RawMessage) (inventory.Record, bool, error) {
	var kind struct {
		LogName string `json:"logName"`
		Payload struct {
			ServiceName string `json:"serviceName"`
			MethodName  string `json:"methodName"`
		} `json:"protoPayload"`
	}
	if err := unmarshal(object, &kind); err != nil {
		return inventory.Record{}, false, err
	}
	if kind.LogName == "" {
		return inventory.Record{}, false, errors.New("it is no log entry: logName is missing")
	}
	// The log has the short name; the documentation has the long one.
	method := kind.Payload.MethodName
	if method = method[strings.LastIndexByte(method, '.')+1:]; kind.Payload.ServiceName != "cloudkms.googleapis.com" || method != "AsymmetricSign" {
		return inventory.Record{}, false, nil
	}
	var e gcpEntry
	if err := unmarshal(object, &e); err != nil {
		return inventory.Record{}, false, err
	}
	p := e.Payload
	rec, err := finished(sourceGCPAudit, inventory.Record{Key: firstOf(p.ResourceName, p.Request.Name), Failed: p.Status.Code != 0,
		Principal: firstOf(p.Authentication.PrincipalEmail, p.Authentication.PrincipalSubject)}, e.Timestamp, "timestamp")
	if err != nil {
		return rec, true, err
	}
	if e.InsertID == "" {
		return rec, true, errors.New("insertId is missing")
	}
	if d := p.Request.Digest.SHA256; d != "" {
		sum, err := base64.StdEncoding.DecodeString(d)
		if err != nil || len(sum) != 32 {
			return rec, true, fmt.Errorf("request.digest.sha256 %.60q is no SHA-256 in base64", d)
		}
		rec.Message = "sha256:" + hex.EncodeToString(sum)
	}
	rec.ID = recordID(sourceGCPAudit, e.LogName, rec.Time.Format(time.RFC3339Nano), e.InsertID)
	return rec, true, nil
}

// firstOf returns the first text that is not empty.
func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}
