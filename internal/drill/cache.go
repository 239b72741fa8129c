package drill

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// apartURL is where a cache that is apart from its hub is served.
const apartURL = "http://192.0.2.1:8421"

// cacheData is its folder on the forge's machine.
const cacheData = "/var/lib/garrison-cache"

// cacheApart are the files of a cache that is a program of its own, whose tokens are signed with a secret.
func cacheApart() []sandbox.File {
	const config = `listen = "192.0.2.1:8421"
dataDir = "` + cacheData + `"
[cache]
name = "fleet"
tokenKeys = ["/etc/garrison/cache-secret"]
`
	return []sandbox.File{
		{Path: "/etc/garrison/cache.toml", Data: []byte(config)},
		{Path: "/etc/garrison/cache-secret", Mode: 0o600, Data: []byte(base64.StdEncoding.EncodeToString([]byte(rand.Text() + rand.Text())))},
	}
}

// makePushToken makes a token that lets CI push.
const makePushToken = "umask 077; garrison cache token create --key /etc/garrison/cache-secret --sub ci --validity 1w --pull fleet --push fleet > /etc/garrison/push-token"

// cacheDown has the cache away while its hub is up: once before CI pushes to it, and once before a host fetches from it.
func cacheDown(ctx context.Context, r *run) error {
	before, err := r.snapshot(ctx)
	if err != nil {
		return err
	}
	start, err := r.stop(ctx, "cache")
	if err != nil {
		return err
	}
	p, err := r.put(ctx, newMarker(), "Drill: not to be pushed to the cache")
	if err != nil {
		return err
	}
	r.await(ctx, "CI says that it cannot push, and will try again", func() (string, error) {
		v, err := r.ci(ctx, p.commit)
		switch {
		case err == nil && v.state != ciFailed:
			err = fmt.Errorf("CI says %q", v.state)
		case err == nil && v.run.Failure.Class != fleet.Transient:
			err = final{fmt.Errorf("its class is %q: %s", v.run.Failure.Class, v.why)}
		}
		return firstLine(v.why), err
	})
	r.see("nothing was released, and the hosts are what they were", func() (string, error) {
		after, err := r.snapshot(ctx)
		if err == nil && after != before {
			err = fmt.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		return "", err
	})
	r.see("the hub is up, and knows how its hosts are", func() (string, error) {
		var s fleet.Status
		err := r.yard.get(ctx, "/api/v1/hosts/"+drilled, &s)
		if err == nil && !s.Converged() {
			err = errors.New(s.Summary())
		}
		return s.Summary(), err
	})
	if err := start(ctx); err != nil {
		return err
	}
	r.await(ctx, "the cache back, it is released and committed, with no hand on it", func() (string, error) { return committed(ctx, r.host(drilled), p) })
	return r.notFetched(ctx)
}

// notFetched has a release in the cache, and the cache down when the drilled host comes to fetch it.
func (r *run) notFetched(ctx context.Context) error {
	before, err := r.standing(ctx, r.host(drilled))
	if err != nil {
		return err
	}
	restore, err := r.cut(ctx, drilled) // so that it has not fetched before the cache goes
	if err != nil {
		return err
	}
	m := newMarker()
	p, err := r.put(ctx, m, "Drill: not to be fetched")
	if err != nil {
		return err
	}
	r.await(ctx, "CI releases another", func() (string, error) { return r.released(ctx, p) })
	start, err := r.stop(ctx, "cache")
	if err != nil {
		return err
	}
	if err := restore(ctx); err != nil {
		return err
	}
	r.await(ctx, "the host sees it, cannot fetch it, and will try again", func() (string, error) {
		s, err := r.yard.status(ctx, drilled)
		if err == nil && (s.Newest == nil || s.Newest.Source.Commit != p.commit || s.Failure == nil || s.Failure.Class != fleet.Transient) {
			err = errors.New(s.Summary())
		}
		if err != nil {
			return "", err
		}
		return firstLine(s.Failure.Message), nil
	})
	r.same(ctx, before)
	if err := start(ctx); err != nil {
		return err
	}
	r.await(ctx, "the cache back, it commits it", func() (string, error) { return committed(ctx, r.host(drilled), p) })
	r.see("it says what was pushed", func() (string, error) { return saysMarker(ctx, r.host(drilled), m) })
	return nil
}

// cacheLost removes everything of the cache but its key.
func cacheLost(ctx context.Context, r *run) error {
	const empty = "mv " + cacheData + "/cache/keys /root/keys && rm -rf " + cacheData + " && mkdir -p " + cacheData + "/cache && mv /root/keys " + cacheData + "/cache/keys"
	forge := r.yard.world.hosts["forge"]
	start, err := r.stop(ctx, "cache")
	if err != nil {
		return err
	}
	r.Commands = append(r.Commands, "systemctl stop garrison-cache")
	r.see("everything of it but its key is removed", func() (string, error) { return r.confirm(ctx, "forge", empty) })
	r.Commands = append(r.Commands, "systemctl start garrison-cache")
	if err := start(ctx); err != nil {
		return err
	}
	if err := r.answers(ctx); err != nil {
		return err
	}
	r.see("it has nothing, and the key that hosts trust", func() (string, error) {
		blobs, err := forge.Run(ctx, "find", cacheData, "-name", "*.nar*")
		if err == nil && blobs != "" {
			err = fmt.Errorf("it has %s", blobs)
		}
		var info struct{ PublicKey string }
		if err = errors.Join(err, r.yard.get(ctx, apartURL+"/api/v1/caches/fleet", &info)); err == nil && info.PublicKey != r.yard.cacheKey {
			err = fmt.Errorf("its key is %s, and was %s", info.PublicKey, r.yard.cacheKey)
		}
		return info.PublicKey, err
	})
	p, err := r.yard.putAndWait(ctx, "Drill: into an empty cache")
	if err != nil {
		return err
	}
	r.see("the next release arrives on all hosts", func() (string, error) { return committed(ctx, r.host(drilled), p) })
	r.see("and the cache has every path of the hosts that CI builds for again, whole and signed", func() (string, error) {
		c := &change{commit: p.commit, hosts: map[string]fleet.Deployment{}}
		ci := builtByCI(r.hosts())
		for _, h := range ci {
			system, err := r.host(h).system(ctx)
			if err != nil {
				return "", err
			}
			c.hosts[h] = fleet.Deployment{Toplevel: fleet.Toplevel{OutPath: system}}
		}
		return r.yard.seeCacheOf(ctx, c, ci...)
	})
	return nil
}

// builtByCI are those of the hosts that do not build their systems themselves.
func builtByCI(hosts []string) []string {
	return slices.DeleteFunc(hosts, func(h string) bool { return h == selfBuilder })
}
