package s3

import (
	"strings"
	"testing"
)

func FuzzParseCredentials(f *testing.F) {
	f.Add([]byte("[default]\naws_access_key_id = a\naws_secret_access_key = b=c\naws_session_token=t\n[other]\naws_access_key_id = x\n"))
	f.Add([]byte("aws_access_key_id=a\r\naws_secret_access_key=b"))
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := parseCredentials(text)
		if err == nil && (v.AccessKeyID == "" || v.SecretAccessKey == "" || strings.Contains(v.AccessKeyID+v.SecretAccessKey, "\n")) {
			t.Errorf("%q gives %+v", text, v)
		}
	})
}
