package notify

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// chat tells services that take a small JSON document (decisions/0025).
type chat struct {
	*poster
	place
	make func(m Message, room string) any
	path func(token string) string // below the URL; nil: none
	head string                    // header that the token goes into; "": none
	room string                    // whom to write to, where a service wants to know
}

// Send posts the document.
func (s *chat) Send(ctx context.Context, m Message) error {
	to, token, secrets, err := s.open()
	if err != nil {
		return err
	}
	if s.path != nil {
		to += s.path(token)
	}
	var header http.Header
	if s.head != "" {
		header = http.Header{s.head: {token}}
	}
	answer, err := s.do(ctx, http.MethodPost, to, header, s.make(m, s.room), secrets...)
	if refused, is := err.(*SendError); is && refused.After == 0 {
		refused.After = telegramAfter(answer)
	}
	return err
}

// Limits of what the services take, in characters.
const (
	maxSlack    = 3500
	maxDiscord  = 1900
	maxTelegram = 4000
	maxOther    = 8000
)

// plain is a message as one text.
func plain(m Message, most int) string { return cut(m.Title+"\n"+m.Text, most) }

// slack escapes what would be a command there: a host must not call a whole channel.
func slack(m Message, _ string) any {
	escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	return map[string]string{"text": escape.Replace(plain(m, maxSlack))}
}

func mattermost(m Message, _ string) any {
	return map[string]string{"text": strings.ReplaceAll(plain(m, maxOther), "@", "@\u200b")}
}

func discord(m Message, _ string) any {
	return map[string]any{"content": plain(m, maxDiscord), "allowed_mentions": map[string]any{"parse": []string{}}}
}

// teams is a card, as the workflow "when a webhook request is received" wants it.
func teams(m Message, _ string) any {
	block := func(text, weight string) map[string]any {
		return map[string]any{"type": "TextBlock", "text": text, "weight": weight, "wrap": true}
	}
	card := map[string]any{"type": "AdaptiveCard", "version": "1.4", "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
		"body": []any{block(m.Title, "bolder"), block(strings.ReplaceAll(cut(m.Text, maxOther), "\n", "\n\n"), "default")}}
	return map[string]any{"type": "message", "attachments": []any{map[string]any{"contentType": "application/vnd.microsoft.card.adaptive", "content": card}}}
}

func telegram(m Message, room string) any {
	return map[string]any{"chat_id": room, "text": plain(m, maxTelegram), "link_preview_options": map[string]bool{"is_disabled": true}}
}

func gotify(m Message, _ string) any {
	priority := 4
	switch {
	case m.Resolved:
	case m.Severity == fleet.Critical:
		priority = 8
	case m.Severity == fleet.Warning:
		priority = 6
	}
	return map[string]any{"title": m.Title, "message": cut(m.Text, maxOther), "priority": priority}
}

// telegramAfter is how long Telegram wants to be left alone, which it says in the answer's body.
func telegramAfter(answer []byte) time.Duration {
	var said struct {
		Parameters struct {
			After float64 `json:"retry_after"` // seconds
		} `json:"parameters"`
	}
	if json.Unmarshal(answer, &said) != nil || !(said.Parameters.After > 0) {
		return 0
	}
	return time.Duration(min(said.Parameters.After, maxAfter.Seconds()) * float64(time.Second))
}

// cut is text of at most so many bytes.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	end := most - len("…")
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}
