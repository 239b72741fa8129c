package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// SignatureHeader has, of a webhook with a secret, "t=SECONDS,v1=HEX": the time of the attempt, and HMAC-SHA256 with the secret of "SECONDS." and the body.
const SignatureHeader = "Garrison-Signature"

// webhook tells of each event as a CloudEvent in structured mode.
type webhook struct {
	*poster
	place
	secret string // file; "" signs nothing
}

// Send posts the event; m has one.
func (w *webhook) Send(ctx context.Context, m Message) error {
	to, token, secrets, err := w.open()
	if err != nil {
		return err
	}
	body, err := json.Marshal(m.Events[0])
	if err != nil {
		return err
	}
	header := http.Header{"Content-Type": {"application/cloudevents+json; charset=utf-8"}}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	if w.secret != "" {
		secret, err := secretFile(w.secret)
		if err != nil {
			return err
		}
		secrets = append(secrets, secret)
		header.Set(SignatureHeader, Sign(secret, time.Now(), body))
	}
	_, err = w.do(ctx, http.MethodPost, to, header, body, secrets...)
	return err
}

// Sign is what SignatureHeader says of a body.
func Sign(secret string, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
