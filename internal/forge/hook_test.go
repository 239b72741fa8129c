package forge_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
)

const (
	secret    = "hook secret"
	gitHubID  = "72d3162e-cc78-11e3-81ab-4c9367dc0958"
	pushBody  = `{"ref":"refs/heads/main","before":"` + other + `","after":"` + tip + `","commits":[{"id":"x","added":["a"]}],"repository":{"id":1,"full_name":"fleet/nixos"},"pusher":{"login":"ops"},"new":[{}]}`
	labBody   = `{"object_kind":"push","event_name":"push","ref":"refs/heads/main","checkout_sha":"` + tip + `","before":"` + other + `","after":"` + tip + `","project":{"id":15,"path_with_namespace":"fleet/prod/nixos"},"repository":{"name":"nixos"}}`
	zero      = "0000000000000000000000000000000000000000"
	labSecret = "whsec_dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q="
)

func mac(key, text string) []byte {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(text))
	return m.Sum(nil)
}

// header is of name, value, …; JSON unless it says otherwise.
func header(pairs ...string) http.Header {
	h := http.Header{"Content-Type": {"application/json"}}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}

func giteaHook(event, body string) http.Header {
	sig := hex.EncodeToString(mac(secret, body))
	return header("X-Gitea-Delivery", "g-1", "X-Gitea-Event", event, "X-Gitea-Signature", sig, "X-GitHub-Delivery", "g-1", "X-GitHub-Event", event, "X-Hub-Signature-256", "sha256="+sig)
}

func gitHubHook(event, body string) http.Header {
	return header("X-GitHub-Delivery", gitHubID, "X-GitHub-Event", event, "X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac(secret, body)))
}

func labSigned(body string) http.Header {
	sig := base64.StdEncoding.EncodeToString(mac("testtesttesttesttesttesttesttest", "w-1.1760000000."+body))
	return header("X-Gitlab-Event", "Push Hook", "Webhook-Id", "w-1", "Webhook-Timestamp", "1760000000", "Webhook-Signature", "v2,x v1,"+sig)
}

func TestReadHook(t *testing.T) {
	create := `{"sha":"` + tip + `","ref":"v1","ref_type":"tag","repository":{"full_name":"fleet/nixos"}}`
	gone := `{"ref":"web1-test","ref_type":"branch","pusher_type":"user","repository":{"full_name":"fleet/nixos"}}`
	deleted := strings.Replace(pushBody, tip, zero, 1)
	issue := `{"action":"opened","ref":5,"after":{},"repository":{"full_name":"fleet/nixos"}}`
	tag := strings.NewReplacer(`"push"`, `"tag_push"`, "refs/heads/main", "refs/tags/v1").Replace(labBody)
	digest := sha256.Sum256([]byte(pushBody))
	forgejo := header("X-Forgejo-Delivery", "f-1", "X-Forgejo-Event", "push", "X-Forgejo-Signature", hex.EncodeToString(mac(secret, pushBody)))
	noID := giteaHook("push", pushBody)
	noID.Set("X-Gitea-Delivery", strings.Repeat("x", 500))
	for name, c := range map[string]struct {
		header http.Header
		body   string
		want   forge.Hook
	}{
		"gitea":          {giteaHook("push", pushBody), pushBody, forge.Hook{Kind: forge.Gitea, Delivery: "g-1", Event: "push", Repo: "fleet/nixos", Ref: "refs/heads/main", Commit: tip}},
		"forgejo":        {forgejo, pushBody, forge.Hook{Kind: forge.Gitea, Delivery: "f-1", Event: "push", Repo: "fleet/nixos", Ref: "refs/heads/main", Commit: tip}},
		"github":         {gitHubHook("push", pushBody), pushBody, forge.Hook{Kind: forge.GitHub, Delivery: gitHubID, Event: "push", Repo: "fleet/nixos", Ref: "refs/heads/main", Commit: tip}},
		"deleted":        {gitHubHook("push", deleted), deleted, forge.Hook{Kind: forge.GitHub, Delivery: gitHubID, Event: "push", Repo: "fleet/nixos", Ref: "refs/heads/main"}},
		"create":         {giteaHook("create", create), create, forge.Hook{Kind: forge.Gitea, Delivery: "g-1", Event: "create", Repo: "fleet/nixos", Ref: "refs/tags/v1", Commit: tip}},
		"delete":         {giteaHook("delete", gone), gone, forge.Hook{Kind: forge.Gitea, Delivery: "g-1", Event: "delete", Repo: "fleet/nixos", Ref: "refs/heads/web1-test"}},
		"other event":    {gitHubHook("issues", issue), issue, forge.Hook{Kind: forge.GitHub, Delivery: gitHubID, Event: "issues", Repo: "fleet/nixos"}},
		"ping of an org": {gitHubHook("ping", `{"zen":"x"}`), `{"zen":"x"}`, forge.Hook{Kind: forge.GitHub, Delivery: gitHubID, Event: "ping"}},
		"without an id":  {noID, pushBody, forge.Hook{Kind: forge.Gitea, Delivery: hex.EncodeToString(digest[:]), Event: "push", Repo: "fleet/nixos", Ref: "refs/heads/main", Commit: tip}},
		"gitlab, token": {header("X-Gitlab-Event", "Push Hook", "X-Gitlab-Token", secret, "Idempotency-Key", "i-1", "X-Gitlab-Event-UUID", "u-1"), labBody,
			forge.Hook{Kind: forge.GitLab, Delivery: "i-1", Event: "push", Repo: "fleet/prod/nixos", Ref: "refs/heads/main", Commit: tip}},
		"gitlab, signed": {labSigned(labBody), labBody, forge.Hook{Kind: forge.GitLab, Delivery: "w-1", Event: "push", Repo: "fleet/prod/nixos", Ref: "refs/heads/main", Commit: tip}},
		"gitlab, tag":    {labSigned(tag), tag, forge.Hook{Kind: forge.GitLab, Delivery: "w-1", Event: "push", Repo: "fleet/prod/nixos", Ref: "refs/tags/v1", Commit: tip}},
		"gitlab, system": {header("X-Gitlab-Event", "System Hook", "X-Gitlab-Token", secret, "X-Gitlab-Event-UUID", "u-1"), labBody,
			forge.Hook{Kind: forge.GitLab, Delivery: "u-1", Event: "push", Repo: "fleet/prod/nixos", Ref: "refs/heads/main", Commit: tip}},
		"gitlab, merge request": {header("X-Gitlab-Event", "Merge Request Hook", "X-Gitlab-Token", secret, "X-Gitlab-Event-UUID", "u-1"), `{"object_kind":"merge_request","project":{"path_with_namespace":"fleet/prod/nixos"}}`,
			forge.Hook{Kind: forge.GitLab, Delivery: "u-1", Event: "pull_request", Repo: "fleet/prod/nixos"}},
	} {
		for _, secrets := range [][]string{{secret, labSecret}, {"", "new one", "whsec_%", labSecret, secret}} { // while one replaces another
			if got, err := forge.ReadHook(c.header, []byte(c.body), secrets); err != nil || got != c.want {
				t.Errorf("%s: %v, %+v", name, err, got)
			}
		}
	}
}

func TestRefusedHooks(t *testing.T) {
	signed := func(body string) (http.Header, string) { return giteaHook("push", body), body }
	with := func(h http.Header, pairs ...string) http.Header {
		h = h.Clone()
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
		}
		return h
	}
	good := giteaHook("push", pushBody)
	sig := good.Get("X-Gitea-Signature")
	both := []string{secret, labSecret}
	for name, c := range map[string]struct {
		header  http.Header
		body    string
		secrets []string
		code    fleet.Code
	}{
		"no secret here":            {good, pushBody, nil, fleet.CodeConfig},
		"an empty secret":           {giteaHookBy("", pushBody), pushBody, []string{""}, fleet.CodeConfig},
		"no secret there":           {with(good, "X-Gitea-Signature", "", "X-Hub-Signature-256", "sha256="), pushBody, both, fleet.CodeUnsigned},
		"no secret there, GitHub":   {with(gitHubHook("push", pushBody), "X-Hub-Signature-256", ""), pushBody, both, fleet.CodeUnsigned},
		"no secret there, GitLab":   {header("X-Gitlab-Event", "Push Hook"), labBody, both, fleet.CodeUnsigned},
		"another body":              {good, pushBody + " ", both, fleet.CodeSignature},
		"another secret":            {good, pushBody, []string{"other", labSecret}, fleet.CodeSignature},
		"the signature cut":         {with(good, "X-Gitea-Signature", sig[:62]), pushBody, both, fleet.CodeSignature},
		"no hex":                    {with(good, "X-Gitea-Signature", "sha256="+sig), pushBody, both, fleet.CodeSignature},
		"SHA-1 is not enough":       {with(gitHubHook("push", pushBody), "X-Hub-Signature-256", "", "X-Hub-Signature", "sha1="+strings.Repeat("a", 40)), pushBody, both, fleet.CodeUnsigned},
		"GitLab, another token":     {header("X-Gitlab-Event", "Push Hook", "X-Gitlab-Token", "hook secreT"), labBody, both, fleet.CodeSignature},
		"GitLab, another id":        {with(labSigned(labBody), "Webhook-Id", "w-2"), labBody, both, fleet.CodeSignature},
		"GitLab, another time":      {with(labSigned(labBody), "Webhook-Timestamp", "1"), labBody, both, fleet.CodeSignature},
		"GitLab, token and no sig":  {with(labSigned(labBody), "Webhook-Signature", "v1,", "X-Gitlab-Token", secret), labBody, both, fleet.CodeSignature},
		"of nobody":                 {header("X-Hub-Signature-256", "sha256="+sig), pushBody, both, fleet.CodeInvalid},
		"a form":                    {with(good, "Content-Type", "application/x-www-form-urlencoded"), pushBody, both, fleet.CodeInvalid},
		"an event with a line feed": {with(giteaHook("push", pushBody), "X-Gitea-Event", "pu\nsh"), pushBody, both, fleet.CodeInvalid},
	} {
		h, err := forge.ReadHook(c.header, []byte(c.body), c.secrets)
		if fleet.CodeOf(err) != c.code || h != (forge.Hook{}) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, body := range map[string]string{
		"not JSON": "x", "an array": "[]", "a number as ref": strings.Replace(pushBody, `"refs/heads/main"`, "5", 1), "no ref": strings.Replace(pushBody, "refs/heads/main", "", 1),
		"a short ref": strings.Replace(pushBody, "refs/heads/main", "main", 1), "a ref with a line feed": strings.Replace(pushBody, "refs/heads/main", `refs/heads/a\nb`, 1),
		"a ref with dots": strings.Replace(pushBody, "refs/heads/main", "refs/heads/../x", 1), "no commit": strings.ReplaceAll(pushBody, tip, "HEAD"), "a short commit": strings.ReplaceAll(pushBody, tip, tip[:39]),
		"upper case": strings.ReplaceAll(pushBody, tip, strings.ToUpper(tip)), "no repository": strings.Replace(pushBody, "fleet/nixos", "", 1),
		"half a repository": strings.Replace(pushBody, "fleet/nixos", "nixos", 1), "a way out": strings.Replace(pushBody, "fleet/nixos", "fleet/..", 1), "trailing": pushBody + "x",
		"a long ref": strings.Replace(pushBody, "refs/heads/main", "refs/heads/"+strings.Repeat("x", 2000), 1),
	} {
		h, b := signed(body)
		if _, err := forge.ReadHook(h, []byte(b), both); fleet.CodeOf(err) != fleet.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	odd := `{"ref":"x","ref_type":"note","repository":{"full_name":"fleet/nixos"}}`
	if _, err := forge.ReadHook(giteaHook("create", odd), []byte(odd), both); fleet.CodeOf(err) != fleet.CodeInvalid {
		t.Errorf("%v", err)
	}
}

func giteaHookBy(key, body string) http.Header {
	return header("X-Gitea-Event", "push", "X-Gitea-Signature", hex.EncodeToString(mac(key, body)))
}

// FuzzReadHook: of whatever is signed, what is read is plain: of few characters, in bounds, and the same for the same bytes.
func FuzzReadHook(f *testing.F) {
	for _, body := range []string{pushBody, labBody, `{"ref":"v1","ref_type":"tag"}`, "[]", `{"repository":null}`, `{"ref":"refs/heads/\ud800"}`} {
		for _, event := range []string{"push", "create", "Tag Push Hook", "ping"} {
			f.Add(uint8(len(event)), event, "id", body)
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, event, id, body string) {
		h := [...]http.Header{giteaHook(event, body), gitHubHook(event, body), header("X-Gitlab-Event", event, "X-Gitlab-Token", secret)}[kind%3]
		h["Webhook-Id"] = []string{id}
		got, err := forge.ReadHook(h, []byte(body), []string{secret})
		if err != nil {
			if c := fleet.CodeOf(err); c != fleet.CodeInvalid || strings.ContainsAny(err.Error(), "\n\x00\x1b") {
				t.Errorf("%q", err)
			}
			return
		}
		text := string(got.Kind) + got.Delivery + got.Event + got.Repo + got.Ref + got.Commit
		if strings.ContainsAny(text, "\n\r\x00\x1b") || strings.ContainsAny(got.Delivery+got.Event, " ") || len(text) > 4096 || got.Ref != "" && !strings.HasPrefix(got.Ref, "refs/") ||
			got.Ref != "" && got.Repo == "" || len(got.Commit) != 0 && len(got.Commit) != 40 && len(got.Commit) != 64 {
			t.Errorf("%+v", got)
		}
		if _, err := forge.ReadHook(h, []byte(body+"x"), []string{"another"}); fleet.CodeOf(err) != fleet.CodeSignature {
			t.Errorf("forged: %v", err)
		}
	})
}
