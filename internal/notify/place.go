package notify

import (
	"errors"
	"net/url"
	"strings"
)

// place is where a sender sends to, and with what.
type place struct {
	url       string // or
	urlFile   string // a file with a URL that is a secret
	tokenFile string // "" for none
}

// open reads the URL, without "/" at its end, and the token, and what of them must not be shown.
func (p place) open() (to, token string, secrets []string, err error) {
	to = p.url
	if p.urlFile != "" {
		if to, err = secretFile(p.urlFile); err != nil {
			return "", "", nil, err
		}
		u, err := url.Parse(to)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return "", "", nil, errors.New("what is in its urlFile is no URL of http or https")
		}
		secrets = append(secrets, to, u.RequestURI(), u.Path, u.RawQuery)
		secrets = append(secrets, longParts(u.Path)...)
	}
	if p.tokenFile != "" {
		if token, err = secretFile(p.tokenFile); err != nil {
			return "", "", nil, err
		}
		secrets = append(secrets, token, url.PathEscape(token))
	}
	return strings.TrimRight(to, "/"), token, secrets, nil
}

// longParts are those of a path that may be secrets by themselves.
func longParts(path string) (long []string) {
	for _, part := range strings.Split(path, "/") {
		if len(part) >= 8 {
			long = append(long, part)
		}
	}
	return long
}
