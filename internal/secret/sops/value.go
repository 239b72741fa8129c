package sops

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Sizes of the format. Other nonces than those of 32 bytes are read, never written.
const (
	keyBytes   = 32
	nonceBytes = 32
	tagBytes   = 16
	maxNonce   = 1024
)

// encPrefix begins every encrypted value, and nothing that is not one.
const encPrefix = "ENC[AES256_GCM,"

// Types of values, as files name them.
const (
	typeString  = "str"
	typeInt     = "int"
	typeFloat   = "float"
	typeBool    = "bool"
	typeBytes   = "bytes"
	typeTime    = "time"
	typeComment = "comment"
)

// value is a decrypted value as it stands under the encryption: text of a type.
type value struct {
	kind string
	data []byte
}

func (v value) wipe() { clear(v.data[:cap(v.data)]) }

// typed returns the value itself. Errors do not repeat it.
func (v value) typed() (any, error) {
	text := string(v.data)
	switch v.kind {
	case typeString, typeComment, typeBytes:
		return text, nil
	case typeInt:
		n, err := strconv.Atoi(text)
		return n, quiet(err, "is not an integer")
	case typeFloat:
		f, err := strconv.ParseFloat(text, 64)
		return f, quiet(err, "is not a number")
	case typeBool:
		b, err := strconv.ParseBool(text)
		return b, quiet(err, "is not a boolean")
	case typeTime:
		t, err := time.Parse(time.RFC3339, text)
		return t, quiet(err, "is not a time")
	default:
		return nil, errors.New("has an unknown type")
	}
}

func quiet(err error, says string) error {
	if err == nil {
		return nil
	}
	return errors.New(says)
}

// canonical is the form of a value that counts for the MAC and is encrypted.
func canonical(v any) (value, error) {
	switch v := v.(type) {
	case string:
		return value{typeString, []byte(v)}, nil
	case int:
		return value{typeInt, strconv.AppendInt(nil, int64(v), 10)}, nil
	case float64:
		return value{typeFloat, strconv.AppendFloat(nil, v, 'f', -1, 64)}, nil
	case bool:
		if v {
			return value{typeBool, []byte("True")}, nil
		}
		return value{typeBool, []byte("False")}, nil
	case time.Time:
		b, err := v.MarshalText()
		return value{typeTime, b}, quiet(err, "is not a time that can be written")
	default:
		return value{}, errors.New("is of a kind that sops cannot encrypt (an integer beyond 64 bits?)")
	}
}

// crypt encrypts and decrypts values under one data key.
type crypt struct {
	block cipher.Block
	gcm   cipher.AEAD // for nonces of nonceBytes
}

func newCrypt(key []byte) (*crypt, error) {
	if len(key) != keyBytes {
		return nil, fmt.Errorf("the data key has %d bytes, not %d", len(key), keyBytes)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, nonceBytes)
	if err != nil {
		return nil, err
	}
	return &crypt{block, gcm}, nil
}

// errValue says that a text is not an encrypted value; errFit that the data key, the
// place or the bytes are wrong.
var (
	errValue = errors.New("is not encrypted, or not as sops does it")
	errFit   = errors.New("does not decrypt: it was changed, or moved from another place")
)

// open decrypts an encrypted value. The empty text is the empty string.
func (c *crypt) open(text, place string) (value, error) {
	if text == "" {
		return value{kind: typeString}, nil
	}
	data, iv, tag, kind, ok := cut(text)
	if !ok {
		return value{}, errValue
	}
	gcm := c.gcm
	if len(iv) != nonceBytes {
		var err error
		if gcm, err = cipher.NewGCMWithNonceSize(c.block, len(iv)); err != nil {
			return value{}, errValue
		}
	}
	sealed := append(data, tag...)
	plain, err := gcm.Open(sealed[:0], iv, sealed, []byte(place)) // in place: one copy to wipe
	if err != nil {
		return value{}, errFit
	}
	return value{kind, plain}, nil
}

// cut takes an encrypted value apart.
func cut(text string) (data, iv, tag []byte, kind string, ok bool) {
	text, ok = strings.CutPrefix(text, encPrefix+"data:")
	if !ok {
		return
	}
	text, ok = strings.CutSuffix(text, "]")
	if !ok {
		return
	}
	parts := strings.Split(text, ",")
	if len(parts) != 4 {
		return nil, nil, nil, "", false
	}
	var fields [3][]byte
	for i, prefix := range []string{"", "iv:", "tag:"} {
		text, has := strings.CutPrefix(parts[i], prefix)
		b, err := base64.StdEncoding.DecodeString(text)
		if !has || err != nil {
			return nil, nil, nil, "", false
		}
		fields[i] = b
	}
	kind, ok = strings.CutPrefix(parts[3], "type:")
	data, iv, tag = fields[0], fields[1], fields[2]
	return data, iv, tag, kind, ok && len(iv) > 0 && len(iv) <= maxNonce && len(tag) == tagBytes
}

// seal encrypts a value with a nonce of its own.
func (c *crypt) seal(v value, place string) string {
	if len(v.data) == 0 {
		return ""
	}
	iv := make([]byte, nonceBytes)
	_, _ = rand.Read(iv) // it never fails: Go ends the program instead
	out := c.gcm.Seal(nil, iv, v.data, []byte(place))
	b64 := base64.StdEncoding.EncodeToString
	body := len(out) - tagBytes
	return encPrefix + "data:" + b64(out[:body]) + ",iv:" + b64(iv) + ",tag:" + b64(out[body:]) + ",type:" + v.kind + "]"
}

// placeOf is the additional data of what stands at a path.
func placeOf(path []string) string { return strings.Join(path, ":") + ":" }
