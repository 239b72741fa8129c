package notify

import (
	"context"
	"net/http"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// ntfy tells a topic of an ntfy server.
type ntfy struct {
	*poster
	place // the URL is the topic's
}

type ntfyMessage struct {
	Topic    string   `json:"topic"`
	Title    string   `json:"title"`
	Message  string   `json:"message"`
	Priority int      `json:"priority"` // 1 to 5, 3 is the default
	Tags     []string `json:"tags"`
}

const maxNtfy = 4000 // bytes; of what is longer the server makes a file

// Send publishes in JSON, which goes to the server's root.
func (s *ntfy) Send(ctx context.Context, m Message) error {
	to, token, secrets, err := s.open()
	if err != nil {
		return err
	}
	slash := strings.LastIndexByte(to, '/')
	server, topic := to[:slash], to[slash+1:]
	doc := ntfyMessage{Topic: topic, Title: m.Title, Message: cut(m.Text, maxNtfy), Priority: 3, Tags: []string{"information_source"}}
	switch {
	case m.Resolved:
		doc.Tags = []string{"white_check_mark"}
	case m.Severity == fleet.Critical:
		doc.Priority, doc.Tags = 5, []string{"rotating_light"}
	case m.Severity == fleet.Warning:
		doc.Priority, doc.Tags = 4, []string{"warning"}
	}
	_, err = s.do(ctx, http.MethodPost, server+"/", bearerHeader(token), doc, secrets...)
	return err
}
