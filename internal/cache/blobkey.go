package cache

import "fmt"

// CheckBlobKey returns an error unless key can be a key of Blobs.
func CheckBlobKey(key string) error {
	ok := len(key) >= 3 && len(key) <= 128 && key[0] != '-' && key[0] != '.'
	for i := 0; i < len(key) && ok; i++ {
		c := key[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.'
	}
	if !ok {
		return fmt.Errorf("%q cannot be a key of content", key)
	}
	return nil
}
