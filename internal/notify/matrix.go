package notify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"
)

// matrix writes into a room, by the client-server API. The server takes a message that it is sent again, because its answer got lost, for the same.
type matrix struct {
	*poster
	place
	room string // !id:server
}

// Send is PUT …/send/m.room.message/{txnId}.
func (s *matrix) Send(ctx context.Context, m Message) error {
	to, token, secrets, err := s.open()
	if err != nil {
		return err
	}
	doc := map[string]string{"msgtype": "m.text", "body": m.Title + "\n" + m.Text}
	answer, err := s.do(ctx, http.MethodPut, to+"/_matrix/client/v3/rooms/"+url.PathEscape(s.room)+"/send/m.room.message/"+identity(m), bearerHeader(token), doc, secrets...)
	var refused *SendError
	if errors.As(err, &refused) && refused.After == 0 {
		refused.After = matrixAfter(answer)
	}
	return err
}

// matrixAfter is how long a server that was asked too often wants to be left alone.
func matrixAfter(answer []byte) time.Duration {
	var said struct {
		After float64 `json:"retry_after_ms"`
	}
	if json.Unmarshal(answer, &said) != nil || !(said.After > 0) {
		return 0
	}
	return time.Duration(min(said.After, float64(maxAfter.Milliseconds()))) * time.Millisecond
}

// identity is the same for the same message, and differs else.
func identity(m Message) string {
	h := sha256.New()
	for _, e := range m.Events {
		h.Write([]byte(e.Source + " " + e.ID + "\n"))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
