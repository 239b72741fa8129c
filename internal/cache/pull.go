package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// Pulling through: what a cache does not have it asks of others, as its settings say. A path is only taken with all that it
// refers to: the descriptions of its whole closure are fetched, each verified by a key of the cache that it came from, and noted
// as upstream paths. Unlike other upstream paths these are served. The archive is fetched, verified and stored when it is first asked for.

const (
	pullTime      = time.Minute      // for the descriptions of a closure
	pullNarTime   = 2 * time.Hour    // for an archive
	pullStall     = time.Minute      // without a byte
	pullPaths     = 50_000           // in a closure
	pullParallel  = 16               // requests
	pullAgain     = time.Minute      // after which what a cache did not have is asked for again
	pullDown      = 30 * time.Second // for which a cache that does not answer is left alone
	pullHeader    = "Garrison-Pull"  // in requests to other caches, which must not ask us in turn
	maxPullErrors = 1 << 10
)

// puller is what a server needs for pulling. The zero value is ready.
type puller struct {
	once   sync.Once
	client *http.Client
	absent memory // what other caches did not have

	mu   sync.Mutex
	down map[string]time.Time // by URL: until when it is left alone
}

func (p *puller) http() *http.Client {
	p.once.Do(func() {
		p.client = &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 30 * time.Second, MaxIdleConnsPerHost: pullParallel, IdleConnTimeout: time.Minute,
		}}
	})
	return p.client
}

func (p *puller) isDown(url string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.down[url])
}

func (p *puller) setDown(url string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down == nil {
		p.down = map[string]time.Time{}
	}
	p.down[url] = time.Now().Add(pullDown)
}

// ForgetPulls has everything asked for again that other caches did not have, and those that did not answer.
func (s *Server) ForgetPulls() {
	s.puller.absent.forgetAll()
	s.puller.mu.Lock()
	defer s.puller.mu.Unlock()
	s.puller.down = nil
}

// from is the setting by which a cache serves what is signed with a key; nil when there is none (any more).
func (c *Cache) from(publicKey string) *PullThrough {
	for i := range c.PullThrough {
		if slices.Contains(c.PullThrough[i].Keys, publicKey) {
			return &c.PullThrough[i]
		}
	}
	return nil
}

// CheckPullThrough returns an error that says what is wrong with a setting.
func CheckPullThrough(p PullThrough) error {
	u, err := url.Parse(p.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return badRequest("%s is not the URL of a cache to pull from: it is like https://cache.nixos.org", quoted(p.URL))
	}
	if len(p.Keys) == 0 {
		return badRequest("what is pulled from %s must be verified: name its public keys", p.URL)
	}
	for _, k := range p.Keys {
		if _, err := nar.ParsePublicKey(k); err != nil {
			return badRequest("%s: %v", p.URL, err)
		}
	}
	return nil
}

// pulled is a description and the key that it was verified with.
type pulled struct {
	info *nar.NarInfo
	from *PullThrough
	key  string
}

// pull notes a path and all that it refers to, if other caches have them. It says whether the path is known now.
func (s *Server) pull(ctx context.Context, c *Cache, hashPart string) (bool, error) {
	defer s.locks.lock("pull " + c.Name + " " + hashPart)()
	if r, known, err := s.record(ctx, c, hashPart); known && r.Upstream != Incomplete || err != nil {
		return known, err
	}
	if a, _ := s.puller.absent.get(memoryKey{c.Name, hashPart}, time.Now()); a != nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, pullTime)
	defer cancel()
	found, missing, err := s.pullClosure(ctx, c, hashPart)
	if err != nil {
		return false, err
	}
	if missing != "" {
		if missing != hashPart {
			s.Log.Warn("a path is not pulled, because what it refers to is nowhere", "cache", c.Name, "hash", hashPart, "missing", missing)
		}
		_, changes := s.puller.absent.get(memoryKey{}, time.Now())
		s.puller.absent.put(memoryKey{c.Name, hashPart}, &answer{until: time.Now().Add(pullAgain)}, changes)
		return false, nil
	}
	return true, s.notePulled(ctx, c, found)
}

// pullClosure fetches the descriptions of a path and of all that it refers to and is not here. missing is a hash part that no cache has, or "".
func (s *Server) pullClosure(ctx context.Context, c *Cache, hashPart string) (found map[string]pulled, missing string, err error) {
	found = map[string]pulled{}
	seen := map[string]bool{hashPart: true}
	for level := []string{hashPart}; len(level) > 0; {
		here, err := s.Index.Lookup(ctx, c.Name, level)
		if err != nil {
			return nil, "", err
		}
		level = slices.DeleteFunc(level, func(h string) bool { r, ok := here[h]; return ok && r.Upstream != Incomplete })
		answers, err := s.askAll(ctx, c, level)
		if err != nil {
			return nil, "", err
		}
		var next []string
		for i, a := range answers {
			if a.info == nil {
				return nil, level[i], nil
			}
			found[a.info.StorePath] = a
			for _, r := range a.info.References {
				h, err := nar.HashPart(r)
				if err != nil {
					return nil, "", err
				}
				if !seen[h] {
					seen[h] = true
					next = append(next, h)
				}
			}
		}
		if len(seen) > pullPaths {
			return nil, hashPart, nil
		}
		level = next
	}
	return found, "", nil
}

// askAll asks for descriptions, a few at a time. One that no cache has is zero.
func (s *Server) askAll(ctx context.Context, c *Cache, hashParts []string) ([]pulled, error) {
	answers := make([]pulled, len(hashParts))
	slots := make(chan struct{}, pullParallel)
	var all sync.WaitGroup
	for i, h := range hashParts {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			answers[i] = s.ask(ctx, c, h)
		})
	}
	all.Wait()
	return answers, ctx.Err()
}

// ask asks one cache after the other for a description, and verifies it. A cache that fails is left alone for a while: what it has counts as absent.
func (s *Server) ask(ctx context.Context, c *Cache, hashPart string) pulled {
	for i := range c.PullThrough {
		from := &c.PullThrough[i]
		if s.puller.isDown(from.URL) {
			continue
		}
		p, err := s.askOne(ctx, from, hashPart)
		switch {
		case err == nil:
			return p
		case errors.Is(err, ErrNotFound) || ctx.Err() != nil:
		default:
			s.Log.Warn("cannot pull", "cache", c.Name, "from", from.URL, "hash", hashPart, "err", err)
		}
	}
	return pulled{}
}

func (s *Server) askOne(ctx context.Context, from *PullThrough, hashPart string) (pulled, error) {
	body, err := s.fetch(ctx, from, hashPart+narInfoSuffix)
	if err != nil {
		return pulled{}, err
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, maxNarInfoBytes+1))
	if err != nil {
		s.puller.setDown(from.URL)
		return pulled{}, err
	}
	if len(text) > maxNarInfoBytes {
		return pulled{}, fmt.Errorf("the narinfo has more than %d bytes", maxNarInfoBytes)
	}
	info, err := nar.ParseNarInfo(text)
	if err != nil {
		return pulled{}, err
	}
	if err := s.checkPath(hashPart, info); err != nil {
		return pulled{}, err
	}
	for _, k := range from.Keys {
		key, err := nar.ParsePublicKey(k)
		if err == nil && info.SignedBy(key) {
			return pulled{info, from, k}, nil
		}
	}
	return pulled{}, errors.New("none of its keys signed the narinfo")
}

// fetch opens a file of another cache. It fails with ErrNotFound when that says that it has none.
func (s *Server) fetch(ctx context.Context, from *PullThrough, file string) (io.ReadCloser, error) {
	base, err := url.Parse(strings.TrimSuffix(from.URL, "/") + "/")
	if err != nil {
		return nil, err
	}
	ref, err := url.Parse(file)
	if err != nil || ref.IsAbs() || ref.Host != "" || strings.Contains(file, "..") {
		return nil, fmt.Errorf("%s is not a place in a cache", quoted(file))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.ResolveReference(ref).String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(pullHeader, "1")
	res, err := s.puller.http().Do(req)
	if err != nil {
		if ctx.Err() == nil {
			s.puller.setDown(from.URL)
		}
		return nil, err
	}
	switch res.StatusCode {
	case http.StatusOK:
		return res.Body, nil
	case http.StatusNotFound, http.StatusForbidden, http.StatusGone:
		err = ErrNotFound
	default:
		s.puller.setDown(from.URL)
		err = fmt.Errorf("it answers %s", res.Status)
	}
	_, _ = io.CopyN(io.Discard, res.Body, maxPullErrors)
	res.Body.Close()
	return nil, err
}

// notePulled puts what was found into the index, what is referred to before what refers to it.
func (s *Server) notePulled(ctx context.Context, c *Cache, found map[string]pulled) error {
	var put func(storePath string) error
	put = func(storePath string) error {
		p, ok := found[storePath]
		if !ok {
			return nil
		}
		delete(found, storePath)
		for _, r := range p.info.References {
			if err := put(r); err != nil {
				return err
			}
		}
		return s.putPulled(ctx, c, p.info, p.key, false)
	}
	for len(found) > 0 {
		for storePath := range found {
			if err := put(storePath); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// putPulled notes a path that was pulled; stored says that its archive is here, too.
func (s *Server) putPulled(ctx context.Context, c *Cache, info *nar.NarInfo, key string, stored bool) error {
	hashPart, err := nar.HashPart(info.StorePath)
	if err != nil {
		return err
	}
	defer s.locks.lock(c.Name + "/" + hashPart)()
	if old, known, err := s.record(ctx, c, hashPart); err != nil || known && old.Upstream != Incomplete && (old.Upstream != key || !stored) {
		return err // somebody pushed it meanwhile
	}
	public, err := nar.ParsePublicKey(key)
	if err != nil {
		return err
	}
	kept := nar.NarInfo{PathInfo: info.PathInfo, URL: narURL(info.NarHash), Compression: "zstd"}
	fingerprint := info.Fingerprint()
	kept.Sigs = slices.DeleteFunc(slices.Clone(info.Sigs), func(sig string) bool { return !public.Verify(fingerprint, sig) })
	path := Path{Cache: c.Name, StorePath: info.StorePath, Upstream: key, NarInfo: kept.Encode()}
	if stored {
		path.NarHash = info.NarHash
	}
	_, err = s.Index.PutPaths(ctx, []NewPath{{Path: path, References: withoutSelf(info), Replace: true}}, time.Now())
	s.memory.forget(memoryKey{c.Name, hashPart}, memoryKey{c.Name, info.NarHash.Nix32()})
	return err
}

// pullNar fetches, verifies and stores the archive of a path that was pulled. It goes on when the client does not wait for it.
func (s *Server) pullNar(ctx context.Context, c *Cache, hashPart string, hash nar.Hash) error {
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pullNarTime)
		defer cancel()
		done <- s.pullNarNow(ctx, c, hashPart, hash)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Server) pullNarNow(ctx context.Context, c *Cache, hashPart string, hash nar.Hash) error {
	defer s.locks.lock("pull " + narURL(hash))()
	record, known, err := s.record(ctx, c, hashPart)
	if err != nil {
		return err
	}
	from := c.from(record.Upstream)
	if !known || from == nil {
		return noSuchObject(narURL(hash))
	}
	if there, err := s.hasBlob(ctx, record.Nar); there || err != nil {
		return err // another request was quicker
	}
	p, err := s.askOne(ctx, from, hashPart) // where its archive is
	if errors.Is(err, ErrNotFound) {
		return noSuchObject(narURL(hash))
	}
	if err != nil {
		return badGateway(from, err)
	}
	if p.info.NarHash != hash || p.info.StorePath != record.StorePath {
		return noSuchObject(narURL(hash)) // it was built anew there
	}
	body, err := s.fetch(ctx, from, p.info.URL)
	if errors.Is(err, ErrNotFound) {
		return noSuchObject(narURL(hash))
	}
	if err != nil {
		return badGateway(from, err)
	}
	defer body.Close()
	stalled := time.AfterFunc(pullStall, func() { body.Close() })
	defer stalled.Stop()
	if err := acquire(ctx, s.uploads); err != nil {
		return err
	}
	defer func() { <-s.uploads }()
	_, _, err = s.store(ctx, c, &movingReader{body, stalled}, narFile{hash: hash})
	var refused *httpError
	if errors.As(err, &refused) {
		return badGateway(from, err)
	}
	if err != nil {
		return err
	}
	err = s.putPulled(ctx, c, p.info, p.key, true)
	_, claimed := s.claim(ctx, c, hash)
	return errors.Join(err, claimed)
}

// movingReader puts off what a timer does as long as something comes.
type movingReader struct {
	r     io.Reader
	timer *time.Timer
}

func (m *movingReader) Read(b []byte) (int, error) {
	m.timer.Reset(pullStall)
	n, err := m.r.Read(b)
	if err != nil {
		m.timer.Stop()
	}
	return n, err
}

// badGateway tells a failure of another cache from one of ours: nix asks again.
func badGateway(from *PullThrough, err error) error {
	return &httpError{status: http.StatusBadGateway, kind: "Upstream", message: "fetching from " + from.URL + ": " + err.Error()}
}
