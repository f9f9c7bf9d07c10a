package runbooks

import (
	"fmt"
	"strings"
)

// lineWidth is that of a page and of most terminals.
const lineWidth = 78

// Render returns the runbook as prose for a person: what to do in which order
// and why, the commands that do it, and how to do without them.
func (rb Runbook) Render() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n\n", rb.Title, strings.Repeat("=", len([]rune(rb.Title))))
	paragraph(&b, "", rb.Summary)
	for n, s := range rb.Steps {
		h := help(s.Action)
		fmt.Fprintf(&b, "\n%d. %s\n", n+1, h.title)
		if s.PointOfNoReturn {
			paragraph(&b, "   ", "POINT OF NO RETURN. Before it, all can still be left as it was.")
		}
		if s.Approval {
			paragraph(&b, "   ", "PEOPLE MUST AGREE before the next step.")
		}
		if s.Precondition != "" {
			paragraph(&b, "   ", "Before: "+s.Precondition)
		}
		paragraph(&b, "   ", "Why: "+s.Why)
		commands := s.Commands
		if len(commands) == 0 {
			commands = h.commands
		}
		for _, c := range commands {
			fmt.Fprintf(&b, "     $ %s\n", c)
		}
		paragraph(&b, "   ", "Without the tool: "+h.byHand)
		paragraph(&b, "   ", "If it fails: stop, and find out why before going on.")
	}
	return b.String()
}

// paragraph writes text in lines of bounded width, each indented.
func paragraph(b *strings.Builder, indent, text string) {
	line := indent
	for _, word := range strings.Fields(text) {
		if len([]rune(line))+1+len([]rune(word)) > lineWidth && line != indent {
			b.WriteString(line + "\n")
			line = indent
		}
		if line != indent {
			line += " "
		}
		line += word
	}
	b.WriteString(line + "\n")
}

// actionHelp is how an action is done, with the tool and without.
type actionHelp struct {
	title    string
	commands []string
	byHand   string
}

func help(a Action) actionHelp {
	switch a {
	case Scan:
		return actionHelp{"Take stock of every signature", []string{"reseal scan REPOSITORY..."},
			"for every tag and digest of every repository, \"cosign tree IMAGE\" shows what is attached; " +
				"\"cosign download signature\" and \"cosign download attestation\" fetch it. Keep copies."}
	case Declare:
		return actionHelp{"Declare the incident", []string{"reseal incident open INCIDENT --signer SIGNER --from TIME --severity critical --rogue DIGEST=WHY --reason WHY"},
			"write down which key, since when, how it is known and who says so. Tell everybody who verifies with it. Stop every pipeline that signs with it."}
	case Impact:
		return actionHelp{"See what it means", []string{"reseal impact INCIDENT --list"},
			"list the signatures of the key. One is proven older than the theft only by a time that somebody else vouches for: a " +
				"signed entry timestamp of the transparency log, or a token of a timestamp authority. What an image, a tag or the signature says of its own age proves nothing."}
	case Plan:
		return actionHelp{"Make the plan", []string{
			"reseal incident plan INCIDENT --new-signer SIGNER --voucher signer=BUILDER,type=PREDICATE",
			"reseal incident show INCIDENT --plan PLAN --decision hold"},
			"for each image and each attestation write one word: deny (known to be bad), hold (nothing proves it good), " +
				"re-sign (proven older than the theft, or the unaffected builder's provenance vouches for it), none. When in doubt: hold."}
	case Approve:
		return actionHelp{"Have it approved", []string{
			"reseal incident approve PLAN --as NAME --request > request.json",
			"cosign sign-blob --key NAME.key --tlog-upload=false --output-signature request.sig request.json",
			"reseal incident approve PLAN --as NAME --signature request.sig"},
			"\"sha256sum\" of the written plan is what two people other than its author sign with \"cosign sign-blob\"."}
	case Contain:
		return actionHelp{"Contain", []string{"reseal contain PLAN           # shows what it would do", "reseal contain PLAN --apply"},
			"save each denied image with \"cosign save\", then delete it, its \".sig\" and \".att\" tags and its referrers from the registry; " +
				"deny its digest wherever an admission policy can."}
	case Resign:
		return actionHelp{"Sign again what is proven good", []string{"reseal resign PLAN --key NEW.key           # shows what it would do", "reseal resign PLAN --key NEW.key --apply"},
			"\"cosign sign --key NEW.key IMAGE@DIGEST\" for each, by digest and never by tag, in every format its verifiers read. " +
				"Attestations are signed again with the very same predicate; provenance is not, it is its builder's word."}
	case CutOver:
		return actionHelp{"Cut over to the new key", []string{"reseal cutover PLAN           # checks that nothing goes dark", "reseal cutover PLAN --apply"},
			"\"cosign verify --key NEW.pub\" every deployed image first, as its verifier would. When all pass, replace the old public key with the new one in every " +
				"policy, pipeline and host that verifies."}
	case Verify:
		return actionHelp{"Look for yourself", []string{"reseal verify IMAGE"},
			"with the new key, and otherwise as each verifier does, \"cosign verify\" must accept every good image and refuse every image of the thief."}
	case Report:
		return actionHelp{"Write it down", []string{"reseal incident show INCIDENT", "reseal journal verify"},
			"who decided what, when, on which evidence; what stays on hold and who looks at it."}
	case TUFLook:
		return actionHelp{"Look at the repository", []string{"reseal tuf status DIR", "reseal tuf walk DIR"},
			"read the JSON files in the published directory: who holds which role, until when, and which versions there are."}
	case TUFRevoke:
		return actionHelp{"Deny, by the responders on call", []string{
			"reseal tuf revoke DIR DIGEST... --reason WHY           # shows what it would do",
			"reseal tuf revoke DIR DIGEST... --reason WHY --key RESPONDER.key --online-key REF --apply"},
			"send the statement and its signature by a responder's key to whoever runs a verifier, and have them deny the digests there."}
	case TUFPropose:
		return actionHelp{"Propose the change", []string{"reseal tuf propose DIR --renew ROLE --reason WHY", "reseal tuf export DIR request.json"},
			"copy the newest metadata, raise its version by one, change it, set its expiry, and take the signatures out. Tell each holder the SHA-256 of its canonical JSON by telephone."}
	case TUFSign:
		return actionHelp{"Have the holders sign, each on a machine of their own", []string{
			"reseal tuf sign request.json NAME.sig --root ROOT.json --key NAME.key --event EVENT",
			"reseal tuf import DIR NAME.sig...", "reseal tuf check DIR"},
			"each holder compares what is to be signed with what is published, and signs its canonical JSON in the form of the TUF specification, 4.2 with their key."}
	case TUFPublish:
		return actionHelp{"Publish", []string{"reseal tuf publish DIR           # shows what it would do", "reseal tuf publish DIR --online-key REF --apply"},
			"sign a new snapshot and timestamp with the online key. Copy targets and metadata first, the new root then, timestamp.json last."}
	case TUFRefresh:
		return actionHelp{"Refresh timestamp and snapshot", []string{"reseal tuf refresh DIR --online-key REF --apply"},
			"raise the version of timestamp.json, set its expiry, and sign it with the online key."}
	case TUFRepublish:
		return actionHelp{"Put back what was published", []string{"reseal tuf republish DIR           # says what is wrong", "reseal tuf republish DIR --apply"},
			"look first that no N.ROLE.json is published that is newer than the directory's and signed by that role's holders: then the directory is an old copy, to be rebuilt. Copy what it has over what is published, timestamp.json last; take away every N.root.json that is newer than its own."}
	case TUFRebuild:
		return actionHelp{"Rebuild the directory from a mirror", []string{
			"reseal tuf rebuild DIR --from URL --root ROOT.json           # verifies, writes nothing", "reseal tuf rebuild DIR --from URL --root ROOT.json --apply"},
			"fetch every N.root.json, and timestamp, snapshot, targets and each file that they list by its hash; verify each signature from a root you know."}
	case TUFFound:
		return actionHelp{"Found a new repository", []string{
			"reseal tuf init NEW --holder @NAME=NAME.pub --responder @NAME=NAME.pub --online ONLINE.pub --file trusted_root.json=trusted_root.json --reason WHY"},
			"gather the holders and make new keys, root metadata of version 1, and have all of it signed."}
	case TUFRepin:
		return actionHelp{"Bring the new root to every client", []string{"reseal tuf repin-kit NEW/published/1.root.json KIT --name NAME --url URL"},
			"send the new root to whoever runs a client, and its SHA-256 by another way; they replace the old root by hand."}
	}
	return actionHelp{title: string(a), byHand: "this action has no description."}
}
