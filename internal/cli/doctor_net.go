package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/ci"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/release"
)

// tokenEndsSoon is how long before its end a token is complained of.
const tokenEndsSoon = 14 * 24 * time.Hour

// forgeInspections are the checks of a repository on a forge.
func (p *patient) forgeInspections() []inspection {
	if !p.isForge {
		return nil
	}
	open := sync.OnceValues(func() (forge.Forge, error) {
		ctx, cancel := context.WithTimeout(context.Background(), checkTime)
		defer cancel()
		c, err := forge.Identify(ctx, p.forge)
		if err != nil {
			return nil, err
		}
		return forge.Open(c)
	})
	all := []inspection{
		{"forge token", 0, func(ctx context.Context) diagnosis { return p.lookToken(ctx, open) }},
		{"workflow", 0, p.lookWorkflow},
	}
	branches := []string{p.config.Branches.Release, p.config.Branches.Source}
	if rings := p.config.RingNames(); len(rings) > 0 { // one stands for all: rules are for release*
		branches = append(branches, fleet.RolloutBranch(p.config.Branches.Release), fleet.RingBranch(p.config.Branches.Release, rings[0], 1))
	}
	for _, branch := range branches {
		all = append(all, inspection{"branch " + branch, 0, func(ctx context.Context) diagnosis { return p.lookBranch(ctx, open, branch) }})
	}
	return all
}

const giveForgeToken = "garrison doctor --forge-token-file FILE, with a token of the scope write:repository"

func (p *patient) lookToken(ctx context.Context, open func() (forge.Forge, error)) diagnosis {
	if p.forge.Token == nil {
		return ill(p.unless(p.needs), giveForgeToken, "there is no token for %s: what it may do was not looked at", p.forge.URL)
	}
	f, err := open()
	if err != nil {
		return because(broken, err, "is the forge up?")
	}
	a, err := f.Access(ctx)
	if err != nil {
		return because(broken, err, giveForgeToken)
	}
	return tokenHealth(a, p.forge.Repo, time.Now())
}

// unless is broken if something is needed, else a doubt.
func (p *patient) unless(needed bool) health {
	if needed {
		return broken
	}
	return doubt
}

// tokenHealth judges what a forge says of a token.
func tokenHealth(a forge.Access, repo string, now time.Time) diagnosis {
	who := "the token"
	if a.User != "" {
		who += " of " + a.User
	}
	if len(a.Scopes) > 0 {
		who += " (" + strings.Join(a.Scopes, ", ") + ")"
	}
	left := a.Expires.Sub(now)
	switch {
	case !a.Read:
		return ill(broken, "make a token with the scope write:repository, of a user who may write to it", "%s may not read %s", who, repo)
	case !a.Write:
		return ill(broken, "make a token with the scope write:repository, of a user who may write to it", "%s may not write to %s", who, repo)
	case a.Expires.IsZero():
		return well("%s may write to %s", who, repo)
	case left < 0:
		return ill(broken, "make another, and put it in the place of this one", "%s ended on %s", who, a.Expires.Format(time.DateOnly))
	case left < tokenEndsSoon:
		return ill(doubt, "make another, and put it in the place of this one", "%s may write to %s, until %s", who, repo, a.Expires.Format(time.DateOnly))
	}
	return well("%s may write to %s, until %s", who, repo, a.Expires.Format(time.DateOnly))
}

func (p *patient) lookBranch(ctx context.Context, open func() (forge.Forge, error), branch string) diagnosis {
	f, err := open()
	if err != nil {
		return notLookedAt("forge token")
	}
	b, err := f.Protection(ctx, branch)
	isRelease := branch != p.config.Branches.Source
	switch {
	case fleet.CodeOf(err) == fleet.CodeNotFound && isRelease:
		return well("it is not there yet: the first release makes it")
	case err != nil:
		return because(p.unless(p.forge.Token != nil), err, giveForgeToken)
	}
	return branchHealth(b, isRelease, p.forge.Token != nil)
}

// branchHealth judges how a branch is protected. Without a token nothing is known of who may push.
func branchHealth(b forge.Protection, isRelease, withToken bool) diagnosis {
	switch {
	case isRelease && withToken && !b.MayPush:
		return ill(broken, "in the branch's protection, let the release user push to it (allowlist)", "it is protected, and the token's user may not push releases to it")
	case isRelease && b.NeedsPull:
		return ill(broken, "in the branch's protection, let the release user push to it (allowlist)", "changes come to it by pull requests only: releases are pushed")
	case isRelease && b.Protected:
		return well("protected; releases may be pushed to it")
	case isRelease:
		return ill(doubt, "protect it in the forge's settings: pushes by the release user alone, and no force-pushes", "everybody who may write to the repository may push to it; hosts take no release that is not signed, but would stop following")
	case b.Protected:
		return well("protected")
	}
	return well("not protected; what is pushed to it is released if it passes its checks")
}

func (p *patient) lookWorkflow(context.Context) diagnosis {
	if p.forge.Kind == forge.GitLab {
		return well("GitLab has its own: see docs/OPERATIONS.md")
	}
	source := p.config.Branches.Source
	if source == "main" {
		source = ""
	}
	want := ci.Workflow(ci.WorkflowOptions{Source: source, Runner: p.runner})
	for _, folder := range []string{forForgejo, forGitea, forGitHub} {
		file := path.Join(folder, "garrison.yml")
		text, err := p.read(file)
		switch {
		case err != nil:
			return because(broken, err, "chmod +r "+file)
		case text == want:
			return well("%s is as this version writes it", file)
		case strings.Contains(text, "garrison ci"):
			return ill(doubt, "garrison init shows the difference (name your runners with --runner)", "%s is not as this version writes it", file)
		}
	}
	return ill(doubt, "garrison init writes it, unless the hub's own CI makes the releases", "there is no workflow that calls garrison ci")
}

// cacheInspections are the checks of the cache that garrison.toml names.
func (p *patient) cacheInspections() []inspection {
	if p.noGood != nil {
		return []inspection{{"cache", 0, func(context.Context) diagnosis { return notLookedAt(release.ConfigPath) }}}
	}
	if p.config.Cache.URL == "" {
		return []inspection{{"cache", 0, func(context.Context) diagnosis {
			return ill(doubt, "garrison cache create NAME, and cache.url in garrison.toml", "garrison.toml names none: hosts must build for themselves")
		}}}
	}
	token := tokenFrom(p.secrets.files["GARRISON_CACHE_TOKEN"])
	ends := make(chan time.Time, 1)
	c, err := client.New(client.Config{URL: p.config.Cache.URL, Token: token, Attempts: 2, TokenEnds: func(at time.Time) {
		select {
		case ends <- at:
		default:
		}
	}})
	if err != nil {
		return []inspection{{"cache", 0, func(context.Context) diagnosis { return because(broken, err, "correct cache.url in garrison.toml") }}}
	}
	return []inspection{
		{"cache", evaluateTime, func(ctx context.Context) diagnosis { return p.lookCache(ctx, c) }},
		{"cache token", 0, func(ctx context.Context) diagnosis { return p.lookCacheToken(ctx, c, token != nil, ends) }},
	}
}

// lookCache asks the cache for its key, and whether hosts have that.
func (p *patient) lookCache(ctx context.Context, c *client.Client) diagnosis {
	asking, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	said, err := c.Config(asking)
	if err != nil {
		if _, other := c.Missing(asking, []string{nobodys}); other == nil && plainCache(p.config.Cache.URL) {
			return well("%s answers; it is a plain Nix cache, which tells no key: hosts need that of who pushes", c.URL())
		}
		return because(broken, err, "curl -I "+c.URL()+"/nix-cache-info")
	}
	d, err := p.flake()
	if err != nil {
		return ill(doubt, "put the check \"flake\" right first", "%s answers; whether hosts trust its key was not looked at", c.URL())
	}
	return cacheTrust(d, p.followed(d), c.URL(), said.PublicKey)
}

// cacheTrust says whether the agents' configuration, as the flake has it, names the cache with the key that it has.
func cacheTrust(d *release.Declared, hosts []string, address, key string) diagnosis {
	var without, other []string
	for _, h := range hosts {
		if !d.Agents[h].Enable {
			continue
		}
		named, right := false, false
		for _, c := range d.Agents[h].Caches {
			same := strings.TrimRight(c.URL, "/") == strings.TrimRight(address, "/")
			named, right = named || same, right || c.PublicKey == key
		}
		switch {
		case named && !right:
			other = append(other, h)
		case !right:
			without = append(without, h)
		}
	}
	line := fmt.Sprintf("services.garrison.agent.caches = [ { url = %q; publicKey = %q; } ];", address, key)
	switch {
	case len(other) > 0:
		return ill(broken, line, "%s signs by %s, but %s would trust another key", address, key, strings.Join(other, ", "))
	case len(without) > 0:
		return ill(doubt, line, "%s answers; the agents' configuration of %s does not name its key", address, strings.Join(without, ", "))
	}
	return well("%s answers, and hosts that have the agent know its key", address)
}

// nobodys is the hash part of a store path that no cache has, to ask with.
const nobodys = "00000000000000000000000000000000"

func (p *patient) lookCacheToken(ctx context.Context, c *client.Client, given bool, ends <-chan time.Time) diagnosis {
	if plainCache(p.config.Cache.URL) {
		return well("a plain Nix cache: whether it takes a push is only seen by one")
	}
	if !given {
		return ill(p.unless(p.needs), "garrison doctor --cache-token-file FILE; garrison cache token makes one", "there is no token for the cache: whether CI may push was not looked at")
	}
	if _, err := c.Missing(ctx, []string{nobodys}); err != nil {
		return because(broken, err, "garrison cache token makes another")
	}
	select {
	case at := <-ends:
		return ill(doubt, "garrison cache token makes another; put it in the place of this one", "may push, until %s", at.Format(time.DateOnly))
	default:
		return well("may push; it does not end within two weeks")
	}
}

// hubInspections are the checks of a hub, if there is one. want is a scope that the token needs, "" for any.
func hubInspections(address string, token func() (string, error), want string) []inspection {
	if address == "" {
		return nil
	}
	return []inspection{{"hub", 0, func(ctx context.Context) diagnosis { return lookHub(ctx, address, token, want) }}}
}

func lookHub(ctx context.Context, address string, token func() (string, error), want string) diagnosis {
	if _, err := askHubAs(ctx, address, nil, http.MethodGet, "/healthz"); err != nil {
		return because(broken, err, "systemctl status garrison-hub, on the hub's machine")
	}
	if token == nil {
		return ill(doubt, "give it a token of the scope "+want, "%s answers; there is no token for it here", address)
	}
	body, err := askHubAs(ctx, address, token, http.MethodGet, "/api/v1/token")
	if err != nil {
		return because(broken, err, "put a token of the scope "+want+" into the hub's tokens file")
	}
	var said struct {
		Scopes []string `json:"scopes"`
	}
	if err := readAnswer(strings.NewReader(string(body)), &said); err != nil {
		return because(broken, err, "is this the hub?")
	}
	scopes := strings.Join(said.Scopes, ", ")
	if !slices.Contains(said.Scopes, want) {
		return ill(broken, "give the token the scope "+want+" in the hub's tokens file", "%s answers; the token there is for %s, and not for %s", address, cmp.Or(scopes, "nothing"), want)
	}
	if want == hub.ScopeWake && !slices.Contains(said.Scopes, hub.ScopeCI) {
		return ill(doubt, "give the token the scope ci, too, and the hub shows CI's runs", "%s answers; the token is for %s alone", address, scopes)
	}
	return well("%s answers; the token is for %s", address, scopes)
}

// Differences of clocks that are seen and that are too much: signatures, tokens and reports have times in them.
const (
	skewSeen    = 5 * time.Second
	skewTooMuch = time.Minute
)

// clockInspections compare this machine's clock with those of servers, the first that tells its.
func clockInspections(servers []string) []inspection {
	servers = slices.DeleteFunc(servers, func(s string) bool { u, err := url.Parse(s); return err != nil || u.Host == "" })
	if len(servers) == 0 {
		return nil
	}
	return []inspection{{"clock", 0, func(ctx context.Context) diagnosis {
		var last error
		for _, s := range servers {
			skew, err := clockSkew(ctx, s)
			if err == nil {
				return clockHealth(skew, s)
			}
			last = err
		}
		return because(doubt, last, "is "+servers[0]+" up?")
	}}}
}

// clockSkew is how far ahead our clock is. A Date header tells whole seconds.
func clockSkew(ctx context.Context, server string) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, server, nil)
	if err != nil {
		return 0, err
	}
	sent := time.Now()
	resp, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		return 0, fleet.Errorf(fleet.Transient, fleet.CodeRemote, "%s does not tell its time", server).WithCause(err)
	}
	resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return 0, fleet.Errorf(fleet.Transient, fleet.CodeRemote, "%s does not tell its time", server)
	}
	return sent.Add(time.Since(sent) / 2).Sub(at.Add(time.Second / 2)), nil
}

func clockHealth(skew time.Duration, server string) diagnosis {
	const remedy = "set the clock: timedatectl set-ntp true (NixOS: services.timesyncd.enable = true)"
	off := max(skew, -skew).Round(time.Second)
	switch {
	case off >= skewTooMuch:
		return ill(broken, remedy, "%s from that of %s: times in signatures, tokens and reports will be refused", off, server)
	case off >= skewSeen:
		return ill(doubt, remedy, "%s from that of %s", off, server)
	}
	return well("that of %s is the same", server)
}
