package activate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Endpoint is something on the network that a new system must reach if the one before it did: what it is to a person, and
// an http, https or tcp URL at which it answers. There is no credential in it.
type Endpoint struct {
	What string `json:"what"`
	URL  string `json:"url"`
}

const (
	probeTime  = 2 * time.Second // for an answer before the switch
	probeAgain = 5 * time.Second // for one afterwards, again and again
	probeEvery = 250 * time.Millisecond
	// backTime is how long the network may take to come back after a roll-back, before it is not the release's fault.
	backTime = time.Minute
)

// scpRemote is git's short form of an ssh remote: [user@]host:path.
var scpRemote = regexp.MustCompile(`^(?:[^/@:]+@)?(\[[^\]/]+\]|[^/:@\[\]]+):`)

// GitEndpoint is where a git remote answers, false for one that is not on the network.
func GitEndpoint(remote string) (Endpoint, bool) {
	if m := scpRemote.FindStringSubmatch(remote); m != nil && !strings.Contains(remote, "://") {
		return endpoint("git remote", &url.URL{Scheme: "ssh", Host: m[1]}, "", "")
	}
	u, err := url.Parse(remote)
	if err != nil {
		return Endpoint{}, false
	}
	return endpoint("git remote", u, "/info/refs", "service=git-upload-pack")
}

// CacheEndpoint is where a substituter answers, false for one that is not on the network.
func CacheEndpoint(cache string) (Endpoint, bool) {
	u, err := url.Parse(cache)
	if err != nil {
		return Endpoint{}, false
	}
	return endpoint("cache", u, "/nix-cache-info", "")
}

// endpoint leaves user, password and query of u out: tokens stand there.
func endpoint(what string, u *url.URL, path, query string) (Endpoint, bool) {
	host := u.Hostname()
	port := map[string]string{"ssh": "22", "git+ssh": "22", "ssh+git": "22", "ssh-ng": "22", "git": "9418"}[u.Scheme]
	switch {
	case host == "":
		return Endpoint{}, false
	case u.Scheme == "http", u.Scheme == "https":
		at := url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/")}
		what += " " + at.String()
		at.Path += path
		at.RawQuery = query
		return Endpoint{what, at.String()}, true
	case port == "":
		return Endpoint{}, false
	case u.Port() != "":
		port = u.Port()
	}
	address := net.JoinHostPort(host, port)
	return Endpoint{what + " " + address, "tcp://" + address}, true
}

// probe says why an endpoint does not answer, nil if it does. Any answer will do but that a server fails: one who asks
// for a password, or shows a certificate that is not trusted here, is there.
func (e Endpoint) probe(ctx context.Context) error {
	if address, ok := strings.CutPrefix(e.URL, "tcp://"); ok {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.URL, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Git-Protocol", "version=2") // asks git servers for a short answer
	resp, err := plainClient().Do(req)
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &untrusted):
		return nil
	case err != nil:
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 500 {
		return fmt.Errorf("it answers with status %d", resp.StatusCode)
	}
	return nil
}

// reachable are the endpoints that answer in time.
func reachable(ctx context.Context, all []Endpoint, within time.Duration) []Endpoint {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, e := range all {
		wg.Go(func() { errs[i] = e.probe(ctx) })
	}
	wg.Wait()
	var answer []Endpoint
	for i, e := range all {
		if errs[i] == nil {
			answer = append(answer, e)
		}
	}
	return answer
}

// lostError says that endpoints cannot be reached any more.
type lostError struct {
	error
	lost []Endpoint
}

func (e *lostError) Unwrap() error { return e.error }

// awaitReachable waits until each endpoint answered once. If ctx ends before, it is a lostError.
func awaitReachable(ctx context.Context, all []Endpoint) error {
	for left := all; ; {
		answer := reachable(ctx, left, probeAgain)
		var lost []Endpoint
		for _, e := range left {
			if !contains(answer, e) {
				lost = append(lost, e)
			}
		}
		if left = lost; len(left) == 0 {
			return nil
		}
		if sleep(ctx, probeEvery) != nil {
			names := make([]string, len(left))
			for i, e := range left {
				names[i] = e.What
			}
			return &lostError{fleet.Errorf(fleet.Bad, fleet.CodeCheck, "the new system does not reach %s, which the one before it reached", strings.Join(names, ", ")), left}
		}
	}
}

func contains(all []Endpoint, e Endpoint) bool {
	for _, other := range all {
		if other == e {
			return true
		}
	}
	return false
}

// blame corrects whose fault a roll-back was: what the previous system does not reach any more either, the
// release did not cut off. It is tried again then.
func (h *helper) blame(ctx context.Context, err error, why *fleet.Failure) {
	var lost *lostError
	if !errors.As(err, &lost) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, min(backTime, time.Duration(h.req.CheckSeconds*float64(time.Second))))
	defer cancel()
	if awaitReachable(ctx, lost.lost) != nil {
		why.Class = fleet.Transient
		why.Message += "\nthe previous system does not reach it any more either: the network is at fault, or what is at its other end"
	}
}
