package drill

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// behind is where the cache serves while somebody stands before it.
const behind = "127.0.0.1:8422"

// inBetween puts somebody between hosts and cache, at the cache's address, until the scenario has ended or what it returns is called: what change
// makes of a narinfo is what they get. Such a cache is one whose disk or database is damaged, one that somebody else writes to, or a proxy.
func (r *run) inBetween(ctx context.Context, change func(text []byte) []byte) (away func(context.Context) error, err error) {
	forge := r.yard.world.hosts["forge"]
	serveAt := func(ctx context.Context, from, to string) error {
		if err := forge.StopService(ctx, "cache"); err != nil {
			return err
		}
		_, err := r.yard.run(ctx, "forge", "sed", "-i", "s/"+from+"/"+to+"/", "/etc/garrison/cache.toml")
		return errors.Join(err, forge.StartService(ctx, "cache"))
	}
	at := strings.TrimPrefix(apartURL, "http://")
	var server *http.Server
	gone := false
	away = func(ctx context.Context) error {
		if gone {
			return nil
		}
		gone = true
		var err error
		if server != nil {
			err = server.Close()
		}
		return errors.Join(err, serveAt(ctx, behind, at), r.answers(ctx))
	}
	r.afterwards(away)
	if err := serveAt(ctx, at, behind); err != nil {
		return away, err
	}
	l, err := forge.Listen("tcp", at)
	if err != nil {
		return away, err
	}
	transport := &http.Transport{DialContext: forge.DialContext}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: behind})
	proxy.Transport, proxy.ErrorLog = transport, slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	proxy.ModifyResponse = func(resp *http.Response) error {
		if resp.StatusCode != http.StatusOK || path.Ext(resp.Request.URL.Path) != ".narinfo" {
			return nil
		}
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		resp.Body.Close()
		text = change(text)
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
		resp.Header.Set("Content-Length", strconv.Itoa(len(text)))
		return err
	}
	server = &http.Server{Handler: proxy, ReadHeaderTimeout: 10 * time.Second}
	server.RegisterOnShutdown(transport.CloseIdleConnections)
	go func() { _ = server.Serve(l) }() // ends by close
	return away, r.answers(ctx)
}

// answers waits until the cache does.
func (r *run) answers(ctx context.Context) error {
	return until(ctx, r.patience, r.again, func() error {
		_, err := r.yard.getBytes(ctx, r.yard.cacheURL+"/nix-cache-info")
		return err
	})
}

// resigned is a narinfo with the signature of sk in place of all others; what is none stays as it is.
func resigned(text []byte, sk signature.SecretKey) []byte {
	info, err := narinfo.Parse(bytes.NewReader(text))
	if err != nil {
		return text
	}
	sig, err := sk.Sign(rand.Reader, info.Fingerprint())
	if err != nil {
		return text
	}
	info.Signatures = []signature.Signature{sig}
	return []byte(info.String())
}

// releaseThrough pushes a change while the drilled host is off the network, and puts somebody before the cache when the others have it.
func (r *run) releaseThrough(ctx context.Context, subject string, change func([]byte) []byte) (p pushed, m marker, away func(context.Context) error, err error) {
	restore, err := r.cut(ctx, drilled)
	if err != nil {
		return p, m, nil, err
	}
	m = newMarker()
	if p, err = r.put(ctx, m, subject); err != nil {
		return p, m, nil, err
	}
	r.await(ctx, "CI releases it", func() (string, error) { return r.released(ctx, p) })
	for _, h := range r.hosts()[1:] { // they have fetched it before
		if err := until(ctx, r.patience, r.again, func() error { _, err := committed(ctx, r.host(h), p); return err }); err != nil {
			return p, m, nil, fmt.Errorf("%s: %w", h, err)
		}
	}
	if away, err = r.inBetween(ctx, change); err != nil {
		return p, m, away, err
	}
	return p, m, away, restore(ctx)
}

func cacheWrongKey(ctx context.Context, r *run) error {
	before, err := r.standing(ctx, r.host(drilled))
	if err != nil {
		return err
	}
	stranger, _, err := signature.GenerateKeypair("stranger-1", rand.Reader)
	if err != nil {
		return err
	}
	store, err := r.paths(ctx)
	if err != nil {
		return err
	}
	p, m, away, err := r.releaseThrough(ctx, "Drill: signed by a stranger in the cache", func(text []byte) []byte { return resigned(text, stranger) })
	if err != nil {
		return err
	}
	r.await(ctx, "the host does not take it: a failure of its own, to be tried again", func() (string, error) {
		s, err := r.yard.status(ctx, drilled)
		if err == nil && (s.Newest == nil || s.Newest.Source.Commit != p.commit || s.Failure == nil || s.Failure.Code != fleet.CodeSubstitute) {
			err = errors.New(s.Summary())
		}
		if err != nil {
			return "", err
		}
		if s.Failure.Class != fleet.Local || s.Phase != fleet.PhaseRetrying || s.RetryAt == nil {
			return "", final{fmt.Errorf("class %q: %s", s.Failure.Class, s.Summary())}
		}
		return firstLine(s.Failure.Message), nil
	})
	r.same(ctx, before)
	r.see("nothing of it came into its store", func() (string, error) {
		after, err := r.paths(ctx)
		if err == nil && after != store {
			err = fmt.Errorf("before:\n%s\nafter:\n%s", store, after)
		}
		return "", err
	})
	name, _, _ := strings.Cut(r.yard.cacheKey, ":")
	r.see("log and garrison explain name who signed it, and whose signature would do", func() (string, error) {
		return r.toldOnHost(ctx, "signed by stranger-1; trusted here is "+name)
	})
	if err := away(ctx); err != nil {
		return err
	}
	r.see("the cache is put right; who does not want to wait for the next try has it tried now", func() (string, error) { return r.confirm(ctx, drilled, "garrison retry") })
	r.await(ctx, "it is committed", func() (string, error) { return committed(ctx, r.host(drilled), p) })
	r.see("the host says what was pushed", func() (string, error) { return saysMarker(ctx, r.host(drilled), m) })
	return nil
}

// builtThere says that the drilled host has confirmed a change, with a system that its own Nix built.
func (r *run) builtThere(ctx context.Context, p pushed) (string, error) {
	text, err := committed(ctx, r.host(drilled), p)
	if err != nil {
		return "", err
	}
	system, err := r.host(drilled).system(ctx)
	if err != nil {
		return "", err
	}
	closure, err := r.yard.closure(ctx, drilled, system)
	if err == nil && !closure[system].Ultimate {
		err = final{fmt.Errorf("%s was not built there", system)}
	}
	return text, err
}

// paths are the valid ones of the drilled host's store.
func (r *run) paths(ctx context.Context) (string, error) {
	return r.yard.run(ctx, drilled, "sh", "-c", "nix --extra-experimental-features nix-command path-info --all | sort")
}

// corruptNarInfo cuts all narinfos short, as a disk that is full or a proxy that gives up does.
func corruptNarInfo(ctx context.Context, r *run) error {
	p, m, _, err := r.releaseThrough(ctx, "Drill: cut short in the cache", func(text []byte) []byte { return text[:len(text)/2] })
	if err != nil {
		return err
	}
	r.await(ctx, "the host does not take it, but builds its system itself, and commits that", func() (string, error) { return r.builtThere(ctx, p) })
	r.see("its log says that the cache has not got it whole", func() (string, error) {
		log, err := r.agentLog()
		if err != nil {
			return "", err
		}
		return contains(log, "corrupt")
	})
	r.wholeStore(ctx)
	r.see("the host says what was pushed", func() (string, error) { return saysMarker(ctx, r.host(drilled), m) })
	return nil
}
