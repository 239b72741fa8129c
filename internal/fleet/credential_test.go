package fleet_test

import (
	"encoding/base64"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func TestTokenEnds(t *testing.T) {
	jwt := func(claims string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	for token, want := range map[string]int64{
		jwt(`{"exp":1900000000,"sub":"joker"}`) + "\n": 1900000000, jwt(`{"exp":1.9e9}`): 1900000000,
		jwt(`{"sub":"joker"}`): 0, jwt(`{"exp":"soon"}`): 0, jwt(`{"exp":-5}`): 0, jwt(`{"exp":1e300}`): 0, jwt(`no`): 0,
		"": 0, "s3cret": 0, "a.b": 0, "a.b.c": 0, "a.!.c": 0,
	} {
		if ends, ok := fleet.TokenEnds(token); ok != (want > 0) || ok && !ends.Equal(time.Unix(want, 0)) {
			t.Errorf("%q: %s, %v", token, ends, ok)
		}
	}
}
