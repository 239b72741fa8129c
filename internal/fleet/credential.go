package fleet

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// TokenEnds is until when a token says to be valid, if it is a JSON Web Token with an end. Whether it is genuine nobody checks here.
func TokenEnds(token string) (time.Time, bool) {
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Exp float64 `json:"exp"` // seconds
	}
	if err != nil || json.Unmarshal(body, &claims) != nil || claims.Exp < 1 || claims.Exp > 1<<36 {
		return time.Time{}, false
	}
	return time.Unix(int64(claims.Exp), 0).UTC(), true
}
