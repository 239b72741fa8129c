package drill

import (
	"crypto/rand"
	"encoding/base64"

	"github.com/garrison-nix/garrison/internal/sandbox"
)

// apartURL is where a cache that is apart from its hub is served.
const apartURL = "http://192.0.2.1:8421"

// cacheData is its folder on the forge's machine.
const cacheData = "/var/lib/garrison-cache"

// cacheApart are the files of a cache that is a program of its own, whose tokens are signed with a secret.
func cacheApart() []sandbox.File {
	const config = `listen = "192.0.2.1:8421"
dataDir = "` + cacheData + `"
[cache]
name = "fleet"
tokenKeys = ["/etc/garrison/cache-secret"]
`
	return []sandbox.File{
		{Path: "/etc/garrison/cache.toml", Data: []byte(config)},
		{Path: "/etc/garrison/cache-secret", Mode: 0o600, Data: []byte(base64.StdEncoding.EncodeToString([]byte(rand.Text() + rand.Text())))},
	}
}

// makePushToken makes a token that lets CI push.
const makePushToken = "umask 077; garrison cache token create --key /etc/garrison/cache-secret --sub ci --validity 1w --pull fleet --push fleet > /etc/garrison/push-token"
