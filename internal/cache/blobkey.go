package cache

import (
	"fmt"
	"regexp"
	"sync"
)

var blobKeys = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{2,127}$`) })

// CheckBlobKey returns an error unless key can be a key of Blobs.
func CheckBlobKey(key string) error {
	if !blobKeys().MatchString(key) {
		return fmt.Errorf("%q cannot be a key of content", key)
	}
	return nil
}
