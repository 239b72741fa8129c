package forge

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"mime"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Hook is a delivery of a webhook, verified. It is a hint to look at git: it may be old, come twice, or not at all.
type Hook struct {
	Kind     Kind
	Delivery string // its id, the same when it is sent again
	Event    string // "push", "create", "delete", "pull_request", "ping", or another word of the forge's
	Repo     string // owner/name; "" for what is about no repository
	Ref      string // refs/heads/main; "" for what is about no ref
	Commit   string // the ref's new tip; "" when it was deleted or is not said
}

const (
	maxDelivery = 128  // characters of a delivery's id
	maxRef      = 1024 // bytes of a ref's name
)

// ReadHook verifies a delivery by any of secrets (several while one replaces another) over the bytes of the body as they came, and reads it. How large
// a body may be is for the caller to say, before it is read. Errors are fleet.Errors with CodeConfig when there is no secret to verify with, CodeUnsigned when the forge
// has none, CodeSignature when none of the secrets fits, CodeInvalid for what no forge sends.
//
// Gitea, Forgejo: X-Gitea-Signature, X-Forgejo-Signature (docs.gitea.com/usage/webhooks): HMAC-SHA256 in hex.
// GitHub: X-Hub-Signature-256 (docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries): the same after "sha256=".
// GitLab: webhook-signature, or X-Gitlab-Token with the secret itself (docs.gitlab.com/user/project/integrations/webhooks).
func ReadHook(header http.Header, body []byte, secrets []string) (Hook, error) {
	h := Hook{Kind: hookKind(header)}
	if h.Kind == "" {
		return Hook{}, invalidHook("it says neither of which event it is, nor of which forge").WithHint("only Forgejo, Gitea, GitHub and GitLab deliver webhooks here")
	}
	if t, _, err := mime.ParseMediaType(header.Get("Content-Type")); err != nil || t != "application/json" {
		return Hook{}, invalidHook("it is not JSON").WithHint("set the webhook's content type to application/json, at the forge")
	}
	if err := verify(h.Kind, header, body, secrets); err != nil {
		return Hook{}, err
	}
	if h.Delivery = first(header, "X-Forgejo-Delivery", "X-Gitea-Delivery", "X-Github-Delivery", "Webhook-Id", "Idempotency-Key", "X-Gitlab-Event-Uuid"); !plainID(h.Delivery) {
		sum := sha256.Sum256(body)
		h.Delivery = hex.EncodeToString(sum[:])
	}
	return h.read(first(header, "X-Forgejo-Event", "X-Gitea-Event", "X-Github-Event", "X-Gitlab-Event"), body)
}

func invalidHook(why string, args ...any) *fleet.Error {
	return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "a webhook's delivery cannot be used: "+why, args...)
}

// hookKind is whose delivery it is. Gitea and Forgejo send GitHub's headers too.
func hookKind(header http.Header) Kind {
	switch {
	case first(header, "X-Forgejo-Event", "X-Gitea-Event") != "":
		return Gitea
	case header.Get("X-Github-Event") != "":
		return GitHub
	case header.Get("X-Gitlab-Event") != "":
		return GitLab
	}
	return ""
}

func first(header http.Header, names ...string) string {
	for _, n := range names {
		if v := header.Get(n); v != "" {
			return v
		}
	}
	return ""
}

func plainID(id string) bool {
	return id != "" && len(id) <= maxDelivery && !strings.ContainsFunc(id, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) || r == ' ' })
}

// verify holds body against the secrets. All of them are tried, so that the time tells nothing of which one fits.
func verify(k Kind, header http.Header, body []byte, secrets []string) error {
	given := signature(k, header)
	configured, fits := false, false
	for _, s := range secrets {
		if s == "" {
			continue // would fit what nobody signed
		}
		configured = true
		if given != "" && matches(k, header, body, s, given) {
			fits = true
		}
	}
	switch {
	case !configured:
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "a webhook was delivered, and there is no secret to verify it with").
			WithHint("give the hub the webhook's secret, in a file")
	case given == "":
		return fleet.Errorf(fleet.Local, fleet.CodeUnsigned, "a webhook's delivery is not signed").WithHint("give the webhook a secret, at the forge")
	case !fits:
		return fleet.Errorf(fleet.Local, fleet.CodeSignature, "a webhook's delivery is not from who knows the secret").
			WithHint("the webhook's secret at the forge must be one of those that the hub has; if it is, somebody else sent this")
	}
	return nil
}

// signature is what a delivery is verified by; "" when it has nothing. Of a webhook without a secret, Gitea sends the header empty, or without the hex.
func signature(k Kind, header http.Header) string {
	switch k {
	case Gitea:
		return first(header, "X-Forgejo-Signature", "X-Gitea-Signature")
	case GitHub:
		return strings.TrimPrefix(header.Get("X-Hub-Signature-256"), "sha256=")
	}
	return first(header, "Webhook-Signature", "X-Gitlab-Token")
}

func matches(k Kind, header http.Header, body []byte, secret, given string) bool {
	if k != GitLab {
		mac, err := hex.DecodeString(given)
		return err == nil && hmac.Equal(mac, sum([]byte(secret), body))
	}
	if header.Get("Webhook-Signature") == "" {
		a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(secret)) // of one length, so that the time does not tell the secret's
		return subtle.ConstantTimeCompare(a[:], b[:]) == 1
	}
	// Standard Webhooks: v1,<base64> of id.timestamp.body, perhaps several; the key is whsec_<base64>. The time is not looked at: an old
	// delivery does no more harm than a look at git.
	coded, ok := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(coded)
	if !ok || err != nil || len(key) == 0 {
		return false
	}
	want := sum(key, []byte(header.Get("Webhook-Id")+"."+header.Get("Webhook-Timestamp")+"."), body)
	for _, one := range strings.Fields(given) {
		mac, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(one, "v1,"))
		if strings.HasPrefix(one, "v1,") && err == nil && hmac.Equal(mac, want) {
			return true
		}
	}
	return false
}

func sum(key []byte, parts ...[]byte) []byte {
	mac := hmac.New(sha256.New, key)
	for _, p := range parts {
		mac.Write(p)
	}
	return mac.Sum(nil)
}

// payload is what is read of a body; what else is in it does not matter.
type payload struct {
	Ref        string `json:"ref"`
	RefType    string `json:"ref_type"` // of create and delete, whose Ref is short
	After      string `json:"after"`
	SHA        string `json:"sha"`         // of Gitea's create
	Kind       string `json:"object_kind"` // GitLab
	Repository struct {
		FullName string `json:"full_name"`
	} `json:"repository"`
	Project struct {
		Path string `json:"path_with_namespace"`
	} `json:"project"`
}

// ofRefs are the events of which Ref and Commit are read. Others have fields of these names that mean other things.
var ofRefs = map[string]bool{"push": true, "create": true, "delete": true}

func (h Hook) read(event string, body []byte) (Hook, error) {
	h.Event = strings.ToLower(event)
	var p payload
	if h.Kind == GitLab || ofRefs[h.Event] {
		if err := json.Unmarshal(body, &p); err != nil {
			return Hook{}, invalidHook("its body is not what event %q has", cut(oneLine(event), maxDelivery)).WithCause(err)
		}
	} else {
		var about struct {
			Repository *struct {
				FullName string `json:"full_name"`
			} `json:"repository"`
		}
		if err := json.Unmarshal(body, &about); err != nil {
			return Hook{}, invalidHook("its body is not what event %q has", cut(oneLine(event), maxDelivery)).WithCause(err)
		}
		if about.Repository != nil {
			p.Repository.FullName = about.Repository.FullName
		}
	}
	h.Repo = p.Repository.FullName
	if h.Kind == GitLab {
		h.Event, h.Repo = gitLabEvent(event, p.Kind), p.Project.Path
	}
	if !plainID(h.Event) {
		return Hook{}, invalidHook("its event has no name")
	}
	if h.Repo != "" && !repoName(h.Repo, h.Kind) {
		return Hook{}, invalidHook("%q is no repository", cut(oneLine(h.Repo), maxDelivery))
	}
	if !ofRefs[h.Event] {
		return h, nil
	}
	return h.readRef(p)
}

// gitLabEvent is an event in the words of the others.
func gitLabEvent(header, kind string) string {
	name := kind
	if name == "" {
		name = strings.ReplaceAll(strings.ToLower(strings.TrimSuffix(header, " Hook")), " ", "_")
	}
	switch name {
	case "tag_push":
		return "push"
	case "merge_request":
		return "pull_request"
	}
	return name
}

func (h Hook) readRef(p payload) (Hook, error) {
	if h.Repo == "" {
		return Hook{}, invalidHook("it does not say of which repository it is")
	}
	h.Ref, h.Commit = p.Ref, p.After
	if h.Event != "push" {
		folder, ok := map[string]string{"branch": "refs/heads/", "tag": "refs/tags/"}[p.RefType]
		if h.Commit = p.SHA; h.Event == "delete" {
			h.Commit = ""
		}
		if !ok {
			return Hook{}, invalidHook("it is of a ref that is neither branch nor tag")
		}
		if !strings.HasPrefix(h.Ref, "refs/") {
			h.Ref = folder + h.Ref
		}
	}
	if !validRef(h.Ref) {
		return Hook{}, invalidHook("%q is no ref", cut(oneLine(h.Ref), maxDelivery))
	}
	if strings.Trim(h.Commit, "0") == "" {
		h.Commit = "" // deleted
	} else if _, err := hex.DecodeString(h.Commit); err != nil || len(h.Commit) != 40 && len(h.Commit) != 64 || strings.ToLower(h.Commit) != h.Commit {
		return Hook{}, invalidHook("%q is no commit", cut(oneLine(h.Commit), maxDelivery))
	}
	return h, nil
}

// validRef says whether a name can be of a branch or tag, strictly enough that it can be shown and compared.
func validRef(ref string) bool {
	_, name, _ := strings.Cut(strings.TrimPrefix(ref, "refs/"), "/")
	return strings.HasPrefix(ref, "refs/") && name != "" && len(ref) <= maxRef && utf8.ValidString(ref) &&
		!strings.Contains(ref, "..") && !strings.ContainsFunc(ref, func(r rune) bool { return unicode.IsControl(r) || strings.ContainsRune(" ~^:?*[\\", r) })
}
