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
		for _, c := range h.commands {
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
		return actionHelp{"Declare the incident", []string{"reseal incident open INCIDENT --signer SIGNER --from TIME --severity critical --rogue DIGEST=WHY"},
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
	}
	return actionHelp{title: string(a), byHand: "this action has no description."}
}
