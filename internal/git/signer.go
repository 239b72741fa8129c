package git

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"
)

// TagSigner is the public key in the SSH signature of the tag with the object name id, as ssh writes it in binary. Whether the signature fits, VerifyTag says.
func (r *Repo) TagSigner(ctx context.Context, id string) ([]byte, error) {
	out, err := r.readTag(ctx, id)
	if err != nil {
		return nil, err
	}
	signed, ssh := splitSignature(out)
	if !ssh {
		return nil, errors.New("the tag is not signed with an SSH key")
	}
	return keyIn(out[len(signed):])
}

// keyIn reads the key from a signature (PROTOCOL.sshsig): after a magic word and a version.
func keyIn(armoured string) ([]byte, error) {
	const magic = "SSHSIG"
	bad := errors.New("the tag's signature is none of ssh's")
	_, body, _ := strings.Cut(armoured, "\n")
	body, _, _ = strings.Cut(body, "-----END")
	blob, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(body), ""))
	rest, isSignature := bytes.CutPrefix(blob, []byte(magic))
	if err != nil || !isSignature || len(rest) < 8 {
		return nil, bad
	}
	size := binary.BigEndian.Uint32(rest[4:])
	if rest = rest[8:]; uint64(size) > uint64(len(rest)) {
		return nil, bad
	}
	return rest[:size], nil
}

// SignerEnds is until when a key may sign, as the text of an allowed-signers file (ssh-keygen(1), ALLOWED SIGNERS) says: the last of its lines' valid-before.
// It is false when there is no end, or the key is not there.
func SignerEnds(allowedSigners string, key []byte) (ends time.Time, ok bool) {
	want := base64.StdEncoding.EncodeToString(key)
	for line := range strings.Lines(allowedSigners) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") || !slices.Contains(strings.Fields(line), want) {
			continue
		}
		end, limited := validBefore(line)
		if !limited {
			return time.Time{}, false
		}
		if end.After(ends) {
			ends = end
		}
	}
	return ends, !ends.IsZero()
}

// validBefore is that option of a line; false when it has none.
func validBefore(line string) (time.Time, bool) {
	const option = `valid-before="`
	at := strings.Index(strings.ToLower(line), option)
	if at < 0 {
		return time.Time{}, false
	}
	value, _, _ := strings.Cut(line[at+len(option):], `"`)
	zone := time.Local
	if utc, ok := strings.CutSuffix(value, "Z"); ok {
		value, zone = utc, time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if t, err := time.ParseInLocation(layout, value, zone); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}
