package web

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// sessionTime is how long a login lasts.
const sessionTime = 7 * 24 * time.Hour

// sessions are cookies that say which token somebody logged in with and until when, signed, so that they outlive the hub. Whether the token
// still is one is looked at each time.
type sessions struct {
	key   []byte
	mu    sync.Mutex
	ended map[string]time.Time // logged out before their time, by signature, until then
}

// sessionKey reads the key, or makes one.
func sessionKey(file string) ([]byte, error) {
	key, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, sha256.Size)
		_, _ = rand.Read(key) // never fails
		err = durable.WriteFile(file, key, 0o600)
	}
	if err == nil && len(key) != sha256.Size {
		err = fmt.Errorf("it has %d bytes", len(key))
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeState, "the key of the page's sessions, %s, cannot be used", file).WithHint("remove it: who is logged in has to log in again").WithCause(err)
	}
	return key, nil
}

func (s *sessions) sign(text string) string {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

// secure says whether the visitor came by https, as far as we or a proxy can tell. Who lies about it gets a cookie that is of no use.
func secure(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

// cookieName is one that no other host of the domain can set, where the browser can hold us to that.
func cookieName(r *http.Request) string {
	if secure(r) {
		return "__Host-garrison"
	}
	return "garrison"
}

func cookie(r *http.Request, value string, seconds int) *http.Cookie {
	return &http.Cookie{Name: cookieName(r), Value: value, Path: "/", MaxAge: seconds, HttpOnly: true, Secure: secure(r), SameSite: http.SameSiteStrictMode}
}

// begin makes a session for who has the token with that hash.
func (s *sessions) begin(r *http.Request, hash string, now time.Time) *http.Cookie {
	text := fmt.Sprintf("%s.%d.%s", hash, now.Add(sessionTime).Unix(), rand.Text())
	return cookie(r, text+"."+s.sign(text), int(sessionTime.Seconds()))
}

// token is the hash of the token of the request's session.
func (s *sessions) token(r *http.Request, now time.Time) (hash string, ok bool) {
	hash, signature, until := s.read(r)
	if !now.Before(until) {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, over := s.ended[signature]
	return hash, !over
}

// read is what the request's cookie says; until is zero when it says nothing that we signed.
func (s *sessions) read(r *http.Request) (hash, signature string, until time.Time) {
	c, err := r.Cookie(cookieName(r))
	if err != nil {
		return "", "", time.Time{}
	}
	at := strings.LastIndexByte(c.Value, '.')
	if at < 0 || !hmac.Equal([]byte(s.sign(c.Value[:at])), []byte(c.Value[at+1:])) {
		return "", "", time.Time{}
	}
	parts := strings.Split(c.Value[:at], ".")
	seconds, err := strconv.ParseInt(parts[1], 10, 64) // it has three: we signed it
	if err != nil {
		return "", "", time.Time{}
	}
	return parts[0], c.Value[at+1:], time.Unix(seconds, 0)
}

// end makes the request's session one that is over, and returns what removes its cookie.
func (s *sessions) end(r *http.Request, now time.Time) *http.Cookie {
	if _, signature, until := s.read(r); now.Before(until) {
		s.mu.Lock()
		if s.ended == nil {
			s.ended = map[string]time.Time{}
		}
		for k, t := range s.ended {
			if !now.Before(t) {
				delete(s.ended, k)
			}
		}
		s.ended[signature] = until
		s.mu.Unlock()
	}
	return cookie(r, "", -1)
}
